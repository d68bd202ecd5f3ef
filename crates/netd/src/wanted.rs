//! What the kernel shall have for what the rows say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use isle_network::{Driver, Endpoint, Network, Protocol, Publication};

/// An instance's place on one of its networks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) network: &'a Network,
    pub(crate) endpoint: &'a Endpoint,
}

/// Where published ports lead in one family: to the first of an instance's networks that has a way out, by a bridge.
pub(crate) fn target(places: &[Place<'_>], is_ipv6: bool) -> Option<IpAddr> {
    let has_way_out = |network: &Network| {
        !network.spec.internal
            && network
                .subnet(is_ipv6)
                .is_some_and(|subnet| subnet.gateway.is_some())
    };
    let place = places.iter().find(|place| {
        has_way_out(place.network) && matches!(place.network.spec.driver, Driver::Bridge)
    })?;
    let mut addresses = place.endpoint.addresses().map(|net| net.addr());
    addresses.find(|address| address.is_ipv6() == is_ipv6)
}

/// The TCP ports that are published on `::1` too, and where they lead: to IPv6 where the instance has it.
pub(crate) fn on_loopback(
    places: &[Place<'_>],
    publications: &[Publication],
) -> BTreeMap<u16, SocketAddr> {
    let Some(to) = target(places, true).or_else(|| target(places, false)) else {
        return BTreeMap::new();
    };
    let includes_loopback = |host: Option<IpAddr>| match host {
        None => true,
        Some(IpAddr::V4(_)) => false,
        Some(IpAddr::V6(host)) => host == Ipv6Addr::LOCALHOST || host.is_unspecified(),
    };
    publications
        .iter()
        .filter(|publication| {
            publication.protocol == Protocol::Tcp && includes_loopback(publication.host)
        })
        .map(|publication| (publication.host_port, SocketAddr::new(to, publication.port)))
        .collect()
}
