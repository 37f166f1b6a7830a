//! Reads a log for somebody who may wait for more.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::cursor::{Batch, Cursor};
use super::log::{Inner, News};
use super::{Item, LogError, Query, Shared};
use crate::runtime::descriptors::Taken;
use crate::runtime::pool::Pool;

/// Reads the lines of a log. Each reader has its own place; it holds a few hundred KiB, and one
/// descriptor.
pub struct Reader {
    log: Arc<Inner>,
    query: Query,
    pool: Arc<Pool>,
    news: watch::Receiver<News>,
    /// Where it is, unless it is being read.
    place: Place,
    reading: Option<Reading>,
    /// How many bytes of the log it has seen, if it has seen all.
    seen: Option<u64>,
    /// Nobody waits for it any more.
    abandoned: Arc<AtomicBool>,
    _taken: Taken,
}

/// A read under way, on another thread.
type Reading = Pin<Box<dyn Future<Output = Result<(Place, Batch), LogError>> + Send>>;

enum Place {
    Unknown,
    At(Box<Cursor>),
    /// There is nothing more, or reading has failed.
    End,
}

impl Reader {
    pub(super) fn new(
        shared: &Arc<Shared>,
        log: &Arc<Inner>,
        query: Query,
        taken: Taken,
    ) -> Reader {
        Reader {
            log: log.clone(),
            query,
            pool: shared.pool.clone(),
            news: log.news.subscribe(),
            place: Place::Unknown,
            reading: None,
            seen: None,
            abandoned: Arc::default(),
            _taken: taken,
        }
    }

    /// The next items, at least one; `None` at the end: with `follow` when the log was forgotten, or the
    /// server ends. After an error comes the end.
    ///
    /// **Cancellation:** nothing is lost: the next call goes on.
    pub async fn next(&mut self) -> Result<Option<Vec<Item>>, LogError> {
        loop {
            if self.reading.is_none() && !self.is_more().await {
                return Ok(None);
            }
            let reading = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let place = std::mem::replace(&mut self.place, Place::End);
                    self.read(place)
                }
            };
            let read = self.reading.insert(reading).as_mut().await;
            self.reading = None;
            let (place, batch) = read?;
            self.place = place;
            self.seen = batch.at_end.then_some(batch.seen);
            if !batch.items.is_empty() {
                return Ok(Some(batch.items));
            }
        }
    }

    /// Waits until there is something to read; whether there will be.
    async fn is_more(&mut self) -> bool {
        if matches!(self.place, Place::End) {
            return false;
        }
        let seen = self.seen;
        let is_more = |news: &News| {
            let is_more = seen.is_none_or(|seen| news.end > seen);
            news.closed || (news.loaded && is_more)
        };
        // The sender lives in the log, so the watch cannot end before it tells.
        let closed = self.news.wait_for(is_more).await.map(|news| news.closed);
        // What is there is read to its end even so, unless the log is gone.
        let read_all = seen.is_some_and(|seen| self.log.index.lock().end() <= seen);
        !closed.unwrap_or(true) || !(read_all || self.log.is_forgotten())
    }

    /// Reads on, on a thread of the pool.
    fn read(&self, place: Place) -> Reading {
        let (log, query, pool) = (self.log.clone(), self.query, self.pool.clone());
        let (dir, abandoned) = (self.log.dir.clone(), self.abandoned.clone());
        let call = move || {
            let mut cursor = match place {
                Place::At(cursor) => cursor,
                Place::Unknown => Box::new(Cursor::new(&log, query, &abandoned)?),
                Place::End => return Ok((Place::End, Batch::default())),
            };
            let mut batch = cursor.next()?;
            let place = match batch.at_end && !query.follow {
                true => {
                    cursor.finish(&mut batch.items);
                    Place::End
                }
                false => Place::At(cursor),
            };
            Ok((place, batch))
        };
        Box::pin(async move { pool.run(call).await?.map_err(LogError::io(&dir)) })
    }
}

impl Drop for Reader {
    /// A read under way keeps its thread until it comes to its end.
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("log", &self.log.name)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}
