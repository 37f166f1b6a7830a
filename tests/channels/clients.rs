//! Clients that send, receive and let go at random, and write down what they do.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use circuit_client::{Address, Chan, Client, Code, Error, Key};

use super::history::{Ended, Event, HEADER, Received, Sent, begins, content, now, whole};
use super::random::Random;

/// The operations that a client may choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// Once in so many operations it lets go of one; never, if 0.
    pub(crate) lets_go: u64,
    /// It lets go of receives that have seen nothing too: then who got what is less certain.
    pub(crate) lets_go_early: bool,
    /// Once in so many operations it drops its connection; never, if 0.
    pub(crate) hangs_up: u64,
}

/// The recorded events, by time.
pub(crate) type Events = Vec<(u64, Event)>;

/// A place where events are written down.
#[derive(Clone)]
pub(crate) enum Log {
    /// In memory.
    Here(Arc<Mutex<Events>>),
    /// On stdout, a line each: what a client that is killed has written is there.
    Stdout,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log::Here(Arc::default())
    }

    pub(crate) fn write(&self, event: Event) {
        let at = now();
        match self {
            Log::Here(events) => events.lock().unwrap().push((at, event)),
            Log::Stdout => {
                let line = serde_json::to_string(&(at, event)).unwrap() + "\n";
                // If the reader of the log has gone, there is no reason to go on.
                if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                    std::process::exit(1);
                }
            }
        }
    }

    /// The events that were written down here.
    pub(crate) fn events(&self) -> Events {
        match self {
            Log::Here(events) => events.lock().unwrap().clone(),
            Log::Stdout => Vec::new(),
        }
    }
}

/// For how long a client dials a server that does not answer. A dial takes three seconds.
const REDIAL: u64 = 60_000_000_000;

/// A client.
pub(crate) struct Actor {
    address: Address,
    key: Key,
    path: String,
    chan: Chan,
    random: Random,
    habits: Habits,
    log: Log,
    /// The prefix of the names of its messages and receives.
    next: u64,
}

/// Why a client has nothing more to do.
#[derive(Debug)]
pub(crate) struct Over;

type Done = Result<(), Over>;

impl Actor {
    /// A client of the channel at a path, through the server at an address; each has a number.
    pub(crate) async fn new(
        address: &Address,
        key: &Key,
        path: &str,
        number: u64,
        seed: u64,
        habits: Habits,
        log: Log,
    ) -> Result<Actor, String> {
        let chan = dial(address, key, path).await?;
        Ok(Actor {
            address: address.clone(),
            key: key.clone(),
            path: path.to_owned(),
            chan,
            random: Random::new(seed ^ (number << 32)),
            habits,
            log,
            next: number << 32,
        })
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn lets_go(&mut self) -> bool {
        self.habits.lets_go > 0 && self.random.one_in(self.habits.lets_go)
    }

    /// A moment in which something may be half done.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.random.below(1500))
    }

