//! The connections of supervisors: who is there, and for whom.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use crate::names::Servers;
use crate::poller::{Interest, Poller, Token};
use crate::protocol::{Answer, Inbox, Message, Notice, Request, frame};

/// A supervisor that does not read what it is told is told no more than this many bytes.
const MOST_UNSENT: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
struct Supervisor {
    stream: UnixStream,
    inbox: Inbox,
    unsent: VecDeque<u8>,
    instance: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Supervisors {
    connections: BTreeMap<u32, Supervisor>,
    /// The connection of an instance, and its own name servers. The latest one counts: the one before it may have
    /// been killed a moment ago.
    instances: BTreeMap<String, (u32, Vec<IpAddr>)>,
    next: u32,
}

/// What a connection brought.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Each wants an answer. The instance's rows are to be read again.
    pub(crate) requests: Vec<String>,
    /// Its supervisor has gone.
    pub(crate) gone: Option<String>,
}

impl Supervisors {
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// A new connection.
    pub(crate) fn add(&mut self, poller: &Poller, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        poller.add(stream.as_fd(), Token::Supervisor(self.next), Interest::READ)?;
        let supervisor = Supervisor {
            stream,
            inbox: Inbox::default(),
            unsent: VecDeque::new(),
            instance: None,
        };
        self.connections.insert(self.next, supervisor);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// A connection is ready.
    pub(crate) fn ready(&mut self, poller: &Poller, number: u32) -> Heard {
        let mut heard = Heard::default();
        let Some(supervisor) = self.connections.get_mut(&number) else {
            return heard;
        };
        let mut is_open = supervisor.inbox.fill(&supervisor.stream).unwrap_or(false);
        loop {
            match supervisor.inbox.next::<Request>() {
                Ok(Some(Request::Attach { instance, servers })) => {
                    supervisor.instance = Some(instance.clone());
                    self.instances.insert(instance.clone(), (number, servers));
                    heard.requests.push(instance);
                }
                Ok(Some(Request::Changed)) => match &supervisor.instance {
                    Some(instance) => heard.requests.push(instance.clone()),
                    None => is_open = false,
                },
                Ok(None) => break,
                Err(_) => {
                    is_open = false;
                    break;
                }
            }
        }
        if !is_open {
            heard.gone = self.close(number);
        } else {
            self.flush(poller, number);
        }
        heard
    }

    /// Hangs up. The instance, when nobody else is there for it.
    fn close(&mut self, number: u32) -> Option<String> {
        let instance = self.connections.remove(&number)?.instance?;
        let is_latest = self
            .instances
            .get(&instance)
            .is_some_and(|(latest, _)| *latest == number);
        is_latest.then(|| {
            self.instances.remove(&instance);
            instance
        })
    }

    pub(crate) fn answer(&mut self, poller: &Poller, instance: &str, answer: Answer) {
        if let Some((number, _)) = self.instances.get(instance) {
            let number = *number;
            self.send(poller, number, &Message::Answer(answer));
        }
    }

    /// Tells the supervisor of an instance, if it is there.
    pub(crate) fn tell(&mut self, poller: &Poller, instance: &str, notice: Notice) {
        if let Some((number, _)) = self.instances.get(instance) {
            let number = *number;
            self.send(poller, number, &Message::Notice(notice));
        }
    }

    /// Tells some supervisor.
    pub(crate) fn tell_one(&mut self, poller: &Poller, notice: Notice) {
        if let Some((number, _)) = self.instances.values().next() {
            let number = *number;
            self.send(poller, number, &Message::Notice(notice));
        }
    }

    fn send(&mut self, poller: &Poller, number: u32, message: &Message) {
        if let Some(supervisor) = self.connections.get_mut(&number) {
            let is_answer = matches!(message, Message::Answer(_));
            if is_answer || supervisor.unsent.len() < MOST_UNSENT {
                supervisor.unsent.extend(frame(message));
            }
            self.flush(poller, number);
        }
    }

    fn flush(&mut self, poller: &Poller, number: u32) {
        let Some(supervisor) = self.connections.get_mut(&number) else {
            return;
        };
        let was_waiting = !supervisor.unsent.is_empty();
        while !supervisor.unsent.is_empty() {
            let (bytes, _) = supervisor.unsent.as_slices();
            match (&supervisor.stream).write(bytes) {
                Ok(count) => drop(supervisor.unsent.drain(..count)),
                // A broken one is readable too, and closed when it is read.
                Err(_) => break,
            }
        }
        let interest = Interest {
            read: true,
            write: !supervisor.unsent.is_empty(),
        };
        if was_waiting {
            let _ = poller.modify(
                supervisor.stream.as_fd(),
                Token::Supervisor(number),
                interest,
            );
        }
    }
}

impl Servers for Supervisors {
    fn of(&self, instance: &str) -> &[IpAddr] {
        self.instances
            .get(instance)
            .map_or(&[], |(_, servers)| servers)
    }
}
