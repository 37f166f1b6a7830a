//! Questions about the state of a simulated circuit.

use std::collections::{BTreeMap, BTreeSet};

use super::Simulation;
use crate::Fingerprint;

impl Simulation {
    /// Whether the view of every running server is the set of the running servers.
    pub fn is_exact(&self) -> bool {
        let up = self.up().count();
        if self.up().any(|(_, machine)| machine.len() != up) {
            return false;
        }
        let up: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.is_up())
            .map(|node| (node.record().fingerprint, node.record().count))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        // Views with the same digest are the same: one of them is enough.
        let mut checked = BTreeSet::new();
        self.up().all(|(_, machine)| {
            !checked.insert(machine.digest())
                || machine
                    .live()
                    .map(|record| (record.fingerprint, record.count))
                    .eq(up.iter().copied())
        })
    }

    /// How many running servers hold this one, in its present or last life, to be live.
    pub fn knowing(&self, i: usize) -> usize {
        let node = &self.nodes[i];
        let (who, count) = (node.record().fingerprint, node.record().count);
        self.up()
            .filter(|(_, machine)| {
                machine
                    .record(&who)
                    .is_some_and(|record| record.count == count)
            })
            .count()
    }

    /// Whether every running server suspects this one or has given it up.
    pub fn all_suspect(&self, i: usize) -> bool {
        let who = self.nodes[i].record().fingerprint;
        self.up().all(|(_, machine)| !machine.view.is_trusted(&who))
    }

    /// The links of the running servers.
    fn links(&self) -> BTreeMap<Fingerprint, BTreeSet<Fingerprint>> {
        self.up()
            .map(|(_, machine)| {
                (
                    machine.me().fingerprint,
                    machine
                        .neighbours()
                        .map(|record| record.fingerprint)
                        .collect(),
                )
            })
            .collect()
    }

    /// Whether both ends of every link hold it to be one.
    pub fn is_symmetric(&self) -> bool {
        let links = self.links();
        links.iter().all(|(who, peers)| {
            peers
                .iter()
                .all(|peer| links.get(peer).is_some_and(|back| back.contains(who)))
        })
    }

    /// Whether the links are one graph of one piece.
    pub fn is_connected(&self) -> bool {
        let links = self.links();
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = links.keys().next().copied().into_iter().collect();
        while let Some(who) = next.pop() {
            if reached.insert(who) {
                let back =
                    |peer: &Fingerprint| links.get(peer).is_some_and(|back| back.contains(&who));
                next.extend(links.get(&who).into_iter().flatten().copied().filter(back));
            }
        }
        reached.len() == links.len()
    }
}
