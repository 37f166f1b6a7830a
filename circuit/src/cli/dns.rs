//! DNS servers: `mkdns`, `set`, `unset`.

use circuit_client::Path;
use clap::Subcommand;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::Failure;
use super::interruptible;

pub(super) use super::output::print_json as print_status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a DNS server
    ///
    /// It answers over UDP and TCP, and is empty: `set` gives it records, `peek` tells its address.
    Mkdns {
        /// Serve the live servers of the circuit in this zone, as xID.ZONE and _circuit._udp.ZONE
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        /// Where it answers; a missing port is any free one [default: the server's own address]
        #[arg(value_name = "HOST[:PORT]")]
        address: Option<String>,
        #[command(flatten)]
        dial: Dial,
    },
    /// Set a record of a DNS server
    ///
    /// One that is there already changes nothing; one that differs only in its TTL replaces the
    /// other. TTL and class may be left out: 3600 and IN. Names are taken from the root.
    #[command(
        after_help = "Example: circuit set /X88550014d4c82e4d/mydns \"miek.nl. 3600 IN MX 10 mx.miek.nl.\""
    )]
    Set {
        /// The DNS server
        #[arg(value_parser = path)]
        path: Path,
        /// The record, as in a zone file
        record: String,
        /// Takes the words behind a record that is not quoted, so that the error is better than clap's.
        #[arg(hide = true)]
        rest: Vec<String>,
        #[command(flatten)]
        dial: Dial,
    },
    /// Remove the records of a name from a DNS server
    Unset {
        /// The DNS server
        #[arg(value_parser = path)]
        path: Path,
        /// The name
        name: String,
        /// Only the records of this type
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Mkdns {
                zone,
                path,
                address,
                dial,
            } => interruptible(mkdns(path, address, zone, dial)),
            Command::Set {
                path,
                record,
                rest,
                dial,
            } => interruptible(set(path, record, rest, dial)),
            Command::Unset {
                path,
                name,
                kind,
                dial,
            } => interruptible(unset(path, name, kind, dial)),
        }
    }
}

/// Makes a DNS server.
async fn mkdns(
    path: Path,
    address: Option<String>,
    zone: Option<String>,
    options: Dial,
) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let anchor = client.anchor(path);
    match zone {
        Some(zone) => {
            anchor
                .make_dns_of_servers(address.as_deref(), &zone)
                .await?
        }
        None => anchor.make_dns(address.as_deref()).await?,
    };
    Ok(0)
}

/// Sets a record.
async fn set(path: Path, record: String, rest: Vec<String>, options: Dial) -> Result<u8, Failure> {
    if !rest.is_empty() {
        let hint = format!("circuit set {path} '{record} {}'", rest.join(" "));
        return Err(Failure::usage("a record is one argument: quote it").with_hint(hint));
    }
    let client = dial(&options).await?;
    client.anchor(path).dns().set(&record).await?;
    Ok(0)
}

/// Removes the records of a name.
async fn unset(
    path: Path,
    name: String,
    kind: Option<String>,
    options: Dial,
) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client
        .anchor(path)
        .dns()
        .unset(&name, kind.as_deref())
        .await?;
    Ok(0)
}
