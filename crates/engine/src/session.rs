//! The live connections that a front door holds to an instance: an attachment, an exec.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use isle_types::Signal;
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use crate::LogRequest;
use crate::control::{Control, ControlError, read_frame};
use crate::log::Reader;
use crate::protocol::{Failed, MAX_STREAM_PAYLOAD, ProtocolError, Request, from_json, kind};
use crate::state::Exit;

/// Size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl From<WindowSize> for Winsize {
    fn from(size: WindowSize) -> Winsize {
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }
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
///
/// Whoever sends standard input and receives output in one thread may stand still: an instance
/// like `cat` does not read on before its output is received. So send from another thread, with
/// an [`AttachmentInput`] of its own ([`Attachment::input`]).
#[derive(Debug)]
pub struct Attachment {
    socket: UnixStream,
    directory: PathBuf,
    replay: Option<Replay>,
}

/// The sending half of an [`Attachment`].
#[derive(Debug)]
pub struct AttachmentInput {
    socket: UnixStream,
    directory: PathBuf,
}

/// What was in the log before.
#[derive(Debug)]
pub(crate) struct Replay {
    reader: Reader,
    /// `/dev/null`, which is always readable, as the replay is.
    readable: File,
}

impl Replay {
    pub(crate) fn open(path: PathBuf, request: &LogRequest) -> io::Result<Replay> {
        Ok(Replay {
            reader: Reader::open(path, request, None)?,
            readable: File::open("/dev/null")?,
        })
    }
}

impl Attachment {
    pub(crate) fn new(
        socket: UnixStream,
        directory: PathBuf,
        replay: Option<Replay>,
    ) -> Attachment {
        Attachment {
            socket,
            directory,
            replay,
        }
    }

    /// Readable when [`Attachment::receive`] will not block. Another one at each call: ask again
    /// before each poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.replay {
            Some(replay) => replay.readable.as_fd(),
            None => self.socket.as_fd(),
        }
    }

    /// The next piece; blocks. `None` when the supervisor has gone away (it was killed: the store
    /// then tells the state).
    ///
    /// # Errors
    /// When the socket fails, or the supervisor has given the connection up, because it did not
    /// receive fast enough for example; the error says why.
    pub fn receive(&mut self) -> io::Result<Option<Output>> {
        if let Some(replay) = &mut self.replay {
            match replay.reader.next().transpose()? {
                Some(entry) if entry.is_stderr => return Ok(Some(Output::Stderr(entry.bytes))),
                Some(entry) => return Ok(Some(Output::Stdout(entry.bytes))),
                None => self.replay = None,
            }
        }
        loop {
            let frame = match read_frame(&mut self.socket) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
                frame => frame?,
            };
            let Some(frame) = frame else { return Ok(None) };
            return match frame.kind {
                kind::STDOUT => Ok(Some(Output::Stdout(frame.payload))),
                kind::STDERR => Ok(Some(Output::Stderr(frame.payload))),
                kind::EXIT => {
                    let exit = from_json(kind::EXIT, &frame.payload).map_err(io::Error::other)?;
                    Ok(Some(Output::Exit(exit)))
                }
                kind::FAILED => Err(refused(&frame.payload)),
                kind::DONE => continue,
                kind => Err(io::Error::other(ProtocolError::UnknownKind { kind })),
            };
        }
    }

    /// A further handle for sending, for another thread.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn input(&self) -> io::Result<AttachmentInput> {
        Ok(AttachmentInput {
            socket: self.socket.try_clone()?,
            directory: self.directory.clone(),
        })
    }

    /// Sends bytes to standard input; blocks while the instance does not read.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        send_stdin(&mut self.socket, bytes)
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close_stdin(&mut self) -> io::Result<()> {
        self.socket.write_all(&Request::CloseStdin.encode())
    }

    /// Tells the instance's terminal its size.
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn resize(&mut self, size: WindowSize) -> io::Result<()> {
        tell(&self.directory, &Request::Resize(size))
    }

    /// Sends a signal to the instance's first process (`--sig-proxy`).
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        tell(&self.directory, &Request::Signal(signal))
    }
}

impl AttachmentInput {
    /// As [`Attachment::send_stdin`].
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        send_stdin(&mut self.socket, bytes)
    }

    /// As [`Attachment::close_stdin`].
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close_stdin(&mut self) -> io::Result<()> {
        self.socket.write_all(&Request::CloseStdin.encode())
    }

    /// As [`Attachment::resize`].
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn resize(&mut self, size: WindowSize) -> io::Result<()> {
        tell(&self.directory, &Request::Resize(size))
    }

    /// As [`Attachment::signal`].
    ///
    /// # Errors
    /// When the supervisor cannot be reached.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        tell(&self.directory, &Request::Signal(signal))
    }
}

fn send_stdin(socket: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(MAX_STREAM_PAYLOAD) {
        socket.write_all(&Request::Stdin(piece.to_vec()).encode())?;
    }
    Ok(())
}

/// Asks for something on a connection of its own, which no standard input is queued before. That
/// the instance has ended meanwhile is no error.
fn tell(directory: &std::path::Path, request: &Request) -> io::Result<()> {
    let result = Control::to(directory).and_then(|mut control| control.ask(request, kind::DONE));
    match result {
        Ok(_)
        | Err(
            ControlError::NoSupervisor | ControlError::HungUp { .. } | ControlError::Refused(_),
        ) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn refused(payload: &[u8]) -> io::Error {
    match from_json::<Failed>(kind::FAILED, payload) {
        Ok(failed) => io::Error::other(failed.message),
        Err(error) => io::Error::other(error),
    }
}

/// A further process in a running instance.
///
/// The front door holds the process's streams themselves: pipes, or the master of its terminal.
/// Dropping it hangs up: the process runs on, and what it writes is thrown away.
#[derive(Debug)]
pub struct ExecSession {
    /// Write end of standard input; `None` when not asked for, or with a terminal.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output; `None` with a terminal or when detached.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error; likewise.
    pub stderr: Option<OwnedFd>,
    /// The master of the terminal, read and written, when one was asked for.
    pub terminal: Option<OwnedFd>,
    socket: UnixStream,
}

impl ExecSession {
    pub(crate) fn new(
        socket: UnixStream,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        terminal: Option<OwnedFd>,
    ) -> ExecSession {
        ExecSession {
            stdin,
            stdout,
            stderr,
            terminal,
            socket,
        }
    }

    /// Readable when [`ExecSession::wait`] will not block.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How the process has ended; blocks until it has. What it wrote may still be in its pipes.
    ///
    /// # Errors
    /// When the supervisor has gone away.
    pub fn wait(&mut self) -> io::Result<Exit> {
        let Some(frame) = read_frame(&mut self.socket)? else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the supervisor of the instance has ended",
            ));
        };
        match frame.kind {
            kind::EXIT => from_json(kind::EXIT, &frame.payload).map_err(io::Error::other),
            kind::FAILED => Err(refused(&frame.payload)),
            kind => Err(io::Error::other(ProtocolError::UnknownKind { kind })),
        }
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.socket.write_all(&Request::Signal(signal).encode())
    }

    /// Tells the process's terminal its size; nothing without one.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn resize(&mut self, size: WindowSize) -> io::Result<()> {
        match &self.terminal {
            Some(_) => self.socket.write_all(&Request::Resize(size).encode()),
            None => Ok(()),
        }
    }
}
