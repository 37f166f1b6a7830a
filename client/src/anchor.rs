//! A place in a server's tree, by name: what is there is asked for each time.

use circuit_proto::element::anchor::{Listed, ServerEntry};
use circuit_proto::element::container::Run;
use circuit_proto::element::process::Cmd;
use circuit_proto::element::streams::Ended;
use circuit_proto::element::subscription::Source;
use circuit_proto::element::{
    Status, anchor, channel, container, dns, process, streams, subscription,
};
use circuit_proto::path::PathError;
use circuit_proto::request::Op;
use circuit_proto::{ElementKind, Path};

use crate::client::Client;
use crate::element::Element;
use crate::element::channel::Chan;
use crate::element::container::Container;
use crate::element::dns::Nameserver;
use crate::element::process::Proc;
use crate::element::server::Server;
use crate::element::subscription::Subscription;
use crate::error::Error;
use crate::stream::{Reader, Writer};

/// An anchor: a path, and the client through which it is reached. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Anchor {
    client: Client,
    path: Path,
}

/// One line of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub anchor: Anchor,
    /// What it holds, if anything.
    pub kind: Option<ElementKind>,
    /// What is known of a server, at a child of the root.
    pub server: Option<ServerEntry>,
}

impl Anchor {
    pub(crate) fn new(client: Client, path: Path) -> Anchor {
        Anchor { client, path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The client through which it is reached.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The anchor below this one, of one name or several with slashes between them.
    ///
    /// ```no_run
    /// # fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::PathError> {
    /// let deeper = anchor.walk("this/is/charlie")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn walk(&self, names: &str) -> Result<Anchor, PathError> {
        Ok(Anchor {
            client: self.client.clone(),
            path: self.path.join(names)?,
        })
    }

    /// The children of the anchor, sorted by name. Below the root: the live servers.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// for child in anchor.view().await? {
    ///     println!("{}", child.anchor.path());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn view(&self) -> Result<Vec<Entry>, Error> {
        self.entries(false).await
    }

