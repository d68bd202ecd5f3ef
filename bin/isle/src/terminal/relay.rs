//! The loop between the user's streams and an instance: one thread, poll(2).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use isle_engine::state::Exit;
use isle_engine::{Attachment, ExecSession, Output, WindowSize};
use isle_types::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::detach::DetachFilter;
use super::signals::{Received, SignalQueue};
use super::{RawMode, window_size};
use crate::flags::detach_keys::DetachKeys;

/// How the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process has ended.
    Exited(Exit),
    /// The user typed the detach keys.
    Detached,
    /// We were told to end, and not to pass that on.
    Interrupted(Signal),
    /// The supervisor has gone; the store tells the rest.
    Lost,
    /// Whoever read our standard output has gone. As under Docker, the instance runs on.
    OutputClosed,
}

/// What is relayed.
#[derive(Debug)]
pub struct Relay {
    /// Our standard input to the instance's.
    pub stdin: bool,
    /// It has a terminal: ours becomes raw, and window sizes are passed on.
    pub tty: bool,
    /// Signals are passed on.
    pub sig_proxy: bool,
    /// The keys that detach; only looked for with a terminal on standard input.
    pub detach_keys: DetachKeys,
    /// When our standard input has ended there is nothing left to do: no output is relayed.
    pub leaves_with_stdin: bool,
}

/// Small enough that a socket which poll(2) calls writable takes it without blocking.
const CHUNK: usize = 16 << 10;
/// What a pipe or terminal that poll(2) calls writable takes without blocking (PIPE_BUF).
const PIPE_CHUNK: usize = 4096;

/// The other end of the relay.
trait Peer {
    /// Where output comes from, in the order in which it is looked at.
    fn sources(&self) -> Vec<BorrowedFd<'_>>;
    /// Where input goes, to wait until it takes some.
    fn sink(&self) -> Option<BorrowedFd<'_>>;
    /// Reads from a source that is ready; an outcome ends the loop.
    fn receive(&mut self, index: usize) -> io::Result<Option<Outcome>>;
    /// Hands input over; says how much was taken.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// No more input comes.
    fn close(&mut self) -> io::Result<()>;
    /// The window has another size.
    fn resize(&mut self, size: WindowSize) -> io::Result<()>;
    /// Passes a signal on.
    fn signal(&mut self, signal: Signal) -> io::Result<()>;
}

impl Relay {
    /// Relays until the instance ends or the user detaches.
    pub fn attach(self, session: &mut Attachment) -> io::Result<Outcome> {
        output_closed(self.run(&mut AttachPeer { session }))
    }

    /// Relays until the process ends.
    pub fn exec(self, session: &mut ExecSession) -> io::Result<Outcome> {
        output_closed(self.run(&mut ExecPeer { session }))
    }

    fn run(self, peer: &mut impl Peer) -> io::Result<Outcome> {
        let raw = match self.tty && self.stdin {
            true => RawMode::enter()?,
            false => None,
        };
        let mut filter = raw.as_ref().map(|_| DetachFilter::new(self.detach_keys));
        let mut signals = SignalQueue::new(self.sig_proxy)?;
        if self.tty
            && let Some(size) = window_size()
        {
            ignore_gone(peer.resize(size))?;
        }
        let stdin = io::stdin();
        let mut reads_stdin = self.stdin;
        if self.leaves_with_stdin && !reads_stdin {
            return Ok(Outcome::Detached);
        }
        let mut detached = false;
        let mut pending: Vec<u8> = Vec::new();
        loop {
            let waits_to_send = !pending.is_empty();
            let ready = {
                let mut fds = vec![PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)];
                let sources = peer.sources();
                let sink = peer.sink().filter(|_| waits_to_send);
                for source in &sources {
                    fds.push(PollFd::from_borrowed_fd(*source, PollFlags::IN));
                }
                let sink_at = sink.map(|sink| {
                    fds.push(PollFd::from_borrowed_fd(sink, PollFlags::OUT));
                    fds.len() - 1
                });
                // Input is read only when what was read before has been handed over.
                let stdin_at = (reads_stdin && !waits_to_send).then(|| {
                    fds.push(PollFd::new(&stdin, PollFlags::IN));
                    fds.len() - 1
                });
                match poll(&mut fds, None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
                let is_ready = |index: usize| !fds[index].revents().is_empty();
                Ready {
                    signals: is_ready(0),
                    sources: (0..sources.len()).filter(|at| is_ready(at + 1)).collect(),
                    sink: sink_at.is_some_and(is_ready),
                    stdin: stdin_at.is_some_and(is_ready),
                }
            };
            if ready.signals {
                for received in signals.take() {
                    match received {
                        Received::Resized if self.tty => {
                            if let Some(size) = window_size() {
                                ignore_gone(peer.resize(size))?;
                            }
                        }
                        Received::Resized => {}
                        Received::Signal(signal) if self.sig_proxy => {
                            ignore_gone(peer.signal(signal))?;
                        }
                        Received::Signal(signal) => return Ok(Outcome::Interrupted(signal)),
                    }
                }
            }
            // From the last to the first: a source that ends does not move those before it.
            for index in ready.sources.into_iter().rev() {
                if let Some(outcome) = peer.receive(index)? {
                    return Ok(outcome);
                }
            }
            if ready.sink {
                match peer.send(&pending) {
                    Ok(taken) => drop(pending.drain(..taken)),
                    Err(error) if is_gone(&error) => {
                        // It has closed its input: what is left is for nobody.
                        pending.clear();
                        reads_stdin = false;
                    }
                    Err(error) => return Err(error),
                }
            }
            if detached && pending.is_empty() {
                return Ok(Outcome::Detached);
            }
            if ready.stdin {
                let mut buffer = [0; CHUNK];
                let count = match rustix::io::read(&stdin, &mut buffer) {
                    Ok(count) => count,
                    Err(Errno::INTR | Errno::AGAIN) => continue,
                    // The terminal was hung up.
                    Err(Errno::IO) => 0,
                    Err(error) => return Err(error.into()),
                };
                if count == 0 {
                    reads_stdin = false;
                    ignore_gone(peer.close())?;
                    if self.leaves_with_stdin {
                        return Ok(Outcome::Detached);
                    }
                    continue;
                }
                match &mut filter {
                    None => pending.extend_from_slice(&buffer[..count]),
                    Some(filter) => {
                        let (passed, is_detach) = filter.feed(&buffer[..count]);
                        pending.extend_from_slice(&passed);
                        detached = is_detach;
                        if detached && pending.is_empty() {
                            return Ok(Outcome::Detached);
                        }
                    }
                }
            }
        }
    }
}

