//! Writes a server's log to stderr, one line at a time, without ever making the server wait.
//!
//! A thread of its own writes the lines; a bounded queue leads to it. When the reader of stderr is
//! too slow, lines are dropped and counted, and the log says how many once it goes on.
//!
//! **Invariant:** the lines that wait or are being written take at most [`QUEUE_BYTES`].

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

use super::operations::Done;
use crate::descriptor::Descriptor;
use crate::runtime::counters::Counter;
use crate::text::one_line;

/// How many lines may wait. Chosen, not measured: half a second of a busy server's operations.
const QUEUE: usize = 5000;

/// How many bytes of memory the lines may take that wait or are being written. Chosen, not measured:
/// most lines have 200 bytes, and the queue of them fits; longer ones are fewer.
const QUEUE_BYTES: usize = 4 << 20;

/// How many bytes are written at once.
const WRITE: usize = 64 << 10;

/// How long the thread gathers lines before it writes again. Chosen, not measured: waking the thread
/// for each line would cost more than the operation that the line tells of.
const GATHER: Duration = Duration::from_millis(10);

/// How long the last lines may take to be written. Chosen, not measured: a moment, as whoever stops a
/// server waits for it.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Holds the log open. Dropped, it waits for the lines that are queued, if stderr takes them.
#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Wakes the thread that writes, and at the end whoever waits for that thread.
    wake: Condvar,
    written: Counter,
    dropped: Counter,
    /// Whether the thread is gone.
    gone: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    /// The memory of the lines that wait or are being written.
    bytes: usize,
    /// Lines that found the queue full since the last time this was said.
    dropped: u64,
    /// The thread waits to be woken.
    asleep: bool,
    /// No more lines will come.
    ended: bool,
    /// All that came are written.
    finished: bool,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Operation(Box<Done>),
}

/// The way into the log for operations, which are put into words only when they are written.
#[derive(Debug, Clone)]
pub struct Lines {
    queue: Arc<Queue>,
}

impl Line {
    /// How many bytes of memory it takes, within a factor.
    fn held(&self) -> usize {
        size_of::<Line>()
            + match self {
                Line::Text(text) => text.len(),
                Line::Operation(done) => done.held(),
            }
    }
}

impl Lines {
    /// Logs an operation.
    pub fn operation(&self, done: Done) {
        self.queue.push(Line::Operation(Box::new(done)));
    }

    /// Resolves when nobody writes the lines any more: at the end of the log, or if its thread
    /// panics.
    pub async fn ended(&self) {
        // The sender lives in the queue, so the watch cannot end before it tells.
        let _ = self.queue.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// How many lines were written, were dropped, and wait.
    pub fn counts(&self) -> (u64, u64, u64) {
        let waiting = self.queue.lock().lines.len() as u64;
        (self.queue.written.get(), self.queue.dropped.get(), waiting)
    }
}

impl Log {
    /// The way in for operations.
    pub fn lines(&self) -> Lines {
        Lines {
            queue: self.queue.clone(),
        }
    }
}

/// Sends everything that this process traces to stderr.
pub fn start(format: Format) -> io::Result<Log> {
    let queue = Arc::new(Queue::default());
    let writer = Writer {
        queue: queue.clone(),
    };
    spawn(queue.clone(), Descriptor::stderr(), format)?;
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
    Ok(Log { queue })
}

/// Starts the thread that writes.
fn spawn(
    queue: Arc<Queue>,
    mut out: impl Write + Send + 'static,
    format: Format,
) -> io::Result<()> {
    let gone = Gone(queue.clone());
    let builder = std::thread::Builder::new().name("log".to_owned());
    builder.stack_size(STACK).spawn(move || {
        let _gone = gone;
        queue.write_to(&mut out, format);
    })?;
    Ok(())
}

/// The stack of the thread that writes: it calls nothing deep.
const STACK: usize = 128 << 10;

/// Tells everybody that the thread is gone, even if it panicked.
struct Gone(Arc<Queue>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.lock().finished = true;
        self.0.wake.notify_all();
        self.0.gone.send_replace(true);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.ended = true;
        self.queue.wake.notify_all();
        // A reader of stderr may never read on; the server's end does not wait for that.
        let unfinished = |state: &mut State| !state.finished;
        self.queue
            .wake
            .wait_while_for(&mut state, unfinished, LAST_LINES);
    }
}

impl Queue {
    fn push(&self, line: Line) {
        let held = line.held();
        let mut state = self.lock();
        if state.lines.len() >= QUEUE || state.bytes + held > QUEUE_BYTES {
            state.dropped += 1;
            self.dropped.one();
            return;
        }
        state.bytes += held;
        state.lines.push(line);
        if state.asleep {
            state.asleep = false;
            self.wake.notify_one();
        }
    }

    /// Writes what is queued until the end.
    fn write_to(&self, out: &mut impl Write, format: Format) {
        let mut out = Taker::new(out);
        loop {
            let (lines, dropped, ended) = self.next();
            let mut text = Vec::new();
            let (mut held, mut lost) = (0, 0);
            let count = lines.len() as u64;
            // Before the lines, as soon as stderr takes lines again.
            if let Some(why) = &out.refused {
                out.write_if_taken(&lost_lines(out.lost, why, format));
            }
            for line in lines {
                held += line.held();
                match line {
                    Line::Text(line) => {
                        let line = String::from_utf8_lossy(&line);
                        text.extend_from_slice(one_line(line.trim_end_matches('\n')).as_bytes());
                        text.push(b'\n');
                    }
                    Line::Operation(done) => text.extend_from_slice(done.line(format).as_bytes()),
                }
                if text.len() >= WRITE {
                    lost += out.write(&text);
                    text.clear();
                }
            }
            lost += out.write(&text);
            self.written.add(count - lost);
            self.dropped.add(lost);
            self.lock().bytes -= held;
            if dropped > 0 {
                out.write(missing(dropped, format).as_bytes());
            }
            if ended {
                return;
            }
        }
    }

