//! The one place that writes to stdout. A reader who has gone is no error.

use std::io::{self, IsTerminal, Write};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::error::Failure;
use crate::descriptor::Descriptor;

/// How many pieces may wait for a slow reader of stdout. Chosen, not measured: half a megabyte at most.
const QUEUE: usize = 8;

/// Prints text as it is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let written = Descriptor::stdout().write_all(text.as_bytes());
    written.map_err(|error| failed(&error))
}

/// Prints a value as JSON, indented by tabs, with a line end.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    value
        .serialize(&mut serializer)
        .map_err(|error| Failure::operation("cannot print", &error))?;
    text.push(b'\n');
    print(&String::from_utf8_lossy(&text))
}

/// A value as JSON on a line of its own.
pub(super) fn json_line<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| Failure::operation("cannot print", &error))?;
    Ok(text + "\n")
}

/// Prints a JSON text that somebody else wrote, changed in nothing but its spaces: indented by tabs.
pub(super) fn print_indented(json: &str) -> Result<(), Failure> {
    print(&format!("{}\n", indented(json)))
}

fn indented(json: &str) -> String {
    let mut text = String::with_capacity(2 * json.len());
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut last = ' ';
    for c in json.chars() {
        if quoted {
            text.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            last = c;
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        depth = depth.saturating_sub(usize::from(closes));
        // An empty object or list stays on its line.
        if matches!((last, closes), ('{' | '[', false) | (',', _))
            || (closes && !matches!(last, '{' | '['))
        {
            text.push('\n');
            text.extend(std::iter::repeat_n('\t', depth));
        }
        depth += usize::from(matches!(c, '{' | '['));
        text.push(c);
        if c == ':' {
            text.push(' ');
        }
        quoted = c == '"';
        last = c;
    }
    text
}

fn failed(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::pipe_closed(),
        _ => Failure::operation("cannot write to stdout", error),
    }
}

/// Which of this process's outputs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Data on its way out, written by a thread, so that a slow reader never keeps the connection from
/// being looked after.
#[derive(Debug)]
pub(super) struct Pipe {
    pieces: mpsc::Sender<Piece>,
    result: oneshot::Receiver<io::Result<()>>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// All before this is to be written, and somebody waits to hear of it.
    Flush(oneshot::Sender<()>),
}

impl Pipe {
    /// Begins to write.
    pub(super) fn new(target: Target) -> Pipe {
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (done, result) = oneshot::channel();
        std::thread::spawn(move || {
            let out = match target {
                Target::Stdout => Descriptor::stdout(),
                Target::Stderr => Descriptor::stderr(),
            };
            let written = write_all(queue, &mut io::BufWriter::new(out));
            // Whoever waited may have been cancelled.
            let _ = done.send(written);
        });
        Pipe { pieces, result }
    }

    /// Writes a piece, once there is room. Fails when the reader has gone.
    pub(super) async fn write(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.pass(Piece::Data(piece)).await
    }

    /// Waits until all so far is written.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let (written, heard) = oneshot::channel();
        self.pass(Piece::Flush(written)).await?;
        match heard.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    async fn pass(&mut self, piece: Piece) -> Result<(), Failure> {
        match self.pieces.send(piece).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    /// Waits until all is written.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.pieces);
        match self.result.await {
            Ok(Err(error)) => Err(failed(&error)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn reason(&mut self) -> Failure {
        match (&mut self.result).await {
            Ok(Err(error)) => failed(&error),
            Ok(Ok(())) | Err(_) => Failure::pipe_closed(),
        }
    }
}

fn write_all(mut queue: mpsc::Receiver<Piece>, out: &mut impl Write) -> io::Result<()> {
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Data(bytes) => out.write_all(&bytes)?,
            Piece::Flush(written) => {
                out.flush()?;
                // Whoever waited may have been cancelled.
                let _ = written.send(());
            }
        }
        // A piece is shown as soon as it comes, but a flood is not flushed piece by piece.
        if queue.is_empty() {
            out.flush()?;
        }
    }
    out.flush()
}

/// Prints the help or version that was asked for.
pub(super) fn help(asked: &clap::Error) -> Result<(), Failure> {
    let text = asked.render();
    match io::stdout().is_terminal() && is_styled() {
        true => print(&text.ansi().to_string()),
        false => print(&text.to_string()),
    }
}

/// Whether the terminal may be sent styles.
fn is_styled() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_others_is_indented_and_kept() {
        let json = r#"{"b":[1,{"x":"a\\\"{,"},[]],"a":{} , "c" : null}"#;
        let expected = "{\n\t\"b\": [\n\t\t1,\n\t\t{\n\t\t\t\"x\": \"a\\\\\\\"{,\"\n\t\t},\n\t\t[]\n\t],\n\t\"a\": {},\n\t\"c\": null\n}";
        assert_eq!(indented(json), expected);
        assert_eq!(indented(expected), expected);
        assert_eq!(indented("]]}"), "\n]\n]\n}");
    }
}
