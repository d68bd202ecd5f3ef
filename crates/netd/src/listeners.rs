//! Port 53 of each gateway: one socket for datagrams and one for TCP, which take only what comes in by the network's
//! own bridge.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use isle_network::{Driver, Network};
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
    /// `None`: another program of the host has the port of TCP on all addresses.
    pub(crate) streams: Option<TcpListener>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Which one a gateway has, and the number of the bridge that it was made for: one that was made anew has another.
    gateways: BTreeMap<(NetworkKey, IpAddr), (u32, u32)>,
    listeners: BTreeMap<u32, Listener>,
    /// What is told to somebody: addresses where names are answered by UDP alone.
    warnings: Vec<String>,
    next: u32,
}

/// Why a gateway's port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer names on {address} port {PORT}, the gateway of network {network:?}")]
pub(crate) struct ListenError {
    /// The network's name.
    network: String,
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

    /// What has become known since the last call, for people.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Listens on the gateways of a network, on its bridge of this moment.
    ///
    /// # Errors
    /// For the first gateway where that is not to be had; the others are listened on.
    pub(crate) fn open_for(
        &mut self,
        poller: &Poller,
        key: NetworkKey,
        network: &Network,
    ) -> Result<(), ListenError> {
        // The kernel has none for a macvlan network: its gateway is somebody else.
        if !matches!(network.spec.driver, Driver::Bridge) {
            return Ok(());
        }
        let index = link_number(&network.link);
        let mut result = Ok(());
        for gateway in network.gateways() {
            let address = gateway.addr();
            let opened = match (index, self.gateways.get(&(key, address)).copied()) {
                (Some(index), Some((of, _))) if of == index => Ok(()),
                (Some(index), old) => {
                    // Closed sockets leave the poller by themselves.
                    self.listeners
                        .remove(&old.map_or(u32::MAX, |(_, number)| number));
                    self.gateways.remove(&(key, address));
                    self.open(poller, key, address, &network.link)
                        .map(|number| {
                            self.gateways.insert((key, address), (index, number));
                        })
                }
                (None, _) => Err(io::Error::other(format!(
                    "there is no bridge {}",
                    network.link
                ))),
            };
            result = result.and(opened.map_err(|source| ListenError {
                network: network.name.clone(),
                address,
                source,
            }));
        }
        result
    }

    /// Listens no more for networks that nobody is on.
    pub(crate) fn close(&mut self, is_used: impl Fn(NetworkKey) -> bool) {
        let listeners = &mut self.listeners;
        self.gateways.retain(|(key, _), (_, number)| {
            let stays = is_used(*key);
            if !stays {
                listeners.remove(number);
            }
            stays
        });
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
        let streams = match bound(to, link, SocketType::STREAM) {
            // Its datagrams are ours all the same where it lets others in (dnsmasq does): the kernel gives them to the
            // socket of the one address and the one link.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                self.warnings.push(format!(
                    "another program of the host has TCP port {PORT} on all addresses: on {address} names are \
                     answered by UDP alone, and long answers are cut"
                ));
                None
            }
            streams => Some(streams?),
        };
        let number = self.next;
        poller.add(&datagrams, Token::Datagrams(number), Interest::READ)?;
        if let Some(streams) = &streams {
            listen(streams, BACKLOG)?;
            poller.add(streams, Token::Streams(number), Interest::READ)?;
        }
        self.next += 1;
        let listener = Listener {
            network,
            datagrams: datagrams.into(),
            streams: streams.map(TcpListener::from),
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
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if kind == SocketType::DGRAM {
        // Less is no reason not to answer.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, ROOM);
    }
    isle_sys::socket::bind_to_link(&socket, link)?;
    bind(&socket, &to)?;
    Ok(socket)
}
