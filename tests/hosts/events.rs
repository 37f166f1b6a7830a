//! Subscriptions on every host, and a check of the joins and leaves that they deliver.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Running, Server, eventually_within};

/// A subscriber to joins and one to leaves, on each of some servers.
pub(super) struct Events {
    subscribers: Vec<Subscriber>,
}

/// The events of a server's two subscriptions.
struct Subscriber {
    server: String,
    joins: Running,
    leaves: Running,
}

/// How often each server is told of.
type Counts = BTreeMap<String, usize>;

impl Events {
    /// Subscribes on each of these servers, which are to be at rest: then the leaves miss nothing
    /// that the joins began with.
    pub(super) fn of(servers: &[&Server]) -> Events {
        let subscribers = servers.iter().map(|server| {
            let follow = |kind: &str| {
                let path = format!("/{}/events/{kind}", server.id());
                server.circuit(format!("mk@{kind} {path}")).run();
                server
                    .circuit(format!("recv -lines -follow {path}"))
                    .any_stdout()
                    .any_stderr()
                    .spawn()
            };
            Subscriber {
                server: server.id(),
                joins: follow("join"),
                leaves: follow("leave"),
            }
        });
        Events {
            subscribers: subscribers.collect(),
        }
    }

    /// Forgets the subscriber of a server that is no more.
    pub(super) fn without(&mut self, server: &Server) {
        self.subscribers
            .retain(|subscriber| subscriber.server != server.id());
    }

    /// Waits until the subscriber on this server has heard of each of these servers joining and
    /// leaving so many times, and of no other.
    pub(super) fn are(
        &self,
        on: &Server,
        joins: &[(&Server, usize)],
        leaves: &[(&Server, usize)],
        within: Duration,
    ) {
        let subscriber = self
            .subscribers
            .iter()
            .find(|subscriber| subscriber.server == on.id());
        let subscriber = subscriber.expect("it has a subscriber");
        for (what, running, expected) in [
            ("joins", &subscriber.joins, joins),
            ("leaves", &subscriber.leaves, leaves),
        ] {
            let expected: Counts = expected
                .iter()
                .filter(|(_, times)| *times > 0)
                .map(|(server, times)| (format!("/{}", server.id()), *times))
                .collect();
            let what = format!("the {what} on {} are {expected:?}", on.url());
            eventually_within(within, &what, || (heard(running) == expected).then_some(()));
        }
    }

    /// Checks what holds of every subscriber at any time, with each server in turn: it is in the
    /// view exactly if it joined once more than it left.
    pub(super) fn agree_with_views(&self, servers: &[&Server]) {
        for server in servers {
            let subscriber = self.subscribers.iter().find(|s| s.server == server.id());
            let Some(subscriber) = subscriber else {
                continue;
            };
            let view = server.ls("/");
            let (joins, leaves) = (heard(&subscriber.joins), heard(&subscriber.leaves));
            let paths = joins.keys().chain(leaves.keys()).chain(&view);
            for path in paths {
                let count = |counts: &Counts| counts.get(path).copied().unwrap_or(0);
                let present = usize::from(view.contains(path));
                assert_eq!(
                    count(&joins),
                    count(&leaves) + present,
                    "{path} on {}: joined, left, present {present}\n{}",
                    server.url(),
                    server.log()
                );
            }
        }
    }
}

fn heard(running: &Running) -> Counts {
    let mut counts = Counts::new();
    let text = running.stdout().text();
    for line in text.split_inclusive('\n') {
        // One that is not complete yet is none.
        if let Some(path) = line.strip_suffix('\n') {
            *counts.entry(path.to_owned()).or_default() += 1;
        }
    }
    counts
}
