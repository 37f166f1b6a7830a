//! A service, which keeps processes running on some host.

use circuit_proto::element::service::{Line, Op, Outcome, Query, Scale, Scaled};
use circuit_proto::element::streams::{self, Reach};
use circuit_proto::{Path, codec};

use super::{Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;
use crate::signal::Signal;
use crate::stream::Reader;

/// A handle to a service, or to one of its slots. The operations at a slot's handle are for that slot
/// alone; those that make sense for a whole service only are [refused](crate::Code::InvalidArgument) there.
pub type Service = Handle<kind::Service>;

/// Something that a person wants of a service, recorded by its server. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Intent {
    service: Service,
    number: u64,
}

impl Intent {
    /// Waits for its effect: until it is reached, or never will be.
    ///
    /// # Errors
    ///
    /// Those of any request. The intent goes on.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// use circuit_client::service::Outcome;
    /// match service.restart().await?.outcome().await? {
    ///     Outcome::Reached => println!("all instances are new"),
    ///     Outcome::Failed { why, .. } => println!("halted: {why}"),
    ///     Outcome::Superseded { by } => println!("superseded by {by}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn outcome(&self) -> Result<Outcome, Error> {
        let intent = self.number;
        let watch = Op::Watch { intent };
        self.service.anchor().call_without_deadline(watch).await
    }
}

impl Handle<kind::Service> {
    /// Has it up. Clears pauses and failures.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.up().await?.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn up(&self) -> Result<Intent, Error> {
        self.intend(Op::Up).await
    }

    /// Has it down.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.down().await?.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn down(&self) -> Result<Intent, Error> {
        self.intend(Op::Down).await
    }

    /// Replaces its instances, a few at a time, as its definition says.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.restart().await?.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn restart(&self) -> Result<Intent, Error> {
        self.intend(Op::Restart { now: false }).await
    }

    /// Stops all instances, and then starts all.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.restart_now().await?.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn restart_now(&self) -> Result<Intent, Error> {
        self.intend(Op::Restart { now: true }).await
    }

    /// Has its instances read their configuration again.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Code::InvalidArgument) if its definition does not say how.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.reload().await?.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reload(&self) -> Result<Intent, Error> {
        self.intend(Op::Reload).await
    }

    /// Changes the number of its slots. Returns how many there were and are to be, and the intent.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// use circuit_client::service::Scale;
    /// let (from, to, intent) = service.scale(Scale::By(1)).await?;
    /// println!("{from} -> {to}");
    /// intent.outcome().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scale(&self, by: Scale) -> Result<(u16, u16, Intent), Error> {
        let scaled: Scaled = self.call(Op::Scale { by }).await?;
        Ok((scaled.from, scaled.to, self.intent(scaled.intent)))
    }

    /// Sends its instances, or that of the slot, a signal.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// use circuit_client::streams::Reach;
    /// service.signal_to("USR1", Reach::Main).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal_to(&self, signal: impl Into<Signal>, reach: Reach) -> Result<(), Error> {
        let signal = signal.into().to_string();
        self.call(streams::Op::Signal { signal, reach }).await
    }

    /// Waits until all slots are ready; or, with `ready` false, until none is meant to go on: all are
    /// down, finished or failed.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// service.settled(true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn settled(&self, ready: bool) -> Result<Outcome, Error> {
        self.anchor()
            .call_without_deadline(Op::Wait { ready })
            .await
    }

    /// Reads its retained output, as the query says.
    ///
    /// ```no_run
    /// # async fn example(service: circuit_client::Service) -> Result<(), circuit_client::Error> {
    /// use circuit_client::service::{Line, Query};
    /// let query = Query { last: Some(100), since: None, stream: None, follow: true };
    /// let mut lines = service.logs(query).await?;
    /// while let Some(Line::Line { text, .. }) = lines.next().await? {
    ///     println!("{}", String::from_utf8_lossy(&text));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn logs(&self, query: Query) -> Result<Lines, Error> {
        let reader = self.anchor().reader(Op::Logs(query)).await?;
        let lines = Vec::new().into_iter();
        Ok(Lines {
            path: self.path().clone(),
            reader,
            lines,
        })
    }

    async fn intend(&self, op: Op) -> Result<Intent, Error> {
        let number = self.call(op).await?;
        Ok(self.intent(number))
    }

    fn intent(&self, number: u64) -> Intent {
        let service = self.clone();
        Intent { service, number }
    }
}

/// Retained output, line by line.
#[derive(Debug)]
pub struct Lines {
    path: Path,
    reader: Reader,
    lines: std::vec::IntoIter<Line>,
}

impl Lines {
    /// The next line; `None` at the end, which a query with `follow` has once the service is scrubbed.
    ///
    /// **Cancellation:** nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(Some(line));
            }
            let Some(chunk) = self.reader.whole_chunk().await? else {
                return Ok(None);
            };
            let lines = codec::decode_all(&chunk);
            let lines = lines.map_err(|error| Error::protocol(&self.path, error))?;
            self.lines = lines.into_iter();
        }
    }

    /// The next line, if it has come already.
    pub fn ready(&mut self) -> Option<Line> {
        self.lines.next()
    }
}

/// How a service is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Making {
    /// It is down at first.
    pub down: bool,
    /// The definition takes the place of that of a service that is there.
    pub update: bool,
}

/// Services.
impl Anchor {
    /// Makes a service here, from its [definition](circuit_proto::element::service::Definition) as JSON.
    /// It is there when this returns; the intent tells when all its slots are ready.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element or leads to one, and
    /// [`InvalidArgument`](crate::Code::InvalidArgument) if the definition is wrong; then nothing was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Making;
    /// let (service, intent) = anchor
    ///     .make_service(r#"{"Path": "./worker", "Instances": 3}"#, Making::default())
    ///     .await?;
    /// intent.outcome().await?;
    /// println!("{} is ready", service.path());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_service(
        &self,
        definition: impl Into<String>,
        making: Making,
    ) -> Result<(Service, Intent), Error> {
        let Making { down, update } = making;
        let definition = definition.into();
        let service = self.service();
        let make = Op::Make {
            definition,
            down,
            update,
        };
        let intent = service.intend(make).await?;
        Ok((service, intent))
    }

    /// Says what [`make_service`](Anchor::make_service) with `update` would do, in lines for people, and
    /// does nothing.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// for line in anchor.check_service(r#"{"Path": "./worker"}"#).await? {
    ///     println!("{line}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn check_service(&self, definition: impl Into<String>) -> Result<Vec<String>, Error> {
        let definition = definition.into();
        self.call(Op::Check { definition }).await
    }

    /// A handle to the service, or slot of one, that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// anchor.service().restart().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service(&self) -> Service {
        Handle::new(self.clone())
    }
}
