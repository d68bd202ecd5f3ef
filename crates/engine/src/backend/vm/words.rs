//! Between the words of the guest's channel and those of the supervisor. Pure.

use std::io;

use isle_guest::{End, RemoteProcess};
use isle_types::Signal;

use crate::WindowSize;
use crate::backend::{Ended, Process, StartError, Stdio, chain};

/// From the guest's words to the supervisor's.
pub(super) fn not_started(error: &isle_guest::StartError) -> StartError {
    StartError {
        message: chain(&error.error),
        exit_code: error.exit_code,
    }
}

pub(super) fn streams(stdio: Stdio) -> isle_guest::Stdio {
    match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => isle_guest::Stdio::Streams {
            stdin,
            stdout,
            stderr,
        },
        Stdio::Terminal { size } => isle_guest::Stdio::Terminal {
            size: size.map(window),
        },
    }
}

pub(super) fn window(size: WindowSize) -> isle_guest::WindowSize {
    isle_guest::WindowSize {
        rows: size.rows,
        columns: size.columns,
    }
}

/// The end of a process as the agent tells it.
pub(super) fn told(end: End) -> io::Result<Ended> {
    match end {
        End::Code(code) => Ok(Ended::Code(code)),
        End::Signal(number) => Signal::from_number(number.into())
            .map(Ended::Signal)
            .map_err(io::Error::other),
        End::Failed(failure) => Err(io::Error::other(failure.message)),
        End::Done => Err(io::Error::other("it was no process")),
    }
}

/// A process of the guest as the supervisor holds it.
pub(super) fn local(pid: i32, process: RemoteProcess) -> Process {
    Process {
        pid,
        ended: process.ended,
        terminal: process.terminal,
        task: process.id,
    }
}
