//! A client of the QEMU Machine Protocol.
//!
//! It has one thread and never blocks longer than it is told to: the supervisor's loop waits for
//! [`Monitor`]'s descriptor, calls [`Monitor::tend`] when it is readable, and takes events. A
//! command waits for its answer until a deadline; events that come meanwhile are kept.
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

mod event;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

pub use event::Event;

/// Longest message taken. QEMU's longest (its whole schema) is a fifth of that.
const LONGEST: usize = 1 << 20;
/// Answers kept that nobody has waited for yet: more than are ever asked for at once.
const MOST_ANSWERS: usize = 64;
/// Events kept for who does not ask; the oldest go first.
const MOST_EVENTS: usize = 256;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// QEMU has closed the connection: it has ended, or a new client took its place.
    #[error("QEMU has closed its monitor")]
    Closed,
    /// No answer in time.
    #[error("QEMU did not answer {what} within {}.{:03} s", .after.as_secs(), .after.subsec_millis())]
    Timeout {
        /// The command, or what was waited for.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// QEMU says no.
    #[error("QEMU refuses {command}: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// In QEMU's words.
        reason: String,
    },
    /// What came is not the protocol.
    #[error("QEMU's monitor sent what is not its protocol: {text:?}")]
    Malformed {
        /// Its beginning.
        text: String,
    },
    /// The connection.
    #[error("cannot reach QEMU's monitor")]
    Io(#[source] io::Error),
}

impl From<rustix::io::Errno> for MonitorError {
    fn from(errno: rustix::io::Errno) -> Self {
        MonitorError::Io(errno.into())
    }
}

/// What has been sent and not been answered yet.
#[derive(Debug)]
#[must_use = "an answer may be an error"]
pub struct Sent {
    id: u64,
    command: String,
    at: Instant,
}

impl Sent {
    /// Its answer is dropped when it comes.
    pub(crate) fn forget(self) {}
}

/// A connection to the monitor of a QEMU.
#[derive(Debug)]
pub struct Monitor {
    socket: UnixStream,
    /// What came and is not a whole line yet.
    received: Vec<u8>,
    next_id: u64,
    answers: BTreeMap<u64, Result<Value, String>>,
    events: VecDeque<Event>,
    is_closed: bool,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Monitor {
    /// Takes a connected socket. What is sent is read by QEMU when it gets there, so that commands
    /// may be sent before it has started; the first must be [`Monitor::negotiate`].
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Monitor> {
        socket.set_nonblocking(true)?;
        Ok(Monitor {
            socket,
            received: Vec::new(),
            next_id: 0,
            answers: BTreeMap::new(),
            events: VecDeque::new(),
            is_closed: false,
        })
    }

    /// Leaves the negotiation that each connection begins with.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn negotiate(&mut self) -> Result<Sent, MonitorError> {
        self.send("qmp_capabilities", Value::Null, &[])
    }