    /// For how long it waits for a message: not at all, or a moment.
    fn wait(&mut self) -> Duration {
        match self.random.below(3) {
            0 => Duration::ZERO,
            _ => self.moment(),
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(100) {
            0 => 100_000 + self.random.below(200_000) as usize,
            1..4 => 32_000 + self.random.below(2000) as usize,
            4..10 => self.random.below(30_000) as usize,
            _ => self.random.below(100) as usize,
        }
        .max(HEADER)
    }

    /// Now and then, drops the connection and dials again.
    async fn hang_up(&mut self) -> Done {
        if self.habits.hangs_up > 0 && self.random.one_in(self.habits.hangs_up) {
            self.redial().await?;
        }
        Ok(())
    }

    async fn redial(&mut self) -> Done {
        let begun = now();
        loop {
            match dial(&self.address, &self.key, &self.path).await {
                Ok(chan) => {
                    self.chan = chan;
                    return Ok(());
                }
                // A cut is healed some time.
                Err(_) if now() < begun + REDIAL => (),
                Err(_) => return Err(Over),
            }
        }
    }

    /// Sends at least so many messages, unless the channel takes no more.
    pub(crate) async fn send(&mut self, count: u64) {
        let end = self.next.saturating_add(count);
        while self.next < end {
            let done = match self.random.below(10) {
                0..5 => self.send_all().await,
                5..7 => self.send_in_pieces().await,
                _ => self.send_many().await,
            };
            if done.is_err() || self.hang_up().await.is_err() {
                return;
            }
        }
    }

    fn begins(&mut self) -> (u64, Vec<u8>) {
        let (message, length) = (self.number(), self.length());
        self.log.write(Event::Sends { message, length });
        (message, content(message, length))
    }

    fn sent(&self, message: u64, outcome: Sent) {
        self.log.write(Event::Sent { message, outcome });
    }

    /// Ends a send with what came of it; `said` says whether all was said.
    async fn send_ended(&mut self, message: u64, said: bool, result: Result<(), Error>) -> Done {
        let error = match result {
            Ok(()) => {
                self.sent(message, Sent::Stored);
                return Ok(());
            }
            Err(error) => error,
        };
        let outcome = match error.code() {
            Some(Code::Closed) => Sent::Closed,
            Some(Code::Aborted) => Sent::Aborted,
            Some(Code::Unknown) => Sent::Unknown,
            // It is gone, or another is where it was.
            Some(Code::NoSuchElement) => Sent::Failed,
            _ if said && matches!(error, Error::TimedOut { .. }) => Sent::Unknown,
            _ => Sent::Failed,
        };
        self.sent(message, outcome);
        self.goes_on(&error).await
    }

    /// Dials again if the connection is lost. The channel is no more, or takes no more: over.
    async fn goes_on(&mut self, error: &Error) -> Done {
        match error.code() {
            Some(Code::Closed | Code::NoSuchElement) => Err(Over),
            Some(Code::Aborted) => match self.chan.peek().await {
                Err(Error::Refused { .. }) => Err(Over),
                Ok(_) => Ok(()),
                Err(_) => self.redial().await,
            },
            // A link is cut, and will be healed. The pause only keeps the history short.
            Some(Code::Unreachable | Code::NoSuchServer) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(())
            }
            Some(Code::Unknown) | None => self.redial().await,
            Some(_) => panic!("{error}"),
        }
    }

    async fn send_all(&mut self) -> Done {
        let (message, bytes) = self.begins();
        if !self.lets_go() {
            let result = self.chan.send_all(bytes).await;
            return self.send_ended(message, true, result).await;
        }
        let moment = self.moment();
        match tokio::time::timeout(moment, self.chan.send_all(bytes)).await {
            Ok(result) => self.send_ended(message, true, result).await,
            Err(_) => {
                self.sent(message, Sent::Unknown);
                Ok(())
            }
        }
    }

    async fn send_in_pieces(&mut self) -> Done {
        let (message, bytes) = self.begins();
        let at = match self.lets_go() {
            true => self.random.below(4),
            false => 9,
        };
        let opened = if at == 0 {
            let moment = self.moment();
            match tokio::time::timeout(moment, self.chan.send()).await {
                Ok(opened) => opened,
                Err(_) => {
                    self.sent(message, Sent::Failed);
                    return Ok(());
                }
            }
        } else {
            self.chan.send().await
        };
        let mut writer = match opened {
            Ok(writer) => writer,
            Err(error) => return self.send_ended(message, false, Err(error)).await,
        };
        self.log.write(Event::Placed { message });
        if at == 1 {
            self.sent(message, Sent::Failed);
            return Ok(());
        }
        let half = self.random.below(bytes.len() as u64) as usize;
        let (one, two) = bytes.split_at(half);
        for piece in [one, two] {
            if let Err(error) = writer.send(piece.to_vec().into()).await {
                return self.send_ended(message, false, Err(error)).await;
            }
            if at == 2 {
                self.sent(message, Sent::Failed);
                return Ok(());
            }
        }
        let finished = writer.finish();
        if at == 3 {
            let moment = self.moment();
            return match tokio::time::timeout(moment, finished).await {
                Ok(result) => self.send_ended(message, true, result).await,
                Err(_) => {
                    self.sent(message, Sent::Unknown);
                    Ok(())
                }
            };
        }
        let result = finished.await;
        self.send_ended(message, true, result).await
    }

