//! A DNS server, as a caller uses it.

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::dns::{Op, Status};
use circuit_proto::{ElementKind, Path};

use crate::anchor::Anchor;
use crate::error::Error;

/// A handle to a DNS server.
#[derive(Debug, Clone)]
pub struct Nameserver {
    anchor: Anchor,
}

impl Nameserver {
    pub(crate) fn new(anchor: Anchor) -> Nameserver {
        Nameserver { anchor }
    }

    /// The element's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now: where it answers, and the records that were set.
    ///
    /// ```no_run
    /// # async fn example(dns: circuit_client::Nameserver) -> Result<(), circuit_client::Error> {
    /// let status = dns.peek().await?;
    /// println!("{} has {} names", status.address, status.records.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Status, Error> {
        match self.anchor.peek().await? {
            Some(AnyStatus::Dns(status)) => Ok(status),
            other => Err(super::not_a(ElementKind::Dns, self.path(), other)),
        }
    }

    /// Sets a record, written as in a zone file. One that is there already changes nothing; one
    /// that differs only in its TTL replaces the other.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Code::InvalidArgument) with the column of what is wrong,
    /// [`TooLarge`](crate::Code::TooLarge) if the element can hold no more.
    ///
    /// ```no_run
    /// # async fn example(dns: circuit_client::Nameserver) -> Result<(), circuit_client::Error> {
    /// dns.set("miek.nl. 3600 IN MX 10 mx.miek.nl.").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set(&self, record: &str) -> Result<(), Error> {
        let record = record.to_owned();
        self.anchor.call(Op::Set { record }).await
    }

    /// Removes the records of a name, or those of one type. Where there are none, nothing changes.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for what is no name or no type.
    ///
    /// ```no_run
    /// # async fn example(dns: circuit_client::Nameserver) -> Result<(), circuit_client::Error> {
    /// dns.unset("miek.nl.", Some("MX")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unset(&self, name: &str, kind: Option<&str>) -> Result<(), Error> {
        let (name, kind) = (name.to_owned(), kind.map(str::to_owned));
        self.anchor.call(Op::Unset { name, kind }).await
    }

    /// Removes the element: its port is free when this returns.
    ///
    /// ```no_run
    /// # async fn example(dns: circuit_client::Nameserver) -> Result<(), circuit_client::Error> {
    /// dns.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }
}
