//! Sockets of the host's network, each kept while somebody has asked for it and is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::Claim;
use crate::words::Port;

const BACKLOG: i32 = 4096;

/// All of them, and which connections want each.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<Port, (OwnedFd, Vec<(u32, Claim)>)>);

impl Ports {
    /// A port for a connection: the keeper of networks gets the same socket as the supervisor whose port it is.
    pub(crate) fn take(
        &mut self,
        port: Port,
        claim: Claim,
        connection: u32,
    ) -> Result<OwnedFd, Errno> {
        let clone = |socket: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(socket, 3);
        if let Some((socket, wanted)) = self.0.get_mut(&port) {
            let has_owner = wanted.iter().any(|(_, other)| *other == Claim::Owner);
            if claim == Claim::Owner && has_owner {
                return Err(Errno::ADDRINUSE);
            }
            wanted.push((connection, claim));
            return clone(socket);
        }
        let socket = open(port)?;
        let given = clone(&socket)?;
        self.0.insert(port, (socket, vec![(connection, claim)]));
        Ok(given)
    }

    /// A connection has gone.
    pub(crate) fn release(&mut self, connection: u32) {
        self.0.retain(|_, (_, wanted)| {
            wanted.retain(|(other, _)| *other != connection);
            !wanted.is_empty()
        });
    }
}

fn open(port: Port) -> Result<OwnedFd, Errno> {
    let address = SocketAddr::new(port.address, port.number);
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match port.is_stream {
        true => SocketType::STREAM,
        false => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if port.is_stream {
        // Connections of an earlier owner may still be closing.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if port.is_stream {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_shared_by_those_who_name_it_and_goes_with_the_last() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = free.local_addr().unwrap().port();
        let port = Port {
            is_stream: true,
            address: "127.0.0.1".parse().unwrap(),
            number,
        };
        let mut ports = Ports::default();
        let mut take = |claim, connection| ports.take(port, claim, connection).map(drop);
        assert_eq!(take(Claim::Owner, 1), Err(Errno::ADDRINUSE));
        drop(free);
        take(Claim::Owner, 1).unwrap();
        take(Claim::Servant, 2).unwrap();
        assert_eq!(take(Claim::Owner, 3), Err(Errno::ADDRINUSE));
        ports.release(1);
        std::net::TcpListener::bind(("127.0.0.1", number)).unwrap_err();
        ports.release(2);
        std::net::TcpListener::bind(("127.0.0.1", number)).unwrap();
    }
}
