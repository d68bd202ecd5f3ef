//! What front doors ask of the engine, and what they are given.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use isle_types::InstanceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{InstanceConfig, Resources, RestartPolicy};

/// What [`Engine::create`] makes.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// What the user said; the engine merges the image's configuration under it.
    pub config: InstanceConfig,
    /// `--name`; a random `adjective_noun` when not given.
    pub name: Option<InstanceName>,
    /// The store's id of the image, from `isle_image::Store::find`.
    pub image_id: String,
}

/// Which streams a front door attaches to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRequest {
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// First what is in the log already, as `docker attach --logs`.
    pub replay_log: bool,
}

/// What [`Engine::exec`] runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value`, on top of the instance's.
    pub env: Vec<String>,
    /// `user[:group]`; the instance's when not given.
    pub user: Option<String>,
    /// The instance's when not given.
    pub working_dir: Option<String>,
    /// A terminal of its own, of this size.
    pub tty: bool,
    /// `-i`.
    pub open_stdin: bool,
    /// `-d`: no streams; the process goes on by itself.
    pub detach: bool,
    /// `--privileged`.
    pub privileged: bool,
}

/// What [`Engine::wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCondition {
    /// Not running: returns at once for one that is not.
    NotRunning,
    /// The next exit.
    NextExit,
    /// Gone.
    Removed,
}

/// What `update` changes; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct UpdateRequest {
    /// Fields that are `Some` replace those of the instance.
    pub resources: Resources,
    /// `--restart`.
    pub restart: Option<RestartPolicy>,
}

/// Which lines `logs` returns.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// Go on with what is written from now on, until the instance ends.
    pub follow: bool,
    /// The last so many; all when not given.
    pub tail: Option<usize>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// One entry of an instance's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was written.
    pub time: Timestamp,
    /// From standard error, not standard output.
    pub is_stderr: bool,
    /// The bytes, with the line end if there was one.
    pub bytes: Vec<u8>,
}

/// One reading of what an instance uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// CPU time used, all CPUs together.
    pub cpu: Duration,
    /// CPU time of the host at the same moment, for the percentage.
    pub system_cpu: Duration,
    /// CPUs that it can use.
    pub online_cpus: u32,
    /// Bytes of memory in use, page cache that can be dropped left out, as `docker stats`.
    pub memory_bytes: u64,
    /// Its limit, or the host's memory.
    pub memory_limit_bytes: u64,
    /// Bytes received and sent; `None` without a network of its own.
    pub network: Option<(u64, u64)>,
    /// Bytes read from and written to block devices.
    pub block_io: (u64, u64),
    /// Processes and threads.
    pub pids: u64,
    /// The machine around it, at a level that has one. While it is paused, memory and I/O above are the hypervisor's.
    pub machine: Option<MachineStats>,
}

/// What the machine of an instance has, and what it costs the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineStats {
    /// The machine's memory, in bytes.
    pub memory_bytes: u64,
    /// What of it the guest has now; the rest it has given back to the host.
    pub guest_memory_bytes: u64,
    /// What the hypervisor takes of the host's memory, its part of what it shares with other machines included (PSS);
    /// bytes.
    pub host_bytes: u64,
    /// What of that would be free if it ended.
    pub host_private_bytes: u64,
}

/// `diff`: one path that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Absolute, inside.
    pub path: PathBuf,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// `A`
    Added,
    /// `C`
    Changed,
    /// `D`
    Deleted,
}

impl From<isle_archive::Change> for Change {
    fn from(change: isle_archive::Change) -> Change {
        Change {
            kind: match change.kind {
                isle_archive::ChangeKind::Added => ChangeKind::Added,
                isle_archive::ChangeKind::Changed => ChangeKind::Changed,
                isle_archive::ChangeKind::Deleted => ChangeKind::Deleted,
            },
            path: change.path,
        }
    }
}

/// `top`: what ps(1) says of an instance's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTable {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row a process.
    pub rows: Vec<Vec<String>>,
}

/// Something that happened. Written to the store by whoever did it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Ascending without gaps; where a reader goes on.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// `container` (Docker's word for any instance), `image`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `create`, `start`, `die`, `oom`, `health_status: healthy`, `pull`, …
    pub action: String,
    /// The id of what it happened to.
    pub id: String,
    /// `name`, `image`, `exitCode`, labels, …
    pub attributes: BTreeMap<String, String>,
}

/// What `commit` makes of an instance.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// The new image's name; none when not given.
    pub reference: Option<String>,
    /// `-a`
    pub author: Option<String>,
    /// `-m`
    pub message: Option<String>,
    /// `-c`: Dockerfile instructions, like `CMD ["x"]`.
    pub changes: Vec<String>,
    /// `--pause`, on by default.
    pub pause: bool,
}

/// `docker cp`'s tar stream semantics, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Last element of the path.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// As st_mode.
    pub mode: u32,
    /// Where a link points, resolved inside.
    pub link_target: Option<String>,
}