struct Ready {
    signals: bool,
    sources: Vec<usize>,
    sink: bool,
    stdin: bool,
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// What was meant for a process that has just ended is lost, as it should be.
fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}

struct AttachPeer<'a> {
    session: &'a mut Attachment,
}

impl Peer for AttachPeer<'_> {
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.session.fd()]
    }

    fn sink(&self) -> Option<BorrowedFd<'_>> {
        Some(self.session.fd())
    }

    fn receive(&mut self, _: usize) -> io::Result<Option<Outcome>> {
        Ok(match self.session.receive()? {
            Some(Output::Stdout(bytes)) => {
                write_out(&mut io::stdout().lock(), &bytes)?;
                None
            }
            Some(Output::Stderr(bytes)) => {
                write_out(&mut io::stderr().lock(), &bytes)?;
                None
            }
            Some(Output::Exit(exit)) => Some(Outcome::Exited(exit)),
            None => Some(Outcome::Lost),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.session.send_stdin(bytes)?;
        Ok(bytes.len())
    }

    fn close(&mut self) -> io::Result<()> {
        self.session.close_stdin()
    }

    fn resize(&mut self, size: WindowSize) -> io::Result<()> {
        self.session.resize(size)
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.session.signal(signal)
    }
}

struct ExecPeer<'a> {
    session: &'a mut ExecSession,
}

impl ExecPeer<'_> {
    /// The streams that are still open, and to which of ours they belong.
    fn streams(&self) -> Vec<(&OwnedFd, Stream)> {
        let session = &self.session;
        let terminal = session.terminal.iter().map(|fd| (fd, Stream::Terminal));
        let stdout = session.stdout.iter().map(|fd| (fd, Stream::Stdout));
        let stderr = session.stderr.iter().map(|fd| (fd, Stream::Stderr));
        terminal.chain(stdout).chain(stderr).collect()
    }

    /// Copies one piece; `false` at the end of the stream.
    fn copy(fd: &OwnedFd, stream: Stream) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        let count = match rustix::io::read(fd, &mut buffer) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
            // A terminal that nobody has open any more.
            Err(Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        match stream {
            Stream::Stderr => write_out(&mut io::stderr().lock(), &buffer[..count])?,
            _ => write_out(&mut io::stdout().lock(), &buffer[..count])?,
        }
        Ok(count > 0)
    }

    /// What the process has written before it ended is in the pipes: take that, and do not wait
    /// for children of it that hold them open.
    fn drain(&mut self) -> io::Result<()> {
        for (fd, stream) in self.streams() {
            loop {
                let mut fds = [PollFd::new(fd, PollFlags::IN)];
                let none = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                match poll(&mut fds, Some(&none)) {
                    Ok(0) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if !Self::copy(fd, stream)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Terminal,
    Stdout,
    Stderr,
}

impl Peer for ExecPeer<'_> {
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let streams = self.streams().into_iter().map(|(fd, _)| fd.as_fd());
        streams.chain([self.session.fd()]).collect()
    }

    fn sink(&self) -> Option<BorrowedFd<'_>> {
        let session = &self.session;
        session
            .terminal
            .as_ref()
            .or(session.stdin.as_ref())
            .map(AsFd::as_fd)
    }

    fn receive(&mut self, index: usize) -> io::Result<Option<Outcome>> {
        let streams = self.streams();
        let Some((fd, stream)) = streams.get(index).copied() else {
            let exit = self.session.wait()?;
            self.drain()?;
            return Ok(Some(Outcome::Exited(exit)));
        };
        if !Self::copy(fd, stream)? {
            match stream {
                Stream::Terminal => self.session.terminal = None,
                Stream::Stdout => self.session.stdout = None,
                Stream::Stderr => self.session.stderr = None,
            }
        }
        Ok(None)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let session = &self.session;
        let Some(sink) = session.terminal.as_ref().or(session.stdin.as_ref()) else {
            return Ok(bytes.len());
        };
        match rustix::io::write(sink, &bytes[..bytes.len().min(PIPE_CHUNK)]) {
            Ok(taken) => Ok(taken),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        self.session.stdin = None;
        Ok(())
    }

    fn resize(&mut self, size: WindowSize) -> io::Result<()> {
        self.session.resize(size)
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        self.session.signal(signal)
    }
}

/// Tells a standard output that nobody reads from a peer that is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct Closed;

fn output_closed(result: io::Result<Outcome>) -> io::Result<Outcome> {
    match result {
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Closed>()) => {
            Ok(Outcome::OutputClosed)
        }
        result => result,
    }
}

fn write_out(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(io::Error::other(Closed)),
        result => result,
    }
}
