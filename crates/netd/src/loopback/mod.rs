//! Published ports whose packets the kernel cannot pass on: what comes by them is taken here and copied.
//!
//! On `::1`: the kernel passes on what is for `127.0.0.1` (`route_localnet`), but has nothing like it for IPv6. Nothing from
//! elsewhere comes this way. And all ports of an ordinary user, whose networks are not the host's: the sockets come from the
//! keeper of the user's house (`isle_rootless`).

mod datagrams;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use isle_network::host::{self, is_without_ipv6};
use isle_network::wanted::target;
use isle_network::{Link, Protocol, Publication};
use isle_rootless::Claim;

use self::datagrams::Datagrams;
use self::streams::Streams;
use crate::poller::{Poller, Ready, Token};

/// A published port.
pub(crate) type Port = (Protocol, Side, u16);

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// On `::1` of the network that the keeper is in.
    Loopback,
    /// On an address of the host, outside the house.
    Outside(IpAddr),
}

/// A socket, and what keeps it ours.
pub(crate) struct Taken<T> {
    pub(crate) socket: T,
    pub(crate) claim: Option<UnixStream>,
}

/// A socket outside, for a port that an instance's supervisor has claimed.
fn outside(is_stream: bool, address: IpAddr, port: u16) -> io::Result<Option<Taken<OwnedFd>>> {
    let port = SocketAddr::new(address, port);
    match isle_rootless::host_socket(Claim::Servant, is_stream, port) {
        Ok(taken) => Ok(taken.map(|(socket, claim)| Taken {
            socket,
            claim: Some(claim),
        })),
        Err(error) if is_without_ipv6(address, &error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a port leads: to the first of these where somebody listens.
pub(crate) type Targets = Vec<SocketAddr>;

/// The ports of an instance that are published on `::1` too, and where they lead: to IPv6 first where it has that. A
/// program that listens on IPv4 alone is found all the same.
pub(crate) fn ports(
    links: &[Link],
    publications: &[Publication],
    is_in_house: bool,
) -> BTreeMap<Port, Targets> {
    let addresses = [target(links, true), target(links, false)];
    if addresses == [None, None] {
        return BTreeMap::new();
    }
    let includes_loopback = |host: Option<IpAddr>| match host {
        None => true,
        Some(IpAddr::V4(_)) => false,
        Some(IpAddr::V6(host)) => host == Ipv6Addr::LOCALHOST || host.is_unspecified(),
    };
    let sides = |host: Option<IpAddr>| -> Vec<Side> {
        let loopback = includes_loopback(host).then_some(Side::Loopback);
        let outside = host::outside(host).filter(|_| is_in_house);
        loopback
            .into_iter()
            .chain(outside.map(Side::Outside))
            .collect()
    };
    publications
        .iter()
        .flat_map(|publication| {
            let targets = addresses.iter().flatten();
            let targets: Targets = targets
                .map(|to| SocketAddr::new(*to, publication.port))
                .collect();
            sides(publication.host).into_iter().map(move |side| {
                let port = (publication.protocol, side, publication.host_port);
                (port, targets.clone())
            })
        })
        .collect()
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish port {port}/{protocol} on {address}")]
pub(crate) struct LoopbackError {
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    source: io::Error,
}

impl LoopbackError {
    pub(crate) fn hint(&self) -> Option<String> {
        (self.source.kind() == io::ErrorKind::AddrInUse).then(|| {
            let LoopbackError { port, .. } = self;
            format!("another program of the host has it: see `ss -lntup sport = {port}`, or publish another port")
        })
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Loopback {
    /// By instance: the ports, where they lead, and the number of what listens.
    instances: BTreeMap<String, BTreeMap<Port, (Targets, u32)>>,
    streams: Streams,
    datagrams: Datagrams,
}

impl Loopback {
    pub(crate) fn new() -> Loopback {
        Loopback {
            instances: BTreeMap::new(),
            streams: Streams::new(),
            datagrams: Datagrams::new(),
        }
    }

    /// These are an instance's ports from now on.
    ///
    /// # Errors
    /// For the first port that cannot be had; the others are taken.
    pub(crate) fn set(
        &mut self,
        poller: &mut Poller,
        instance: &str,
        wanted: &BTreeMap<Port, Targets>,
    ) -> Result<(), LoopbackError> {
        let mut known = self.instances.remove(instance).unwrap_or_default();
        let gone = known.extract_if(.., |port, (to, _)| wanted.get(port) != Some(to));
        for ((protocol, ..), (_, number)) in gone {
            match protocol {
                Protocol::Udp => self.datagrams.close(poller, number),
                _ => self.streams.close_port(number),
            }
        }
        let mut result = Ok(());
        for (&(protocol, side, port), to) in wanted {
            if known.contains_key(&(protocol, side, port)) {
                continue;
            }
            let opened = match protocol {
                Protocol::Tcp => self.streams.open(poller, side, port, to.clone()),
                Protocol::Udp => self.datagrams.open(poller, side, port, to.clone()),
                // Connections of it have several addresses: not to be copied.
                Protocol::Sctp => Ok(None),
            };
            match opened {
                Ok(Some(number)) => {
                    drop(known.insert((protocol, side, port), (to.clone(), number)))
                }
                // A kernel without IPv6 has no `::1`.
                Ok(None) => {}
                Err(source) => {
                    result = result.and(Err(LoopbackError {
                        protocol,
                        address: match side {
                            Side::Loopback => Ipv6Addr::LOCALHOST.into(),
                            Side::Outside(address) => address,
                        },
                        port,
                        source,
                    }));
                }
            }
        }
        if !known.is_empty() {
            self.instances.insert(instance.to_owned(), known);
        }
        result
    }

    /// The instances that have ports here.
    pub(crate) fn instances(&self) -> Vec<String> {
        self.instances.keys().cloned().collect()
    }

    /// Something is ready.
    pub(crate) fn ready(&mut self, poller: &mut Poller, ready: Ready) {
        match ready.token {
            Token::LoopbackDatagrams(_) | Token::LoopbackSender(_) => {
                self.datagrams.ready(poller, ready);
            }
            _ => self.streams.ready(poller, ready),
        }
    }

    /// A time has come.
    pub(crate) fn due(&mut self, poller: &mut Poller, token: Token) {
        self.datagrams.due(poller, token);
    }
}
