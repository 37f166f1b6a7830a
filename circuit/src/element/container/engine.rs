//! The Docker Engine that runs this server's containers, or Podman's service in its place.
//!
//! Requests go through the library bollard, but for `inspect`, whose answer is passed on as the Engine
//! wrote it.
//!
//! **Cancellation:** a request that is dropped may still be executed by the Engine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, CreateImageInfo};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long the Engine may take for a request that does not wait by nature, in seconds. Chosen, not
/// measured: a start on a loaded host takes seconds.
const ANSWER_WAIT: u64 = 60;

/// How long an Engine may take to say that it is there, in seconds. Chosen, not measured.
const PING_WAIT: u64 = 5;

/// The longest answer to `inspect` that is passed on: it must fit a frame.
const LONGEST_INSPECT: usize = 1 << 20;

/// The Engine.
#[derive(Debug)]
pub struct Engine {
    docker: Docker,
    address: Address,
}

/// Where an Engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// The part of `inspect` that the element needs. Podman's other values are not all known to bollard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
}

/// The state of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) running: bool,
    /// The process id of its first process, as the Engine sees it; 0 if there is none.
    pub(super) pid: i32,
}

/// The frames of an attached output.
pub(super) type Frames =
    Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// The writing side of an attached input.
pub(super) type Sink = Pin<Box<dyn AsyncWrite + Send>>;

/// Why the Engine did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// It refused.
    #[error("{reason}")]
    Said {
        /// The status of its answer.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// It does not answer.
    #[error("the Docker Engine at {address} does not answer: {reason}")]
    Silent {
        /// Where it should be.
        address: String,
        /// The answer that came instead.
        reason: String,
    },
    /// No Engine was found.
    #[error("no Docker Engine: there is no {0}")]
    Nowhere(String),
    /// `DOCKER_HOST` says something else than an address.
    #[error("DOCKER_HOST: not unix://PATH or tcp://HOST:PORT: {0}")]
    Address(String),
    /// `DOCKER_TLS_VERIFY` asks for TLS, which this build cannot do.
    #[error(
        "DOCKER_TLS_VERIFY: Engines behind TLS are not supported: name one in DOCKER_HOST that \
         listens at a socket, and unset it"
    )]
    Tls,
}

impl EngineError {
    /// Whether the Engine does not know the container or image.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, EngineError::Said { status: 404, .. })
    }

    /// Whether a container has the name already that another was to be made under.
    pub(super) fn is_name_taken(&self) -> bool {
        // Podman has no status of its own for a name that is taken.
        let in_words = |reason: &str| reason.ends_with("that name is already in use");
        self.is_conflict() || matches!(self, EngineError::Said { reason, .. } if in_words(reason))
    }

    /// Whether the container is in another state than the request needs.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, EngineError::Said { status: 409, .. })
    }
}

impl Engine {
    /// The Engine that `DOCKER_HOST` names, else the first that answers at one of the usual
    /// places: Docker's and Podman's sockets, the system's and the user's own.
    pub async fn find() -> Result<Engine, EngineError> {
        let set = |name| {
            std::env::var(name)
                .ok()
                .filter(|value: &String| !value.is_empty())
        };
        if let Some(host) = set("DOCKER_HOST") {
            let address: Address = host.parse()?;
            if matches!(address, Address::Tcp(_)) && set("DOCKER_TLS_VERIFY").is_some() {
                return Err(EngineError::Tls);
            }
            return Engine::at(address).await;
        }
        let places = usual_places(set("XDG_RUNTIME_DIR"));
        let mut silent = None;
        for path in places.iter().filter(|path| path.exists()) {
            match Engine::at(Address::Unix(path.clone())).await {
                Ok(engine) => return Ok(engine),
                Err(error) => silent = silent.or(Some(error)),
            }
        }
        let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        Err(silent.unwrap_or_else(|| EngineError::Nowhere(places.join(", no "))))
    }