    /// Sends a command, with descriptors for it (`getfd`, `add-fd`).
    ///
    /// # Errors
    /// When QEMU is gone, or takes nothing for ten seconds.
    pub fn send(
        &mut self,
        command: &str,
        arguments: Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Sent, MonitorError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({"execute": command, "id": id});
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(b'\n');
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut rest = bytes.as_slice();
        let mut descriptors = descriptors;
        while !rest.is_empty() {
            match self.send_some(rest, descriptors) {
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or(&[]);
                    descriptors = &[];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if !wait(&self.socket, PollFlags::OUT, deadline)? {
                        return Err(MonitorError::Timeout {
                            what: command.to_owned(),
                            after: Duration::from_secs(10),
                        });
                    }
                }
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                    return Err(MonitorError::Closed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Sent {
            id,
            command: command.to_owned(),
            at: Instant::now(),
        })
    }

    fn send_some(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(rustix::io::Errno::TOOBIG);
        }
        let parts = [io::IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// [`MonitorError`]; the answer that comes after the deadline is dropped.
    pub fn answer(&mut self, sent: &Sent, deadline: Instant) -> Result<Value, MonitorError> {
        loop {
            if let Some(answer) = self.answers.remove(&sent.id) {
                // Those before it were given up.
                self.answers = self.answers.split_off(&sent.id);
                return answer.map_err(|reason| MonitorError::Refused {
                    command: sent.command.clone(),
                    reason,
                });
            }
            self.more(deadline, sent.at, || format!("\"{}\"", sent.command))?;
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, MonitorError> {
        let sent = self.send(command, arguments, &[])?;
        self.answer(&sent, deadline)
    }

    /// Waits for an event for which `wanted` says yes, and takes it; the others are kept.
    ///
    /// # Errors
    /// [`MonitorError`]; `what` is for its text.
    pub fn wait_for(
        &mut self,
        what: &str,
        wanted: impl Fn(&Event) -> bool,
        deadline: Instant,
    ) -> Result<Event, MonitorError> {
        let since = Instant::now();
        loop {
            if let Some(index) = self.events.iter().position(&wanted)
                && let Some(event) = self.events.remove(index)
            {
                return Ok(event);
            }
            self.more(deadline, since, || what.to_owned())?;
        }
    }

    /// Waits for more and takes it.
    fn more(
        &mut self,
        deadline: Instant,
        since: Instant,
        what: impl FnOnce() -> String,
    ) -> Result<(), MonitorError> {
        if self.is_closed {
            return Err(MonitorError::Closed);
        }
        if !wait(&self.socket, PollFlags::IN, deadline)? {
            return Err(MonitorError::Timeout {
                what: what(),
                after: since.elapsed(),
            });
        }
        self.tend()
    }

    /// Takes what is there, without waiting. Called when the descriptor is readable.
    ///
    /// # Errors
    /// When what came is not the protocol. The end of the connection is no error here: see
    /// [`Monitor::is_closed`].
    pub fn tend(&mut self) -> Result<(), MonitorError> {
        let mut chunk = [0_u8; 4096];
        while !self.is_closed {
            match (&self.socket).read(&mut chunk) {
                Ok(0) => self.is_closed = true,
                Ok(count) => {
                    self.received.extend(chunk.iter().take(count));
                    self.take_lines()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.is_closed = true;
                }
                Err(error) => return Err(MonitorError::Io(error)),
            }
        }
        Ok(())
    }

    fn take_lines(&mut self) -> Result<(), MonitorError> {
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            self.take(&line)?;
        }
        if self.received.len() > LONGEST {
            return Err(malformed(&self.received));
        }
        if self.received.is_empty() {
            // A supervisor lives long, and QEMU's answers are short but for a few.
            self.received = Vec::new();
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), MonitorError> {
        let mut message: Value = serde_json::from_slice(line).map_err(|_| malformed(line))?;
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let data = message.get("data").unwrap_or(&Value::Null);
            if self.events.len() >= MOST_EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(Event::from_message(name, data));
            return Ok(());
        }
        // A QEMU that was taken over may answer what nobody has asked.
        let id = message.get("id").and_then(Value::as_u64);
        if id.is_some_and(|id| id >= self.next_id) || self.answers.len() >= MOST_ANSWERS {
            return Err(malformed(line));
        }
        if let Some(result) = message.get_mut("return") {
            if let Some(id) = id {
                self.answers.insert(id, Ok(result.take()));
            }
        } else if let Some(error) = message.get("error") {
            let reason = error.get("desc").and_then(Value::as_str);
            let reason = reason.unwrap_or("without a reason").to_owned();
            match id {
                Some(id) => drop(self.answers.insert(id, Err(reason))),
                // It did not understand what was sent.
                None => return Err(malformed(line)),
            }
        } else if message.get("QMP").is_none() {
            return Err(malformed(line));
        }
        Ok(())
    }

    /// The oldest event that nobody has taken.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether QEMU has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

fn malformed(bytes: &[u8]) -> MonitorError {
    let text = String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes));
    MonitorError::Malformed {
        text: text.trim().to_owned(),
    }
}

/// Waits until a descriptor is ready; `false`: the deadline came first.
pub(crate) fn wait(fd: impl AsFd, flags: PollFlags, deadline: Instant) -> rustix::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: i32::MAX.into(),
            tv_nsec: 0,
        });
        match poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::thread;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A monitor whose other end answers each line with what `script` returns for it.
    fn scripted(
        script: impl Fn(&Value) -> String + Send + 'static,
    ) -> (Monitor, thread::JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut to = theirs.try_clone().unwrap();
            writeln!(to, "{GREETING}").unwrap();
            for line in BufReader::new(theirs).lines() {
                let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let answer = script(&command);
                if answer == "end" {
                    return;
                }
                // In two parts, as a stream may bring it.
                let (first, second) = answer.split_at(answer.len() / 2);
                to.write_all(first.as_bytes()).unwrap();
                thread::yield_now();
                to.write_all(second.as_bytes()).unwrap();
            }
        });
        (Monitor::new(ours).unwrap(), server)
    }

    fn ok(command: &Value) -> String {
        format!("{{\"return\": {{}}, \"id\": {}}}\n", command["id"])
    }

    #[test]
    fn events_that_come_before_an_answer_are_kept() {
        let (mut monitor, server) = scripted(|command| match command["execute"].as_str() {
            Some("stop") => format!("{{\"event\": \"STOP\"}}\r\n{}", ok(command)),
            _ => ok(command),
        });
        let negotiated = monitor.negotiate().unwrap();
        let stopped = monitor.send("stop", Value::Null, &[]).unwrap();
        monitor.answer(&stopped, soon()).unwrap();
        assert_eq!(monitor.next_event(), Some(Event::Stop));
        assert_eq!(monitor.next_event(), None);
        // Given up: an answer before one that was taken.
        let late = monitor.answer(&negotiated, Instant::now());
        assert!(matches!(late, Err(MonitorError::Timeout { .. })));
        drop(monitor);
        server.join().unwrap();
    }

    #[test]
    fn a_refusal_has_qemus_words() {
        let (mut monitor, server) = scripted(|command| {
            let id = &command["id"];
            format!(
                "{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no such node\"}}, \"id\": {id}}}\n"
            )
        });
        let error = monitor
            .execute("block_resize", json!({"size": 1}), soon())
            .unwrap_err();
        assert_eq!(error.to_string(), "QEMU refuses block_resize: no such node");
        drop(monitor);
        server.join().unwrap();
    }

    #[test]
    fn silence_ends_at_the_deadline_and_an_end_is_told() {
        let (mut monitor, server) = scripted(|command| match command["execute"].as_str() {
            Some("quit") => "end".to_owned(),
            _ => String::new(),
        });
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = monitor
            .execute("query-status", Value::Null, deadline)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("QEMU did not answer \"query-status\" within 0.0")
        );
        let error = monitor.execute("quit", Value::Null, soon()).unwrap_err();
        assert!(matches!(error, MonitorError::Closed), "{error}");
        assert!(monitor.is_closed());
        server.join().unwrap();
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        let (mut monitor, server) = scripted(|_| "Welcome to the monitor\n".to_owned());
        let error = monitor.execute("stop", Value::Null, soon()).unwrap_err();
        assert!(matches!(error, MonitorError::Malformed { .. }), "{error}");
        drop(monitor);
        server.join().unwrap();
    }

    #[test]
    fn answers_that_nobody_has_asked_for_are_not_collected() {
        let (mut monitor, server) = scripted(|command| match command["execute"].as_str() {
            Some("stop") => "{\"return\": {}, \"id\": 7}\n".to_owned(),
            _ => ok(command),
        });
        monitor.execute("cont", Value::Null, soon()).unwrap();
        let error = monitor.execute("stop", Value::Null, soon()).unwrap_err();
        assert!(matches!(error, MonitorError::Malformed { .. }), "{error}");
        drop(monitor);
        server.join().unwrap();
    }

    #[test]
    fn who_takes_no_events_does_not_collect_them_for_ever() {
        let (mut monitor, server) = scripted(|command| {
            "{\"event\": \"RTC_CHANGE\"}\n".repeat(MOST_EVENTS + 7) + &ok(command)
        });
        monitor.execute("stop", Value::Null, soon()).unwrap();
        assert_eq!(monitor.events.len(), MOST_EVENTS);
        drop(monitor);
        server.join().unwrap();
    }
}
