//! What the host itself is connected to, and which of its ports are taken.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use isle_rootless::Claim;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

use crate::{NetworkError, Protocol, Publication};

/// The subnets that the host has routes to (but the default one), of both families: where an instance's
/// addresses would hide somebody else's. Those of the links in `own` are left out.
///
/// Source: `/proc/net/route`, `/proc/net/ipv6_route` (proc_pid_net(5)).
///
/// # Errors
/// When the kernel does not tell.
pub fn routes(own: &[String]) -> Result<Vec<IpNet>, NetworkError> {
    let read = |path: &str| match fs::read_to_string(path) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result.map_err(|source| NetworkError::Host {
            what: "read the host's routes",
            source,
        }),
    };
    let is_own = |link: &str| own.iter().any(|own| own == link);
    let v4 = read("/proc/net/route")?;
    let v4 = v4.lines().skip(1).filter_map(ipv4_route);
    let v6 = read("/proc/net/ipv6_route")?;
    let v6 = v6.lines().filter_map(ipv6_route);
    Ok(v4
        .chain(v6)
        .filter(|(link, net)| !is_own(link) && net.prefix_len() > 0)
        .map(|(_, net)| net)
        .collect())
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, numbers as the host stores them.
fn ipv4_route(line: &str) -> Option<(String, IpNet)> {
    let mut fields = line.split_whitespace();
    let link = fields.next()?.to_owned();
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let destination = Ipv4Addr::from(hex(fields.next()?)?.to_ne_bytes());
    let mask = Ipv4Addr::from(hex(fields.nth(5)?)?.to_ne_bytes());
    let net = Ipv4Net::with_netmask(destination, mask).ok()?;
    Some((link, IpNet::V4(net.trunc())))
}

/// `destination prefix-length … interface`. Only unique global addresses: the kernel has routes of its
/// own to link-local and multicast ones on every link.
fn ipv6_route(line: &str) -> Option<(String, IpNet)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = u128::from_str_radix(fields.first()?, 16).ok()?;
    let prefix = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let address = Ipv6Addr::from(address);
    let is_everywhere = address.is_multicast()
        || address.is_loopback()
        || address.is_unspecified()
        || address.segments()[0] & 0xffc0 == 0xfe80;
    let net = Ipv6Net::new(address, prefix).ok()?;
    let link = (*fields.last()?).to_owned();
    (!is_everywhere).then_some((link, IpNet::V6(net.trunc())))
}

/// Takes a port of the host, so that no program gets it while it is published: sockets that nothing
/// ever reaches, since the kernel has passed on what is for them before.
///
/// A TCP port is listened on: other programs could bind it otherwise. Where all addresses are meant those of
/// IPv4 are held, which are those of a socket for both families too; of IPv6 alone the keeper of networks holds
/// `::1`. SCTP is not held: the kernel need not have it.
///
/// # Errors
/// [`NetworkError::PortTaken`].
pub fn hold(publication: &Publication) -> Result<Vec<OwnedFd>, NetworkError> {
    if isle_rootless::house().is_some() {
        return hold_outside(publication);
    }
    let taken = |source: io::Error| NetworkError::PortTaken {
        host: publication.host,
        host_port: publication.host_port,
        protocol: publication.protocol,
        source,
    };
    let address = match publication.host {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(IpAddr::V6(address)) if address.is_loopback() || address.is_unspecified() => {
            return Ok(Vec::new());
        }
        Some(address) => address,
    };
    let held = bound(address, publication).map_err(taken)?;
    Ok(held.into_iter().collect())
}

/// The same for an ordinary user, whose networks are not the host's: the keeper of the user's house has the sockets, the keeper
/// of networks takes what comes by them, and this claims them.
fn hold_outside(publication: &Publication) -> Result<Vec<OwnedFd>, NetworkError> {
    let is_stream = match publication.protocol {
        Protocol::Tcp => true,
        Protocol::Udp => false,
        Protocol::Sctp => return Err(NetworkError::NoSctp),
    };
    let mut held = Vec::new();
    for address in outside(publication.host) {
        let port = SocketAddr::new(address, publication.host_port);
        match isle_rootless::host_socket(Claim::Owner, is_stream, port) {
            Ok(Some((_, claim))) => held.push(claim.into()),
            Ok(None) => {}
            Err(error) if publication.host.is_none() && is_without_ipv6(address, &error) => {}
            Err(source) => {
                return Err(NetworkError::PortTaken {
                    host: publication.host,
                    host_port: publication.host_port,
                    protocol: publication.protocol,
                    source,
                });
            }
        }
    }
    Ok(held)
}

/// The addresses of the host's sockets by which a port is reached: both families are two sockets.
pub fn outside(host: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let any = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let all = any.into_iter().filter(move |_| host.is_none());
    host.into_iter().chain(all)
}

/// Whether an address cannot be had because the host has nothing of its family.
#[must_use]
pub fn is_without_ipv6(address: IpAddr, error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    address.is_ipv6() && matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Whether the host, as this process sees it, has a link of that name.
#[must_use]
pub fn has_link(name: &str) -> bool {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    socket.is_ok_and(|socket| name_to_index(&socket, name).is_ok())
}

fn bound(address: IpAddr, publication: &Publication) -> io::Result<Option<OwnedFd>> {
    let kind = match publication.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Ok(None),
    };
    let (family, protocol) = match (address, publication.protocol) {
        (IpAddr::V4(_), Protocol::Tcp) => (AddressFamily::INET, ipproto::TCP),
        (IpAddr::V6(_), Protocol::Tcp) => (AddressFamily::INET6, ipproto::TCP),
        (IpAddr::V4(_), _) => (AddressFamily::INET, ipproto::UDP),
        (IpAddr::V6(_), _) => (AddressFamily::INET6, ipproto::UDP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if publication.protocol == Protocol::Tcp {
        // Connections of an earlier owner may still be closing.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, publication.host_port))?;
    if publication.protocol == Protocol::Tcp {
        listen(&socket, 0)?;
    }
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        // 172.17.0.0/16 dev docker0, on a little-endian host.
        let line = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";
        let expected = match cfg!(target_endian = "little") {
            true => Some(("docker0".to_owned(), "172.17.0.0/16".parse().unwrap())),
            false => return,
        };
        assert_eq!(ipv4_route(line), expected);
        let line = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                    00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        assert_eq!(
            ipv6_route(line),
            Some(("eth0".to_owned(), "fd00::/64".parse().unwrap()))
        );
        let link_local = line.replacen("fd00", "fe80", 1);
        assert_eq!(ipv6_route(&link_local), None);
        assert_eq!(ipv4_route("nonsense"), None);
    }

    #[test]
    fn a_port_is_taken_once() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let publication = Publication {
            protocol: Protocol::Tcp,
            port: 80,
            host: Some("127.0.0.1".parse().unwrap()),
            host_port: port,
        };
        let refused = hold(&publication).unwrap_err();
        assert!(
            matches!(refused, NetworkError::PortTaken { .. }),
            "{refused}"
        );
        drop(free);
        let held = hold(&publication).unwrap();
        assert_eq!(held.len(), 1);
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_err();
        drop(held);
        let udp = Publication {
            protocol: Protocol::Udp,
            host: None,
            ..publication
        };
        let held = hold(&udp).unwrap();
        std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap_err();
        drop(held);
    }
}
