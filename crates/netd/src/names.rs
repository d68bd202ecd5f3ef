//! The name server: takes questions from the sockets of the gateways, answers them from the directory, or passes them
//! on.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use isle_resolver::{Reply, Transport, respond};

use crate::asked::{AskedQuestions, Asker, Back, Done, Open, take_message, write_some};
use crate::directory::{Directory, NetworkKey};
use crate::fairness::{Shares, Verdict};
use crate::host_servers::{HostServers, PORT};
use crate::listeners::{ListenError, Listeners};
use crate::poller::{Interest, Poller, Ready, Token};

/// Datagrams of one network that are taken before others have their turn.
const AT_ONCE: usize = 32;
/// Connections of one asker, and all together.
const EACH: usize = 16;
const ALL: usize = 256;
/// So long a connection may stand still (RFC 7766 section 6.2.3 asks for seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Questions of a connection that are passed on at the same time.
const AT_THE_SAME_TIME: usize = 8;
/// A question is shorter than this by far.
const LONGEST_QUESTION: usize = 4096;
/// Answers that a connection does not take; no question of it is read until it does.
const MOST_UNSENT: usize = 128 * 1024;

/// Whom an instance has `--dns` for.
pub(crate) trait Servers {
    /// Who is asked for this instance; empty: the host's servers.
    fn of(&self, instance: &str) -> &[IpAddr];
}

/// What happens around the answers.
pub(crate) trait Gate {
    /// A name was not looked up, because the asker's policy does not list it.
    fn withheld(&mut self, instance: &str, name: &str);

    /// An answer from outside is about to go to this asker: what it may reach of it is opened now.
    fn answered(&mut self, endpoint: &isle_network::Endpoint, name: &str, answer: &[u8]);
}

/// What the keeper knows at the moment of a question.
pub(crate) struct Known<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) servers: &'a dyn Servers,
    pub(crate) gate: &'a mut dyn Gate,
}

/// A connection of an asker.
#[derive(Debug)]
struct Stream {
    stream: TcpStream,
    asker: Asker,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// Passed on and not answered.
    open: usize,
    /// The asker sends no more.
    has_ended: bool,
    deadline: Instant,
}

/// The name server.
pub(crate) struct Names {
    listeners: Listeners,
    streams: BTreeMap<u32, Stream>,
    shares: Shares<Asker>,
    asked: AskedQuestions,
    host: HostServers,
    next: u32,
    turn: u32,
}

impl Names {
    /// One that listens nowhere yet. The path is that of `resolv.conf`.
    pub(crate) fn new(resolv_conf: PathBuf) -> Names {
        Names {
            listeners: Listeners::default(),
            streams: BTreeMap::new(),
            shares: Shares::new(EACH, ALL),
            asked: AskedQuestions::new(),
            host: HostServers::new(resolv_conf),
            next: 0,
            turn: 0,
        }
    }

    /// Answers on the gateways of a network from now on.
    ///
    /// # Errors
    /// Where that is not to be had.
    pub(crate) fn open(
        &mut self,
        poller: &Poller,
        directory: &Directory,
        key: NetworkKey,
    ) -> Result<(), ListenError> {
        match directory.network(key) {
            Some(network) => self.listeners.open_for(poller, key, network),
            None => Ok(()),
        }
    }

