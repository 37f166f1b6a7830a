//! DNS servers: `mkdns`, `set`, `unset`.

use circuit_client::Path;

use super::command::Dial;
use super::dial::dial;
use super::error::Failure;

/// Makes a DNS server.
pub(super) async fn mkdns(
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
pub(super) async fn set(
    path: Path,
    record: String,
    rest: Vec<String>,
    options: Dial,
) -> Result<u8, Failure> {
    if !rest.is_empty() {
        let hint = format!("circuit set {path} '{record} {}'", rest.join(" "));
        return Err(Failure::usage("a record is one argument: quote it").with_hint(hint));
    }
    let client = dial(&options).await?;
    client.anchor(path).dns().set(&record).await?;
    Ok(0)
}

/// Removes the records of a name.
pub(super) async fn unset(
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
