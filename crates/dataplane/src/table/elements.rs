//! Which elements stand for a bridge, a published port, a rate.

use std::net::IpAddr;

use isle_netlink::nftables::{Element, Rule, link_name};

use crate::{Bridge, Endpoint, Publication};

use super::{
    BRIDGES, INTERNAL, MASQUERADING, OWN4, OWN6, PUBLISHED_AT4, PUBLISHED_AT6, PUBLISHED4,
    PUBLISHED6, RATES, SAME,
};

/// A set's name, and an element of it.
pub type InSet = (&'static str, Element);

/// The elements of a bridge.
#[must_use]
pub fn bridge_elements(bridge: &Bridge) -> Vec<InSet> {
    let name = link_name(&bridge.link);
    let mut elements = vec![
        (BRIDGES.name, Element::single(&name)),
        (SAME.name, Element::new(&[&name, &name])),
    ];
    if bridge.is_internal {
        elements.push((INTERNAL.name, Element::single(&name)));
    } else if bridge.masquerade {
        elements.push((MASQUERADING.name, Element::single(&name)));
    }
    for network in &bridge.addresses {
        let range = |first: &[u8], last: &[u8]| Element::range(&[(&name, &name), (first, last)]);
        match (network.network(), network.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                elements.push((OWN4.name, range(&first.octets(), &last.octets())));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                elements.push((OWN6.name, range(&first.octets(), &last.octets())));
            }
            _ => {}
        }
    }
    elements
}

/// The element of a published port; `None` when the host's address and the instance's are of different families.
#[must_use]
pub fn publication_element(publication: &Publication) -> Option<InSet> {
    let protocol = [publication.protocol as u8];
    let port = publication.host_port.to_be_bytes();
    let to_port = publication.to_port.to_be_bytes();
    let anywhere = Element::new(&[&protocol, &port]);
    let at = |host: &[u8]| Element::new(&[host, &protocol, &port]);
    Some(match (publication.host, publication.to) {
        (None, IpAddr::V4(to)) => {
            let element = anywhere.with_data(&[&to.octets(), &to_port]);
            (PUBLISHED4.name, element)
        }
        (None, IpAddr::V6(to)) => {
            let element = anywhere.with_data(&[&to.octets(), &to_port]);
            (PUBLISHED6.name, element)
        }
        (Some(IpAddr::V4(host)), IpAddr::V4(to)) => {
            let element = at(&host.octets()).with_data(&[&to.octets(), &to_port]);
            (PUBLISHED_AT4.name, element)
        }
        (Some(IpAddr::V6(host)), IpAddr::V6(to)) => {
            let element = at(&host.octets()).with_data(&[&to.octets(), &to_port]);
            (PUBLISHED_AT6.name, element)
        }
        _ => return None,
    })
}

/// The element of an endpoint that may not send as much as it can, in the table that looks at frames.
#[must_use]
pub fn rate_element(endpoint: &Endpoint) -> Option<InSet> {
    let rate = endpoint.rate.out_of?;
    let limit = Rule::default().beyond_bytes(rate, burst(rate));
    let element = Element::link(&endpoint.link).with_expressions(&limit);
    Some((RATES.name, element))
}

/// What [`rate_element`] is found by.
#[must_use]
pub fn rate_key(link: &str) -> InSet {
    (RATES.name, Element::link(link))
}

/// What may go at once, in bytes: what a twentieth of a second carries, but a few of the largest packets that there are with
/// segmentation left to the receiver.
pub(crate) fn burst(bytes_per_second: u64) -> u32 {
    (bytes_per_second / 20).clamp(256 * 1024, 64 << 20) as u32
}
