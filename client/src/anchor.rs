//! A place in a server's tree, by name: what is there is asked for each time.

use circuit_proto::element::Status;
use circuit_proto::element::anchor::{Listed, Op as AnchorOp, ServerEntry};
use circuit_proto::path::PathError;
use circuit_proto::request::Op;
use circuit_proto::{ElementKind, Path};
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::element::{Element, Handle, Kind};
use crate::error::Error;
use crate::stream::{Reader, Writer};
use crate::transport::stream::{RecvHalf, SendHalf};

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
    /// The element that it holds, if any.
    pub kind: Option<ElementKind>,
    /// The state of the server, at a child of the root.
    pub server: Option<ServerEntry>,
    /// What there is to say of the element in a few words: of a service `2/3 ready`; else empty.
    pub note: String,
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

    /// An anchor below this one that nobody else has: its name is the prefix, a dash and 16 random
    /// digits. Costs no round trip.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// let replies = client.server(client.dialled().id).fresh("replies")?.make_chan(10).await?;
    /// println!("circuit send {}", replies.path());
    /// # Ok(())
    /// # }
    /// ```
    pub fn fresh(&self, prefix: &str) -> Result<Anchor, PathError> {
        let mut random = [0; 8];
        // Any name that is free will do, were the system without randomness.
        let _ = getrandom::fill(&mut random);
        self.walk(&format!("{prefix}-{:016x}", u64::from_ne_bytes(random)))
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

    /// The element that the anchor holds; `None` if it is empty.
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
        let status = self.peek().await?;
        Ok(status.map(|status| Element::of(status.kind(), self.clone())))
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
        self.call(AnchorOp::Peek).await
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
        self.call(AnchorOp::Scrub).await
    }

    /// Makes an element, and gives the handle to it.
    pub(crate) async fn make<K: Kind>(&self, op: impl Into<Op>) -> Result<Handle<K>, Error> {
        self.call::<()>(op).await?;
        Ok(Handle::new(self.clone()))
    }

    /// Becomes the writer of one of the element's streams.
    pub(crate) async fn writer(&self, op: impl Into<Op>) -> Result<Writer, Error> {
        let (send, recv) = self.open(op).await?;
        let (client, path) = (self.client.clone(), self.path.clone());
        Ok(Writer::new(client, path, send, recv))
    }

    /// Becomes the reader of one of the element's streams.
    pub(crate) async fn reader(&self, op: impl Into<Op>) -> Result<Reader, Error> {
        let (send, recv) = self.open(op).await?;
        let (client, path) = (self.client.clone(), self.path.clone());
        Ok(Reader::new(client, path, send, recv))
    }

    /// Opens a stream of the element; the server accepts it within the deadline.
    pub(crate) async fn open(&self, op: impl Into<Op>) -> Result<(SendHalf, RecvHalf), Error> {
        self.client.open(&self.path, &op.into()).await
    }

    /// Makes a request that is answered by one value, within the deadline.
    pub(crate) async fn call<T: DeserializeOwned>(&self, op: impl Into<Op>) -> Result<T, Error> {
        self.client.call(&self.path, &op.into()).await
    }

    /// Makes a request that is answered by one value, whenever that is.
    pub(crate) async fn call_without_deadline<T: DeserializeOwned>(
        &self,
        op: impl Into<Op>,
    ) -> Result<T, Error> {
        self.client
            .call_without_deadline(&self.path, &op.into())
            .await
    }

    async fn entries(&self, recursive: bool) -> Result<Vec<Entry>, Error> {
        let listed = self.client.list(&self.path, recursive).await?;
        let entry = |listed| match listed {
            Listed::Server(server) => Ok(Entry {
                anchor: self.client.server(server.id),
                kind: Some(ElementKind::Server),
                server: Some(server),
                note: String::new(),
            }),
            Listed::Anchor { path, kind, note } => Ok(Entry {
                note,
                anchor: self.walk(&path)?,
                kind,
                server: None,
            }),
        };
        listed.into_iter().map(entry).collect()
    }
}
