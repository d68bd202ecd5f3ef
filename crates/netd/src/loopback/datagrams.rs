//! UDP: each sender gets a socket towards the instance, through which the answers come back.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use isle_network::host::is_without_ipv6;

use super::{Side, Taken, Targets};
use crate::fairness::{Shares, Verdict};
use crate::poller::{Interest, Poller, Ready, Token};

/// Senders of one port, and all together.
const EACH: usize = 64;
const ALL: usize = 256;
/// A sender that is silent for so long, and gets nothing, is another one when it comes again.
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams that are copied before others have their turn.
const AT_ONCE: usize = 32;
/// The largest datagram.
const LARGEST: usize = 65_536;

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    _claim: Option<UnixStream>,
    /// The first one is asked; it becomes the last when nobody listens there.
    to: Targets,
    senders: BTreeMap<SocketAddr, u32>,
}

#[derive(Debug)]
struct Sender {
    port: u32,
    from: SocketAddr,
    socket: UdpSocket,
    deadline: Instant,
}

/// All ports and their senders.
#[derive(Debug)]
pub(crate) struct Datagrams {
    ports: BTreeMap<u32, Port>,
    senders: BTreeMap<u32, Sender>,
    shares: Shares<u32>,
    next: u32,
}

impl Datagrams {
    pub(crate) fn new() -> Datagrams {
        Datagrams {
            ports: BTreeMap::new(),
            senders: BTreeMap::new(),
            shares: Shares::new(EACH, ALL),
            next: 0,
        }
    }

    /// Takes a port. `None`: the kernel has no IPv6.
    pub(crate) fn open(
        &mut self,
        poller: &Poller,
        side: Side,
        port: u16,
        to: Targets,
    ) -> io::Result<Option<u32>> {
        let (socket, claim) = match side {
            Side::Loopback => match UdpSocket::bind((Ipv6Addr::LOCALHOST, port)) {
                Err(error) if is_without_ipv6(Ipv6Addr::LOCALHOST.into(), &error) => {
                    return Ok(None);
                }
                socket => (socket?, None),
            },
            Side::Outside(address) => match super::outside(false, address, port)? {
                None => return Ok(None),
                Some(Taken { socket, claim }) => (UdpSocket::from(socket), claim),
            },
        };
        socket.set_nonblocking(true)?;
        let number = self.number();
        poller.add(&socket, Token::LoopbackDatagrams(number), Interest::READ)?;
        let senders = BTreeMap::new();
        self.ports.insert(
            number,
            Port {
                socket,
                _claim: claim,
                to,
                senders,
            },
        );
        Ok(Some(number))
    }

    /// Lets go of a port, and of those who send to it.
    pub(crate) fn close(&mut self, poller: &mut Poller, number: u32) {
        if let Some(port) = self.ports.remove(&number) {
            for sender in port.senders.values() {
                self.forget(poller, *sender);
            }
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Something is ready.
    pub(crate) fn ready(&mut self, poller: &mut Poller, ready: Ready) {
        let mut buffer = vec![0; LARGEST];
        match ready.token {
            Token::LoopbackDatagrams(number) => {
                for _ in 0..AT_ONCE {
                    let Some(port) = self.ports.get(&number) else {
                        return;
                    };
                    match port.socket.recv_from(&mut buffer) {
                        Ok((count, from)) => self.there(poller, number, from, &buffer[..count]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                        // What an earlier answer met on its way.
                        Err(_) => {}
                    }
                }
            }
            Token::LoopbackSender(number) => self.back(poller, number, &mut buffer),
            _ => {}
        }
    }

    /// A time has come.
    pub(crate) fn due(&mut self, poller: &mut Poller, token: Token) {
        if let Token::LoopbackSender(number) = token
            && self
                .senders
                .get(&number)
                .is_some_and(|sender| sender.deadline <= Instant::now())
        {
            self.forget(poller, number);
        }
    }

    /// From a program of the host to the instance.
    fn there(&mut self, poller: &mut Poller, number: u32, from: SocketAddr, bytes: &[u8]) {
        let known = self
            .ports
            .get(&number)
            .and_then(|port| port.senders.get(&from))
            .copied();
        let sender = match known {
            Some(sender) => sender,
            // Lost, as any datagram can be.
            None => match self.sender(poller, number, from) {
                Some(sender) => sender,
                None => return,
            },
        };
        self.keep(poller, sender);
        if let Some(sender) = self.senders.get(&sender) {
            // Nobody listens there, perhaps: the next attempt tells.
            let _ = sender.socket.send(bytes);
        }
    }

    fn sender(&mut self, poller: &mut Poller, number: u32, from: SocketAddr) -> Option<u32> {
        match self.shares.ask(number) {
            Verdict::Yes => {}
            Verdict::After(other) => {
                let oldest = self.senders.iter().find(|(_, sender)| sender.port == other);
                let oldest = oldest.map(|(oldest, _)| *oldest);
                self.forget(poller, oldest?);
            }
            Verdict::No => return None,
        }
        let to = *self.ports.get(&number)?.to.first()?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(to).ok()?;
        socket.set_nonblocking(true).ok()?;
        let sender = self.number();
        let token = Token::LoopbackSender(sender);
        poller.add(&socket, token, Interest::READ).ok()?;
        let deadline = Instant::now() + IDLE;
        poller.at(deadline, token);
        self.shares.take(number);
        self.ports.get_mut(&number)?.senders.insert(from, sender);
        let made = Sender {
            port: number,
            from,
            socket,
            deadline,
        };
        self.senders.insert(sender, made);
        Some(sender)
    }

    /// From the instance to a program of the host.
    fn back(&mut self, poller: &mut Poller, number: u32, buffer: &mut [u8]) {
        for _ in 0..AT_ONCE {
            let Some(sender) = self.senders.get(&number) else {
                return;
            };
            match sender.socket.recv(buffer) {
                Ok(count) => {
                    if let Some(port) = self.ports.get(&sender.port) {
                        let _ = port.socket.send_to(&buffer[..count], sender.from);
                    }
                    self.keep(poller, number);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there: the next attempt goes elsewhere.
                Err(_) => {
                    if let Some(port) = self.ports.get_mut(&sender.port) {
                        port.to.rotate_left(1);
                    }
                    self.forget(poller, number);
                    return;
                }
            }
        }
    }

    fn keep(&mut self, poller: &mut Poller, number: u32) {
        if let Some(sender) = self.senders.get_mut(&number) {
            poller.not_at(sender.deadline, Token::LoopbackSender(number));
            sender.deadline = Instant::now() + IDLE;
            poller.at(sender.deadline, Token::LoopbackSender(number));
        }
    }

    fn forget(&mut self, poller: &mut Poller, number: u32) {
        if let Some(sender) = self.senders.remove(&number) {
            poller.not_at(sender.deadline, Token::LoopbackSender(number));
            self.shares.release(sender.port);
            if let Some(port) = self.ports.get_mut(&sender.port) {
                port.senders.remove(&sender.from);
            }
        }
    }
}
