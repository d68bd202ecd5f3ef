//! The live connections that a front door holds to an instance: an attachment, an exec.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use isle_types::Signal;
use serde::{Deserialize, Serialize};

use crate::state::Exit;

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// One piece of what came from an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// From its standard output, or its terminal.
    Stdout(Vec<u8>),
    /// From its standard error.
    Stderr(Vec<u8>),
    /// The process has ended, and everything it wrote came before this.
    Exit(Exit),
}

/// A connection to the standard streams of an instance's first process.
///
/// Dropping it detaches: the instance runs on.
#[derive(Debug)]
pub struct Attachment {
    // private fields: the socket and its buffers
}

impl Attachment {
    /// Readable when [`Attachment::receive`] will not block.
    pub fn fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// The next piece; blocks. `None` when the supervisor has gone away (detached elsewhere, or
    /// killed: the store then tells the state).
    ///
    /// # Errors
    /// When the socket fails.
    pub fn receive(&mut self) -> io::Result<Option<Output>> {
        todo!()
    }

    /// Sends bytes to standard input; blocks while the instance does not read.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_stdin(&mut self, _bytes: &[u8]) -> io::Result<()> {
        todo!()
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close_stdin(&mut self) -> io::Result<()> {
        todo!()
    }

    /// Tells the instance's terminal its size.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn resize(&mut self, _size: WindowSize) -> io::Result<()> {
        todo!()
    }

    /// Sends a signal to the instance's first process (`--sig-proxy`).
    ///
    /// # Errors
    /// When the socket fails.
    pub fn signal(&mut self, _signal: Signal) -> io::Result<()> {
        todo!()
    }
}

/// A further process in a running instance.
///
/// The front door holds the process's streams themselves: pipes, or the master of its terminal.
#[derive(Debug)]
pub struct ExecSession {
    /// Write end of standard input; `None` when not asked for. With a terminal: the master, which
    /// is read as well.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output; `None` with a terminal or when detached.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error; likewise.
    pub stderr: Option<OwnedFd>,
    /// The master of the terminal, when one was asked for.
    pub terminal: Option<OwnedFd>,
    // private: the control connection
}

impl ExecSession {
    /// Readable when [`ExecSession::wait`] will not block.
    pub fn fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// The process's exit code, 126 or 127 when it could not be started; blocks until it ends.
    ///
    /// # Errors
    /// When the supervisor has gone away.
    pub fn wait(&mut self) -> io::Result<Exit> {
        todo!()
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn signal(&mut self, _signal: Signal) -> io::Result<()> {
        todo!()
    }
}
