//! A container that exists: its state on disk held against what the kernel says.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use isle_cgroup::{Cgroup, Layout};

use crate::state::{Directory, State};

/// See runtime.md, "State"; `paused` is runc's addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

pub(crate) struct Container {
    pub(crate) directory: Directory,
    pub(crate) state: State,
    /// Its first process; `None`: ended.
    pub(crate) process: Option<OwnedFd>,
}

impl Container {
    pub(crate) fn open(root: &Path, id: &str) -> anyhow::Result<Container> {
        let directory = Directory::open(root, id)?;
        let state = directory.load()?;
        let process = state.process();
        Ok(Container {
            directory,
            state,
            process,
        })
    }

    pub(crate) fn cgroup(&self) -> anyhow::Result<Option<Cgroup>> {
        let Some(path) = &self.state.cgroup else {
            return Ok(None);
        };
        let layout = Layout::detect().context("cannot find the control groups of the host")?;
        match Cgroup::open(&layout, path) {
            Ok(cgroup) => Ok(Some(cgroup)),
            // gone with the last process, or taken away by somebody
            Err(_) if self.process.is_none() => Ok(None),
            Err(error) => Err(error)
                .with_context(|| format!("cannot open the control group {}", path.display())),
        }
    }

    pub(crate) fn status(&self) -> Status {
        if self.process.is_none() {
            return Status::Stopped;
        }
        if self.directory.has_socket() {
            return Status::Created;
        }
        match self.cgroup() {
            Ok(Some(cgroup)) if cgroup.is_frozen().unwrap_or(false) => Status::Paused,
            _ => Status::Running,
        }
    }
}
