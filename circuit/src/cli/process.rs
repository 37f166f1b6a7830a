//! Processes: `mkproc`, `stdin`, `stdout`, `stderr`, `wait`, `waitall`, `signal`.

use std::sync::Arc;

use bytes::BytesMut;
use circuit_client::{Cmd, Path, Sink, TerminalSize, Writer, process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::command::Dial;
use super::dial::dial;
use super::error::{Failure, say};
use super::output::{Pipe, Target, print, print_json};

/// Makes a process from JSON on stdin.
pub(super) async fn mkproc(path: Path, scrub: bool, options: Dial) -> Result<u8, Failure> {
    let mut text = String::new();
    tokio::io::stdin()
        .take(LONGEST_INPUT + 1)
        .read_to_string(&mut text)
        .await
        .map_err(|error| Failure::operation("cannot read the command from stdin", &error))?;
    let mut cmd = parse_cmd(&text)?;
    cmd.scrub |= scrub;
    let client = dial(&options).await?;
    client.anchor(path).make_proc(cmd).await?;
    client.close().await;
    Ok(0)
}

/// The longest command that is read, in bytes: with what a server takes, and comments.
const LONGEST_INPUT: u64 = 1 << 20;

/// How deep brackets may be nested: a command's are three deep, and its strings hold some.
const DEEPEST: usize = 1000;

/// How deep the brackets in a text are nested, those in strings included.
fn depth(text: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The fields of a command, in the reference's order, then ours.
const FIELDS: [&str; 9] = [
    "Env", "Dir", "Path", "Args", "Scrub", "Stdout", "Stderr", "Terminal", "Hangup",
];

/// A command as people paste it: JSON with trailing commas and comments, keys in any case.
fn parse_cmd(text: &str) -> Result<Cmd, Failure> {
    let example = r#"for example {"Path": "/bin/ls", "Args": ["/"]}"#;
    let bad = |what: String| Failure::failed(what).with_hint(example);
    if text.trim().is_empty() {
        return Err(bad("no command on stdin: JSON is expected there".to_owned()));
    }
    if text.len() as u64 > LONGEST_INPUT {
        return Err(bad("the command is longer than 1 MiB".to_owned()));
    }
    // The parser calls itself for each.
    if depth(text) > DEEPEST {
        return Err(bad("the command's brackets are nested too deep".to_owned()));
    }
    let value: Value =
        json5::from_str(text).map_err(|error| bad(format!("the command is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(bad("the command is not a JSON object".to_owned()));
    };
    let mut cmd = Cmd::new("");
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in fields {
        let Some(name) = FIELDS
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case(&key))
        else {
            return Err(bad(format!(
                "unknown field {key:?}: there are {}",
                FIELDS.join(", ")
            )));
        };
        if seen.contains(&name) {
            return Err(bad(format!("the field {name} is given twice")));
        }
        seen.push(name);
        match name {
            "Env" => cmd.env = field(name, value)?,
            "Dir" => cmd.dir = field(name, value)?,
            "Path" => cmd.path = field::<Option<String>>(name, value)?.unwrap_or_default(),
            "Args" => cmd.args = field::<Option<Vec<String>>>(name, value)?.unwrap_or_default(),
            "Scrub" => cmd.scrub = field::<Option<bool>>(name, value)?.unwrap_or_default(),
            "Stdout" => cmd.stdout = field::<Option<Sink>>(name, value)?.unwrap_or_default(),
            "Stderr" => cmd.stderr = field::<Option<Sink>>(name, value)?.unwrap_or_default(),
            "Hangup" => cmd.hangup = field::<Option<bool>>(name, value)?.unwrap_or_default(),
            _ => cmd.terminal = field::<Option<TerminalSize>>(name, value)?,
        }
    }
    match cmd.path.is_empty() {
        true => Err(bad("the command has no Path".to_owned())),
        false => Ok(cmd),
    }
}

fn field<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::failed(format!("the field {name} is wrong: {error}")))
}

/// Writes stdin to a process's stdin, and closes it.
pub(super) async fn stdin(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let mut writer = client.anchor(path).proc().stdin().await?;
    copy(tokio::io::stdin(), &mut writer).await?;
    writer.finish().await?;
    client.close().await;
    Ok(0)
}

/// Sends everything that can be read.
pub(super) async fn copy(mut from: impl AsyncRead + Unpin, to: &mut Writer) -> Result<(), Copied> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let count = from
            .read_buf(&mut buffer)
            .await
            .map_err(|error| Copied::NotRead(Failure::operation("cannot read stdin", &error)))?;
        if count == 0 {
            return Ok(());
        }
        let sent = to.send(buffer.split().freeze()).await;
        sent.map_err(|error| Copied::NotTaken(error.into()))?;
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum Copied {
    /// What was to be read.
    NotRead(Failure),
    /// Who was to take it.
    NotTaken(Failure),
}

impl From<Copied> for Failure {
    fn from(copied: Copied) -> Failure {
        match copied {
            Copied::NotRead(failure) | Copied::NotTaken(failure) => failure,
        }
    }
}

/// Which output of a process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Stdout,
    Stderr,
}