    async fn send_many(&mut self) -> Done {
        let mut sender = match self.chan.sender().await {
            Ok(sender) => sender,
            Err(error) => return self.goes_on(&error).await,
        };
        let count = 1 + self.random.below(60);
        let mut messages = Vec::new();
        let mut result = Ok(());
        for _ in 0..count {
            let (message, bytes) = self.begins();
            messages.push(message);
            result = sender.feed(&bytes).await;
            if result.is_err() {
                break;
            }
        }
        let mut let_go = false;
        if result.is_ok() && self.lets_go() {
            let moment = self.moment();
            match tokio::time::timeout(moment, sender.flush()).await {
                Ok(flushed) => result = flushed,
                Err(_) => let_go = true,
            }
        } else if result.is_ok() {
            result = sender.flush().await;
        }
        let stored = sender.stored() as usize;
        let (stored, rest) = messages.split_at(stored);
        for message in stored {
            self.sent(*message, Sent::Stored);
        }
        let there = match &result {
            Err(error) if error.code() == Some(Code::Aborted) => self.chan.peek().await.is_ok(),
            _ => true,
        };
        for message in rest {
            match &result {
                Err(error) => {
                    let outcome = match error.code() {
                        Some(Code::Closed) => Sent::Closed,
                        Some(Code::Aborted) if *message == rest[0] => Sent::Aborted,
                        // None behind one that failed was sent, but a scrub spares those that
                        // others had received.
                        Some(Code::Aborted) if there => Sent::Failed,
                        // Of a loss it is told once for all.
                        _ => Sent::Unknown,
                    };
                    self.sent(*message, outcome);
                }
                Ok(()) => {
                    assert!(let_go, "flushed, and not stored");
                    self.sent(*message, Sent::Unknown);
                }
            }
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.goes_on(&error).await,
        }
    }

    /// Receives until the channel is closed and empty, or is no more.
    pub(crate) async fn receive(&mut self) {
        loop {
            let done = match self.random.below(10) {
                0..7 => self.receive_one().await,
                _ => self.receive_many().await,
            };
            if done.is_err() || self.hang_up().await.is_err() {
                return;
            }
        }
    }

    fn received(&self, receive: u64, outcome: Received) {
        self.log.write(Event::Received { receive, outcome });
    }

    async fn receive_ended(&mut self, receive: u64, accepted: bool, error: &Error) -> Done {
        let outcome = match error.code() {
            Some(Code::Closed) => Received::Closed,
            Some(Code::Aborted) => Received::Aborted,
            _ if accepted => Received::Unknown,
            _ => Received::Left,
        };
        self.received(receive, outcome);
        self.goes_on(error).await
    }

