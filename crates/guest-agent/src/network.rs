//! Interfaces, addresses and routes, told to the kernel in one batch over rtnetlink(7).

use std::fs;
use std::io;

use isle_guest_protocol::Network;
use isle_netlink::link::Link;
use isle_netlink::route::Route;
use isle_netlink::{Batch, Refused, Socket};
use rustix::net::netdevice::name_to_index;

fn up(index: u32) -> Link<'static> {
    Link {
        index,
        is_up: Some(true),
        ..Link::default()
    }
}

/// Brings the loopback interface up: always the first one.
pub(crate) fn loopback_up() -> io::Result<()> {
    let mut batch = Batch::default();
    batch.change_link(&up(1));
    send(&Socket::route()?, &batch)
}

/// Gives an interface, by the name that it has, the one that it shall have, its address and all that goes with it.
pub(crate) fn configure(network: &Network, found: &str) -> io::Result<()> {
    let socket = Socket::route()?;
    let index = name_to_index(&socket, found)?;
    // Routers are none of the instances' business: their gateways are given.
    let has_ipv6 = network.addresses.iter().any(|net| net.address.is_ipv6());
    let (setting, value) = match has_ipv6 {
        true => ("accept_ra", "0"),
        false => ("disable_ipv6", "1"),
    };
    match fs::write(format!("/proc/sys/net/ipv6/conf/{found}/{setting}"), value) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => result?,
    }
    let mut batch = Batch::default();
    // Some drivers take an address only while the interface is down, as all names are taken, so it goes up behind that.
    batch.change_link(&Link {
        index,
        name: (network.interface != found).then_some(network.interface.as_str()),
        mac: Some(network.mac),
        mtu: network.mtu,
        ..Link::default()
    });
    batch.change_link(&up(index));
    for address in &network.addresses {
        batch.add_address(index, address.address, address.prefix);
    }
    for route in &network.routes {
        batch.add_route(&Route {
            destination: (route.destination.address, route.destination.prefix),
            gateway: route.gateway,
            link: index,
            metric: None,
        });
    }
    send(&socket, &batch)
}

fn send(socket: &Socket, batch: &Batch) -> io::Result<()> {
    socket.send(batch).map_err(|refused: Refused| refused.error)
}
