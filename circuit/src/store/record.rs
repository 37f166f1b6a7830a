//! The records of the store, as the rest of the server sees them, and the ways to change them.
//!
//! A service is found by its path; its slots and instances by the random id that it drew when it was
//! made, so that what is left of a service is never taken for its successor's at the same path.

/// A service that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its path on this server.
    pub(crate) path: String,
    /// Its random id.
    pub(crate) id: u64,
    /// What people want of it.
    pub(crate) intent: Intent,
    /// Its present definition.
    pub(crate) definition: Definition,
    /// Definitions of other generations that instances or slots still need, while a roll to the present
    /// one is unfinished or halted, in the order of their generations.
    pub(crate) others: Vec<Definition>,
    /// The rest of what is to be known of it, in the supervisor's own words.
    pub(crate) state: String,
}

/// A definition of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Counts the changed definitions of this service.
    pub(crate) generation: u64,
    /// The JSON, as it was given.
    pub(crate) text: String,
    /// What was looked up for it, in the supervisor's own words.
    pub(crate) looked_up: String,
}

/// What people want of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It is to run.
    Up,
    /// It is not to run.
    Down,
    /// It is to be stopped and forgotten.
    Scrub,
}

/// What is kept of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The id of its service.
    pub(crate) service: u64,
    /// Its number, from 1.
    pub(crate) slot: u32,
    /// What is to be known of it, in the supervisor's own words.
    pub(crate) state: String,
}

/// A change, which is flushed before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The service at this path is this one. One with another id that was there is forgotten, with
    /// its slots.
    Service(Service),
    /// This is wanted of the service. Its definitions stay as they are kept, but for those that are not
    /// needed any more. Where one that is needed is not kept, the intent alone is changed: the state
    /// would not fit the definitions.
    Intent {
        /// The path of the service.
        path: String,
        /// The id of the service.
        id: u64,
        /// The intent.
        intent: Intent,
        /// The generations whose definitions are needed, the present one last.
        generations: Vec<u64>,
        /// The rest of what is to be known of it.
        state: String,
    },
    /// A slot of the service is as this says.
    Slot {
        /// The path of the service.
        path: String,
        /// The id of the service.
        id: u64,
        /// The slot.
        slot: u32,
        /// What is to be known of it.
        state: String,
    },
    /// The slots of this number and above are gone. Nothing happens where there are none.
    ForgetSlots {
        /// The path of the service.
        path: String,
        /// The lowest number.
        from: u32,
    },
    /// The service is gone, and its slots. Nothing happens where there is none.
    ForgetService {
        /// The path of the service.
        path: String,
    },
}

impl Change {
    /// Whether it needs room that is not there when the disk is full. The others replace something
    /// small or remove something.
    pub(super) fn grows(&self) -> bool {
        match self {
            Change::Service(_) => true,
            Change::Intent { .. }
            | Change::Slot { .. }
            | Change::ForgetSlots { .. }
            | Change::ForgetService { .. } => false,
        }
    }

    /// About how much memory it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let texts = match self {
            Change::Service(service) => {
                let definitions = service.others.iter().chain([&service.definition]);
                let texts = definitions.map(|one| one.text.len() + one.looked_up.len());
                service.path.len() + service.state.len() + texts.sum::<usize>()
            }
            Change::Intent { path, state, .. } | Change::Slot { path, state, .. } => {
                path.len() + state.len()
            }
            Change::ForgetSlots { path, .. } | Change::ForgetService { path } => path.len(),
        };
        size_of::<Change>() + texts
    }
}

/// An instance: what runs in a slot, or ran there last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The id of its service.
    pub(crate) service: u64,
    /// Its slot.
    pub(crate) slot: u32,
    /// Tells it from the other instances of its slot.
    pub(crate) number: u64,
    /// The mark in the environment of its processes.
    pub(crate) mark: String,
    /// Its main process. `None` until the spawn is completed.
    pub(crate) identity: Option<Identity>,
    /// Its cgroup, if it has one of its own.
    pub(crate) cgroup: Option<String>,
    /// The generation that it runs.
    pub(crate) generation: u64,
    /// The rest of what is to be known of it, in the supervisor's own words.
    pub(crate) state: String,
}

/// A process, of all that ever ran on any host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The kernel's id of the boot.
    pub(crate) boot: String,
    /// The inode of its pid namespace.
    pub(crate) pid_namespace: u64,
    /// Its pid in that namespace.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the boot (proc(5), `starttime`).
    pub(crate) start: u64,
}

/// A plain process that is to end with its server (`WithServer`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its path on this server.
    pub(crate) path: String,
    /// The mark in the environment of its processes.
    pub(crate) mark: String,
    /// The main process. `None` until the spawn is completed.
    pub(crate) identity: Option<Identity>,
}

/// A note, which survives the server and need not survive the host.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "no plain process ends with its server yet")
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// The instance is as this says.
    Instance(Instance),
    /// Nothing is left of the instance.
    InstanceGone {
        /// The id of its service.
        service: u64,
        /// Its slot.
        slot: u32,
        /// Its number.
        number: u64,
    },
    /// The process is as this says.
    Process(Process),
    /// Nothing is left of the process.
    ProcessGone {
        /// Its path on this server.
        path: String,
    },
}

/// All that a store holds, each kind in the order of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The services.
    pub(crate) services: Vec<Service>,
    /// What is kept of their slots.
    pub(crate) slots: Vec<Slot>,
    /// The instances of this boot. One may be of a service that is kept no longer: its processes may
    /// still be there.
    pub(crate) instances: Vec<Instance>,
    /// The plain processes of this boot that were to end with the server.
    pub(crate) processes: Vec<Process>,
}
