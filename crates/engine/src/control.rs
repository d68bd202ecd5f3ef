//! The client's end of a conversation with the supervisor of an instance.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_types::{InstanceId, Signal};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::backend::inside::{Answer, Carry, Question};
use crate::config::InstanceConfig;
use crate::protocol::{
    Attached, Cause, Exec, ExecStarted, Failed, HEADER, Header, NetworkChange, Networks,
    ProtocolError, Request, Stop, Update, from_json, kind,
};
use crate::session::{Attachment, ExecSession, Replay, WindowSize};
use crate::state::Exit;
use crate::supervisor::{address, last_words};
use crate::{AttachRequest, ExecRequest, LogRequest, Paths, Stats, UpdateRequest, WaitCondition};

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixStream,
    directory: PathBuf,
}

/// Why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No supervisor listens: the instance does not run.
    #[error("no supervisor looks after it")]
    NoSupervisor,
    /// The connection ended without an answer: the supervisor has ended or was killed.
    #[error("its supervisor has ended without an answer{}", said(.last_words.as_deref()))]
    HungUp {
        /// What it said when it panicked.
        last_words: Option<String>,
    },
    /// The supervisor says no.
    #[error("{}", .0.message)]
    Refused(Failed),
    /// The supervisor speaks otherwise.
    #[error("its supervisor does not speak as it should")]
    Protocol(#[from] ProtocolError),
    /// The socket failed.
    #[error("cannot talk to its supervisor")]
    Socket(#[from] io::Error),
    /// The program `isle-shim` is not there.
    #[error("cannot find the supervisor program isle-shim")]
    NoProgram,
    /// The program `isle-shim` cannot be run.
    #[error("cannot run the supervisor program {path}")]
    CannotRun {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn said(last_words: Option<&str>) -> String {
    last_words.map_or_else(String::new, |words| format!(": {words}"))
}

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Control {
    /// Connects to the supervisor of an instance.
    pub(crate) fn connect(paths: &Paths, id: &InstanceId) -> Result<Control, ControlError> {
        Control::to(&paths.instance_run(id))
    }

    /// Connects to the supervisor that listens in a directory.
    pub(crate) fn to(directory: &Path) -> Result<Control, ControlError> {
        match address::connect(directory) {
            Ok(socket) => Ok(Control::over(socket, directory)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Err(ControlError::NoSupervisor)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// A conversation over a connection that is there already.
    pub(crate) fn over(socket: UnixStream, directory: &Path) -> Control {
        Control {
            socket,
            directory: directory.to_owned(),
        }
    }

    /// Asks, and waits for the answer of the given kind.
    pub(crate) fn ask(&mut self, request: &Request, expected: u8) -> Result<Vec<u8>, ControlError> {
        self.send(request)?;
        self.answer(expected)
    }

    pub(crate) fn send(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.socket.write_all(&request.encode()) {
            // It may have said why before it hung up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }

    /// Waits for the answer of the given kind.
    pub(crate) fn answer(&mut self, expected: u8) -> Result<Vec<u8>, ControlError> {
        let frame = match read_frame(&mut self.socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            frame => frame?,
        };
        match frame {
            None => Err(self.hung_up()),
            Some(frame) => expect(frame, expected),
        }
    }

    fn hung_up(&self) -> ControlError {
        ControlError::HungUp {
            last_words: last_words::of(&self.directory),
        }
    }

    /// Sends a signal to the instance's first process.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<(), ControlError> {
        self.ask(&Request::Signal(signal), kind::DONE).map(drop)
    }

    /// Asks to stop the instance, and does not wait for the answer.
    pub(crate) fn begin_stop(
        mut self,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<Control, ControlError> {
        self.send(&Request::Stop(Stop { signal, timeout }))?;
        Ok(self)
    }

    /// Stops the instance; returns once its state is written.
    #[cfg(test)]
    pub(crate) fn stop(
        self,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<(), ControlError> {
        self.begin_stop(signal, timeout)?.finish_stop()
    }

    /// Waits until the instance that was asked to stop has stopped and its state is written.
    pub(crate) fn finish_stop(&mut self) -> Result<(), ControlError> {
        self.answer(kind::DONE).map(drop)
    }

    /// Stops the instance and starts it again; returns once it runs.
    pub(crate) fn restart(
        &mut self,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<(), ControlError> {
        let stop = Stop { signal, timeout };
        self.ask(&Request::Restart(stop), kind::DONE).map(drop)
    }

    /// Freezes it.
    pub(crate) fn pause(&mut self) -> Result<(), ControlError> {
        self.ask(&Request::Pause, kind::DONE).map(drop)
    }

    /// Freezes it until [`Control::resume`] on this connection, or the connection's end.
    pub(crate) fn hold(&mut self) -> Result<(), ControlError> {
        self.ask(&Request::Hold, kind::DONE).map(drop)
    }

    /// Thaws it; after [`Control::hold`], unless somebody else holds it too.
    pub(crate) fn resume(&mut self) -> Result<(), ControlError> {
        self.ask(&Request::Resume, kind::DONE).map(drop)
    }

    /// Changes limits and restart policy of what runs, and in its row.
    pub(crate) fn update(&mut self, request: &UpdateRequest) -> Result<(), ControlError> {
        let update = Update {
            resources: request.resources.clone(),
            restart: request.restart,
        };
        self.ask(&Request::Update(update), kind::DONE).map(drop)
    }

    /// Changes networks or ports of what runs, and in its row.
    pub(crate) fn change_networks(
        &mut self,
        config: &InstanceConfig,
        change: &NetworkChange,
    ) -> Result<(), ControlError> {
        let networks = Networks {
            change: change.clone(),
            config: config.clone(),
        };
        self.ask(&Request::Networks(Box::new(networks)), kind::DONE)
            .map(drop)
    }

    /// One reading.
    pub(crate) fn stats(&mut self) -> Result<Stats, ControlError> {
        let payload = self.ask(&Request::Stats, kind::STATS_READ)?;
        Ok(from_json(kind::STATS_READ, &payload)?)
    }

    /// Waits for the end of a run. [`ControlError::HungUp`]: look into the store.
    pub(crate) fn wait(&mut self, condition: WaitCondition) -> Result<Exit, ControlError> {
        let payload = self.ask(&Request::Wait(condition), kind::EXIT)?;
        Ok(from_json(kind::EXIT, &payload)?)
    }

    /// A descriptor that is hung up once the supervisor has ended: for those who follow a log.
    pub(crate) fn into_watch(mut self) -> OwnedFd {
        // A supervisor hangs up on clients that do not say what they want. What fails here is
        // seen as the end right away, which it is.
        let _ = self.send(&Request::Wait(WaitCondition::Removed));
        self.socket.into()
    }

    /// Attaches. With a log at `log`, what is in it comes first when the request asks for it.
    pub(crate) fn attach(
        mut self,
        request: AttachRequest,
        log: Option<PathBuf>,
    ) -> Result<Attachment, ControlError> {
        let payload = self.ask(&Request::Attach(request), kind::ATTACHED)?;
        let attached: Attached = from_json(kind::ATTACHED, &payload)?;
        let replay = match (request.replay_log, log, attached.logged_until) {
            (true, Some(log), Some(until)) => {
                let wanted = LogRequest {
                    until: Some(until),
                    stdout: request.stdout,
                    stderr: request.stderr,
                    ..LogRequest::default()
                };
                Some(Replay::open(log, &wanted)?)
            }
            _ => None,
        };
        Ok(self.into_attachment(replay))
    }

    pub(crate) fn into_attachment(self, replay: Option<Replay>) -> Attachment {
        Attachment::new(self.socket, self.directory, replay)
    }

    /// Asks for something that only the level itself can see.
    pub(crate) fn ask_inside(&mut self, question: &Question) -> Result<Answer, ControlError> {
        self.send(&Request::Ask(question.clone()))?;
        let mut text = Vec::new();
        loop {
            let frame = read_frame(&mut self.socket)?.ok_or_else(|| self.hung_up())?;
            let is_part = frame.kind == kind::PART;
            text.extend(match is_part {
                true => frame.payload,
                false => expect(frame, kind::ANSWERED)?,
            });
            if !is_part {
                return Ok(from_json(kind::ANSWERED, &text)?);
            }
        }
    }

    /// Has an archive carried out of the instance (its standard output) or into it (its standard
    /// input).
    pub(crate) fn carry(self, what: &Carry) -> Result<ExecSession, ControlError> {
        self.begin_session(&Request::Carry(what.clone()))
    }

    /// Runs a further process inside.
    pub(crate) fn exec(
        self,
        request: &ExecRequest,
        window: Option<WindowSize>,
    ) -> Result<ExecSession, ControlError> {
        let exec = Exec {
            request: request.clone(),
            window,
        };
        self.begin_session(&Request::Exec(exec))
    }

    fn begin_session(mut self, request: &Request) -> Result<ExecSession, ControlError> {
        self.send(request)?;
        let (frame, descriptors) =
            read_frame_with_descriptors(&mut self.socket)?.ok_or_else(|| self.hung_up())?;
        let payload = expect(frame, kind::EXEC_STARTED)?;
        let which: ExecStarted = from_json(kind::EXEC_STARTED, &payload)?;
        let mut descriptors = descriptors.into_iter();
        let mut take = |is_there: bool| match is_there {
            true => descriptors.next(),
            false => None,
        };
        let (stdin, stdout) = (take(which.stdin), take(which.stdout));
        let (stderr, terminal) = (take(which.stderr), take(which.terminal));
        Ok(ExecSession::new(
            self.socket,
            [stdin, stdout, stderr],
            terminal,
        ))
    }
}

impl ControlError {
    /// What kind of refusal, when it is one.
    pub(crate) fn cause(&self) -> Option<Cause> {
        match self {
            ControlError::Refused(failed) => Some(failed.cause),
            _ => None,
        }
    }
}

fn expect(frame: Frame, expected: u8) -> Result<Vec<u8>, ControlError> {
    match frame.kind {
        kind if kind == expected => Ok(frame.payload),
        kind::FAILED => Err(ControlError::Refused(from_json(
            kind::FAILED,
            &frame.payload,
        )?)),
        kind => Err(ProtocolError::UnknownKind { kind }.into()),
    }
}

/// Reads exactly one frame, so that the socket is readable again as long as there is more.
/// `None` when the other end has hung up between two frames.
pub(crate) fn read_frame(socket: &mut UnixStream) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match socket.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    read_payload(socket, header).map(Some)
}

fn read_payload(socket: &mut UnixStream, header: [u8; HEADER]) -> io::Result<Frame> {
    let header = Header::decode(header).map_err(io::Error::other)?;
    let mut payload = vec![0; header.length];
    socket.read_exact(&mut payload)?;
    Ok(Frame {
        kind: header.kind,
        payload,
    })
}

fn read_frame_with_descriptors(
    socket: &mut UnixStream,
) -> io::Result<Option<(Frame, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut header = [0; HEADER];
    let received = loop {
        let mut into = [io::IoSliceMut::new(&mut header)];
        match recvmsg(&*socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(found) = message {
            descriptors.extend(found);
        }
    }
    socket.read_exact(&mut header[received..])?;
    Ok(Some((read_payload(socket, header)?, descriptors)))
}
