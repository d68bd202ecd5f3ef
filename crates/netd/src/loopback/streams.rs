//! TCP: each connection is taken, continued to the instance, and spliced.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use isle_network::host::is_without_ipv6;
use isle_sys::watched::Watched;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, connect, listen, shutdown, socket_with,
    sockopt,
};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::{Side, Taken, Targets};
use crate::fairness::{Shares, Verdict};
use crate::poller::{Interest, Poller, Ready, Token};

/// Connections to one port, and all together. Each has six descriptors.
const EACH: usize = 128;
const ALL: usize = 512;
/// The same where everything that is published comes this way.
const EACH_OUTSIDE: usize = 1024;
const ALL_OUTSIDE: usize = 2048;
const BACKLOG: i32 = 64;
/// What a pipe holds.
const ROOM: usize = 64 * 1024;
/// Pieces that are copied before others have their turn.
const AT_ONCE: usize = 8;

/// All ports and their connections.
#[derive(Debug)]
pub(crate) struct Streams {
    ports: BTreeMap<u32, Port>,
    pairs: BTreeMap<u32, Pair>,
    shares: Shares<u32>,
    next: u32,
}

#[derive(Debug)]
struct Port {
    listener: TcpListener,
    _claim: Option<UnixStream>,
    to: Targets,
}

/// A connection and its continuation.
#[derive(Debug)]
struct Pair {
    number: u32,
    near: Watched,
    far: Watched,
    is_connected: bool,
    /// Where else somebody may listen.
    others: Targets,
    there: Flow,
    back: Flow,
    port: u32,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    inlet: OwnedFd,
    outlet: OwnedFd,
    /// Bytes in the pipe.
    held: usize,
    /// The sender has nothing more.
    has_ended: bool,
    /// And the receiver knows.
    is_done: bool,
}