    /// What has become known since the last call, for people.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        self.listeners.take_warnings()
    }

    /// Something is ready that belongs to the name server.
    pub(crate) fn ready(&mut self, poller: &mut Poller, ready: Ready, known: &mut Known<'_>) {
        match ready.token {
            Token::Datagrams(number) => self.datagrams(poller, number, known),
            Token::Streams(number) => self.connections(poller, number),
            Token::Stream(number) => self.stream(poller, number, ready, known),
            Token::Asked(number) => {
                let done = self.asked.ready(poller, number);
                self.go_on(poller, done, known);
            }
            _ => {}
        }
    }

    /// A time has come that belongs to the name server.
    pub(crate) fn due(&mut self, poller: &mut Poller, token: Token, known: &mut Known<'_>) {
        match token {
            Token::Asked(number) => {
                let done = self.asked.late(poller, number);
                self.go_on(poller, done, known);
            }
            Token::Stream(number) => {
                let now = Instant::now();
                if self
                    .streams
                    .get(&number)
                    .is_some_and(|stream| stream.deadline <= now)
                {
                    self.close(poller, number);
                }
            }
            _ => {}
        }
    }

    fn datagrams(&mut self, poller: &mut Poller, number: u32, known: &mut Known<'_>) {
        let mut buffer = [0; LONGEST_QUESTION];
        for _ in 0..AT_ONCE {
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            let (network, from) = match listener.datagrams.recv_from(&mut buffer) {
                Ok((count, from)) => (listener.network, (count, from)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier answer met on its way.
                Err(_) => continue,
            };
            let (count, to) = from;
            let back = Back::Datagram {
                listener: number,
                to,
            };
            let asker = (network, to.ip());
            self.question(poller, &buffer[..count], asker, back, known);
        }
    }

    /// Decides about one question and has it answered.
    fn question(
        &mut self,
        poller: &mut Poller,
        packet: &[u8],
        asker: Asker,
        back: Back,
        known: &mut Known<'_>,
    ) {
        let transport = match back {
            Back::Datagram { .. } => Transport::Datagram,
            Back::Stream(_) => Transport::Stream,
        };
        let (network, source) = asker;
        self.turn = self.turn.wrapping_add(1);
        match respond(
            known.directory,
            network,
            source,
            packet,
            transport,
            self.turn,
        ) {
            Reply::Silence => {}
            Reply::Answer(answer) => self.send(poller, back, &answer),
            Reply::Withheld { answer, name } => {
                let endpoint = known.directory.endpoint(network, source);
                // That nothing is asked outside of internal networks is no policy of the instance's.
                if let Some(endpoint) =
                    endpoint.filter(|endpoint| endpoint.egress != isle_network::Egress::Allow)
                    && let Some(name) = name
                {
                    known.gate.withheld(&endpoint.instance, &name);
                }
                self.send(poller, back, &answer);
            }
            Reply::Forward(forward) => {
                let endpoint = known.directory.endpoint(network, source);
                let own = endpoint.map_or(&[][..], |endpoint| known.servers.of(&endpoint.instance));
                let own: Vec<SocketAddr> = own
                    .iter()
                    .map(|server| SocketAddr::new(*server, PORT))
                    .collect();
                let servers = match own.is_empty() {
                    true => self.host.get(Instant::now()),
                    false => &own,
                };
                let open = Open {
                    forward,
                    asker,
                    back,
                };
                if let Back::Stream(number) = back
                    && let Some(stream) = self.streams.get_mut(&number)
                {
                    stream.open += 1;
                }
                let done = self.asked.ask(poller, open, servers);
                self.finish(poller, done, known);
            }
        }
    }

    /// An answer has come, or will not come any more.
    fn finish(&mut self, poller: &mut Poller, done: Option<Done>, known: &mut Known<'_>) {
        let Some(Done { open, answer }) = done else {
            return;
        };
        let (network, source) = open.asker;
        if let Some(endpoint) = known.directory.endpoint(network, source)
            && let Some(name) = open.forward.name()
        {
            known.gate.answered(endpoint, name, &answer);
        }
        if let Back::Stream(number) = open.back
            && let Some(stream) = self.streams.get_mut(&number)
        {
            stream.open = stream.open.saturating_sub(1);
        }
        self.send(poller, open.back, &answer);
    }

    /// The same, and a connection that had too much open may ask more.
    fn go_on(&mut self, poller: &mut Poller, done: Option<Done>, known: &mut Known<'_>) {
        let back = done.as_ref().map(|done| done.open.back);
        self.finish(poller, done, known);
        if let Some(Back::Stream(number)) = back {
            self.read_questions(poller, number, known);
        }
    }

    fn send(&mut self, poller: &mut Poller, back: Back, answer: &[u8]) {
        match back {
            Back::Datagram { listener, to } => {
                if let Some(listener) = self.listeners.get(listener) {
                    // What does not go now is lost, as any datagram can be.
                    let _ = listener.datagrams.send_to(answer, to);
                }
            }
            Back::Stream(number) => {
                let Ok(length) = u16::try_from(answer.len()) else {
                    return;
                };
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.unsent.extend(length.to_be_bytes());
                    stream.unsent.extend(answer);
                    self.flush(poller, number);
                }
            }
        }
    }

    fn connections(&mut self, poller: &mut Poller, number: u32) {
        loop {
            let Some(listener) = self.listeners.get(number) else {
                return;
            };
            let accepted = listener
                .streams
                .as_ref()
                .and_then(|streams| streams.accept().ok());
            let Some((stream, from)) = accepted else {
                return;
            };
            let asker = (listener.network, from.ip());
            match self.shares.ask(asker) {
                Verdict::Yes => {}
                Verdict::After(other) => {
                    let oldest = self
                        .streams
                        .iter()
                        .find(|(_, stream)| stream.asker == other);
                    if let Some(number) = oldest.map(|(number, _)| *number) {
                        self.close(poller, number);
                    }
                }
                // Hung up upon.
                Verdict::No => continue,
            }
            let token = Token::Stream(self.next);
            if stream.set_nonblocking(true).is_err()
                || poller.add(stream.as_fd(), token, Interest::READ).is_err()
            {
                continue;
            }
            let deadline = Instant::now() + IDLE;
            poller.at(deadline, token);
            self.shares.take(asker);
            let stream = Stream {
                stream,
                asker,
                received: Vec::new(),
                unsent: Vec::new(),
                open: 0,
                has_ended: false,
                deadline,
            };
            self.streams.insert(self.next, stream);
            self.next = self.next.wrapping_add(1);
        }
    }

    fn stream(&mut self, poller: &mut Poller, number: u32, ready: Ready, known: &mut Known<'_>) {
        if ready.is_writable {
            self.flush(poller, number);
        }
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        if ready.is_readable {
            let mut buffer = [0; LONGEST_QUESTION];
            match (&stream.stream).read(&mut buffer) {
                // Gone, and not only silent: nothing can be sent either.
                Ok(0) if stream.has_ended || (ready.is_writable && stream.unsent.is_empty()) => {
                    self.close(poller, number);
                    return;
                }
                Ok(0) => stream.has_ended = true,
                Ok(count) => {
                    stream.received.extend_from_slice(&buffer[..count]);
                    poller.not_at(stream.deadline, Token::Stream(number));
                    stream.deadline = Instant::now() + IDLE;
                    poller.at(stream.deadline, Token::Stream(number));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.close(poller, number);
                    return;
                }
            }
        }
        self.read_questions(poller, number, known);
    }

    /// Answers what has come over a connection, as far as it may ask more at the moment.
    fn read_questions(&mut self, poller: &mut Poller, number: u32, known: &mut Known<'_>) {
        loop {
            let Some(stream) = self.streams.get_mut(&number) else {
                return;
            };
            if !stream.may_ask() {
                break;
            }
            let announced = stream
                .received
                .first_chunk()
                .map(|length| u16::from_be_bytes(*length));
            if announced.is_some_and(|length| usize::from(length) > LONGEST_QUESTION) {
                self.close(poller, number);
                return;
            }
            let asker = stream.asker;
            let Some(packet) = take_message(&mut stream.received) else {
                break;
            };
            self.question(poller, &packet, asker, Back::Stream(number), known);
        }
        self.flush(poller, number);
    }

    /// Sends what can be sent, and waits for what is to come next.
    fn flush(&mut self, poller: &mut Poller, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let is_broken =
            !stream.unsent.is_empty() && write_some(&stream.stream, &mut stream.unsent).is_err();
        let is_done = stream.has_ended && stream.open == 0 && stream.unsent.is_empty();
        let interest = Interest {
            read: stream.may_ask() && !stream.has_ended,
            write: !stream.unsent.is_empty(),
        };
        if is_broken
            || is_done
            || poller
                .modify(stream.stream.as_fd(), Token::Stream(number), interest)
                .is_err()
        {
            self.close(poller, number);
        }
    }

    fn close(&mut self, poller: &mut Poller, number: u32) {
        if let Some(stream) = self.streams.remove(&number) {
            poller.not_at(stream.deadline, Token::Stream(number));
            self.shares.release(stream.asker);
            self.asked.forget_stream(poller, number);
        }
    }

    /// Closes what belongs to networks that nobody is on any more.
    pub(crate) fn close_unused(&mut self, poller: &mut Poller, directory: &Directory) {
        let is_used = |key| directory.is_used(key);
        self.listeners.close(is_used);
        let unused =
            |(number, stream): (&u32, &Stream)| (!is_used(stream.asker.0)).then_some(*number);
        let numbers: Vec<u32> = self.streams.iter().filter_map(unused).collect();
        for number in numbers {
            self.close(poller, number);
        }
    }
}

impl Stream {
    fn may_ask(&self) -> bool {
        self.open < AT_THE_SAME_TIME && self.unsent.len() < MOST_UNSENT
    }
}
