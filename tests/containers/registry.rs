//! A registry of a test's own, on the loopback of an Engine's network, where Engines speak plain HTTP.
//!
//! It has as much of the Docker Registry HTTP API v2 as the fetch of one image takes (manifest schema 2,
//! with one layer).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use super::engine::root;

/// The registry. It answers as long as the test's process lives.
pub(super) struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// The manners in which a registry answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It answers everything.
    Whole,
    /// It sends half of the image's description, and closes the connection.
    Cut,
    /// It sends half of the layer, and the rest when it is told to.
    Held,
    /// It does not answer requests for the manifest until it is told to.
    Silent,
}

struct Shared {
    manner: Manner,
    /// The type and bytes of each thing below `/v2/app/`.
    content: HashMap<String, (&'static str, Vec<u8>)>,
    asked: Mutex<Vec<String>>,
    released: Mutex<bool>,
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

impl Registry {
    /// One in the network of an Engine.
    pub(super) fn new(network: &Path, manner: Manner) -> Registry {
        Registry::at(network, 0, manner)
    }

    /// One at this port.
    pub(super) fn at(network: &Path, port: u16, manner: Manner) -> Registry {
        let network = File::open(network).unwrap();
        let listener = thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).unwrap();
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        });
        let listener = listener.join().unwrap();
        let address = listener.local_addr().unwrap();
        let content = image(&address.port().to_string());
        let shared = Arc::new(Shared {
            manner,
            content,
            asked: Mutex::default(),
            released: Mutex::default(),
        });
        let of_thread = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, stream) = (of_thread.clone(), stream.unwrap());
                // An Engine that hangs up is no failure of the registry's.
                thread::spawn(move || shared.answer(&stream));
            }
        });
        Registry { address, shared }
    }

    /// The name of its image.
    pub(super) fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }

    /// How many requests there were for paths that begin with this, below `/v2/app/`.
    pub(super) fn asked(&self, what: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|path| path.starts_with(what)).count()
    }

    /// Gives the rest of the layer.
    pub(super) fn release(&self) {
        *self.shared.released.lock().unwrap() = true;
    }
}

impl Shared {
    /// Answers one request, and closes the connection.
    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if path == "/v2/" {
            return head(stream, "200 OK", "application/json", 0, "");
        }
        let what = path.strip_prefix("/v2/app/").unwrap_or(path);
        self.asked.lock().unwrap().push(what.to_owned());
        if self.manner == Manner::Silent {
            self.hold(stream);
        }
        let Some((kind, bytes)) = self.content.get(what) else {
            let error =
                json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
            let error = error.to_string();
            head(stream, "404 Not Found", "application/json", error.len(), "")?;
            return (&*stream).write_all(error.as_bytes());
        };
        head(stream, "200 OK", kind, bytes.len(), &digest(bytes))?;
        if method == "HEAD" {
            return Ok(());
        }
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let mut stream = stream;
        stream.write_all(first)?;
        match self.manner {
            Manner::Cut if *kind == CONFIG => return Ok(()),
            Manner::Held if *kind == LAYER => self.hold(stream),
            _ => (),
        }
        stream.write_all(rest)
    }

    /// Waits until it is told to go on, or the other side is gone.
    fn hold(&self, stream: &TcpStream) {
        let pause = Some(Duration::from_millis(10));
        stream.set_read_timeout(pause).unwrap();
        while !*self.released.lock().unwrap() {
            match stream.peek(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                _ => return,
            }
        }
    }
}

fn head(
    mut stream: &TcpStream,
    status: &str,
    kind: &str,
    length: usize,
    digest: &str,
) -> io::Result<()> {
    let digest = match digest {
        "" => String::new(),
        digest => format!("Docker-Content-Digest: {digest}\r\n"),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{digest}\
         Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n\r\n"
    )
}

/// Builds an image that differs from others by its mark, so that no Engine has its layer already.
/// Returns its content, by path.
fn image(mark: &str) -> HashMap<String, (&'static str, Vec<u8>)> {
    let dir = root(Some(mark));
    let tar = std::fs::read(dir.path().join("root.tar")).unwrap();
    let gzip = Command::new("gzip")
        .arg("-1")
        .arg(dir.path().join("root.tar"))
        .status();
    assert!(gzip.unwrap().success());
    let layer = std::fs::read(dir.path().join("root.tar.gz")).unwrap();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/echo", mark]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
        "history": [{"created": "2000-01-01T00:00:00Z"}],
    });
    let config = config.to_string().into_bytes();
    let part = |kind, bytes: &[u8]| json!({"mediaType": kind, "size": bytes.len(), "digest": digest(bytes)});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": part(CONFIG, &config), "layers": [part(LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    HashMap::from([
        ("manifests/1".to_owned(), (MANIFEST, manifest.clone())),
        (
            format!("manifests/{}", digest(&manifest)),
            (MANIFEST, manifest),
        ),
        (format!("blobs/{}", digest(&config)), (CONFIG, config)),
        (format!("blobs/{}", digest(&layer)), (LAYER, layer)),
    ])
}

/// The processor's architecture, in the words of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = Command::new("sha256sum").arg(file.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", &text[..64])
}
