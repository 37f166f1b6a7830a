//! Where a server's log goes: to stderr, one line at a time, without ever making the server wait.
//!
//! A thread of its own writes the lines; a bounded queue leads to it. When the reader of stderr is
//! too slow, lines are dropped and counted, and the log says how many once it goes on.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait. Chosen: at 200 bytes each this is under a megabyte.
const QUEUE: usize = 4096;

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Holds the log open. Dropped, it waits a moment for the lines that are queued.
#[derive(Debug)]
pub struct Log {
    lines: Option<SyncSender<Vec<u8>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Sends everything that this process traces to stderr.
pub fn start(format: Format) -> io::Result<Log> {
    let (lines, queue) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        lines: lines.clone(),
        dropped: dropped.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(64 << 10)
        .spawn(move || write_lines(&queue, &dropped, format, &mut io::stderr()))?;
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO);
    // A second log in one process, as tests have it, changes nothing.
    let _ = match format {
        Format::Text => tracing::subscriber::set_global_default(builder.compact().finish()),
        Format::Json => {
            tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
        }
    };
    Ok(Log {
        lines: Some(lines),
        thread: Some(thread),
    })
}

impl Drop for Log {
    fn drop(&mut self) {
        // An empty line is the end. A queue that is full has a reader who is gone.
        let sent = self
            .lines
            .take()
            .is_some_and(|lines| lines.try_send(Vec::new()).is_ok());
        if let Some(thread) = self.thread.take().filter(|_| sent) {
            let _ = thread.join();
        }
    }
}

fn write_lines(
    queue: &Receiver<Vec<u8>>,
    dropped: &AtomicU64,
    format: Format,
    out: &mut impl Write,
) {
    loop {
        let line = match queue.recv_timeout(Duration::from_secs(1)) {
            Ok(line) if line.is_empty() => return,
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // A stderr that is closed is no reason to stop serving.
        let _ = out.write_all(&line);
        match dropped.swap(0, Ordering::Relaxed) {
            0 => (),
            count => {
                let _ = out.write_all(missing(count, format).as_bytes());
            }
        }
    }
}

fn missing(count: u64, format: Format) -> String {
    match format {
        Format::Text => format!("{count} log lines were dropped: stderr is read too slowly\n"),
        Format::Json => format!("{{\"level\":\"WARN\",\"dropped\":{count}}}\n"),
    }
}

#[derive(Debug, Clone)]
struct Writer {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(line.to_vec()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_when_lines_were_dropped() {
        let (lines, queue) = sync_channel(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer {
            lines: lines.clone(),
            dropped: dropped.clone(),
        };
        for n in 0..5 {
            writer.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        drop((writer, lines));
        let mut out = Vec::new();
        write_lines(&queue, &dropped, Format::Text, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("line 0\n3 log lines were dropped"),
            "{text}"
        );
        assert!(text.ends_with("line 1\n"), "{text}");
    }
}
