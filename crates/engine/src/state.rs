//! What an instance is at this moment, and which change may follow which.
//!
//! [`Status::next`] is the whole life cycle, pure and total: every pair of status and event has an
//! answer. Only the owner of an instance applies it: its supervisor while one lives, else whoever
//! holds the instance's lock.
//!
//! ```text
//!                 Start                    Exit, GiveUp
//!   created ──────────────> running ─────────────────────> exited <──────┐
//!    │  ^ │                 │ ^  │ ^                       │ ^  │        │ GiveUp
//!    └──┘ │           Pause │ │  │ └───────────────────────┘ │  │        │
//!  GiveUp │                 v │  │          Start            │  │        │
//!         │           Resume  │  │ ExitThenRestart           │  │        │
//!         │               paused └──────────────> restarting ──────> (Start: running)
//!         │                 │  ExitThenRestart        ^      │  │   (ExitThenRestart: again)
//!         │                 ├─────────────────────────┘      │  │
//!         │                 └── Exit ────────────────────────┘  │ Remove
//!         └────────────────────── Remove ────────────────────> removing
//! ```
//!
//! `GiveUp` is the start that failed: a created instance stays created, as Docker has it, so that
//! `ps` tells what has never run; and the end of waiting for a restart, by `stop` or because the
//! policy allows no further one.

use std::fmt;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use isle_network::Publication;
use isle_types::{Accelerator, InstanceId, InstanceName, Signal};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::InstanceConfig;

/// Docker's words for where in its life an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It has exited and waits to be started again by its restart policy.
    Restarting,
    /// Its process has ended.
    Exited,
    /// It is being taken away.
    Removing,
}

/// What can happen to an instance, as far as its [`Status`] is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusEvent {
    /// Its process has been executed: by the user, or again by the restart policy.
    Start,
    /// It was frozen.
    Pause,
    /// It was thawed.
    Resume,
    /// Its process has ended, for good.
    Exit,
    /// Its process has ended, or could not be started again, and the restart policy will start it
    /// once more.
    ExitThenRestart,
    /// It could not be started, or the wait for a restart is over without one.
    GiveUp,
    /// It is to be taken away.
    Remove,
}

impl StatusEvent {
    /// All of them.
    pub const ALL: [StatusEvent; 7] = [
        StatusEvent::Start,
        StatusEvent::Pause,
        StatusEvent::Resume,
        StatusEvent::Exit,
        StatusEvent::ExitThenRestart,
        StatusEvent::GiveUp,
        StatusEvent::Remove,
    ];
}

/// A change that the present status does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} an instance that is {status}", self.verb())]
pub struct Denied {
    /// What it is.
    pub status: Status,
    /// What was to happen.
    pub event: StatusEvent,
}

impl Denied {
    fn verb(&self) -> &'static str {
        match self.event {
            StatusEvent::Start => "start",
            StatusEvent::Pause => "pause",
            StatusEvent::Resume => "unpause",
            StatusEvent::Exit | StatusEvent::GiveUp => "end",
            StatusEvent::ExitThenRestart => "restart",
            StatusEvent::Remove => "remove",
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match (self.event, self.status) {
            (StatusEvent::Remove, Status::Running | Status::Paused | Status::Restarting) => {
                Some("stop it first, or remove it by force (`rm -f`)")
            }
            (StatusEvent::Pause | StatusEvent::Resume, Status::Created | Status::Exited) => {
                Some("start it first")
            }
            _ => None,
        }
    }
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 6] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Exited,
        Status::Removing,
    ];

    /// The status after an event.
    ///
    /// # Errors
    /// [`Denied`] when the event cannot happen to an instance of this status; nothing has changed
    /// then.
    pub const fn next(self, event: StatusEvent) -> Result<Status, Denied> {
        use StatusEvent::{Exit, ExitThenRestart, GiveUp, Pause, Remove, Resume, Start};
        Ok(match (self, event) {
            (Status::Created | Status::Exited | Status::Restarting, Start)
            | (Status::Paused, Resume) => Status::Running,
            (Status::Running, Pause) => Status::Paused,
            (Status::Running | Status::Paused, Exit | GiveUp)
            | (Status::Restarting | Status::Exited, GiveUp) => Status::Exited,
            (Status::Running | Status::Paused | Status::Restarting, ExitThenRestart) => {
                Status::Restarting
            }
            (Status::Created, GiveUp) => Status::Created,
            // Removing twice is harmless: whoever finishes first has won.
            (Status::Created | Status::Exited | Status::Removing, Remove) => Status::Removing,
            (status, event) => return Err(Denied { status, event }),
        })
    }

    /// Is a supervisor to look after an instance of this status?
    #[must_use]
    pub const fn is_supervised(self) -> bool {
        matches!(self, Status::Running | Status::Paused | Status::Restarting)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Removing => "removing",
        })
    }
}

