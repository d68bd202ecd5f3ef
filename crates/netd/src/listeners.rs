//! Port 53 of each gateway: one socket for datagrams and one for TCP, which take only what comes in by the network's
//! own bridge.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use isle_network::Network;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

use crate::directory::NetworkKey;
use crate::host_servers::{PORT, link_number};
use crate::poller::{Interest, Poller, Token};

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;
/// Room for datagrams that wait: taken only when a crowd asks at once.
const ROOM: usize = 1 << 20;

/// A gateway's sockets.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) network: NetworkKey,
    pub(crate) datagrams: UdpSocket,
    pub(crate) streams: TcpListener,
}

/// What makes a listener another one. The bridge's number: one that was made anew has another.
type Identity = (NetworkKey, IpAddr, u32);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    numbers: BTreeMap<Identity, u32>,
    listeners: BTreeMap<u32, Listener>,
    next: u32,
}

/// Why a gateway's port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer names on {address} port {PORT}, the gateway of network {name:?}")]
pub(crate) struct ListenError {
    pub(crate) network: NetworkKey,
    /// The network's name.
    name: String,
    /// Its gateway.
    address: IpAddr,
    source: io::Error,
}

impl ListenError {
    pub(crate) fn hint(&self) -> Option<String> {
        (self.source.kind() == io::ErrorKind::AddrInUse).then(|| {
            "another program of the host has the port on all addresses: see `ss -lnp sport = 53`, and have it \
             listen on certain ones (dnsmasq: bind-dynamic and except-interface)"
                .to_owned()
        })
    }
}

impl Listeners {
    pub(crate) fn get(&self, number: u32) -> Option<&Listener> {
        self.listeners.get(&number)
    }

    /// Listens for these networks and no others. What cannot be had is told, and tried again the next time.
    pub(crate) fn settle<'a>(
        &mut self,
        poller: &Poller,
        networks: impl Iterator<Item = (NetworkKey, &'a Network)>,
    ) -> Vec<ListenError> {
        let mut wanted = BTreeMap::new();
        let mut missing = Vec::new();
        for (key, network) in networks {
            // The kernel has none for a macvlan network: its gateway is somebody else.
            if !matches!(network.spec.driver, isle_network::Driver::Bridge) {
                continue;
            }
            for gateway in network.gateways() {
                let fail = |source| ListenError {
                    network: key,
                    name: network.name.clone(),
                    address: gateway.addr(),
                    source,
                };
                match link_number(&network.link) {
                    Some(index) => {
                        wanted.insert((key, gateway.addr(), index), network);
                    }
                    None => missing.push(fail(io::Error::other(format!(
                        "there is no bridge {}",
                        network.link
                    )))),
                }
            }
        }
        let listeners = &mut self.listeners;
        self.numbers.retain(|identity, number| {
            let stays = wanted.contains_key(identity);
            if !stays {
                // Closed sockets leave the poller by themselves.
                listeners.remove(number);
            }
            stays
        });
        for (identity, network) in wanted {
            if self.numbers.contains_key(&identity) {
                continue;
            }
            let (key, address, _) = identity;
            match self.open(poller, key, address, &network.link) {
                Ok(number) => {
                    self.numbers.insert(identity, number);
                }
                Err(source) => missing.push(ListenError {
                    network: key,
                    name: network.name.clone(),
                    address,
                    source,
                }),
            }
        }
        missing
    }

    fn open(
        &mut self,
        poller: &Poller,
        network: NetworkKey,
        address: IpAddr,
        link: &str,
    ) -> io::Result<u32> {
        let to = SocketAddr::new(address, PORT);
        let datagrams = bound(to, link, SocketType::DGRAM)?;
        let streams = bound(to, link, SocketType::STREAM)?;
        listen(&streams, BACKLOG)?;
        let number = self.next;
        poller.add(&datagrams, Token::Datagrams(number), Interest::READ)?;
        poller.add(&streams, Token::Streams(number), Interest::READ)?;
        self.next += 1;
        let listener = Listener {
            network,
            datagrams: datagrams.into(),
            streams: streams.into(),
        };
        self.listeners.insert(number, listener);
        Ok(number)
    }
}

fn bound(to: SocketAddr, link: &str, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = match kind {
        SocketType::STREAM => ipproto::TCP,
        _ => ipproto::UDP,
    };
    let socket = socket_with(family, kind, flags, Some(protocol))?;
    // Also while the kernel still looks whether somebody else has the address.
    match to {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => {
            sockopt::set_ipv6_v6only(&socket, true)?;
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    }
    match kind {
        SocketType::STREAM => sockopt::set_socket_reuseaddr(&socket, true)?,
        // Less is no reason not to answer.
        _ => drop(sockopt::set_socket_recv_buffer_size_force(&socket, ROOM)),
    }
    isle_sys::socket::bind_to_link(&socket, link)?;
    bind(&socket, &to)?;
    Ok(socket)
}
