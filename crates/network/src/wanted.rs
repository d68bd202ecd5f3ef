//! What the kernel shall have for what the rows say: plain values of `isle-dataplane`. Pure.

use std::net::IpAddr;
use std::path::Path;

use isle_dataplane as kernel;
use sha2::{Digest, Sha256};

use crate::{Destination, Driver, Egress, Endpoint, MacvlanMode, Network, Protocol, Publication};

/// An instance's place on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The network.
    pub network: Network,
    /// The instance's place on it.
    pub endpoint: Endpoint,
}

/// Whose tables of the kernel: those of the usual root have a name that people know.
#[must_use]
pub fn realm(root: &Path) -> kernel::Realm {
    use std::os::unix::ffi::OsStrExt as _;
    if root == Path::new("/var/lib/isle") {
        return kernel::Realm::new("isle");
    }
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let digits: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    kernel::Realm::new(&format!("isle_{digits}"))
}

/// The bridge of a network that has one.
#[must_use]
pub fn bridge(network: &Network) -> Option<kernel::Bridge> {
    match network.spec.driver {
        Driver::Macvlan { .. } => None,
        Driver::Bridge => Some(kernel::Bridge {
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

/// An instance has one way out a family: that of the first of its networks that has one.
fn is_way_out(link: &Link, links: &[Link], is_ipv6: bool) -> bool {
    links
        .iter()
        .find(|other| gateway(&other.network, is_ipv6).is_some())
        .is_some_and(|first| first.network.id == link.network.id)
}

/// The cable of one of an instance's places. `links` are all of them, in the order of the interfaces.
#[must_use]
pub fn endpoint(link: &Link, links: &[Link]) -> kernel::Endpoint {
    let gateways = [false, true].into_iter().filter_map(|is_ipv6| {
        let gateway = gateway(&link.network, is_ipv6)?;
        is_way_out(link, links, is_ipv6).then_some(gateway)
    });
    kernel::Endpoint {
        link: link.endpoint.link(),
        bridge: link.network.link.clone(),
        interface: link.endpoint.interface.clone(),
        mac: link.endpoint.mac,
        addresses: link.endpoint.addresses().collect(),
        gateways: gateways.collect(),
        mtu: link.network.spec.mtu,
        is_isolated: !link.network.spec.inter_instance,
        routes: Vec::new(),
        rate: kernel::Rate {
            into: link.endpoint.rate.into,
            out_of: link.endpoint.rate.out_of,
        },
    }
}

/// What watches over what an instance reaches beyond a network; `None` where it may reach all.
///
/// The names of a list have the numbers of their entries ([`kernel::Destination::Named`]).
#[must_use]
pub fn guard(link: &Link) -> Option<kernel::Guard> {
    let allowed = match &link.endpoint.egress {
        Egress::Allow => return None,
        Egress::Deny => Vec::new(),
        Egress::List(list) => list
            .iter()
            .enumerate()
            .map(|(number, allowed)| kernel::Allowed {
                to: match &allowed.to {
                    Destination::Net(net) => kernel::Destination::Net(*net),
                    // A list of more entries cannot be given: the argument would be too long.
                    Destination::Name(_) => kernel::Destination::Named(number as u16),
                },
                protocol: allowed.protocol.map(protocol),
                ports: allowed.ports,
            })
            .collect(),
    };
    Some(kernel::Guard {
        link: link.endpoint.link(),
        mac: link.endpoint.mac,
        addresses: link.endpoint.addresses().map(|net| net.addr()).collect(),
        allowed,
    })
}

fn protocol(protocol: Protocol) -> kernel::Protocol {
    match protocol {
        Protocol::Tcp => kernel::Protocol::Tcp,
        Protocol::Udp => kernel::Protocol::Udp,
        Protocol::Sctp => kernel::Protocol::Sctp,
    }
}

impl From<MacvlanMode> for kernel::MacvlanMode {
    fn from(mode: MacvlanMode) -> kernel::MacvlanMode {
        match mode {
            MacvlanMode::Bridge => kernel::MacvlanMode::Bridge,
            MacvlanMode::Vepa => kernel::MacvlanMode::Vepa,
            MacvlanMode::Private => kernel::MacvlanMode::Private,
            MacvlanMode::Passthru => kernel::MacvlanMode::Passthru,
        }
    }
}

/// Where published ports lead in one family: to the first of an instance's networks that has a way out, by a
/// bridge.
#[must_use]
pub fn target(links: &[Link], is_ipv6: bool) -> Option<IpAddr> {
    let link = links.iter().find(|link| {
        gateway(&link.network, is_ipv6).is_some() && link.network.spec.driver == Driver::Bridge
    })?;
    let mut addresses = link.endpoint.addresses().map(|net| net.addr());
    addresses.find(|address| address.is_ipv6() == is_ipv6)
}

/// What the kernel passes on for an instance's published ports.
pub fn published<'a>(
    publications: impl IntoIterator<Item = &'a Publication>,
    links: &[Link],
) -> Vec<kernel::Publication> {
    let targets = [target(links, false), target(links, true)];
    let mut published = Vec::new();
    for publication in publications {
        for to in targets.into_iter().flatten() {
            let fits = publication
                .host
                .is_none_or(|host| host.is_ipv6() == to.is_ipv6());
            if fits {
                published.push(kernel::Publication {
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
