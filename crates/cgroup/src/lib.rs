//! Control groups: version 1, version 2 and hybrid hosts behind one type.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

/// Which hierarchies the host has, and where. Read once from `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    todo: (),
}

/// The control group of one instance: one directory in each hierarchy of the layout.
#[derive(Debug)]
pub struct Cgroup {
    todo: (),
}

/// What was counted. Zero where the host has no such controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used.
    pub cpu: Duration,
    /// In user space.
    pub cpu_user: Duration,
    /// In the kernel.
    pub cpu_system: Duration,
    /// Bytes of memory in use, page cache included.
    pub memory_usage_bytes: u64,
    /// Page cache that can be dropped at once (`inactive_file`).
    pub memory_inactive_file_bytes: u64,
    /// `None`: no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Times the kernel killed a process for lack of memory.
    pub oom_kills: u64,
    /// Bytes read from block devices.
    pub io_read_bytes: u64,
    /// Bytes written to block devices.
    pub io_write_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Layout {
    /// Finds out what the host has.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read, or no hierarchy is mounted.
    pub fn detect() -> io::Result<Layout> {
        todo!()
    }
}

impl Cgroup {
    /// Makes the group at `path` (absolute, below each hierarchy's root, like `/isle/<id>`) and
    /// sets its limits. Undone when a limit is refused.
    ///
    /// # Errors
    /// When a directory cannot be made, or the kernel refuses a limit (the error names the file and
    /// value).
    pub fn create(_layout: &Layout, _path: &Path, _limits: &LinuxResources) -> io::Result<Cgroup> {
        todo!()
    }

    /// An existing group.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(_layout: &Layout, _path: &Path) -> io::Result<Cgroup> {
        todo!()
    }

    /// Its directory in the version 2 hierarchy, for `clone3` with `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        todo!()
    }

    /// For each version 1 hierarchy its `tasks` file, open for writing. A new, single-threaded
    /// process joins by writing `0` to each: the kernel then need not take the lock of all forks
    /// (cgroup_procs_write_start in kernel/cgroup/cgroup.c), which costs milliseconds.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn join_files(&self) -> io::Result<Vec<OwnedFd>> {
        todo!()
    }

    /// Moves a process here, in every hierarchy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_process(&self, _pid: i32) -> io::Result<()> {
        todo!()
    }

    /// Changes limits; fields that are `None` stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses one; those set before it are set back.
    pub fn update(&self, _limits: &LinuxResources) -> io::Result<()> {
        todo!()
    }

    /// Stops every process in it from running; returns once all are frozen.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self) -> io::Result<()> {
        todo!()
    }

    /// The opposite.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> io::Result<()> {
        todo!()
    }

    /// One reading.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn stats(&self) -> io::Result<Stats> {
        todo!()
    }

    /// Every process in it and below it.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        todo!()
    }

    /// Kills every process in it and below it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill_all(&self) -> io::Result<()> {
        todo!()
    }

    /// Takes the directories away, those that the instance made below them too. Harmless when
    /// they are gone already.
    ///
    /// # Errors
    /// When processes are still in it.
    pub fn remove(&self) -> io::Result<()> {
        todo!()
    }

    /// Its path below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// The directory in the hierarchy of one controller (`memory`, `cpu`, …; `""`: version 2), for
    /// mounting `/sys/fs/cgroup` inside.
    #[must_use]
    pub fn directory(&self, _controller: &str) -> Option<PathBuf> {
        todo!()
    }
}