    /// All anchors below this one, sorted, parents before their children. One request per server;
    /// of the root it lists the servers, whose anchors are each server's to list.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// for server in client.servers().await? {
    ///     for below in client.server(server.id).list().await? {
    ///         println!("{}", below.anchor.path());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list(&self) -> Result<Vec<Entry>, Error> {
        self.entries(true).await
    }

    /// What the anchor holds; `None` if it is empty.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Element;
    /// match anchor.get().await? {
    ///     Some(Element::Process(process)) => println!("{:?}", process.wait().await?.exit),
    ///     Some(Element::Server(server)) => println!("{}", server.peek().await?.name),
    ///     Some(_) => println!("something else"),
    ///     None => println!("nothing there"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self) -> Result<Option<Element>, Error> {
        Ok(self.peek().await?.map(|status| match status.kind() {
            ElementKind::Server => Element::Server(Server::new(self.clone())),
            ElementKind::Process => Element::Process(Proc::new(self.clone())),
            ElementKind::Channel => Element::Channel(Chan::new(self.clone())),
            ElementKind::OnJoin => Element::OnJoin(Subscription::new(self.clone())),
            ElementKind::OnLeave => Element::OnLeave(Subscription::new(self.clone())),
            ElementKind::Dns => Element::Dns(Nameserver::new(self.clone())),
            ElementKind::Container => Element::Container(Container::new(self.clone())),
            ElementKind::Unknown => Element::Unknown,
        }))
    }

    /// The status of what the anchor holds; `None` if it is empty.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// match anchor.peek().await? {
    ///     Some(status) => println!("a {}", status.kind()),
    ///     None => println!("nothing there"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Option<Status>, Error> {
        self.call(anchor::Op::Peek).await
    }

    /// Executes a command as a process element here.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`Exec`](crate::Code::Exec) with the operating system's reason; then nothing was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Cmd;
    /// let cmd = Cmd { args: vec!["/".into()], ..Cmd::new("/bin/ls") };
    /// let process = anchor.make_proc(cmd).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_proc(&self, cmd: Cmd) -> Result<Proc, Error> {
        self.call::<()>(process::Op::Make(cmd)).await?;
        Ok(Proc::new(self.clone()))
    }

    /// Runs a container as an element here, on a server that was started with `-docker`. An image
    /// that its Engine does not have is fetched first, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`Refused`](crate::Code::Refused) by a server without `-docker`,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a field that makes no sense,
    /// [`Exec`](crate::Code::Exec) with the Engine's reason; then nothing was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Run;
    /// let run = Run { path: Some("/bin/ls".into()), args: vec!["/".into()], ..Run::new("ubuntu") };
    /// let container = anchor.make_docker(run).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_docker(&self, run: Run) -> Result<Container, Error> {
        self.make_docker_showing(run, |_| ()).await
    }

    /// [`make_docker`](Self::make_docker), with the progress of fetching the image given to
    /// `show` as pieces of text.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Run;
    /// let run = Run::new("ubuntu");
    /// let container = anchor.make_docker_showing(run, |text| eprint!("{text}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_docker_showing(
        &self,
        run: Run,
        mut show: impl FnMut(&str),
    ) -> Result<Container, Error> {
        let op = container::Op::Make(run).into();
        // The stream is held until the end: letting go of it says that nobody wants the container.
        let (_send, mut recv) = self.client.open(&self.path, &op).await?;
        loop {
            match recv.data().await {
                Ok(Some(text)) => show(&String::from_utf8_lossy(&text)),
                Ok(None) => return Ok(Container::new(self.clone())),
                Err(error) => return Err(self.client.failed_at_end(&self.path, error)),
            }
        }
    }

    /// A handle to the container that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.container().peek().await?.status.name);
    /// # Ok(())
    /// # }
    /// ```
    pub fn container(&self) -> Container {
        Container::new(self.clone())
    }

    /// Waits for the process or container here to exit; at once if it has. There is no deadline.
    ///
    /// # Errors
    ///
    /// [`Aborted`](crate::Code::Aborted) if the element is scrubbed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.wait().await?.exit().unwrap_or("ok"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self) -> Result<Ended, Error> {
        self.client
            .call_without_deadline(&self.path, &streams::Op::Wait.into())
            .await
    }

    /// Makes a channel here, which holds `capacity` messages for receivers to come; with 0, a send
    /// waits for its receiver.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a capacity above 2^24.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let chan = anchor.make_chan(3).await?;
    /// chan.send_all("hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_chan(&self, capacity: u64) -> Result<Chan, Error> {
        self.call::<()>(channel::Op::Make { capacity }).await?;
        Ok(Chan::new(self.clone()))
    }

    /// A handle to the channel that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let message = anchor.chan().recv_all(1 << 20).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn chan(&self) -> Chan {
        Chan::new(self.clone())
    }

    /// Makes a subscription here that delivers the path of every server now in the circuit, then of
    /// each that joins.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let joins = anchor.make_on_join().await?;
    /// println!("{} is here", joins.next().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_join(&self) -> Result<Subscription, Error> {
        let source = Source::Join;
        self.call::<()>(subscription::Op::Make { source }).await?;
        Ok(Subscription::new(self.clone()))
    }

    /// Makes a subscription here that delivers the path of each server that leaves from now on.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let leaves = anchor.make_on_leave().await?;
    /// println!("{} is gone", leaves.next().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_leave(&self) -> Result<Subscription, Error> {
        let source = Source::Leave;
        self.call::<()>(subscription::Op::Make { source }).await?;
        Ok(Subscription::new(self.clone()))
    }

    /// A handle to the subscription that the anchor is known to hold.
    pub fn subscription(&self) -> Subscription {
        Subscription::new(self.clone())
    }

    /// Makes a DNS server here, at `HOST[:PORT]`; without an address, at the server's own, on any
    /// free port. [`Nameserver::peek`] tells which.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for what is no address, and
    /// [`Refused`](crate::Code::Refused) if the address cannot be listened on: then nothing was
    /// made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let dns = anchor.make_dns(Some("127.0.0.1:7711")).await?;
    /// dns.set("www.example. 60 IN A 10.0.0.1").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_dns(&self, address: Option<&str>) -> Result<Nameserver, Error> {
        self.new_dns(address, None).await
    }

    /// As [`make_dns`](Anchor::make_dns), and it serves the live servers of the circuit in a zone:
    /// `x<id>.ZONE` has the address of one, `_circuit._udp.ZONE` the SRV records of all.
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
        self.new_dns(address, Some(zone)).await
    }

    async fn new_dns(
        &self,
        address: Option<&str>,
        zone: Option<&str>,
    ) -> Result<Nameserver, Error> {
        let (address, zone) = (address.map(str::to_owned), zone.map(str::to_owned));
        self.call::<()>(dns::Op::Make { address, zone }).await?;
        Ok(Nameserver::new(self.clone()))
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
        Nameserver::new(self.clone())
    }

    /// A handle to the process that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let status = anchor.proc().peek().await?;
    /// println!("{:?}", status.phase);
    /// # Ok(())
    /// # }
    /// ```
    pub fn proc(&self) -> Proc {
        Proc::new(self.clone())
    }

    /// A handle to the server whose anchor this is.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.as_server().peek().await?.name);
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_server(&self) -> Server {
        Server::new(self.clone())
    }

    /// Removes the element. A process goes on running, forgotten.
    ///
    /// # Errors
    ///
    /// [`NoSuchElement`](crate::Code::NoSuchElement) if the anchor is empty,
    /// [`Refused`](crate::Code::Refused) at a server's own anchor.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// anchor.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.call(anchor::Op::Scrub).await
    }

    pub(crate) async fn signal(&self, signal: &str, group: bool) -> Result<(), Error> {
        let signal = signal.to_owned();
        self.call(streams::Op::Signal { signal, group }).await
    }

    /// Becomes the writer of one of the element's streams.
    pub(crate) async fn writer(&self, op: impl Into<Op>) -> Result<Writer, Error> {
        let (send, recv) = self.client.open(&self.path, &op.into()).await?;
        Ok(Writer::new(
            self.client.clone(),
            self.path.clone(),
            send,
            recv,
        ))
    }

    /// Becomes the reader of one of the element's streams.
    pub(crate) async fn reader(&self, op: impl Into<Op>) -> Result<Reader, Error> {
        let (send, recv) = self.client.open(&self.path, &op.into()).await?;
        Ok(Reader::new(
            self.client.clone(),
            self.path.clone(),
            send,
            recv,
        ))
    }

    pub(crate) async fn call<T: serde::de::DeserializeOwned>(
        &self,
        op: impl Into<Op>,
    ) -> Result<T, Error> {
        self.client.call(&self.path, &op.into()).await
    }

    async fn entries(&self, recursive: bool) -> Result<Vec<Entry>, Error> {
        let listed = self.client.list(&self.path, recursive).await?;
        let entry = |listed| match listed {
            Listed::Server(server) => Ok(Entry {
                anchor: self.client.server(server.id),
                kind: Some(ElementKind::Server),
                server: Some(server),
            }),
            Listed::Anchor { path, kind } => Ok(Entry {
                anchor: self.walk(&path)?,
                kind,
                server: None,
            }),
        };
        listed.into_iter().map(entry).collect()
    }
}
