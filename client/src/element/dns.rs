//! A DNS server on some host.

use circuit_proto::element::dns::Op;

use super::{Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;

/// A handle to a DNS server.
///
/// Its [`peek`](Handle::peek) tells the address at which it answers, and the records that were set.
pub type Nameserver = Handle<kind::Dns>;

impl Handle<kind::Dns> {
    /// Sets a record, written as in a zone file. One that is there already changes nothing; one
    /// that differs only in its TTL replaces the other.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Code::InvalidArgument) with the column of the mistake,
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
        self.call(Op::Set { record }).await
    }

    /// Removes the records of a name, or those of one type. Where there are none, nothing changes.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a text that is no name or no type.
    ///
    /// ```no_run
    /// # async fn example(dns: circuit_client::Nameserver) -> Result<(), circuit_client::Error> {
    /// dns.unset("miek.nl.", Some("MX")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unset(&self, name: &str, kind: Option<&str>) -> Result<(), Error> {
        let (name, kind) = (name.to_owned(), kind.map(str::to_owned));
        self.call(Op::Unset { name, kind }).await
    }
}

/// DNS servers.
impl Anchor {
    /// Makes a DNS server here, at `HOST[:PORT]`; without an address, at the server's own, on any
    /// free port. [`Nameserver::peek`] tells which.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a text that is no address, and
    /// [`Refused`](crate::Code::Refused) if the server cannot listen on the address: then nothing
    /// was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let dns = anchor.make_dns(Some("127.0.0.1:7711")).await?;
    /// dns.set("www.example. 60 IN A 10.0.0.1").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_dns(&self, address: Option<&str>) -> Result<Nameserver, Error> {
        let address = address.map(str::to_owned);
        let zone = None;
        self.make(Op::Make { address, zone }).await
    }

    /// Makes a DNS server as [`make_dns`](Anchor::make_dns) does, which serves the live servers of
    /// the circuit in a zone too: `x<id>.ZONE` has the address of one, `_circuit._udp.ZONE` the SRV
    /// records of all.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let dns = anchor.make_dns_of_servers(None, "circuit.").await?;
    /// println!("dig @{} _circuit._udp.circuit. SRV", dns.peek().await?.address);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_dns_of_servers(
        &self,
        address: Option<&str>,
        zone: &str,
    ) -> Result<Nameserver, Error> {
        let address = address.map(str::to_owned);
        let zone = Some(zone.to_owned());
        self.make(Op::Make { address, zone }).await
    }

    /// A handle to the DNS server that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// anchor.dns().unset("www.example.", None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn dns(&self) -> Nameserver {
        Handle::new(self.clone())
    }
}
