//! The OCI runtime: specification -> plan -> process.
//!
//! [`Plan::new`] turns an OCI runtime specification into data: what to unshare, mount, mask, drop,
//! limit and execute, in which order; it prints as text. [`Plan::create`] acts on it with one
//! clone3(2) (a second one where a namespace can be entered by children only), without helper
//! programs and without executing itself again. [`Created::start`] lets the process go. [`exec`]
//! runs a further process in a container.
//!
//! What runs in the new process is in `isle_sys::launch`. Everything that a path of the image leads
//! to is opened beneath the new root, by descriptors, before anything of the image runs.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use isle_runtime::{Options, Plan, Rootfs, Stdio};
//! # let (stdin, stdout, stderr): (std::os::fd::OwnedFd, _, _) = todo!();
//! let spec = oci_spec::runtime::Spec::load("config.json")?;
//! let plan = Plan::new(&spec, Options { id: "demo".to_owned(), ..Options::default() })?;
//! let rootfs = Rootfs::Directory("rootfs".into());
//! let child = plan.create(rootfs, None, Stdio::Streams { stdin, stdout, stderr })?.start()?;
//! println!("pid {}", child.pid);
//! # Ok(())
//! # }
//! ```
//!
//! Implements the [OCI runtime specification](https://github.com/opencontainers/runtime-spec).

#![forbid(unsafe_code)]

mod act;
pub mod capabilities;
mod error;
mod exec;
mod hooks;
mod kept;
pub mod own_binary;
mod plan;
pub mod users;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use act::{start, user_namespace_of};
pub use error::{LaunchError, PlanError, StepError};
pub use exec::{ExecOptions, ExecPlan, exec, exec_with};
pub use hooks::{run as run_hook, send_descriptor};
pub use kept::Kept;
pub use plan::{HookState, Plan};

/// Every mount option of the runtime specification, for `features`.
#[must_use]
pub fn mount_options() -> &'static [&'static str] {
    plan::mount_options::KNOWN
}

/// Tells the forms of encoded plans ([`Plan`], [`ExecPlan`]) apart, as [`isle_sys::launch::FORMAT`] those of steps.
pub const PLAN_FORMAT: u64 = {
    use isle_sys::launch::{FORMAT, digest};
    let all = digest(FORMAT, include_bytes!("plan/mod.rs"));
    let all = digest(all, include_bytes!("plan/need.rs"));
    digest(all, include_bytes!("exec.rs"))
};

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Rootfs {
    /// A directory of the host.
    Directory(PathBuf),
    /// A mount that is attached nowhere (fsmount(2), open_tree(2)): it is attached in the new
    /// mount namespace alone, and ends with it.
    Detached(OwnedFd),
}

/// What a user namespace that this process itself runs in takes away, see user_namespaces(7).
#[derive(Clone, Copy, Debug, Default)]
pub struct Confinement {
    /// mknod(2) is refused: nodes of the host are mounted.
    pub no_device_nodes: bool,
    /// setgroups(2) is refused: supplementary groups stay as they are.
    pub no_groups: bool,
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
    /// The plan is carried out in a virtual machine of Isle's: version 2 control groups, no security modules,
    /// and nothing of this host.
    pub is_for_guest: bool,
    /// Where this process lacks the host's privileges.
    pub confinement: Confinement,
    /// A seccomp program compiled before; else it is compiled from the specification.
    pub seccomp: Option<Vec<isle_seccomp::Instruction>>,
}

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
    /// A terminal from the container's own devpts; its master is in [`Child::terminal`].
    Terminal {
        /// Lines and columns, when known.
        size: Option<(u16, u16)>,
    },
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
    channel: OwnedFd,
    steps: Vec<isle_sys::launch::Step>,
}