impl Streams {
    pub(crate) fn new() -> Streams {
        Streams {
            ports: BTreeMap::new(),
            pairs: BTreeMap::new(),
            shares: match isle_rootless::house() {
                None => Shares::new(EACH, ALL),
                Some(_) => Shares::new(EACH_OUTSIDE, ALL_OUTSIDE),
            },
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
        let taken = match side {
            Side::Loopback => on_loopback(port)?,
            Side::Outside(address) => super::outside(true, address, port)?,
        };
        let Some(Taken { socket, claim }) = taken else {
            return Ok(None);
        };
        let number = self.number();
        poller.add(socket.as_fd(), Token::Loopback(number), Interest::READ)?;
        let port = Port {
            listener: TcpListener::from(socket),
            _claim: claim,
            to,
        };
        self.ports.insert(number, port);
        Ok(Some(number))
    }

    /// Lets go of a port. Connections that are there stay.
    pub(crate) fn close_port(&mut self, number: u32) {
        self.ports.remove(&number);
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Something is ready.
    pub(crate) fn ready(&mut self, poller: &Poller, ready: Ready) {
        match ready.token {
            Token::Loopback(number) => self.accept(poller, number),
            Token::Near(number) | Token::Far(number) => self.copy(poller, number),
            _ => {}
        }
    }

    fn accept(&mut self, poller: &Poller, number: u32) {
        while let Some(port) = self.ports.get(&number) {
            let Ok((near, _)) = port.listener.accept() else {
                return;
            };
            let to = port.to.clone();
            match self.shares.ask(number) {
                Verdict::Yes => {}
                Verdict::After(other) => {
                    let oldest = self.pairs.iter().find(|(_, pair)| pair.port == other);
                    if let Some(oldest) = oldest.map(|(oldest, _)| *oldest) {
                        self.close(oldest);
                    }
                }
                // Hung up upon.
                Verdict::No => continue,
            }
            let pair = self.number();
            // One that cannot be continued ends, as it would where nobody listens.
            if let Ok(made) = Pair::new(pair, number, near.into(), to) {
                self.shares.take(number);
                self.pairs.insert(pair, made);
                self.copy(poller, pair);
            }
        }
    }

    fn copy(&mut self, poller: &Poller, number: u32) {
        let Some(pair) = self.pairs.get_mut(&number) else {
            return;
        };
        match pair.copy(poller) {
            Ok(()) if !(pair.there.is_done && pair.back.is_done) => {}
            _ => self.close(number),
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(pair) = self.pairs.remove(&number) {
            self.shares.release(pair.port);
        }
    }
}

/// A listener on `::1`; `None` where there is none.
fn on_loopback(port: u16) -> io::Result<Option<Taken<OwnedFd>>> {
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let opened = (|| {
        let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddr::from((loopback, port)))?;
        listen(&socket, BACKLOG)?;
        io::Result::Ok(socket)
    })();
    match opened {
        Ok(socket) => Ok(Some(Taken {
            socket,
            claim: None,
        })),
        Err(error) if is_without_ipv6(loopback, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Pair {
    fn new(number: u32, port: u32, near: OwnedFd, to: Targets) -> io::Result<Pair> {
        let mut others = to;
        let far = next(&mut others)?;
        // What is small goes at once, as it does where the kernel passes it on.
        sockopt::set_tcp_nodelay(&near, true)?;
        Ok(Pair {
            number,
            near: Poller::watched(near, Token::Near(number))?,
            far: Poller::watched(far, Token::Far(number))?,
            is_connected: false,
            others,
            there: Flow::new()?,
            back: Flow::new()?,
            port,
        })
    }

    /// Copies what can be copied, and waits for what comes next.
    fn copy(&mut self, poller: &Poller) -> io::Result<()> {
        if !self.is_connected {
            self.connect()?;
        }
        if self.is_connected {
            self.there.copy(&self.near.fd, &self.far.fd)?;
            self.back.copy(&self.far.fd, &self.near.fd)?;
        }
        let near = Interest {
            read: self.is_connected && self.there.wants_more(),
            write: self.back.held > 0,
        };
        let far = Interest {
            read: self.is_connected && self.back.wants_more(),
            write: !self.is_connected || self.there.held > 0,
        };
        poller.watch(&mut self.near, near);
        poller.watch(&mut self.far, far);
        Ok(())
    }

    /// Looks whether somebody listens, and tries the next address when nobody does.
    fn connect(&mut self) -> io::Result<()> {
        if let Err(refused) = sockopt::socket_error(&self.far.fd)? {
            let far = next(&mut self.others).map_err(|_| refused)?;
            self.far = Poller::watched(far, Token::Far(self.number))?;
        }
        self.is_connected = rustix::net::getpeername(&self.far.fd).is_ok();
        Ok(())
    }
}

/// A connection to the first address that does not refuse it at once.
fn next(to: &mut Targets) -> io::Result<OwnedFd> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while !to.is_empty() {
        match begin(to.remove(0)) {
            Ok(far) => return Ok(far),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn begin(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let far = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&far, true)?;
    match connect(&far, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(far),
        Err(error) => Err(error.into()),
    }
}

impl Flow {
    fn new() -> io::Result<Flow> {
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Flow {
            inlet,
            outlet,
            held: 0,
            has_ended: false,
            is_done: false,
        })
    }

    /// The pipe is emptied first: how much it takes depends on how the bytes came.
    fn wants_more(&self) -> bool {
        self.held == 0 && !self.has_ended
    }

    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        for _ in 0..AT_ONCE {
            if self.wants_more() {
                match splice(from, None, &self.inlet, None, ROOM, flags) {
                    Ok(0) => self.has_ended = true,
                    Ok(count) => self.held = count,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            if self.held > 0 {
                match splice(&self.outlet, None, to, None, self.held, flags) {
                    Ok(count) => self.held -= count,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            if self.has_ended && self.held == 0 {
                if !self.is_done {
                    self.is_done = true;
                    shutdown(to, Shutdown::Write)?;
                }
                return Ok(());
            }
        }
        Ok(())
    }
}
