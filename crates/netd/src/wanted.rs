//! What the kernel shall have for what the rows say. Pure, and the same for a supervisor that connects its instance and
//! for the keeper that repairs what somebody else has taken away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use isle_dataplane::{Bridge, Destination, Guard, Realm};
use isle_network::{Driver, Egress, Endpoint, Network, Protocol, Publication};

use crate::loopback::Port;
use sha2::{Digest as _, Sha256};

/// Whose tables of the kernel they are: those of the usual root have a name that people know.
#[must_use]
pub fn realm(root: &Path) -> Realm {
    if root == Path::new("/var/lib/isle") {
        return Realm::new("isle");
    }
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let digits: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Realm::new(&format!("isle_{digits}"))
}

/// An instance's place on one of its networks. Those of an instance are in the order of its interfaces.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The network.
    pub network: &'a Network,
    /// The place.
    pub endpoint: &'a Endpoint,
}

/// The bridge of a network that has one.
#[must_use]
pub fn bridge(network: &Network) -> Option<Bridge> {
    match network.spec.driver {
        Driver::Macvlan { .. } => None,
        Driver::Bridge => Some(Bridge {
            link: network.link.clone(),
            addresses: network.gateways().collect(),
            mtu: network.spec.mtu,
            is_internal: network.spec.internal,
            masquerade: network.spec.masquerade,
            is_isolated: !network.spec.inter_instance,
        }),
    }
}

/// The way out of a network, for one family.
#[must_use]
pub fn gateway(network: &Network, is_ipv6: bool) -> Option<IpAddr> {
    match network.spec.internal {
        true => None,
        false => network.subnet(is_ipv6)?.gateway,
    }
}

/// Where published ports lead in one family: to the first of an instance's networks that has a way out, by a bridge.
fn target(places: &[Place<'_>], is_ipv6: bool) -> Option<IpAddr> {
    let place = places.iter().find(|place| {
        gateway(place.network, is_ipv6).is_some()
            && matches!(place.network.spec.driver, Driver::Bridge)
    })?;
    let mut addresses = place.endpoint.addresses().map(|net| net.addr());
    addresses.find(|address| address.is_ipv6() == is_ipv6)
}

/// The elements of the table for published ports: one a family.
#[must_use]
pub fn published(
    places: &[Place<'_>],
    publications: &[Publication],
) -> Vec<isle_dataplane::Publication> {
    let targets = [target(places, false), target(places, true)];
    let mut published = Vec::new();
    for publication in publications {
        for to in targets.into_iter().flatten() {
            if publication
                .host
                .is_none_or(|host| host.is_ipv6() == to.is_ipv6())
            {
                published.push(isle_dataplane::Publication {
                    protocol: protocol(publication.protocol),
                    host: publication.host.filter(|host| !host.is_unspecified()),
                    host_port: publication.host_port,
                    to,
                    to_port: publication.port,
                });
            }
        }
    }
    published
}

/// The ports that are published on `::1` too, and where they lead: to IPv6 where the instance has it.
pub(crate) fn on_loopback(
    places: &[Place<'_>],
    publications: &[Publication],
) -> BTreeMap<Port, SocketAddr> {
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
        .filter(|publication| includes_loopback(publication.host))
        .map(|publication| {
            let port = (publication.protocol, publication.host_port);
            (port, SocketAddr::new(to, publication.port))
        })
        .collect()
}

/// What watches over a place whose instance has a policy. Names have the number of their entry in the list: by it the
/// keeper allows what they resolve to.
#[must_use]
pub fn guard(endpoint: &Endpoint) -> Option<Guard> {
    let list = match &endpoint.egress {
        Egress::Allow => return None,
        Egress::Deny => &[][..],
        Egress::List(list) => list,
    };
    let allowed = (0..)
        .zip(list)
        .map(|(number, allowed)| isle_dataplane::Allowed {
            to: match &allowed.to {
                isle_network::Destination::Net(net) => Destination::Net(*net),
                isle_network::Destination::Name(_) => Destination::Named(number),
            },
            protocol: allowed.protocol.map(protocol),
            ports: allowed.ports,
        });
    Some(Guard {
        link: endpoint.link(),
        mac: endpoint.mac,
        addresses: endpoint.addresses().map(|net| net.addr()).collect(),
        allowed: allowed.collect(),
    })
}

/// In the kernel's words.
#[must_use]
pub fn protocol(protocol: Protocol) -> isle_dataplane::Protocol {
    match protocol {
        Protocol::Tcp => isle_dataplane::Protocol::Tcp,
        Protocol::Udp => isle_dataplane::Protocol::Udp,
        Protocol::Sctp => isle_dataplane::Protocol::Sctp,
    }
}

/// The endpoint of a place: what is made of it in the kernel.
#[must_use]
pub fn endpoint(place: &Place<'_>, places: &[Place<'_>]) -> isle_dataplane::Endpoint {
    // An instance has one way out a family: that of the first of its networks that has one.
    let is_way_out = |is_ipv6| {
        let first = places
            .iter()
            .find(|other| gateway(other.network, is_ipv6).is_some());
        first.is_some_and(|first| first.network.id == place.network.id)
    };
    let gateways = [false, true]
        .into_iter()
        .filter(|is_ipv6| is_way_out(*is_ipv6));
    isle_dataplane::Endpoint {
        link: place.endpoint.link(),
        bridge: place.network.link.clone(),
        is_isolated: !place.network.spec.inter_instance,
        interface: place.endpoint.interface.clone(),
        mac: place.endpoint.mac,
        addresses: place.endpoint.addresses().collect(),
        gateways: gateways
            .filter_map(|is_ipv6| gateway(place.network, is_ipv6))
            .collect(),
        routes: Vec::new(),
        mtu: place.network.spec.mtu,
        rate: isle_dataplane::Rate::default(),
    }
}
