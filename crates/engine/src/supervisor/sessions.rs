//! Further processes inside: `exec`. The client has their streams and relays them by itself; the
//! supervisor is their parent and tells the client how they end. When the client goes, the
//! supervisor reads on what they write, so that they neither wait nor die of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::client::{PATIENCE, Role};
use super::ledger::Note;
use super::owner::Supervisor;
use super::poller::{Interest, Token};
use super::streams::{self, Got};
use crate::backend::inside::Carry;
use crate::backend::{Ended, Process, StartError, Stdio};
use crate::protocol::{Cause, Exec, ExecStarted, Failed, answer, exit_frame, kind};
use crate::session::WindowSize;
use crate::state::{Exit, ExitReason};

/// The most processes that `exec` runs at a time: three descriptors each, of 1024 that a process
/// may have by default.
const MOST_SESSIONS: usize = 200;

/// A process that an exec has started.
#[derive(Debug)]
pub(super) struct Session {
    process: Process,
    client: Option<u32>,
    /// The reading ends, or the terminal, for when the client goes.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// `stdout` is its terminal.
    has_terminal: bool,
    /// What `events` calls it; not there for what nobody asked for.
    name: Option<String>,
}

/// The ends of a session's streams that the client gets.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Supervisor {
    /// Runs a process for a client.
    pub(super) fn exec(&mut self, number: u32, exec: &Exec) {
        if let Err(error) = self.try_exec(number, exec) {
            let failed = Failed {
                message: error.message,
                exit_code: error.exit_code,
                cause: Cause::Failed,
            };
            if let Some(client) = self.clients.get_mut(&number) {
                client.send(&answer(kind::FAILED, &failed));
            }
        }
    }

    fn try_exec(&mut self, number: u32, exec: &Exec) -> Result<(), StartError> {
        let request = &exec.request;
        if self.sessions.len() >= MOST_SESSIONS {
            return Err(StartError {
                message: format!("{MOST_SESSIONS} processes run by exec already"),
                exit_code: 125,
            });
        }
        let cannot = || super::life::cannot("make the standard streams");
        let (stdio, ends) = match request.tty {
            true => (Stdio::Terminal { size: exec.window }, Ends::default()),
            false => {
                let (theirs, ends) =
                    make_streams(request.open_stdin, request.detach).map_err(cannot())?;
                let [stdin, stdout, stderr] = theirs;
                let stdio = Stdio::Streams {
                    stdin,
                    stdout,
                    stderr,
                };
                (stdio, ends)
            }
        };
        let mut process = self.backend.exec(request, stdio)?;
        let terminal = process.terminal.take();
        let name = self.begin_session(number, process, ends, terminal, request.detach);
        let command = request.args.join(" ");
        for action in ["exec_create", "exec_start"] {
            self.note(Note::new(format!("{action}: {command}")).with("execID", &name));
        }
        Ok(())
    }

    /// Looks after a process whose streams a client gets; what `events` calls it.
    fn begin_session(
        &mut self,
        number: u32,
        process: Process,
        ends: Ends,
        terminal: Option<OwnedFd>,
        is_detached: bool,
    ) -> String {
        let session = self.number();
        let name = format!("{:08x}{:08x}", process.pid, session);

        let which = ExecStarted {
            stdin: ends.stdin.is_some(),
            stdout: ends.stdout.is_some(),
            stderr: ends.stderr.is_some(),
            terminal: terminal.is_some() && !is_detached,
        };
        let fds: Vec<_> = [&ends.stdin, &ends.stdout, &ends.stderr]
            .into_iter()
            .flatten()
            .chain(terminal.as_ref().filter(|_| which.terminal))
            .map(AsFd::as_fd)
            .collect();
        if let Some(client) = self.clients.get_mut(&number) {
            let frame = answer(kind::EXEC_STARTED, &which);
            if client.pending() > 0 || client.send_with(&frame, &fds).is_err() {
                // It has hung up already: go on as after a hang-up.
                client.close_after_flush(Some(PATIENCE));
            } else {
                client.role = Role::Session(session);
            }
        }
        let started = Session {
            process,
            client: Some(number),
            has_terminal: terminal.is_some(),
            stdout: terminal.or(ends.stdout),
            stderr: ends.stderr,
            name: Some(name.clone()),
        };
        let watched = self.poller.add(
            &started.process.ended,
            Token::SessionEnded(session),
            Interest::READ,
        );
        if let Err(error) = watched {
            self.complain("watch a process", &error);
        }
        self.sessions.insert(session, started);
        let is_attached = self
            .clients
            .get(&number)
            .is_some_and(|client| client.role == Role::Session(session));
        if !is_attached || is_detached {
            self.abandon_session(session);
        }
        name
    }

    /// Has an archive carried in or out for a client, who gets the other end of its stream.
    pub(super) fn begin_carrying(&mut self, number: u32, what: &Carry) -> io::Result<()> {
        if self.sessions.len() >= MOST_SESSIONS {
            return Err(io::Error::other(format!(
                "{MOST_SESSIONS} processes run by exec already"
            )));
        }
        let is_out = !matches!(what, Carry::Into { .. });
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (theirs, ours) = match is_out {
            true => (writer, reader),
            false => (reader, writer),
        };
        let process = match self.backend.inside() {
            Some(mut inside) => inside.carry(what, theirs)?,
            None => {
                return Err(io::Error::other(
                    "the host itself sees the files of this instance",
                ));
            }
        };
        let mut ends = Ends::default();
        match is_out {
            true => ends.stdout = Some(ours),
            false => ends.stdin = Some(ours),
        }
        self.begin_session(number, process, ends, None, false);
        Ok(())
    }

    /// Looks after a process only until it has ended.
    pub(super) fn collect_later(&mut self, process: Process) {
        let session = self.number();
        let watched = self
            .poller
            .add(&process.ended, Token::SessionEnded(session), Interest::READ);
        match watched {
            Ok(()) => {
                let session_of = Session {
                    has_terminal: false,
                    process,
                    client: None,
                    stdout: None,
                    stderr: None,
                    name: None,
                };
                self.sessions.insert(session, session_of);
            }
            Err(error) => self.complain("watch a process", &error),
        }
    }

    /// The client has gone: what the process writes is thrown away from now on.
    pub(super) fn abandon_session(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let sources = [
            (&session.stdout, Token::SessionStdout(number)),
            (&session.stderr, Token::SessionStderr(number)),
        ];
        for (fd, token) in sources {
            if let Some(fd) = fd {
                let _ = rustix::io::ioctl_fionbio(fd, true);
                let _ = self.poller.add(fd, token, Interest::READ);
            }
        }
    }

    pub(super) fn drain_session(&mut self, token: Token, number: u32) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let source = match token {
            Token::SessionStderr(_) => &mut session.stderr,
            _ => &mut session.stdout,
        };
        let mut bytes = [0; 4096];
        while let Some(fd) = source {
            match streams::read(&*fd, &mut bytes) {
                Got::Bytes(_) => {}
                Got::Nothing => return,
                Got::End => {
                    self.poller.remove(&*fd);
                    *source = None;
                }
            }
        }
    }

    pub(super) fn session_ended(&mut self, number: u32) {
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        for fd in [&session.stdout, &session.stderr].into_iter().flatten() {
            self.poller.remove(fd);
        }
        self.poller.remove(&session.process.ended);
        let exit = match self.backend.reap(&session.process) {
            Ok(Ended::Code(code)) => Exit {
                code: code.into(),
                reason: ExitReason::Exited,
            },
            Ok(Ended::Signal(signal)) => Exit {
                code: 128 + signal.number(),
                reason: ExitReason::Signalled { signal },
            },
            Ok(Ended::Crashed(message)) => Exit {
                code: 255,
                reason: ExitReason::Crashed { message },
            },
            Ok(Ended::Unknown) => unknown(),
            Err(error) => {
                self.complain("collect a process", &error);
                unknown()
            }
        };
        let client = session
            .client
            .and_then(|client| self.clients.get_mut(&client))
            .filter(|client| client.role == Role::Session(number));
        if let Some(client) = client {
            client.send(&exit_frame(&exit));
            client.close_after_flush(Some(PATIENCE));
        }
        self.tend_clients();
        if let (Some(name), true) = (session.name, self.over_since.is_none()) {
            let note = Note::new("exec_die")
                .with("execID", name)
                .with("exitCode", exit.code);
            self.note(note);
        }
    }

    /// Tells the terminal of a session its size.
    pub(super) fn resize_session(&mut self, number: u32, size: WindowSize) {
        let session = self.sessions.get(&number).filter(|it| it.has_terminal);
        if let Some((session, terminal)) = session.and_then(|it| Some((it, it.stdout.as_ref()?))) {
            // Its process may have ended just now.
            let process = &session.process;
            let _ = self.backend.resize(process, terminal.as_fd(), size);
        }
    }

    /// Sends a signal to the process of a session.
    pub(super) fn signal_session(&mut self, number: u32, signal: isle_types::Signal) {
        if let Some(session) = self.sessions.get(&number) {
            // It may have ended just now.
            let _ = self.backend.signal(&session.process, signal);
        }
    }
}

fn unknown() -> Exit {
    Exit {
        code: 255,
        reason: ExitReason::SupervisorLost,
    }
}

/// The streams of a process without a terminal: its own ends, and the client's.
fn make_streams(open_stdin: bool, is_detached: bool) -> io::Result<([OwnedFd; 3], Ends)> {
    let null = streams::null()?;
    if is_detached {
        return Ok((
            [null.try_clone()?, null.try_clone()?, null],
            Ends::default(),
        ));
    }
    let mut ends = Ends::default();
    let stdin = match open_stdin {
        true => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            ends.stdin = Some(writer);
            reader
        }
        false => null,
    };
    let (reader, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    ends.stdout = Some(reader);
    let (reader, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    ends.stderr = Some(reader);
    Ok(([stdin, stdout, stderr], ends))
}
