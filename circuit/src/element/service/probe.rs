//! The questions whether an instance is ready and alive, and what an instance says of itself.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::command::RunningCommand;
use super::definition::{Plan, Probe, authority, slotted, with_port};
use super::machine::{self, Generation, Input, InstanceId};
use super::shared::{Shared, State};
use crate::runtime::Runtime;

impl Shared {
    /// Asks an instance.
    pub(super) fn probe(
        self: &Arc<Self>,
        state: &mut State,
        id: InstanceId,
        which: machine::Probe,
        timeout: Duration,
        generation: Generation,
    ) {
        let Some(plan) = state.plan(generation) else {
            return;
        };
        let asked = match which {
            machine::Probe::Ready => Some(plan.ready.clone()),
            machine::Probe::Alive => plan.alive.clone(),
        };
        let Some(asked) = asked else { return };
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let ok = shared.ask_instance(&plan, id, which, &asked, timeout).await;
            shared.handle(Input::Probed {
                instance: id,
                probe: which,
                ok,
            });
        });
        match state.instances.get_mut(&id) {
            Some(instance) => {
                instance.probes.insert(which, task.abort_handle());
            }
            None => task.abort(),
        }
    }

    async fn ask_instance(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        id: InstanceId,
        which: machine::Probe,
        asked: &Probe,
        timeout: Duration,
    ) -> bool {
        match asked {
            Probe::Command(words) => {
                let name = match which {
                    machine::Probe::Ready => "ready",
                    machine::Probe::Alive => "alive",
                };
                let running = RunningCommand::default();
                // Called off, it is killed as well.
                let mut killer = Killer(Some((running.clone(), self.clone())));
                // A task of its own: called off in the middle of its start, it is still there to be killed.
                let mut executed = {
                    let (shared, plan) = (self.clone(), plan.clone());
                    let (words, running) = (words.clone(), running.clone());
                    tokio::spawn(
                        async move { shared.execute(&plan, id, name, &words, &running).await },
                    )
                };
                let in_time = tokio::time::timeout(timeout, &mut executed).await;
                let ok = match in_time {
                    Ok(ok) => ok.unwrap_or(false),
                    Err(_) => {
                        running.kill(&self.services.watcher);
                        let _ = executed.await;
                        false
                    }
                };
                killer.0 = None;
                ok
            }
            Probe::Tcp(address) => {
                let connected = connect(&self.services.runtime, slotted(address, id.slot));
                matches!(tokio::time::timeout(timeout, connected).await, Ok(Ok(_)))
            }
            Probe::Http(url) => {
                let url = slotted(url, id.slot);
                let asked = tokio::time::timeout(timeout, get(&self.services.runtime, &url)).await;
                matches!(asked, Ok(Ok(status)) if (200..400).contains(&status))
            }
            Probe::Up | Probe::Notify | Probe::NotifyFd(_) => false,
        }
    }
}

/// Kills a command whose question is called off.
struct Killer(Option<(RunningCommand, Arc<Shared>)>);

impl Drop for Killer {
    fn drop(&mut self) {
        if let Some((running, shared)) = self.0.take() {
            running.kill(&shared.services.watcher);
        }
    }
}

/// Connects to an address, or to the first of a host's that answers.
async fn connect(runtime: &Runtime, address: String) -> io::Result<TcpStream> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return TcpStream::connect(address).await;
    }
    let resolve = move || address.to_socket_addrs().map(Vec::from_iter);
    let found = runtime.resolving.run(resolve).await;
    TcpStream::connect(&*found.map_err(io::Error::other)??).await
}

/// The status of the answer to a request for a URL.
async fn get(runtime: &Runtime, url: &str) -> io::Result<u16> {
    let host = authority(url);
    let stream = connect(runtime, with_port(host)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let path = &url["http://".len() + host.len()..];
    let path = if path.starts_with('/') { path } else { "/" };
    let request = Request::get(path)
        .header("host", host)
        .header("user-agent", "circuit")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = async move { sender.send_request(request).await };
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(io::Error::other)?;
            answer.await
        }
    };
    Ok(answer.map_err(io::Error::other)?.status().as_u16())
}

impl super::Instance {
    pub(super) fn end_probe(&mut self, probe: machine::Probe) {
        if let Some(task) = self.probes.remove(&probe) {
            task.abort();
        }
    }
}
