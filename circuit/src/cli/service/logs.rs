//! `logs`: prints retained output, of several services merged by time.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use circuit_client::service::{Line, Query, Stream};
use circuit_client::{OsText, Pattern, Service};
use clap::Args;
use serde_json::{Map, Value, json};

use super::services;
use crate::cli::arguments::pattern;
use crate::cli::dial::{Dial, dial};
use crate::cli::error::Failure;
use crate::cli::output::{Pipe, Target};

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// Go on with what is to come
    #[arg(long)]
    follow: bool,
    /// The last lines to print [default: 100]
    #[arg(short = 'n', value_name = "N")]
    lines: Option<u64>,
    /// Print lines since this time, or since so long ago: 2026-01-02T15:04:05Z, 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<SystemTime>,
    /// Print stdout only
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Print stderr only
    #[arg(long)]
    stderr: bool,
    /// Print the time of each line before it
    #[arg(long)]
    stamp: bool,
    /// Print a JSON object for each line
    #[arg(long, conflicts_with = "stamp")]
    json: bool,
    /// The services, slots and processes; PATH/... for all services below an anchor
    #[arg(required = true, value_name = "PATH", value_parser = pattern)]
    paths: Vec<Pattern>,
    #[command(flatten)]
    dial: Dial,
}

fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "no time, as 2026-01-02T15:04:05Z, and no duration, as 10m".to_owned())?;
    Ok(SystemTime::now()
        .checked_sub(ago)
        .unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Prints retained output.
pub(super) async fn print(options: Logs) -> Result<u8, Failure> {
    let client = dial(&options.dial).await?;
    let services = services(&client, &options.paths).await?;
    let query = Query {
        last: match (options.lines, options.since) {
            (Some(lines), _) => Some(lines),
            (None, Some(_)) => None,
            (None, None) => Some(100),
        },
        since: options.since.map(|since| {
            let since = since
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        }),
        stream: match (options.stdout, options.stderr) {
            (true, _) => Some(Stream::Stdout),
            (false, true) => Some(Stream::Stderr),
            (false, false) => None,
        },
        follow: options.follow,
    };
    let headed = services.len() > 1;
    let mut out = Pipe::new(Target::Stdout);
    if options.follow {
        let (lines, mut merged) = tokio::sync::mpsc::channel(64);
        for service in services {
            let (lines, query) = (lines.clone(), query.clone());
            tokio::spawn(async move {
                let path = service.path().to_string();
                let ended = follow(&service, query, &path, &lines).await;
                if let Err(failure) = ended {
                    let _ = lines.send((path, Err(failure))).await;
                }
            });
        }
        drop(lines);
        while let Some((path, line)) = merged.recv().await {
            out.write(shown(&options, headed, &path, &line?)).await?;
            if merged.is_empty() {
                out.flush().await?;
            }
        }
    } else {
        let mut all: Vec<(u64, String, Line)> = Vec::new();
        for service in services {
            let path = service.path().to_string();
            let mut lines = service.logs(query.clone()).await?;
            while let Some(line) = lines.next().await? {
                match headed {
                    true => all.push((time_of(&line), path.clone(), line)),
                    false => out.write(shown(&options, headed, &path, &line)).await?,
                }
            }
        }
        all.sort_by_key(|(time, ..)| *time);
        for (_, path, line) in all {
            out.write(shown(&options, headed, &path, &line)).await?;
        }
    }
    out.finish().await?;
    Ok(0)
}

type Merged = tokio::sync::mpsc::Sender<(String, Result<Line, Failure>)>;

async fn follow(service: &Service, query: Query, path: &str, to: &Merged) -> Result<(), Failure> {
    let mut lines = service.logs(query).await?;
    while let Some(line) = lines.next().await? {
        if to.send((path.to_owned(), Ok(line))).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn time_of(line: &Line) -> u64 {
    match line {
        Line::Line { time, .. } | Line::Dropped { time, .. } => *time,
    }
}

/// A line as it is printed.
fn shown(options: &Logs, headed: bool, path: &str, line: &Line) -> Bytes {
    let stamp = || {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(time_of(line));
        humantime::format_rfc3339_micros(time).to_string()
    };
    if options.json {
        let mut fields = Map::new();
        fields.insert("Time".to_owned(), stamp().into());
        fields.insert("Path".to_owned(), path.into());
        match line {
            Line::Line {
                slot,
                instance,
                stream,
                text,
                ..
            } => {
                fields.insert("Slot".to_owned(), (*slot).into());
                fields.insert("Number".to_owned(), (*instance).into());
                fields.insert("Stream".to_owned(), json!(stream));
                let text = OsText::from_bytes(text.clone());
                match text.to_str() {
                    Some(text) => fields.insert("Text".to_owned(), text.into()),
                    None => {
                        let base64 = json!(text);
                        let base64 = base64.get("Base64").cloned().unwrap_or_default();
                        fields.insert("Base64".to_owned(), base64)
                    }
                };
            }
            Line::Dropped { bytes, .. } => {
                fields.insert("Dropped".to_owned(), (*bytes).into());
            }
        }
        return format!("{}\n", Value::Object(fields)).into();
    }
    let mut text = Vec::new();
    if options.stamp {
        text.extend(format!("{} ", stamp()).into_bytes());
    }
    if headed {
        text.extend(format!("{path}: ").into_bytes());
    }
    match line {
        Line::Line { text: bytes, .. } => text.extend(bytes),
        Line::Dropped { bytes, .. } => text.extend(format!("[{bytes} bytes dropped]").into_bytes()),
    }
    text.push(b'\n');
    text.into()
}
