//! Published ports on `::1`. The kernel passes on what is for `127.0.0.1` (`route_localnet`), but has nothing like it
//! for IPv6: what the host's own programs send to `::1` is taken here and copied. Nothing from elsewhere comes this way.

mod datagrams;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use isle_network::wanted::target;
use isle_network::{Link, Protocol, Publication};

use self::datagrams::Datagrams;
use self::streams::Streams;
use crate::poller::{Poller, Ready, Token};

/// A port of `::1`.
pub(crate) type Port = (Protocol, u16);

/// Where a port leads: to the first of these where somebody listens.
pub(crate) type Targets = Vec<SocketAddr>;

/// The ports of an instance that are published on `::1` too, and where they lead: to IPv6 first where it has that. A
/// program that listens on IPv4 alone is found all the same.
pub(crate) fn ports(links: &[Link], publications: &[Publication]) -> BTreeMap<Port, Targets> {
    let addresses = [target(links, true), target(links, false)];
    if addresses == [None, None] {
        return BTreeMap::new();
    }
    let includes_loopback = |host: Option<IpAddr>| match host {
        None => true,
        Some(IpAddr::V4(_)) => false,
        Some(IpAddr::V6(host)) => host == Ipv6Addr::LOCALHOST || host.is_unspecified(),
    };
    publications
        .iter()
        .filter(|publication| includes_loopback(publication.host))
        .map(|publication| {
            let targets = addresses.iter().flatten();
            let targets = targets.map(|to| SocketAddr::new(*to, publication.port));
            let port = (publication.protocol, publication.host_port);
            (port, targets.collect())
        })
        .collect()
}

/// Why a port of `::1` cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish port {port}/{protocol} on ::1")]
pub(crate) struct LoopbackError {
    protocol: Protocol,
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
        for ((protocol, _), (_, number)) in gone {
            match protocol {
                Protocol::Udp => self.datagrams.close(poller, number),
                _ => self.streams.close_port(number),
            }
        }
        let mut result = Ok(());
        for (&(protocol, port), to) in wanted {
            if known.contains_key(&(protocol, port)) {
                continue;
            }
            let opened = match protocol {
                Protocol::Tcp => self.streams.open(poller, port, to.clone()),
                Protocol::Udp => self.datagrams.open(poller, port, to.clone()),
                // Connections of it have several addresses: not to be copied.
                Protocol::Sctp => Ok(None),
            };
            match opened {
                Ok(Some(number)) => drop(known.insert((protocol, port), (to.clone(), number))),
                // A kernel without IPv6 has no `::1`.
                Ok(None) => {}
                Err(source) => {
                    result = result.and(Err(LoopbackError {
                        protocol,
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

fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(
        errno,
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}
