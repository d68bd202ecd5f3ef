//! Control groups: version 1, version 2 and hybrid hosts behind one type.
//!
//! [`Layout::detect`] reads once which hierarchies the host has. [`Cgroup::create`] makes one
//! directory in each of them and sets the limits of an OCI runtime specification
//! (`linux.resources`): a pure function ([`plan`]) turns them into a list of files and values, a
//! short executor writes these. The same `Cgroup` then freezes, kills, counts and is removed.
//!
//! ```no_run
//! # fn main() -> Result<(), isle_cgroup::Error> {
//! use isle_cgroup::{Cgroup, Layout};
//! let layout = Layout::detect()?;
//! let limits = oci_spec::runtime::LinuxResources::default();
//! let group = Cgroup::create(&layout, "/isle/example".as_ref(), &limits)?;
//! group.kill_all()?;
//! group.remove()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Hosts
//! - *Version 1*: every controller has a hierarchy of its own (or shares one, like `cpu,cpuacct`).
//! - *Version 2*: one hierarchy with all controllers.
//! - *Hybrid*: the controllers are in version 1 hierarchies, and a version 2 hierarchy without
//!   controllers stands beside them. A group has a directory there as well: what version 2 does
//!   better without a controller (`cgroup.kill`, `cgroup.freeze`, joining within `clone3`) is done
//!   there.
//!
//! A controller is used where it is, so a host that has some of them in version 2 and others in
//! version 1 works too.
//!
//! # What is tested where
//! The tests of this crate run on a hybrid host: version 1 limits, the version 2 freezer,
//! `cgroup.kill` and the device program are tested against the kernel. Of the version 2 controllers
//! only `hugetlb` can be (an ignored test, because it changes the host's root group for a moment);
//! the others are tested as plans (golden text) and against a directory tree of plain files.
//!
//! Sources: the kernel's `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`; the
//! [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups).

#![forbid(unsafe_code)]

mod device_program;
mod directory;
mod error;
mod freezer;
mod group;
mod layout;
mod oom;
pub mod plan;
mod removal;
mod stats;

pub use error::Error;
pub use group::Cgroup;
pub use layout::{Hierarchy, Layout, Version};
pub use oom::OomWatch;
pub use stats::{OutOfMemory, Stats};