    /// Waits for lines, a moment more for others, and takes them all.
    fn next(&self) -> (Vec<Line>, u64, bool) {
        let mut state = self.lock();
        while state.lines.is_empty() && state.dropped == 0 && !state.ended {
            state.asleep = true;
            self.wake.wait(&mut state);
        }
        state.asleep = false;
        if !state.ended {
            self.wake.wait_for(&mut state, GATHER);
        }
        let State {
            lines,
            dropped,
            ended,
            ..
        } = &mut *state;
        (std::mem::take(lines), std::mem::take(dropped), *ended)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The stderr that takes lines, or refuses them: a file that has become too long, a full disk, a pipe that
/// is closed. None of these is a reason to stop serving.
struct Taker<'a, W> {
    out: &'a mut W,
    /// The last line was taken only in part.
    torn: bool,
    /// How many lines were not taken since the last time this was said.
    lost: u64,
    /// Why, in the operating system's words.
    refused: Option<String>,
}

impl<W: Write> Taker<'_, W> {
    fn new(out: &mut W) -> Taker<'_, W> {
        Taker {
            out,
            torn: false,
            lost: 0,
            refused: None,
        }
    }

    /// Writes whole lines. How many of them were not taken.
    fn write(&mut self, lines: &[u8]) -> u64 {
        let written = self.attempt(lines);
        let left = &lines[written..];
        let lost = left.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.lost += lost;
        lost
    }

    /// Writes a line that says what was lost before it. If that is taken, nothing is lost any more.
    fn write_if_taken(&mut self, line: &str) {
        let written = self.attempt(line.as_bytes());
        if written == line.len() {
            (self.lost, self.refused) = (0, None);
        }
    }

    /// Writes as much as is taken, behind the end of a line that was torn. How many bytes those are.
    fn attempt(&mut self, lines: &[u8]) -> usize {
        if self.torn {
            match self.out.write(b"\n") {
                Ok(1) => self.torn = false,
                _ => return 0,
            }
        }
        let mut written = 0;
        while written < lines.len() {
            match self.out.write(&lines[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Ok(_) => {
                    self.refused = Some("nothing is taken".to_owned());
                    break;
                }
                Err(error) => {
                    self.refused = Some(words(&error));
                    break;
                }
            }
        }
        self.torn = written > 0 && lines[written - 1] != b'\n';
        written
    }
}

/// The operating system's words, in lower case and without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

fn lost_lines(count: u64, why: &str, format: Format) -> String {
    match format {
        Format::Text => format!("{count} log lines were dropped: stderr: {why}\n"),
        Format::Json => {
            format!("{{\"level\":\"WARN\",\"dropped\":{count},\"reason\":{why:?}}}\n")
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
    queue: Arc<Queue>,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(Line::Text(line.to_vec()));
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
    fn a_line_stays_one() {
        let queue = Arc::new(Queue::default());
        let mut writer = Writer {
            queue: queue.clone(),
        };
        writer.write_all(b"closed: x\nforged\n").unwrap();
        queue.lock().ended = true;
        let mut out = Vec::new();
        queue.write_to(&mut out, Format::Text);
        assert_eq!(out, b"closed: x\\nforged\n");
    }

    #[test]
    fn says_when_lines_were_dropped() {
        let queue = Arc::new(Queue::default());
        let mut writer = Writer {
            queue: queue.clone(),
        };
        for _ in 0..QUEUE + 3 {
            writer.write_all(b"x\n").unwrap();
        }
        queue.lock().ended = true;
        let mut out = Vec::new();
        queue.write_to(&mut out, Format::Text);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), QUEUE + 1);
        assert!(text.ends_with("x\n3 log lines were dropped: stderr is read too slowly\n"));
    }

    #[test]
    fn long_lines_are_fewer() {
        let queue = Arc::new(Queue::default());
        let mut writer = Writer {
            queue: queue.clone(),
        };
        let long = vec![b'x'; QUEUE_BYTES / 8];
        for _ in 0..100 {
            writer.write_all(&long).unwrap();
        }
        // The end is near, so that nothing is waited for.
        queue.lock().ended = true;
        let (lines, dropped, _) = queue.next();
        let text = |line: &Line| match line {
            Line::Text(text) => text.len(),
            Line::Operation(_) => 0,
        };
        let waited: usize = lines.iter().map(text).sum();
        assert!(waited <= QUEUE_BYTES, "{waited} bytes waited");
        assert_eq!(lines.len() as u64 + dropped, 100);
        // While those are being written, they count.
        writer.write_all(&long).unwrap();
        assert_eq!(queue.lock().lines.len(), 0);
    }

    /// Fails as a defect in the log would.
    struct Mad;

    impl Write for Mad {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("mad")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_noticed_and_nobody_waits_for_it() {
        let queue = Arc::new(Queue::default());
        spawn(queue.clone(), Mad, Format::Text).unwrap();
        let log = Log { queue };
        let lines = log.lines();
        let mut writer = Writer {
            queue: log.queue.clone(),
        };
        writer.write_all(b"x\n").unwrap();
        lines.ended().await;
        assert!(log.queue.lock().finished);
    }
}
