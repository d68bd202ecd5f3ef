//! What an instance is at this moment, and which change may follow which.
//!
//! [`Status::next`] is the whole life cycle, pure and total: every pair of status and event has an
//! answer. Only the owner of an instance applies it: its supervisor while one lives, else whoever
//! holds the instance's lock.
//!
//! ```text
//!            start                 exit, no restart
//!  created ─────────> running ───────────────────────> exited ──┐
//!     │                │  ^  │                            │  ^  │ start
//!     │          pause │  │  │ exit, restart policy       │  │  └──> running
//!     │                v  │  v                            │  │
//!     │             paused   restarting ── stop ──────────┼──┘
//!     │                          │ start                  │
//!     │                          └──> running             │
//!     └───────────────── remove ─────────────────────────>│ remove
//!                                                         v
//!                                                      removing
//! ```

use isle_types::{InstanceId, InstanceName, Signal};
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

/// Everything that changes while an instance lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceState {
    /// Where in its life it is.
    pub status: Status,
    /// Its first process, as the host sees it, while there is one.
    pub pid: Option<i32>,
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
    /// The kernel ended it because it used more memory than it was given.
    OutOfMemory,
    /// It never ran.
    CouldNotStart {
        /// What failed, on what, and why.
        message: String,
    },
    /// Its supervisor was killed, and it ended while nobody watched: the code is not known.
    SupervisorLost,
    /// The host was restarted under it.
    HostRebooted,
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
