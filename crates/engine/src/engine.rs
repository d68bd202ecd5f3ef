//! [`Engine`]: what every front door uses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_types::{InstanceId, InstanceName, Signal};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{InstanceConfig, Resources, RestartPolicy};
use crate::session::{Attachment, ExecSession, WindowSize};
use crate::state::{Exit, Instance};

/// Where Isle keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must survive a reboot: `/var/lib/isle`, or `$XDG_DATA_HOME/isle` for a user.
    pub root: PathBuf,
    /// Sockets and locks: `/run/isle`, or `$XDG_RUNTIME_DIR/isle`.
    pub run: PathBuf,
}

impl Paths {
    /// `--root` or `$ISLE_ROOT`, with `$ISLE_RUN` (default: `<root>/run` when a root is given),
    /// else the places above.
    #[must_use]
    pub fn from_environment(_root: Option<&Path>) -> Paths {
        todo!()
    }
}

/// The engine, open on one root.
#[derive(Debug)]
pub struct Engine {}

/// What went wrong. Variants are what a front door acts upon (exit code, HTTP status).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No instance has that name, id or prefix.
    #[error("no such instance: {0}")]
    NoSuchInstance(String),
    /// The prefix fits more than one.
    #[error("{prefix:?} fits several instances: {}", .candidates.join(", "))]
    AmbiguousId {
        /// What the user gave.
        prefix: String,
        /// Short ids of those that it fits.
        candidates: Vec<String>,
    },
}

impl EngineError {
    /// What the user can do about it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        todo!()
    }

    /// The exit code of a command that failed so: 125, 126 or 127 as Docker's, 1 for the verbs
    /// that Docker ends with 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        todo!()
    }
}

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
}

/// `diff`: one path that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Absolute, inside.
    pub path: PathBuf,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ChangeKind {
    /// `A`
    Added,
    /// `C`
    Changed,
    /// `D`
    Deleted,
}