    /// The Engine at an address, which answers.
    pub(super) async fn at(address: Address) -> Result<Engine, EngineError> {
        let connected = match &address {
            Address::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), PING_WAIT, API_DEFAULT_VERSION)
            }
            Address::Tcp(host) => {
                Docker::connect_with_http(&format!("tcp://{host}"), PING_WAIT, API_DEFAULT_VERSION)
            }
        };
        let docker = connected.map_err(|error| match error {
            bollard::errors::Error::SocketNotFoundError(_) => {
                silent(&address, "no such file or directory")
            }
            other => silent(&address, words(&other)),
        })?;
        let mut engine = Engine { docker, address };
        engine.docker.ping().await.map_err(|e| engine.failed(e))?;
        engine.docker.set_timeout(Duration::from_secs(ANSWER_WAIT));
        Ok(engine)
    }

    /// Where it is, for people.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether its processes may be among those of this host.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// Whether it has an image.
    pub(super) async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match self.docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) => match self.failed(error) {
                error if error.is_not_found() => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Has an image fetched from its registry, which may take as long as it does; the progress, as
    /// lines. A stream that is dropped ends the fetching.
    pub(super) fn pull(
        &self,
        image: &str,
    ) -> impl Stream<Item = Result<String, EngineError>> + Send {
        let mut options = CreateImageOptionsBuilder::new().from_image(image);
        let name = image.rsplit('/').next().unwrap_or(image);
        if !name.contains([':', '@']) {
            // Without a tag the Engine would fetch all there are.
            options = options.tag("latest");
        }
        // An Engine says nothing before its registry does.
        let patient = self.docker.clone().with_timeout(Duration::MAX);
        let progress = patient.create_image(Some(options.build()), None, None);
        let mut said: HashMap<String, String> = HashMap::new();
        progress.filter_map(move |step| {
            let line = match step {
                Ok(step) => progress_line(&mut said, step).map(Ok),
                Err(error) => Some(Err(self.failed(error))),
            };
            std::future::ready(line)
        })
    }

    /// Makes a container, which does not run yet; its id.
    pub(super) async fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let made = self.docker.create_container(Some(options), body).await;
        Ok(made.map_err(|error| self.failed(error))?.id)
    }

    pub(super) async fn start(&self, id: &str) -> Result<(), EngineError> {
        let started = self.docker.start_container(id, None).await;
        started.map_err(|error| self.failed(error))
    }

    /// Attaches to a container's stdin.
    pub(super) async fn attach_input(&self, id: &str) -> Result<Sink, EngineError> {
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdin(true);
        let attached = self
            .docker
            .attach_container(id, Some(options.build()))
            .await;
        Ok(attached.map_err(|error| self.failed(error))?.input)
    }

    /// Attaches to a container's stdout, or else its stderr. Each has a connection of its own, so
    /// that one which nobody reads does not hold up the other.
    pub(super) async fn attach_output(
        &self,
        id: &str,
        stdout: bool,
    ) -> Result<Frames, EngineError> {
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdout(stdout)
            .stderr(!stdout);
        let attached = self
            .docker
            .attach_container(id, Some(options.build()))
            .await;
        Ok(attached.map_err(|error| self.failed(error))?.output)
    }

    /// Waits for a container's exit, the next one or, if it may have been, the last; its status.
    pub(super) async fn exit(&self, id: &str, next: bool) -> Result<i32, EngineError> {
        let condition = if next { "next-exit" } else { "not-running" };
        let options = WaitContainerOptionsBuilder::new()
            .condition(condition)
            .build();
        let mut waiting = std::pin::pin!(self.docker.wait_container(id, Some(options)));
        match waiting.next().await {
            Some(Ok(answer)) => Ok(status(answer.status_code)),
            // bollard makes an error of an exit status that is not 0.
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => {
                Ok(status(code))
            }
            Some(Err(error)) => Err(self.failed(error)),
            None => Err(silent(&self.address, "it closed the connection")),
        }
    }

    /// The state of a container.
    pub(super) async fn state(&self, id: &str) -> Result<State, EngineError> {
        let inspected = self.inspect(id).await?;
        let inspected: Inspected = serde_json::from_str(&inspected).map_err(not_docker_s)?;
        Ok(inspected.state)
    }

    pub(super) async fn kill(&self, id: &str, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let killed = self.docker.kill_container(id, Some(options)).await;
        killed.map_err(|error| self.failed(error))
    }

    /// Removes a container, and the volumes that are its alone; one that runs only by `force`.
    pub(super) async fn remove(&self, id: &str, force: bool) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().v(true).force(force);
        let removed = self
            .docker
            .remove_container(id, Some(options.build()))
            .await;
        removed.map_err(|error| self.failed(error))
    }

    /// The description of a container that `docker inspect` prints, as the Engine wrote it.
    pub(super) async fn inspect(&self, id: &str) -> Result<String, EngineError> {
        let answer = async {
            match &self.address {
                Address::Unix(path) => get(UnixStream::connect(path).await?, id).await,
                Address::Tcp(host) => get(TcpStream::connect(host).await?, id).await,
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(ANSWER_WAIT), answer).await;
        let (status, body) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(silent(&self.address, words(&*error))),
            Err(_) => return Err(silent(&self.address, "timed out")),
        };
        match status {
            200 => Ok(body),
            _ => Err(EngineError::Said {
                status,
                reason: message(&body),
            }),
        }
    }

    fn failed(&self, error: bollard::errors::Error) -> EngineError {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => EngineError::Said {
                status: status_code,
                reason: one_line(&message),
            },
            Error::DockerStreamError { error } => EngineError::Said {
                status: 500,
                reason: one_line(&error),
            },
            Error::JsonDataError { .. } => not_docker_s(error),
            Error::RequestTimeoutError => silent(&self.address, "timed out"),
            other => silent(&self.address, words(&other)),
        }
    }
}

