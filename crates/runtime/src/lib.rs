//! The OCI runtime: specification -> plan -> process.
//!
//! [`Plan::new`] turns an OCI runtime specification into data: what to unshare, mount, mask, drop,
//! limit and execute, in which order. [`Plan::create`] acts on it with one `clone3`, without
//! helper programs and without executing itself again. [`Created::start`] lets the process go.
//!
//! Implements the [OCI runtime specification](https://github.com/opencontainers/runtime-spec).

#![forbid(unsafe_code)]

pub mod users;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use isle_cgroup::Cgroup;
use oci_spec::runtime::{Process, Spec};

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Rootfs {
    /// A directory of the host.
    Directory(PathBuf),
    /// A mount that is attached nowhere (fsmount(2), open_tree(2)): it is attached in the new
    /// mount namespace alone, and ends with it.
    Detached(OwnedFd),
}

/// What the specification leaves to the caller.
#[derive(Debug, Default)]
pub struct Options {
    /// The container's id.
    pub id: String,
    /// The bundle directory, to which relative paths refer.
    pub bundle: PathBuf,
    /// `--no-new-keyring`
    pub keep_keyring: bool,
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--preserve-fds`: so many descriptors after standard error stay open.
    pub preserve_fds: u32,
    /// A seccomp program compiled before; else it is compiled from the specification.
    pub seccomp: Option<Vec<isle_seccomp::Instruction>>,
}

/// Everything that will be done, as data.
#[derive(Debug)]
pub struct Plan {
    todo: (),
}

/// Why a specification cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[error("invalid specification")]
pub struct PlanError {}

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    /// These three.
    Streams {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal from the container's own devpts; its master is in [`Created::terminal`].
    Terminal {
        /// Lines and columns, when known.
        size: Option<(u16, u16)>,
    },
}

/// Why a container or a process in it could not be made. The exit code that Docker gives for it is
/// in [`LaunchError::exit_code`].
#[derive(Debug, thiserror::Error)]
#[error("cannot start the container")]
pub struct LaunchError {}

impl LaunchError {
    /// 127: the program was not found. 126: it cannot be executed. 125: all else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        todo!()
    }
}

/// A process of a container, as its parent holds it.
#[derive(Debug)]
pub struct Child {
    /// Its pid on the host.
    pub pid: i32,
    /// Readable when it has ended, see pidfd_open(2).
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// A container that waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Its first process.
    pub init: Child,
    // private: the pipe that lets it go
}

impl Plan {
    /// Plans; pure but for reading what the specification refers to (paths of namespaces, devices).
    ///
    /// # Errors
    /// [`PlanError`] names the field and says what it may hold.
    pub fn new(_spec: &Spec, _options: Options) -> Result<Plan, PlanError> {
        todo!()
    }

    /// Makes the container up to the point where only its program remains to be executed.
    ///
    /// The caller's process must have one thread.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind then.
    pub fn create(
        self,
        _rootfs: Rootfs,
        _cgroup: Option<Arc<Cgroup>>,
        _stdio: Stdio,
    ) -> Result<Created, LaunchError> {
        todo!()
    }
}

impl Created {
    /// Lets the process execute its program; returns once that has succeeded or failed.
    ///
    /// # Errors
    /// [`LaunchError`] when the program cannot be executed.
    pub fn start(self) -> Result<Child, LaunchError> {
        todo!()
    }
}

/// Runs a further process in a running container: its namespaces, root, cgroup, capabilities,
/// seccomp policy and LSM label.
///
/// The caller's process must have one thread.
///
/// # Errors
/// [`LaunchError`] when the program cannot be executed.
pub fn exec(
    _init: BorrowedFd<'_>,
    _spec: &Spec,
    _process: &Process,
    _cgroup: Option<&Cgroup>,
    _seccomp: Option<&[isle_seccomp::Instruction]>,
    _stdio: Stdio,
) -> Result<Child, LaunchError> {
    todo!()
}
