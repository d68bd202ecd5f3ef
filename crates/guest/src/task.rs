//! What runs in the guest, as the host holds it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use isle_guest_protocol::{Ended, WindowSize};
use rustix::event::{EventfdFlags, eventfd};

use crate::Error;
use crate::stream::{Inlet, Outlet};

/// The standard streams of a process: the ends that the process itself would have on the host.
#[derive(Debug)]
pub enum Stdio {
    /// These three. `/dev/null` costs nothing: no byte of it goes over the channel.
    Streams {
        /// Standard input, read from.
        stdin: OwnedFd,
        /// Standard output, written to.
        stdout: OwnedFd,
        /// Standard error, written to.
        stderr: OwnedFd,
    },
    /// A terminal in the guest; what stands for its master comes back in [`RemoteProcess::terminal`].
    Terminal {
        /// Its first size, when known.
        size: Option<WindowSize>,
    },
}

/// A process in the guest.
#[derive(Debug)]
pub struct RemoteProcess {
    /// The number of its task.
    pub id: u32,
    /// Readable once it has ended and what it wrote until then was passed on, or once the guest is lost. See
    /// eventfd(2).
    pub ended: OwnedFd,
    /// A stream socket that stands for the master of its terminal. The size is told by
    /// [`Connection::resize`](crate::Connection::resize).
    pub terminal: Option<OwnedFd>,
}

/// Something else that takes time in the guest.
#[derive(Debug)]
pub struct RemoteTask {
    /// Its number.
    pub id: u32,
    /// As [`RemoteProcess::ended`].
    pub ended: OwnedFd,
}

/// A task, from the number being given to everything about it being known.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) stdin: Option<Inlet>,
    pub(crate) stdout: Option<Outlet>,
    pub(crate) stderr: Option<Outlet>,
    /// The other end of [`RemoteProcess::ended`].
    signal: OwnedFd,
    is_signalled: bool,
    pub(crate) ended: Option<Ended>,
    pub(crate) is_reaped: bool,
    /// The request that makes it, until it was answered.
    pub(crate) request: Option<u32>,
}

impl Task {
    pub(crate) fn new() -> Result<(Task, OwnedFd), Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let signal = eventfd(0, flags).map_err(Error::io("make an eventfd"))?;
        let ended = signal.try_clone().map_err(Error::io("hold an eventfd"))?;
        let task = Task {
            stdin: None,
            stdout: None,
            stderr: None,
            signal,
            is_signalled: false,
            ended: None,
            is_reaped: false,
            request: None,
        };
        Ok((task, ended))
    }

    fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }

    /// Makes the end known, when it has come and everything before it was passed on.
    pub(crate) fn tell_end(&mut self) {
        if self.ended.is_some() && self.outlets().all(|outlet| !outlet.is_waiting()) {
            self.tell();
        }
    }

    /// Makes the end known at once.
    pub(crate) fn tell(&mut self) {
        if !self.is_signalled {
            self.is_signalled = true;
            // An eventfd takes far more ones than this.
            let _ = rustix::io::write(&self.signal, &1_u64.to_ne_bytes());
        }
    }

    /// Whether nothing more can come of it, and nobody will ask.
    pub(crate) fn is_over(&self) -> bool {
        self.is_reaped && self.ended.is_some() && self.outlets().all(Outlet::is_over)
    }
}

/// All tasks by number.
pub(crate) type Tasks = BTreeMap<u32, Task>;
