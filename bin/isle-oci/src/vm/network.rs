//! The network of the guest: that of the namespace which the engine has prepared. Whatever arrives at an interface there goes to a tap
//! beside it, the other side of one of the machine's cards, and back: the guest has the interface's addresses, hardware
//! address and routes, and the interface keeps them for those who look.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, bail};
use isle_guest::{Network, NetworkAddress, NetworkRoute};
use isle_netlink::link::{self, Link};
use isle_netlink::{Batch, Socket, address, route};
use isle_sys::tun::{Offloads, tap};
use rustix::net::netdevice::name_to_index;

/// What the guest gets.
#[derive(Debug, Default)]
pub(super) struct Wired {
    pub(super) networks: Vec<Network>,
    /// The other sides of its cards.
    pub(super) taps: Vec<OwnedFd>,
}

/// Connects every interface of a namespace that is up, but the loopback one, to a tap.
///
/// # Errors
/// When there are more than the machine has cards, or the kernel refuses.
pub(super) fn wire(namespace: BorrowedFd<'_>, most: usize) -> anyhow::Result<Wired> {
    isle_sys::namespace::in_network(namespace, || wire_here(most))
        .context("cannot enter the network namespace")?
}

/// Takes away what is left of that in a namespace that stays. Best effort.
pub(super) fn unwire(namespace: BorrowedFd<'_>) {
    let _ = isle_sys::namespace::in_network(namespace, || -> anyhow::Result<()> {
        let socket = Socket::route()?;
        for found in interfaces(&socket)? {
            let mut batch = Batch::default();
            batch.end_redirect(found.index);
            let _ = socket.send(&batch);
        }
        Ok(())
    });
}

fn interfaces(socket: &Socket) -> anyhow::Result<Vec<link::Told>> {
    let mut batch = Batch::default();
    batch.list_links();
    let mut found = Vec::new();
    socket.dump(&batch, |_, payload| found.extend(link::parse(payload)))?;
    // `tun`: that of a machine.
    found
        .retain(|link| link.is_up && link.mac.is_some() && link.name != "lo" && link.kind != "tun");
    found.sort_by_key(|link| link.index);
    Ok(found)
}

fn wire_here(most: usize) -> anyhow::Result<Wired> {
    let socket = Socket::route()
        .and_then(Socket::explain)
        .context("cannot speak to the kernel about networks")?;
    let found = interfaces(&socket).context("cannot list the network interfaces")?;
    if found.len() > most {
        bail!(
            "the network namespace has {} interfaces: a virtual machine has {most} network cards",
            found.len()
        );
    }
    let mut addresses = Vec::new();
    let mut batch = Batch::default();
    batch.list_addresses();
    socket
        .dump(&batch, |_, payload| {
            addresses.extend(address::parse(payload))
        })
        .context("cannot list the addresses")?;
    let mut routes = Vec::new();
    let mut batch = Batch::default();
    batch.list_routes();
    socket
        .dump(&batch, |_, payload| routes.extend(route::parse(payload)))
        .context("cannot list the routes")?;
    let mut wired = Wired::default();
    for (card, link) in found.iter().enumerate() {
        let fail = || {
            format!(
                "cannot connect interface {:?} to the virtual machine",
                link.name
            )
        };
        wired
            .taps
            .push(join(&socket, card, link).with_context(fail)?);
        wired
            .networks
            .push(network(card as u8, link, &addresses, &routes));
    }
    Ok(wired)
}

/// Makes the tap of a card, and joins it with the interface both ways.
fn join(socket: &Socket, card: usize, link: &link::Told) -> anyhow::Result<OwnedFd> {
    let name = format!("isle-card{card}");
    let tap = tap(&name, Offloads { has_header: true })?;
    let index = name_to_index(socket, &name)?;
    // What a machine that was killed has left would come first.
    let mut batch = Batch::default();
    batch.end_redirect(link.index);
    let _ = socket.send(&batch);
    let mut batch = Batch::default();
    batch.change_link(&Link {
        index,
        mtu: Some(link.mtu),
        is_without_link_local: true,
        ..Link::default()
    });
    batch.change_link(&Link {
        index,
        is_up: Some(true),
        ..Link::default()
    });
    batch.redirect(link.index, index);
    batch.redirect(index, link.index);
    socket.send(&batch)?;
    Ok(tap)
}

fn network(
    card: u8,
    link: &link::Told,
    addresses: &[address::Told],
    routes: &[route::Route],
) -> Network {
    let addresses = addresses
        .iter()
        .filter(|address| address.link == link.index && address.is_global);
    let of_link = |route: &&route::Route| {
        let is_local = match route.destination.0 {
            IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        route.link == link.index && !is_local
    };
    let mut routes: Vec<NetworkRoute> = routes
        .iter()
        .filter(of_link)
        .map(|route| NetworkRoute {
            destination: NetworkAddress {
                address: route.destination.0,
                prefix: route.destination.1,
            },
            gateway: route.gateway,
        })
        .collect();
    // A gateway may be reached by a route of its own.
    routes.sort_by_key(|route| route.gateway.is_some());
    Network {
        card,
        interface: link.name.clone(),
        mac: link.mac.unwrap_or_default(),
        mtu: (link.mtu > 0).then_some(link.mtu),
        addresses: addresses
            .map(|address| NetworkAddress {
                address: address.address,
                prefix: address.prefix,
            })
            .collect(),
        routes,
    }
}
