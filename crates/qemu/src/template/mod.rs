//! Machines that were booted once, to be copied.
//!
//! A template is a folder: `memory` (the guest's memory, as a sparse file), `state` (that of processors
//! and devices, tens of kilobytes) and `template.json` (what it is of, and digests). It is made in a
//! folder of another name and renamed, so that it is there as a whole or not at all; nothing is synced to
//! the disk, since after a boot the digests are compared before it is used, and a damaged one is made
//! again.
//!
//! An heir is a copy that was kept when more had happened in it ([`Store::ensure_heir`]): its disks were mounted, and
//! what copies will do was done once. Its folder also has what its writable disk held then (`disk`).

mod key;
mod make;
mod store;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::machine::Machine;
use crate::program::Program;
use crate::start::StartError;

pub use key::{Key, Subject};
pub use make::{Heir, Making, Progress, join_archives};
pub use store::{Store, Summary};

/// A machine that was booted, as files. Its memory can be read only through it.
#[derive(Debug)]
pub struct Template {
    key: Key,
    program: Program,
    machine: Machine,
    memory: File,
    state: File,
    disk: Option<File>,
}

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file or folder.
    #[error("cannot {what}")]
    Io {
        /// What, as a verb with its object.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The machine that was to become the template did not start.
    #[error("cannot boot a machine for a template")]
    Start(#[source] Box<StartError>),
    /// It was not ready in time, or not what was expected.
    #[error("the machine for a template did not get ready; its kernel's last words: {console:?}")]
    NotReady {
        /// The end of what its kernel wrote.
        console: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its state could not be saved.
    #[error("cannot save the machine for a template")]
    Save(#[source] crate::monitor::MonitorError),
}

impl TemplateError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> TemplateError {
        let what = what.into();
        move |source| TemplateError::Io { what, source }
    }
}

impl Template {
    /// What it is of.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The QEMU that made it, and that its copies need.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its memory, opened for reading only.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// What its writable disk held when it was saved, see [`Store::ensure_heir`]: that of each copy has to begin with the
    /// same. Opened for reading only.
    #[must_use]
    pub fn disk(&self) -> Option<&File> {
        self.disk.as_ref()
    }

    /// Its state, opened once more.
    pub(crate) fn open_state(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.state.as_raw_fd());
        Ok(File::open(path)?.into())
    }
}
