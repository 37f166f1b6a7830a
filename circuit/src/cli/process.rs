//! Processes: `mkproc`, `stdin`, `stdout`, `stderr`, `wait`, `waitall`, `signal`.

use std::sync::Arc;

use bytes::BytesMut;
use circuit_client::{Cmd, Ended, Path, Proc, Writer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::command::Dial;
use super::dial::dial;
use super::error::{Failure, say};
use super::interrupt::{Asked, Interrupts};
use super::object::{Form, field, field_or_default};
use super::output::{Pipe, Target, print_json};

/// Makes a process from JSON on stdin.
pub(super) async fn mkproc(path: Path, scrub: bool, options: Dial) -> Result<u8, Failure> {
    let mut cmd = parse_cmd(&COMMAND.read().await?)?;
    cmd.scrub |= scrub;
    let client = dial(&options).await?;
    client.anchor(path).make_proc(cmd).await?;
    Ok(0)
}

/// A command as people paste it; its fields in the reference's order, then ours.
const COMMAND: Form = Form {
    what: "command",
    fields: &[
        "Env", "Dir", "Path", "Args", "Scrub", "Stdout", "Stderr", "Terminal", "Hangup",
    ],
    example: r#"{"Path": "/bin/ls", "Args": ["/"]}"#,
};

fn parse_cmd(text: &str) -> Result<Cmd, Failure> {
    let mut cmd = Cmd::new("");
    for (name, value) in COMMAND.parse(text)? {
        match name {
            "Env" => cmd.env = field(name, value)?,
            "Dir" => cmd.dir = field(name, value)?,
            "Path" => cmd.path = field_or_default(name, value)?,
            "Args" => cmd.args = field_or_default(name, value)?,
            "Scrub" => cmd.scrub = field_or_default(name, value)?,
            "Stdout" => cmd.stdout = field_or_default(name, value)?,
            "Stderr" => cmd.stderr = field_or_default(name, value)?,
            "Hangup" => cmd.hangup = field_or_default(name, value)?,
            _ => cmd.terminal = field(name, value)?,
        }
    }
    match cmd.path.is_empty() {
        true => Err(COMMAND.bad("the command has no Path".to_owned())),
        false => Ok(cmd),
    }
}

/// Writes stdin to a process's stdin, and closes it.
pub(super) async fn stdin(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let mut writer = client.anchor(path).proc().stdin().await?;
    copy(tokio::io::stdin(), &mut writer).await?;
    writer.finish().await?;
    Ok(0)
}

/// Sends everything that can be read.
pub(super) async fn copy(mut from: impl AsyncRead + Unpin, to: &mut Writer) -> Result<(), Copied> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let count = tokio::select! {
            count = from.read_buf(&mut buffer) => count,
            // Who types nothing is to know as well.
            failure = to.failed() => return Err(Copied::NotTaken(failure.into())),
        };
        let count = count
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

/// Prints an output of a process, live. Interrupted, it prints what was handed to it by then, and
/// leaves the rest to the next reader.
pub(super) async fn output(path: Path, which: Which, options: Dial) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = match interrupts.unless(dial(&options)).await {
        Ok(client) => client?,
        Err(status) => return Ok(status),
    };
    let process = client.anchor(path).proc();
    let print = |asked| print_output(process, which, asked);
    let status = interrupts.in_order(options.timeout, print).await?;
    Ok(status)
}

async fn print_output(process: Proc, which: Which, mut asked: Asked) -> Result<(), Failure> {
    let mut reader = match which {
        Which::Stdout => process.stdout().await?,
        Which::Stderr => process.stderr().await?,
    };
    let mut out = Pipe::new(Target::Stdout);
    let mut left = false;
    loop {
        let piece = tokio::select! {
            piece = reader.chunk() => piece?,
            _ = &mut asked, if !left => {
                left = true;
                reader.leave().await?;
                continue;
            }
        };
        match piece {
            Some(piece) => out.write(piece).await?,
            None => return out.finish().await,
        }
    }
}

/// Waits for a process, and prints its status.
pub(super) async fn wait(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    match client.anchor(path).wait().await? {
        Ended::Process(status) => print_json(&status)?,
        Ended::Container(status) => print_json(&status)?,
    }
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
    let mut number = 0;
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        number += 1;
        if !line.trim().is_empty() {
            let wrong = |error: circuit_client::PathError| {
                Failure::failed(format!("line {number} of stdin: {error}"))
            };
            paths.push(line.trim().parse().map_err(wrong)?);
        }
    }
    let client = dial(&options).await?;
    let mut waiting = JoinSet::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    for path in paths {
        let anchor = client.anchor(path);
        let slots = slots.clone();
        waiting.spawn(async move {
            // Never closed, so there is always a slot to come.
            let _slot = slots.acquire().await;
            let ended = anchor.wait().await;
            (anchor.path().clone(), ended)
        });
    }
    let mut result = 0;
    let mut out = Pipe::new(Target::Stdout);
    while let Some(done) = waiting.join_next().await {
        match done {
            Ok((path, Ok(ended))) => {
                let line = format!("{path}\t{}\n", ended.exit().unwrap_or("ok"));
                out.write(line.into()).await?;
            }
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
    out.finish().await?;
    Ok(result)
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
    Ok(0)
}

#[cfg(test)]
mod tests {
    use circuit_client::Sink;

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
        check(
            r#"{"Path": "a", "Args": [], "Path": "b"}"#,
            "the field Path is given twice",
        );
        check(
            r#"{"Path": "a", "Terminal": {"Rows": 1, "Rows": 2, "Columns": 3}}"#,
            "the field Rows is given twice",
        );
        check(r#"{"Path": 3}"#, "the field Path is wrong: invalid type");
        check(r#"{"Path": "a", "Args": "b"}"#, "the field Args is wrong");
    }
}
