//! A virtual machine on networks: each of its cards has a tap, a port of the network's bridge, as its other side.
//!
//! Card N is the interface `ethN` inside. A tap that is there when the machine starts is the card's own and stays until
//! the machine ends; while its card is on no network it is parked: a link of another name that is down and no port.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use isle_dataplane::Endpoint;
use isle_guest::{Network, NetworkAddress, NetworkRoute};
use isle_network::Link;
use isle_network::wanted::endpoint;
use isle_qemu::Devices;

use super::running::Running;
use crate::backend::{StartError, failed};
use crate::state::Instance;
use crate::wiring::{Parked, Wiring};

/// How many networks a machine can be on at once.
pub(super) fn most() -> usize {
    usize::from(Devices::of_instance().network_cards)
}

fn refused(message: String) -> StartError {
    StartError {
        message,
        exit_code: 125,
    }
}

fn too_many(asked: usize) -> StartError {
    refused(format!(
        "cannot connect it to {asked} networks: a virtual machine has {} network cards",
        most()
    ))
}

/// What the guest is told of its networks.
///
/// # Errors
/// When it has fewer cards.
pub(super) fn announcement(links: &[Link]) -> Result<Vec<Network>, StartError> {
    if links.len() > most() {
        return Err(too_many(links.len()));
    }
    let endpoints = links.iter().map(|link| endpoint(link, links));
    endpoints
        .map(|endpoint| Ok(of_endpoint(card(&endpoint.interface)?, &endpoint)))
        .collect()
}

/// Which card an interface is of.
fn card(interface: &str) -> Result<u8, StartError> {
    let number = interface.strip_prefix("eth").map(str::parse::<u8>);
    let Some(Ok(number)) = number else {
        return Err(refused(format!(
            "a virtual machine has no interface {interface:?}"
        )));
    };
    match usize::from(number) < most() {
        true => Ok(number),
        false => Err(too_many(usize::from(number) + 1)),
    }
}

fn of_endpoint(card: u8, endpoint: &Endpoint) -> Network {
    let everywhere = |gateway: &IpAddr| NetworkAddress {
        address: match gateway {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        },
        prefix: 0,
    };
    Network {
        card,
        interface: endpoint.interface.clone(),
        mac: endpoint.mac,
        mtu: endpoint.mtu,
        addresses: endpoint
            .addresses
            .iter()
            .map(|net| NetworkAddress {
                address: net.addr(),
                prefix: net.prefix_len(),
            })
            .collect(),
        routes: endpoint
            .gateways
            .iter()
            .map(|gateway| NetworkRoute {
                destination: everywhere(gateway),
                gateway: Some(*gateway),
            })
            .collect(),
    }
}

/// The name of a card's tap while it is parked.
fn parked(instance: &Instance, card: u8) -> String {
    format!("ip{:.11}{card}", instance.id.to_string())
}

/// Puts a machine that runs on one network more.
pub(super) fn connect(
    running: &mut Running,
    instance: &Instance,
    link: Link,
    wiring: &mut Wiring,
) -> Result<(), StartError> {
    let network = link.network.id.clone();
    let card = card(&link.endpoint.interface)?;
    let cannot = "cannot connect to the network";
    let endpoint = match wiring.connect_tap(link, &parked(instance, card))? {
        (endpoint, Parked::Taken) => endpoint,
        (endpoint, Parked::New(tap)) => {
            let plugged = running.machine.plug_card(card.into(), tap.as_fd());
            if let Err(error) = plugged {
                let _ = wiring.disconnect(&network);
                return Err(failed(cannot)(error));
            }
            endpoint
        }
    };
    let told = running.guest.connect(&of_endpoint(card, &endpoint));
    told.map_err(|error| {
        let _ = let_go(running, instance, card, &network, wiring);
        failed(cannot)(error)
    })
}

/// Takes it off one.
pub(super) fn disconnect(
    running: &mut Running,
    instance: &Instance,
    network: &str,
    wiring: &mut Wiring,
) -> Result<(), StartError> {
    let mut links = wiring.links().iter();
    let Some(link) = links.find(|link| link.network.id == network) else {
        return Ok(());
    };
    let card = card(&link.endpoint.interface)?;
    let cannot = || failed("cannot disconnect from the network");
    running.guest.disconnect(card).map_err(cannot())?;
    let_go(running, instance, card, network, wiring)?;
    // Another one may be the way out now.
    let others = announcement(wiring.links())?.into_iter();
    for other in others.filter(|other| !other.routes.is_empty()) {
        running.guest.connect(&other).map_err(cannot())?;
    }
    Ok(())
}

fn let_go(
    running: &mut Running,
    instance: &Instance,
    card: u8,
    network: &str,
    wiring: &mut Wiring,
) -> Result<(), StartError> {
    let result = match running.machine.unplug_card(card.into()) {
        Ok(()) => wiring.disconnect(network).map(drop),
        // The card's own: QEMU keeps it.
        Err(_) => wiring.park(network, &parked(instance, card)),
    };
    result.map_err(failed("cannot disconnect from the network"))
}
