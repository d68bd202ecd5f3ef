//! Questions that were passed on to servers outside.
//!
//! Each has a socket of its own, with a port that the kernel chooses and a number that nobody else knows, connected to
//! the one server that is asked at the moment: nobody else can answer. What came in a datagram goes on in one, what
//! came by TCP goes on by TCP: an answer that was cut reaches the asker as such, and it comes again by TCP.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use isle_resolver::Forward;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::directory::NetworkKey;
use crate::fairness::{Shares, Verdict};
use crate::poller::{Interest, Poller, Token};

/// Attempts, one server after the other, and again: what an asker's library waits for (five seconds) is not over yet.
const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_millis(1500);
/// A server that kept silent is asked last for so long.
const PENANCE: Duration = Duration::from_secs(10);
/// Questions that one asker can have open, and all together. Each has a descriptor.
const EACH: usize = 128;
const ALL: usize = 1024;
/// Datagrams that are looked at before others have their turn.
const AT_ONCE: usize = 8;

/// Who asks: an address in a network.
pub(crate) type Asker = (NetworkKey, IpAddr);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// Out of the socket of a listener.
    Datagram {
        /// The listener.
        listener: u32,
        /// The asker.
        to: SocketAddr,
    },
    /// Over a connection.
    Stream(u32),
}

/// A question, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) forward: Forward,
    pub(crate) asker: Asker,
    pub(crate) back: Back,
}

/// An answer, ours or a server's.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) open: Open,
    pub(crate) answer: Vec<u8>,
}

#[derive(Debug)]
struct Asked {
    open: Open,
    servers: Vec<SocketAddr>,
    attempt: usize,
    id: u16,
    link: Link,
    deadline: Instant,
}

#[derive(Debug)]
enum Link {
    /// The first attempt, or the next, failed at once.
    None,
    Datagram(UdpSocket),
    Stream {
        stream: TcpStream,
        unsent: Vec<u8>,
        received: Vec<u8>,
    },
}

/// All that were passed on and not answered.
#[derive(Debug)]
pub(crate) struct AskedQuestions {
    asked: BTreeMap<u32, Asked>,
    shares: Shares<Asker>,
    silent: BTreeMap<SocketAddr, Instant>,
    next: u32,
}

/// What one look at a socket brought.
enum Step {
    Wait,
    NextServer,
    Answer(Vec<u8>),
}

impl AskedQuestions {
    pub(crate) fn new() -> AskedQuestions {
        AskedQuestions {
            asked: BTreeMap::new(),
            shares: Shares::new(EACH, ALL),
            silent: BTreeMap::new(),
            next: 0,
        }
    }

    /// Passes a question on. An answer at once: there is no server, or the asker has too many questions open.
    pub(crate) fn ask(
        &mut self,
        poller: &mut Poller,
        open: Open,
        servers: &[SocketAddr],
    ) -> Option<Done> {
        match self.shares.ask(open.asker) {
            Verdict::Yes => {}
            Verdict::After(other) => self.forget_oldest(poller, other),
            Verdict::No => {
                let answer = open.forward.refusal();
                return Some(Done { open, answer });
            }
        }
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let mut servers = servers.to_vec();
        servers.sort_by_key(|server| self.silent.contains_key(server));
        self.shares.take(open.asker);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let asked = Asked {
            open,
            servers,
            attempt: 0,
            id: 0,
            link: Link::None,
            deadline: now,
        };
        self.asked.insert(number, asked);
        self.attempt(poller, number)
    }

    /// Asks the next server that can be reached; an answer when there is none any more.
    fn attempt(&mut self, poller: &mut Poller, number: u32) -> Option<Done> {
        let asked = self.asked.get_mut(&number)?;
        while asked.attempt < ATTEMPTS && !asked.servers.is_empty() {
            let server = asked.servers[asked.attempt % asked.servers.len()];
            asked.attempt += 1;
            if asked.send(poller, number, server).is_ok() {
                asked.deadline = Instant::now() + PATIENCE;
                poller.at(asked.deadline, Token::Asked(number));
                return None;
            }
        }
        let asked = self.remove(poller, number)?;
        let answer = asked.open.forward.failure();
        Some(Done {
            open: asked.open,
            answer,
        })
    }

