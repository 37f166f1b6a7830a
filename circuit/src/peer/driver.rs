//! The task that drives the membership machine: feeds it with what comes in, and carries out its
//! outputs.
//!
//! [`Peer`] sends [`Event`]s to it, and so do the links, the tethers and those that dial. It knows
//! connections, not rules: the machine decides.
//!
//! **Invariant:** there is at most one connection per peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use circuit_client::transport::dial::{Accepted, DIAL_TIMEOUT};
use circuit_client::transport::endpoint::{close, plain};
use circuit_client::transport::tls::Pin;
use circuit_proto::Fingerprint;
use circuit_proto::handshake::Close;
use circuit_proto::membership::{Gone, Input, Message, Notice, Output, Record, TetherState};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::addresses::Addresses;
use super::datagram::Datagrams;
use super::link::Link;
use super::tether::{Subject, Tethers};
use super::{Origin, Peer};

/// An event that the driver is told of.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection is up.
    Up { accepted: Accepted, origin: Origin },
    /// A message on the connection of this number.
    Message {
        peer: Fingerprint,
        number: u64,
        message: Message,
    },
    /// Something else about the connection of this number; 0 if it is about none.
    Input { number: u64, input: Input },
    /// Leaves the circuit; done when the last messages on all links have been sent.
    Leave {
        silently: bool,
        done: oneshot::Sender<()>,
    },
}

/// The task that drives the machine.
#[derive(Debug)]
pub struct Driver {
    peer: Arc<Peer>,
    me: Fingerprint,
    queue: mpsc::Receiver<Event>,
    datagrams: Datagrams,
    addresses: Addresses,
    tethers: Arc<Tethers>,
    links: BTreeMap<Fingerprint, Link>,
    next_number: u64,
    begin: Instant,
}

impl Driver {
    /// The driver of a server that knows only itself.
    pub(super) fn new(
        peer: Arc<Peer>,
        queue: mpsc::Receiver<Event>,
        datagrams: Datagrams,
        tethers: Arc<Tethers>,
    ) -> Driver {
        Driver {
            me: peer.me().fingerprint,
            queue,
            addresses: Addresses::new(datagrams.reaches_v6(), &peer.outbound),
            datagrams,
            tethers,
            links: BTreeMap::new(),
            next_number: 1,
            begin: Instant::now(),
            peer,
        }
    }