/// Everything that changes while an instance lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceState {
    /// Where in its life it is.
    pub status: Status,
    /// Its first process, as the host sees it, while there is one.
    pub pid: Option<i32>,
    /// What carries out its instructions while it runs, when that is not the processor alone.
    #[serde(default)]
    pub accelerator: Option<Accelerator>,
    /// The last start.
    pub started_at: Option<Timestamp>,
    /// The last end.
    pub finished_at: Option<Timestamp>,
    /// How the last run ended.
    pub exit: Option<Exit>,
    /// How often the restart policy has started it again.
    pub restart_count: u32,
    /// The user has stopped it: `unless-stopped` leaves it so.
    pub is_stopped_by_user: bool,
    /// What its health check says, if it has one.
    pub health: Option<Health>,
    /// The networks that it is connected to while it runs, `eth0` first.
    #[serde(default)]
    pub networks: Vec<Connected>,
    /// The ports of the host that lead to it while it runs.
    #[serde(default)]
    pub ports: Vec<Publication>,
}

/// A network that an instance is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The network's id.
    pub network_id: String,
    /// The network's name.
    pub network: String,
    /// The endpoint's id.
    pub endpoint_id: String,
    /// `eth0`
    pub interface: String,
    /// The hardware address.
    pub mac: [u8; 6],
    /// With the length of the network's prefix.
    pub ipv4: Option<Ipv4Net>,
    /// With the length of the network's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// The way out, `None` on a network that is internal.
    pub gateway: Option<IpAddr>,
    /// The same for IPv6.
    pub ipv6_gateway: Option<IpAddr>,
    /// What others on it can call the instance.
    pub names: Vec<String>,
}

impl InstanceState {
    /// That of an instance that was never started.
    #[must_use]
    pub const fn created() -> InstanceState {
        InstanceState {
            status: Status::Created,
            pid: None,
            accelerator: None,
            started_at: None,
            finished_at: None,
            exit: None,
            restart_count: 0,
            is_stopped_by_user: false,
            health: None,
            networks: Vec::new(),
            ports: Vec::new(),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What a shell would see: the code, or 128 + the signal; 126 and 127 when it could not start.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ExitReason {
    /// It ended by itself.
    Exited,
    /// A signal ended it.
    Signalled {
        /// Which.
        signal: Signal,
    },
    /// A kernel ended it because memory ran out.
    OutOfMemory {
        /// Whose memory; `None` when nobody can say.
        #[serde(default)]
        whose: Option<MemoryOf>,
    },
    /// It never ran.
    CouldNotStart {
        /// What failed, on what, and why.
        message: String,
    },
    /// Its supervisor was killed, and it ended while nobody watched: the code is not known.
    SupervisorLost,
    /// What it ran in (a guest kernel, a hypervisor) has ended under it.
    Crashed {
        /// Why.
        message: String,
    },
    /// The host was restarted under it.
    HostRebooted,
}

/// Whose memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryOf {
    /// The instance's own: it has reached its limit (`--memory`).
    Instance,
    /// The virtual machine's, of which the instance has the most.
    Guest,
    /// The hypervisor's: it has reached the limit that the host sets it.
    Hypervisor,
    /// The host's.
    Host,
}

impl MemoryOf {
    /// One word, for lists.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            MemoryOf::Instance => "instance",
            MemoryOf::Guest => "guest",
            MemoryOf::Hypervisor => "hypervisor",
            MemoryOf::Host => "host",
        }
    }