    fn remove(&mut self, poller: &mut Poller, number: u32) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        poller.not_at(asked.deadline, Token::Asked(number));
        self.shares.release(asked.open.asker);
        Some(asked)
    }

    fn forget_oldest(&mut self, poller: &mut Poller, asker: Asker) {
        let oldest = self
            .asked
            .iter()
            .find(|(_, asked)| asked.open.asker == asker);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.remove(poller, number);
        }
    }

    /// Nobody waits for what goes over this connection any more.
    pub(crate) fn forget_stream(&mut self, poller: &mut Poller, stream: u32) {
        let of_stream = |(number, asked): (&u32, &Asked)| {
            (asked.open.back == Back::Stream(stream)).then_some(*number)
        };
        let numbers: Vec<u32> = self.asked.iter().filter_map(of_stream).collect();
        for number in numbers {
            self.remove(poller, number);
        }
    }

    /// The socket of a question is ready.
    pub(crate) fn ready(&mut self, poller: &mut Poller, number: u32) -> Option<Done> {
        let asked = self.asked.get_mut(&number)?;
        match asked.step(poller, number) {
            Step::Wait => None,
            Step::NextServer => {
                poller.not_at(asked.deadline, Token::Asked(number));
                self.attempt(poller, number)
            }
            Step::Answer(answer) => {
                let asked = self.remove(poller, number)?;
                Some(Done {
                    open: asked.open,
                    answer,
                })
            }
        }
    }

    /// The server has kept silent.
    pub(crate) fn late(&mut self, poller: &mut Poller, number: u32) -> Option<Done> {
        let now = Instant::now();
        let asked = self
            .asked
            .get(&number)
            .filter(|asked| asked.deadline <= now)?;
        let last = asked.attempt.saturating_sub(1);
        if let Some(server) = asked.servers.get(last % asked.servers.len().max(1)) {
            self.silent.insert(*server, now + PENANCE);
        }
        self.attempt(poller, number)
    }
}

impl Asked {
    fn send(&mut self, poller: &Poller, number: u32, server: SocketAddr) -> io::Result<()> {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        self.id = u16::from_ne_bytes(id);
        let message = self.open.forward.message(self.id);
        // The one before is closed with it.
        self.link = match self.open.back {
            Back::Datagram { .. } => {
                let socket = UdpSocket::from(socket(server, SocketType::DGRAM)?);
                connect(&socket, &server)?;
                socket.send(&message)?;
                Link::Datagram(socket)
            }
            Back::Stream(_) => {
                let stream = TcpStream::from(socket(server, SocketType::STREAM)?);
                match connect(&stream, &server) {
                    Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
                    Err(error) => return Err(error.into()),
                }
                let length = u16::try_from(message.len()).map_err(io::Error::other)?;
                let unsent = [&length.to_be_bytes(), &message[..]].concat();
                Link::Stream {
                    stream,
                    unsent,
                    received: Vec::new(),
                }
            }
        };
        let token = Token::Asked(number);
        match &self.link {
            Link::None => Ok(()),
            Link::Datagram(socket) => poller.add(socket.as_fd(), token, Interest::READ),
            Link::Stream { stream, .. } => poller.add(stream.as_fd(), token, Interest::WRITE),
        }
    }

    fn step(&mut self, poller: &Poller, number: u32) -> Step {
        match &mut self.link {
            Link::None => Step::Wait,
            Link::Datagram(socket) => {
                let mut buffer = [0; 4096];
                for _ in 0..AT_ONCE {
                    match socket.recv(&mut buffer) {
                        Ok(count) => {
                            match self.open.forward.accept(self.id, &buffer[..count], true) {
                                Ok(answer) => return Step::Answer(answer),
                                Err(isle_resolver::Unfit::Foreign) => {}
                                Err(isle_resolver::Unfit::Code(_)) => return Step::NextServer,
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Step::Wait;
                        }
                        // Nobody listens there, or there is no way.
                        Err(_) => return Step::NextServer,
                    }
                }
                Step::Wait
            }
            Link::Stream {
                stream,
                unsent,
                received,
            } => {
                let result = match unsent.is_empty() {
                    false => write_some(stream, unsent).and_then(|()| {
                        if unsent.is_empty() {
                            poller.modify(stream.as_fd(), Token::Asked(number), Interest::READ)?;
                        }
                        Ok(None)
                    }),
                    true => read_some(stream, received),
                };
                match result {
                    Ok(None) => Step::Wait,
                    Ok(Some(packet)) => match self.open.forward.accept(self.id, &packet, false) {
                        Ok(answer) => Step::Answer(answer),
                        Err(_) => Step::NextServer,
                    },
                    Err(_) => Step::NextServer,
                }
            }
        }
    }
}

/// Sends what the connection takes.
pub(crate) fn write_some(mut stream: &TcpStream, unsent: &mut Vec<u8>) -> io::Result<()> {
    match stream.write(unsent) {
        Ok(count) => {
            unsent.drain(..count);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes what is there; the message, when it is whole.
fn read_some(mut stream: &TcpStream, received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => received.extend_from_slice(&buffer[..count]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(take_message(received))
}

/// The first message of a stream, when it is whole (RFC 1035 section 4.2.2).
pub(crate) fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*received.first_chunk()?));
    let message = received.get(2..2 + length)?.to_vec();
    received.drain(..2 + length);
    Some(message)
}

fn socket(server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let (family, any): (_, IpAddr) = match server {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    // A port that nobody can foresee.
    rustix::net::bind(&socket, &SocketAddr::new(any, 0))?;
    Ok(socket)
}