/// Prints an output of a process, live.
pub(super) async fn output(path: Path, which: Which, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let process = client.anchor(path).proc();
    let mut reader = match which {
        Which::Stdout => process.stdout().await?,
        Which::Stderr => process.stderr().await?,
    };
    let mut out = Pipe::new(Target::Stdout);
    while let Some(piece) = reader.chunk().await? {
        out.write(piece).await?;
    }
    out.finish().await?;
    drop(reader);
    client.close().await;
    Ok(0)
}

/// Waits for a process, and prints its status.
pub(super) async fn wait(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let status = client.anchor(path).proc().wait().await?;
    print_json(&status)?;
    client.close().await;
    Ok(0)
}

/// How many requests are under way at once; a connection takes 1,024.
pub(super) const AT_ONCE: usize = 1000;

/// Waits for the processes whose paths are on stdin.
pub(super) async fn waitall(options: Dial) -> Result<u8, Failure> {
    // All paths are read and understood before anything is waited for.
    let mut paths: Vec<Path> = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let failed = |error| Failure::operation("cannot read stdin", &error);
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        if !line.trim().is_empty() {
            let path = line.trim().parse();
            paths.push(
                path.map_err(|error: circuit_client::PathError| Failure::usage(error.to_string()))?,
            );
        }
    }
    let client = dial(&options).await?;
    let mut waiting = JoinSet::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    for path in paths {
        let process = client.anchor(path).proc();
        let slots = slots.clone();
        waiting.spawn(async move {
            // Never closed, so there is always a slot to come.
            let _slot = slots.acquire().await;
            let status = process.wait().await;
            (process.path().clone(), status)
        });
    }
    let mut result = 0;
    while let Some(done) = waiting.join_next().await {
        match done {
            Ok((path, Ok(status))) => print(&format!("{path}\t{}\n", ended(&status)))?,
            Ok((_, Err(error))) => {
                let failure = Failure::from(error);
                let colon = if failure.text().starts_with('/') {
                    ""
                } else {
                    ":"
                };
                say(&format!("circuit: waitall{colon} {}", failure.text()));
                result = 1;
            }
            Err(error) => return Err(Failure::operation("waitall", &error)),
        }
    }
    client.close().await;
    Ok(result)
}

fn ended(status: &process::Status) -> &str {
    status.exit.as_deref().unwrap_or("ok")
}

/// Sends a signal.
pub(super) async fn signal(
    signal: String,
    path: Path,
    group: bool,
    options: Dial,
) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let process = client.anchor(path).proc();
    match group {
        true => process.signal_group(&signal).await?,
        false => process.signal(&signal).await?,
    }
    client.close().await;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_people_paste_them() {
        let cmd = parse_cmd(
            "// list\n{\n\tPATH: '/bin/ls',\n\t\"args\": [\"/\",],\n\t\"Env\": null,\n\t\"stderr\": \"discard\",\n}",
        )
        .unwrap();
        let expected = Cmd {
            args: vec!["/".into()],
            stderr: Sink::Discard,
            ..Cmd::new("/bin/ls")
        };
        assert_eq!(cmd, expected);
    }

    #[test]
    fn bad_commands_are_named() {
        let check = |text: &str, expected: &str| {
            let error = parse_cmd(text).unwrap_err();
            assert!(error.text().contains(expected), "{text}: {}", error.text());
        };
        check("", "no command on stdin");
        check("{", "not JSON");
        check("[]", "not a JSON object");
        check(&"[".repeat(200_000), "nested too deep");
        check(&" ".repeat(2 << 20), "no command");
        check("{}", "the command has no Path");
        check(r#"{"Path": ""}"#, "the command has no Path");
        check(r#"{"Path": "a", "Pth": 1}"#, r#"unknown field "Pth""#);
        check(r#"{"Path": "a", "path": "b"}"#, "given twice");
        check(r#"{"Path": 3}"#, "the field Path is wrong: invalid type");
        check(r#"{"Path": "a", "Args": "b"}"#, "the field Args is wrong");
    }
}