    /// What happened, and what to do about it.
    #[must_use]
    pub const fn explanation(self) -> (&'static str, &'static str) {
        match self {
            MemoryOf::Instance => (
                "the instance has used all that --memory gives it",
                "raise --memory",
            ),
            MemoryOf::Guest => (
                "the virtual machine has used all its memory",
                "give it more with --memory",
            ),
            MemoryOf::Hypervisor => (
                "the hypervisor has used more than the host gives it beside the machine's own memory",
                "raise --memory",
            ),
            MemoryOf::Host => (
                "the host has no memory left",
                "end something else, or limit others with --memory",
            ),
        }
    }
}

/// What the health check says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five results, oldest first.
    pub log: Vec<HealthResult>,
}

/// The verdict of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No verdict yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// As many checks failed as it takes.
    Unhealthy,
}

/// One run of a health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code; -1 when it timed out or could not run.
    pub exit_code: i32,
    /// The first 4 KiB of what it printed.
    pub output: String,
}

/// One row of the store: what `inspect` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The id.
    pub id: InstanceId,
    /// The name.
    pub name: InstanceName,
    /// When it was created.
    pub created_at: Timestamp,
    /// The store's id of the image, `sha256:…`.
    pub image_id: String,
    /// What it is asked to be, merged with what the image says.
    pub config: InstanceConfig,
    /// What it is now.
    pub state: InstanceState,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole table, by hand: rows are statuses, columns are events in the order of `ALL`.
    #[test]
    fn every_status_answers_every_event() {
        use Status::{Created, Exited, Paused, Removing, Restarting, Running};
        #[rustfmt::skip]
        let table = [
            // Start, Pause, Resume, Exit, ExitThenRestart, GiveUp, Remove
            (Created,    [Some(Running), None, None, None, None, Some(Created), Some(Removing)]),
            (Running,    [None, Some(Paused), None, Some(Exited), Some(Restarting), Some(Exited), None]),
            (Paused,     [None, None, Some(Running), Some(Exited), Some(Restarting), Some(Exited), None]),
            (Restarting, [Some(Running), None, None, None, Some(Restarting), Some(Exited), None]),
            (Exited,     [Some(Running), None, None, None, None, Some(Exited), Some(Removing)]),
            (Removing,   [None, None, None, None, None, None, Some(Removing)]),
        ];
        for (status, answers) in table {
            for (event, answer) in StatusEvent::ALL.into_iter().zip(answers) {
                assert_eq!(status.next(event).ok(), answer, "{status} + {event:?}");
                if let Err(denied) = status.next(event) {
                    assert_eq!((denied.status, denied.event), (status, event));
                    assert!(denied.to_string().contains(&status.to_string()));
                }
            }
        }
        assert_eq!(table.map(|(status, _)| status), Status::ALL);
    }

    proptest! {
        #[test]
        fn no_sequence_leaves_the_life_cycle(events in prop::collection::vec(0..7_usize, 0..60)) {
            let mut status = Status::Created;
            let mut has_run = false;
            for event in events.into_iter().map(|at| StatusEvent::ALL[at]) {
                let before = status;
                if let Ok(next) = status.next(event) {
                    status = next;
                    has_run |= event == StatusEvent::Start;
                    // Only a start makes it run, and only what runs not can be removed.
                    prop_assert!(status != Status::Running
                        || matches!(event, StatusEvent::Start | StatusEvent::Resume));
                    prop_assert!(status != Status::Removing || !before.is_supervised());
                }
                prop_assert!(before != Status::Removing || status == Status::Removing);
                prop_assert!(has_run || matches!(status, Status::Created | Status::Removing));
            }
        }
    }
}