    /// Drives the machine for as long as the server lives.
    pub async fn run(mut self) {
        let me = self.me;
        loop {
            let due = self.peer.machine().poll_timeout().map(|at| self.begin + at);
            tokio::select! {
                event = self.queue.recv() => match event {
                    Some(Event::Leave { silently, done }) => {
                        if !silently {
                            self.handle(Input::Leave);
                        }
                        let why = if silently { Close::Copy } else { Close::Leaving };
                        self.close_links(why).await;
                        // Nobody waits any more if the time ran out.
                        let _ = done.send(());
                        return;
                    }
                    Some(event) => self.on_event(event),
                    None => return,
                },
                Some((from, message)) = self.datagrams.recv(me) => {
                    self.handle(Input::Datagram { from, message });
                }
                Some(()) = self.addresses.found() => (),
                () = tokio::time::sleep_until(due.unwrap_or(self.begin)), if due.is_some() => {
                    self.handle(Input::Tick);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Up { accepted, origin } => self.on_up(accepted, origin),
            Event::Message {
                peer,
                number,
                message,
            } => {
                if self.is_current(&peer, number) {
                    self.tether(&peer);
                    self.handle(Input::Message {
                        from: peer,
                        message,
                    });
                }
            }
            Event::Input { number, mut input } => {
                match &mut input {
                    Input::Disconnected { peer, why } if self.is_current(peer, number) => {
                        let link = self.links.remove(peer);
                        let known = self.peer.life(peer.id());
                        // The life that leaves need not be the one that is in the view.
                        if let (Some(link), Some(known)) = (link, known)
                            && link.accepted.identity.instance != known.instance
                            && *why == Gone::Leaving
                        {
                            *why = Gone::Closed;
                        }
                    }
                    Input::Tether { peer, state } if self.is_current(peer, number) => match state {
                        TetherState::Broken => info!("tether broke: {}", peer.id()),
                        _ => debug!(?state, "tether: {}", peer.id()),
                    },
                    _ if number == 0 => (),
                    // The event is about an earlier connection.
                    _ => return,
                }
                self.handle(input);
            }
            // Handled by the loop.
            Event::Leave { .. } => (),
        }
    }

    fn is_current(&self, peer: &Fingerprint, number: u64) -> bool {
        self.links
            .get(peer)
            .is_some_and(|link| link.number == number)
    }

    /// Keeps one connection per peer. When two servers dial each other at the same time, both
    /// keep the one that the lower fingerprint dialled. Of two from the same side the newer is kept:
    /// the server that dialled it knows that the older is gone. Of two to different lives of one server
    /// the one to the later life is kept, unless something is held against that life.
    fn on_up(&mut self, accepted: Accepted, origin: Origin) {
        let peer = accepted.fingerprint;
        let dialled = matches!(origin, Origin::Dialled);
        if let Some(old) = self.links.get(&peer)
            && old.is_open()
        {
            let same = old.accepted.identity.instance == accepted.identity.instance;
            let preferred = self.me < peer;
            let redundant = match same {
                true => old.dialled != dialled && old.dialled == preferred,
                false => self.peer.taken(&peer, accepted.life()).is_some(),
            };
            if redundant {
                close(&accepted.connection, Close::Redundant);
                return;
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        let mut link = Link::new(accepted, dialled, number, &self.peer.events);
        if !dialled {
            let subject = self.subject(peer, number);
            let connection = &link.accepted.connection;
            link.tether = self.tethers.await_dialler(connection, subject);
        }
        if let Some(old) = self.links.insert(peer, link) {
            old.close(Close::Redundant);
        }
        self.handle(Input::Connected { peer, dialled });
        if let Origin::Accepted(Some(message)) = origin {
            let from = peer;
            self.handle(Input::Message { from, message });
        }
    }

    /// Opens the tether of a connection that this server has dialled, if there is none yet.
    fn tether(&mut self, peer: &Fingerprint) {
        if let Some(link) = self.links.get(peer)
            && link.dialled
            && link.tether.is_none()
        {
            let subject = self.subject(*peer, link.number);
            let tether = self.tethers.dial(&link.accepted.connection, subject);
            if let Some(link) = self.links.get_mut(peer) {
                link.tether = tether;
            }
        }
    }

    fn subject(&self, peer: Fingerprint, number: u64) -> Subject {
        Subject {
            peer,
            number,
            events: self.peer.events.clone(),
        }
    }

    /// Feeds the machine, and carries out its outputs.
    fn handle(&mut self, input: Input) {
        let now = self.begin.elapsed();
        let outputs: Vec<Output> = {
            let mut machine = self.peer.machine();
            machine.handle(input, now);
            let outputs: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
            self.peer.tell(&outputs);
            self.peer.outbound.set_life(machine.me().count);
            outputs
        };
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { to } => self.connect(to),
            Output::Disconnect { peer } => {
                if let Some(link) = self.links.remove(&peer) {
                    tokio::spawn(link.drain_and_close(Close::Done));
                }
            }
            Output::Send { to, message } => {
                if let Some(link) = self.links.get(&to) {
                    // The process that is pinged may have died, or only stand still.
                    if let (Message::Ping { .. }, Some(tether)) = (&message, &link.tether) {
                        tether.ask();
                    }
                    link.send(message);
                }
            }
            Output::Datagram { to, message } => {
                if let Some(address) = self.address_of(&to) {
                    self.datagrams.send(to.fingerprint, address, &message);
                }
            }
            Output::Ask { to } => {
                let peer = self.peer.clone();
                tokio::spawn(async move { peer.ask(to).await });
            }
            Output::Notice(notice) => {
                let counters = &self.peer.outbound.runtime().counters;
                match &notice {
                    Notice::Join(who) if who.fingerprint == self.me => warn!(
                        "the circuit knew of a later life of this server than -var did (was the \
                         directory set back, or copied?): this is life {} from now on",
                        who.count
                    ),
                    Notice::Leave(who) if who.fingerprint == self.me => (),
                    Notice::Join(who) => {
                        counters.joined.one();
                        info!("joined: {} {}", who.fingerprint.id(), who.url);
                        self.warn_of_namesake(who);
                    }
                    Notice::Leave(who) => {
                        counters.left.one();
                        warn!("left: {} {}", who.fingerprint.id(), who.url);
                    }
                }
                self.peer.changes.send_modify(|count| *count += 1);
            }
        }
    }

    /// Where a datagram to this server goes; `None` if that is not known yet.
    fn address_of(&mut self, to: &Record) -> Option<SocketAddr> {
        if let Some(address) = to.url.address() {
            return Some(address);
        }
        match self.links.get(&to.fingerprint) {
            Some(link) if link.is_open() => Some(plain(link.accepted.connection.remote_address())),
            _ => self.addresses.of(&to.url, Instant::now()),
        }
    }

    /// Two servers of one name are found out by people only when a path fails.
    fn warn_of_namesake(&self, who: &Record) {
        let me = self.peer.me();
        if who.fingerprint != me.fingerprint && who.name == me.name {
            let (mine, theirs) = (me.fingerprint.id(), who.fingerprint.id());
            warn!(
                "two servers are named {}: {mine} at {} (this one) and {theirs} at {}; paths reach \
                 them by id only, until one is started with another -name",
                me.name,
                me.url.authority(),
                who.url.authority()
            );
        }
    }

    fn connect(&self, to: Arc<Record>) {
        if self.links.get(&to.fingerprint).is_some_and(Link::is_open) {
            return;
        }
        let peer = self.peer.clone();
        tokio::spawn(async move {
            let pin = Pin::Fingerprint(to.fingerprint);
            let hello = peer.hello();
            let dialled = peer.outbound.link(&to.url, pin, &hello, DIAL_TIMEOUT).await;
            match dialled {
                Ok(accepted) => peer.adopt_in_order(accepted, Origin::Dialled).await,
                Err(error) => {
                    debug!("no link: {error}");
                    peer.failed_by_copy(&to.url, &error).await;
                    let input = Input::ConnectFailed {
                        peer: to.fingerprint,
                    };
                    let _ = peer.events.send(Event::Input { number: 0, input }).await;
                }
            }
        });
    }

    /// Closes all links, once the messages on them have been sent.
    async fn close_links(&mut self, why: Close) {
        let links = std::mem::take(&mut self.links).into_values();
        let mut closing = tokio::task::JoinSet::new();
        for link in links {
            closing.spawn(link.drain_and_close(why));
        }
        closing.join_all().await;
    }
}