/// `top`: what ps(1) says of an instance's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Engine {
    /// Opens the engine; makes its folders when they are not there; reconciles what the store says
    /// with what lives (instances whose supervisor or host has died).
    ///
    /// # Errors
    /// When the folders or the state file cannot be used.
    pub fn open(_paths: Paths) -> Result<Engine, EngineError> {
        todo!()
    }

    /// The image store on the same root.
    #[must_use]
    pub fn images(&self) -> &isle_image::Store {
        todo!()
    }

    /// Finds an instance by name, id, or unique prefix of an id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchInstance`] (its hint holds the nearest name), [`EngineError::AmbiguousId`].
    pub fn find(&self, _name_or_id: &str) -> Result<Instance, EngineError> {
        todo!()
    }

    /// All instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Instance>, EngineError> {
        todo!()
    }

    /// Makes an instance. Nothing runs yet.
    ///
    /// # Errors
    /// When the configuration is invalid, the name taken, the image missing.
    pub fn create(&self, _request: CreateRequest) -> Result<Instance, EngineError> {
        todo!()
    }

    /// Starts an instance; with `attach`, connected before its first instruction, so that no
    /// output is missed. Returns when its process has been executed.
    ///
    /// # Errors
    /// When it could not be started; nothing is left running.
    pub fn start(
        &self,
        _id: &InstanceId,
        _attach: Option<AttachRequest>,
        _window: Option<WindowSize>,
    ) -> Result<Option<Attachment>, EngineError> {
        todo!()
    }

    /// Connects to a running instance.
    ///
    /// # Errors
    /// When it does not run.
    pub fn attach(
        &self,
        _id: &InstanceId,
        _request: AttachRequest,
    ) -> Result<Attachment, EngineError> {
        todo!()
    }

    /// Runs a further process in a running instance.
    ///
    /// # Errors
    /// When it does not run, or the process could not be started (exit code 126 or 127).
    pub fn exec(
        &self,
        _id: &InstanceId,
        _request: &ExecRequest,
        _window: Option<WindowSize>,
    ) -> Result<ExecSession, EngineError> {
        todo!()
    }

    /// Sends the stop signal, waits, then kills. Harmless when it does not run.
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn stop(
        &self,
        _id: &InstanceId,
        _signal: Option<Signal>,
        _timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// `stop`, then `start`.
    ///
    /// # Errors
    /// As these.
    pub fn restart(
        &self,
        _id: &InstanceId,
        _signal: Option<Signal>,
        _timeout: Option<Duration>,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, _id: &InstanceId, _signal: Signal) -> Result<(), EngineError> {
        todo!()
    }

    /// Freezes all its processes.
    ///
    /// # Errors
    /// When it does not run, or is paused already.
    pub fn pause(&self, _id: &InstanceId) -> Result<(), EngineError> {
        todo!()
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn resume(&self, _id: &InstanceId) -> Result<(), EngineError> {
        todo!()
    }

    /// Waits for the condition and returns how the run ended.
    ///
    /// # Errors
    /// When the instance is not there.
    pub fn wait(&self, _id: &InstanceId, _condition: WaitCondition) -> Result<Exit, EngineError> {
        todo!()
    }

    /// Takes an instance away; `force` kills it first; `volumes` takes its anonymous volumes too.
    ///
    /// # Errors
    /// When it runs and `force` is not given.
    pub fn remove(
        &self,
        _id: &InstanceId,
        _force: bool,
        _volumes: bool,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn rename(&self, _id: &InstanceId, _name: &InstanceName) -> Result<(), EngineError> {
        todo!()
    }

    /// Changes limits and restart policy, of a running instance at once.
    ///
    /// # Errors
    /// When the kernel refuses a value; nothing is changed then.
    pub fn update(&self, _id: &InstanceId, _request: &UpdateRequest) -> Result<(), EngineError> {
        todo!()
    }

    /// The log, oldest first; with `follow` the iterator blocks for more.
    ///
    /// # Errors
    /// When the log driver keeps nothing.
    pub fn logs(
        &self,
        _id: &InstanceId,
        _request: &LogRequest,
    ) -> Result<Box<dyn Iterator<Item = Result<LogEntry, EngineError>>>, EngineError> {
        todo!()
    }

    /// One reading.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stats(&self, _id: &InstanceId) -> Result<Stats, EngineError> {
        todo!()
    }

    /// Its processes, as ps(1) with the given options shows them (default `-ef`).
    ///
    /// # Errors
    /// When it does not run, or ps(1) refuses the options.
    pub fn top(
        &self,
        _id: &InstanceId,
        _ps_options: &[String],
    ) -> Result<ProcessTable, EngineError> {
        todo!()
    }

    /// What differs from the image.
    ///
    /// # Errors
    /// When the writable layer cannot be read.
    pub fn diff(&self, _id: &InstanceId) -> Result<Vec<Change>, EngineError> {
        todo!()
    }

    /// Writes the whole root file system as a tar archive.
    ///
    /// # Errors
    /// When it cannot be read, or the writer fails.
    pub fn export(&self, _id: &InstanceId, _writer: &mut dyn Write) -> Result<(), EngineError> {
        todo!()
    }

    /// What a path inside is, links in its last element not followed.
    ///
    /// # Errors
    /// When there is none.
    pub fn stat_path(&self, _id: &InstanceId, _path: &str) -> Result<PathStat, EngineError> {
        todo!()
    }

    /// Writes a path inside as a tar archive whose entries start with the path's last element.
    ///
    /// # Errors
    /// When there is none.
    pub fn copy_out(
        &self,
        _id: &InstanceId,
        _path: &str,
        _follow_link: bool,
        _writer: &mut dyn Write,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Unpacks a tar archive into a directory inside.
    ///
    /// # Errors
    /// When the directory is not there, or not writable.
    pub fn copy_in(
        &self,
        _id: &InstanceId,
        _directory: &str,
        _keep_owner: bool,
        _reader: &mut dyn Read,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Makes an image of its root file system; returns the image's id.
    ///
    /// # Errors
    /// When the layer cannot be read or stored.
    pub fn commit(
        &self,
        _id: &InstanceId,
        _request: &CommitRequest,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// What happened after `sequence`, oldest first; does not block.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn events(&self, _after_sequence: u64) -> Result<Vec<Event>, EngineError> {
        todo!()
    }

    /// Notes that something happened to an image (`pull`, `tag`, `delete`, …).
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn record_image_event(
        &self,
        _action: &str,
        _id: &str,
        _name: &str,
    ) -> Result<(), EngineError> {
        todo!()
    }
}
