//! The link inside an instance's network namespace.

use std::os::fd::BorrowedFd;

use isle_netlink::link::Link;
use isle_netlink::{Batch, Socket, route};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;

use crate::{Endpoint, Error, settings};

/// Gives the link its addresses and routes and brings it up, and the loopback interface.
pub(crate) fn configure(endpoint: &Endpoint, namespace: BorrowedFd<'_>) -> Result<(), Error> {
    isle_sys::namespace::in_network(namespace, || {
        let socket = Socket::route()
            .and_then(Socket::explain)
            .map_err(|source| error(endpoint, source))?;
        let index = name_to_index(&socket, &endpoint.interface)
            .map_err(|source| error(endpoint, source.into()))?;
        let interface = &endpoint.interface;
        // Routers are none of the instances' business: the gateways are given.
        match endpoint.addresses.iter().any(|net| net.addr().is_ipv6()) {
            true => settings::ensure(&format!("ipv6/conf/{interface}/accept_ra"), "0")?,
            false => settings::ensure(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?,
        };
        socket.send(&batch(endpoint, index)).map_err(|refused| {
            Error::from_refusal(&format!("configure {interface:?} of an instance"), refused)
        })
    })
    .map_err(|source| error(endpoint, source))?
}

/// Leads out by the endpoint's gateways, in place of what led out before.
pub(crate) fn lead_out(endpoint: &Endpoint, namespace: BorrowedFd<'_>) -> Result<(), Error> {
    isle_sys::namespace::in_network(namespace, || {
        let socket = Socket::route()?.explain()?;
        let index = name_to_index(&socket, &endpoint.interface)?;
        let mut batch = Batch::default();
        add_gateways(&mut batch, endpoint, index);
        Ok(socket.send(&batch))
    })
    .and_then(|result| result)
    .map_err(|source| error(endpoint, source))?
    .map_err(|refused| {
        let operation = format!("lead an instance out by {:?}", endpoint.interface);
        Error::from_refusal(&operation, refused)
    })
}

/// Deletes a link inside; harmless when it is gone.
pub(crate) fn delete(interface: &str, namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let operation = format!("delete {interface:?} of an instance");
    let error = |source| Error::System {
        operation: operation.clone(),
        source,
    };
    let result = isle_sys::namespace::in_network(namespace, || {
        let mut batch = Batch::default();
        batch.delete_link(interface);
        Ok(Socket::route()?.explain()?.send(&batch))
    });
    match result.and_then(|result| result).map_err(error)? {
        Err(refused) if refused.error.raw_os_error() != Some(Errno::NODEV.raw_os_error()) => {
            Err(Error::from_refusal(&operation, refused))
        }
        _ => Ok(()),
    }
}

fn batch(endpoint: &Endpoint, index: u32) -> Batch {
    let mut batch = Batch::default();
    let up = |index| Link {
        index,
        is_up: Some(true),
        ..Link::default()
    };
    batch.change_link(&up(1));
    batch.change_link(&up(index));
    for net in &endpoint.addresses {
        batch.add_address(index, net.addr(), net.prefix_len());
    }
    for route in &endpoint.routes {
        let destination = route.destination;
        batch.add_route(&route::Route {
            destination: (destination.network(), destination.prefix_len()),
            gateway: route.gateway,
            link: index,
            metric: None,
        });
    }
    add_gateways(&mut batch, endpoint, index);
    batch
}

fn add_gateways(batch: &mut Batch, endpoint: &Endpoint, index: u32) {
    for gateway in &endpoint.gateways {
        batch.add_route(&route::Route {
            // A prefix of no bits: everywhere.
            destination: (*gateway, 0),
            gateway: Some(*gateway),
            link: index,
            metric: None,
        });
    }
}

fn error(endpoint: &Endpoint, source: std::io::Error) -> Error {
    Error::System {
        operation: format!("configure {:?} of an instance", endpoint.interface),
        source,
    }
}