    async fn receive_one(&mut self) -> Done {
        let at = match self.lets_go() {
            true => self.random.below(4),
            false => 9,
        };
        let receive = self.number();
        self.log.write(Event::Receives { receive });
        let opened = if self.random.one_in(8) {
            let time = self.wait();
            match self.chan.recv_within(time).await {
                Ok(Some(reader)) => Ok(reader),
                Ok(None) => {
                    self.received(receive, Received::Empty);
                    return Ok(());
                }
                Err(error) => Err(error),
            }
        } else if at == 0 && self.habits.lets_go_early {
            let moment = self.moment();
            match tokio::time::timeout(moment, self.chan.recv()).await {
                Ok(opened) => opened,
                Err(_) => {
                    self.received(receive, Received::Left);
                    return Ok(());
                }
            }
        } else {
            self.chan.recv().await
        };
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => return self.receive_ended(receive, false, &error).await,
        };
        let mut bytes = Vec::new();
        loop {
            let piece = match reader.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return self.receive_ended(receive, false, &error).await,
            };
            let first = bytes.len() < 8;
            bytes.extend_from_slice(&piece);
            if let (true, Some(message)) = (first, begins(&bytes)) {
                let message = Some(message);
                self.log.write(Event::Sees { receive, message });
                if at == 1 {
                    self.received(receive, Received::Left);
                    return Ok(());
                }
            }
        }
        let message = whole(&bytes);
        self.log.write(Event::Sees { receive, message });
        if at == 2 {
            self.received(receive, Received::Left);
            return Ok(());
        }
        self.log.write(Event::Accepts { receive });
        let accepted = reader.accept();
        let result = if at == 3 {
            let moment = self.moment();
            match tokio::time::timeout(moment, accepted).await {
                Ok(result) => result,
                Err(_) => {
                    self.received(receive, Received::Unknown);
                    return Ok(());
                }
            }
        } else {
            accepted.await
        };
        match result {
            Ok(()) => self.received(receive, Received::Taken),
            Err(error) => return self.receive_ended(receive, true, &error).await,
        }
        Ok(())
    }

    async fn receive_many(&mut self) -> Done {
        let mut receiver = match self.chan.receiver().await {
            Ok(receiver) => receiver,
            Err(error) => return self.goes_on(&error).await,
        };
        for _ in 0..1 + self.random.below(5) {
            let most = 1 + self.random.below(50) as u32;
            // Each may have a message.
            let receives: Vec<u64> = (0..most).map(|_| self.number()).collect();
            for receive in &receives {
                self.log.write(Event::Receives { receive: *receive });
            }
            let time = self.random.one_in(4).then(|| self.wait());
            let waiting = async {
                match time {
                    Some(time) => receiver.batch_within(most, time).await,
                    None => receiver.batch(most).await,
                }
            };
            let batch = if self.habits.lets_go_early && self.lets_go() {
                let moment = self.moment();
                match tokio::time::timeout(moment, waiting).await {
                    Ok(batch) => batch,
                    Err(_) => {
                        for receive in receives {
                            self.received(receive, Received::Left);
                        }
                        return Ok(());
                    }
                }
            } else {
                waiting.await
            };
            let batch = match batch {
                Ok(batch) => batch.to_vec(),
                Err(error) => {
                    let lost = !matches!(error.code(), Some(Code::Closed | Code::Aborted));
                    for receive in &receives[1..] {
                        let receive = *receive;
                        match lost {
                            true => self.received(receive, Received::Left),
                            false => self.log.write(Event::Unused { receive }),
                        }
                    }
                    return self.receive_ended(receives[0], false, &error).await;
                }
            };
            let mut rest = &receives[batch.len()..];
            if batch.is_empty() {
                self.received(rest[0], Received::Empty);
                rest = &rest[1..];
            }
            for receive in rest {
                self.log.write(Event::Unused { receive: *receive });
            }
            let used = &receives[..batch.len()];
            for (receive, bytes) in used.iter().zip(&batch) {
                let (receive, message) = (*receive, whole(bytes));
                self.log.write(Event::Sees { receive, message });
            }
            if self.lets_go() {
                for receive in used {
                    self.received(*receive, Received::Left);
                }
                return Ok(());
            }
            for receive in used {
                self.log.write(Event::Accepts { receive: *receive });
            }
            let committed = if self.lets_go() {
                let moment = self.moment();
                match tokio::time::timeout(moment, receiver.commit()).await {
                    Ok(result) => result,
                    Err(_) => {
                        for receive in used {
                            self.received(*receive, Received::Unknown);
                        }
                        return Ok(());
                    }
                }
            } else {
                receiver.commit().await
            };
            for receive in used {
                let outcome = match &committed {
                    Ok(()) => Received::Taken,
                    Err(error) if error.code() == Some(Code::Aborted) => Received::Aborted,
                    Err(_) => Received::Unknown,
                };
                self.received(*receive, outcome);
            }
            if let Err(error) = committed {
                return self.goes_on(&error).await;
            }
        }
        Ok(())
    }

    /// Closes the channel.
    pub(crate) async fn close(&mut self) {
        let close = self.number();
        self.log.write(Event::Closes { close });
        let outcome = match self.chan.close().await {
            Ok(()) => Ended::Done,
            Err(error) if error.code() == Some(Code::Closed) => Ended::Already,
            Err(_) => Ended::Unknown,
        };
        self.log.write(Event::Closed { close, outcome });
    }

    /// Scrubs the channel.
    pub(crate) async fn scrub(&mut self) {
        self.log.write(Event::Scrubs);
        self.chan.scrub().await.unwrap();
        self.log.write(Event::Scrubbed);
    }
}

async fn dial(address: &Address, key: &Key, path: &str) -> Result<Chan, String> {
    let client = Client::dial(address, Some(key)).await;
    let client = client.map_err(|error| error.to_string())?;
    let anchor = client.walk(path).map_err(|error| error.to_string())?;
    Ok(anchor.chan())
}
