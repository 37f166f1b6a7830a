//! DNS: one element over UDP, next to dnsmasq with the same records, asked by dnsperf in turns.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use circuit_client::Client;

use crate::table::{Table, median, short};
use crate::{Ended, Result, work};

const ROUNDS: usize = 5;

/// How many names there are, an address each.
const NAMES: usize = 100;

/// How long each is asked in a round, in seconds.
const SECONDS: &str = "3";

/// Queries per second and the 99th percentile of latency.
pub(crate) async fn measure(table: &mut Table, place: &Path, client: &Client) -> Result<()> {
    let dns = work::own_server(client).await?.walk("bench/dns")?;
    let dns = dns.make_dns(Some("127.0.0.1:0")).await?;
    let mut queries = std::fs::File::create(place.join("queries"))?;
    let mut records = Vec::new();
    for number in 0..NAMES {
        let (name, address) = (
            format!("n{number}.bench.example"),
            format!("10.0.0.{number}"),
        );
        dns.set(&format!("{name}. 60 A {address}")).await?;
        writeln!(queries, "{name} A")?;
        records.push(format!("--host-record={name},{address}"));
    }
    let ours: SocketAddr = dns.peek().await?.address.parse()?;
    let dnsmasq = Dnsmasq::start(&records)?;
    let queries = place.join("queries");
    let (mut rates, mut slowest, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ratios, mut their_slowest) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let Some(our) = asked(ours, &queries).await? else {
            let skipped = Some("skipped: needs dnsperf".to_owned());
            table.add("DNS queries over UDP", "/s", &[], skipped, "dnsmasq's");
            return Ok(dns.scrub().await?);
        };
        let their = match &dnsmasq {
            Some(dnsmasq) => asked(dnsmasq.address, &queries).await?,
            None => None,
        };
        if round == 0 {
            continue;
        }
        rates.push(our.rate);
        slowest.push(our.slowest);
        if let Some(their) = their {
            theirs.push(their.rate);
            their_slowest.push(their.slowest);
            ratios.push(our.rate / their.rate);
        }
    }
    let yardstick = |what: String| match &dnsmasq {
        Some(_) => Some(what),
        None => Some("skipped: needs dnsmasq".to_owned()),
    };
    let (ratio, rate) = (short(median(&ratios)), short(median(&theirs)));
    let by = yardstick(format!("{ratio} × dnsmasq's {rate}/s"));
    table.add("DNS queries over UDP", "/s", &rates, by, "dnsmasq's");
    let by = yardstick(format!("dnsmasq's {} ms", short(median(&their_slowest))));
    table.add("their 99th percentile", "ms", &slowest, by, "");
    Ok(dns.scrub().await?)
}

/// The result of a round.
struct Round {
    rate: f64,
    /// In milliseconds.
    slowest: f64,
}

/// [`dnsperf`] on a thread of its own, as the connection to the circuit wants this one.
async fn asked(server: SocketAddr, queries: &Path) -> Result<Option<Round>> {
    let queries = queries.to_owned();
    let run = move || dnsperf(server, &queries).map_err(|error| error.to_string());
    Ok(tokio::task::spawn_blocking(run).await??)
}

/// One client with 64 queries in flight; `None` where it is not installed. The latencies are those
/// of a second run, as telling each slows the client.
fn dnsperf(server: SocketAddr, queries: &Path) -> Result<Option<Round>> {
    let run = |options: &[&str]| {
        let mut command = Command::new("dnsperf");
        command
            .args(["-s", &server.ip().to_string()])
            .args(["-p", &server.port().to_string()])
            .args(["-c", "1", "-T", "1", "-q", "64", "-d"])
            .arg(queries)
            .args(options)
            .stdin(Stdio::null());
        let output = command.output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (Some(text), Some(each)) = (run(&["-l", SECONDS]), run(&["-l", "1", "-v"])) else {
        return Ok(None);
    };
    let value = |name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name));
        let line = line.ok_or_else(|| format!("dnsperf does not tell {name}: {text}"));
        line.map(|line| line.rsplit(':').next().unwrap_or_default().trim())
    };
    let lost = value("Queries lost")?;
    if !lost.starts_with("0 ") {
        return Err(format!("dnsperf: {lost} queries lost").into());
    }
    let latencies = each.lines().filter(|line| line.starts_with("> "));
    let latencies = latencies.filter_map(|line| line.rsplit(' ').next()?.parse().ok());
    let mut latencies: Vec<f64> = latencies.collect();
    latencies.sort_by(f64::total_cmp);
    let slowest = latencies.get(latencies.len() * 99 / 100);
    Ok(Some(Round {
        rate: value("Queries per second")?.parse()?,
        slowest: slowest.map_or(f64::NAN, |seconds| seconds * 1e3),
    }))
}

/// The yardstick, on a free port of loopback.
struct Dnsmasq {
    address: SocketAddr,
    _server: Ended,
}

impl Dnsmasq {
    /// `None` where it is not installed.
    fn start(records: &[String]) -> Result<Option<Dnsmasq>> {
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let spawned = ["dnsmasq", "/usr/sbin/dnsmasq"].iter().find_map(|program| {
            let mut command = Command::new(program);
            command
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                ])
                .args([
                    "--no-hosts",
                    "--bind-interfaces",
                    "--listen-address=127.0.0.1",
                ])
                .args(["--pid-file=", "--user=", "--local-ttl=60"])
                .arg(format!("--port={}", address.port()))
                .args(records)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().ok()
        });
        let Some(child) = spawned else {
            return Ok(None);
        };
        let server = Ended(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        // It listens over TCP too.
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                return Err("dnsmasq does not answer".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Dnsmasq {
            address,
            _server: server,
        }))
    }
}