/// Asks for a container's description over a connection of its own.
async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    id: &str,
) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with the sender. A failure shows in the answer.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = hyper::Request::get(format!("/containers/{id}/json"))
        .header(hyper::header::HOST, "docker")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LONGEST_INSPECT)
        .collect()
        .await?;
    Ok((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}

fn usual_places(runtime_dir: Option<String>) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(dir) = runtime_dir {
        let dir = PathBuf::from(dir);
        places.extend([dir.join("docker.sock"), dir.join("podman/podman.sock")]);
    }
    places.push("/run/podman/podman.sock".into());
    places
}

impl std::str::FromStr for Address {
    type Err = EngineError;

    fn from_str(host: &str) -> Result<Address, EngineError> {
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(("tcp" | "http", host)) if !host.is_empty() && !host.contains('/') => {
                Ok(Address::Tcp(host.to_owned()))
            }
            _ => Err(EngineError::Address(host.to_owned())),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(host) => f.write_str(host),
        }
    }
}

/// The line for a step of a pull: a layer's status once, not with every byte that comes.
fn progress_line(said: &mut HashMap<String, String>, step: CreateImageInfo) -> Option<String> {
    let (layer, status) = (step.id.unwrap_or_default(), step.status?);
    if layer.is_empty() {
        return Some(format!("{status}\n"));
    }
    let line = format!("{layer}: {status}\n");
    (said.insert(layer, status.clone()).as_ref() != Some(&status)).then_some(line)
}

fn silent(address: &Address, reason: impl Into<String>) -> EngineError {
    EngineError::Silent {
        address: address.to_string(),
        reason: reason.into(),
    }
}

/// The failure for an answer that is not Docker's.
fn not_docker_s(error: impl std::error::Error + 'static) -> EngineError {
    EngineError::Said {
        status: 500,
        reason: format!("the Engine's answer is not understood: {}", words(&error)),
    }
}

/// The last of an error's causes, which says what happened; those before it say where.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let text = last.to_string();
    one_line(text.split(" (os error").next().unwrap_or(&text))
}

/// The Engine's words in one line, with a small letter first, as in our own errors.
fn one_line(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    words
}

/// The reason that an Engine's answer gives.
fn message(body: &str) -> String {
    let said = serde_json::from_str::<serde_json::Value>(body).ok();
    let said = said.and_then(|said| said["message"].as_str().map(one_line));
    said.unwrap_or_else(|| one_line(body))
}

fn status(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_engines() {
        let check = |text: &str, expected: Option<&str>| {
            let address = text.parse::<Address>().ok().map(|a| a.to_string());
            assert_eq!(address.as_deref(), expected, "{text}");
        };
        check(
            "unix:///run/podman/podman.sock",
            Some("/run/podman/podman.sock"),
        );
        check("tcp://127.0.0.1:2375", Some("127.0.0.1:2375"));
        check("ssh://somewhere", None);
        check("/var/run/docker.sock", None);
        check("tcp://", None);
    }

    #[test]
    fn an_engine_s_words_are_one_line() {
        let body = "{\"message\":\"No such container: abc\\n\"}\n";
        assert_eq!(message(body), "no such container: abc");
        assert_eq!(message("gone\nfor good\n"), "gone for good");
    }
}
