//! The table: what it is made of, and which elements stand for what.
//!
//! ```text
//! prerouting (raw)    from a bridge to 127.0.0.0/8: drop (route_localnet is on for bridges)
//! prerouting (dstnat) for an address of the host, but not 127.0.0.0/8: publish
//! output     (dstnat) for an address of the host: publish
//! publish             to what the maps say: first by address, protocol and port, then by protocol and port
//! forward    (filter) into a bridge: from the same one, answers, and what was published (not into internal ones); else drop
//!                     out of an internal bridge: drop
//! postrouting(srcnat) from a masquerading bridge to elsewhere: masquerade
//!                     published, and back into the bridge that it came from: masquerade (hairpin)
//!                     from 127.0.0.0/8 into a bridge: masquerade
//! ```
//! A packet that is for an instance directly, from outside, is dropped by `forward`: it was not published. What is not about
//! our bridges passes all chains: their policy is accept, and the first rules are about nothing else.

use std::net::IpAddr;

use isle_netlink::nftables::{
    Base, Conntrack, DataType, Element, Family, Hook, Meta, Operator, Policy, Rule, Set,
    Transaction, link_name,
};

use crate::{Bridge, Publication};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;

use DataType::{Ipv4, Ipv6, Link, Port, Protocol};

/// All our bridges.
const BRIDGES: Set = Set::new("bridges", &[Link]);
/// Each bridge with itself: where a packet comes from and where it goes.
const SAME: Set = Set::new("same", &[Link, Link]);
/// Bridges from and to which nothing goes.
const INTERNAL: Set = Set::new("internal", &[Link]);
/// Bridges that masquerade.
const MASQUERADING: Set = Set::new("masquerading", &[Link]);
/// Each bridge with its networks.
const OWN4: Set = Set {
    has_intervals: true,
    ..Set::new("own4", &[Link, Ipv4])
};
const OWN6: Set = Set {
    has_intervals: true,
    ..Set::new("own6", &[Link, Ipv6])
};
const PUBLISHED4: Set = Set {
    data: &[Ipv4, Port],
    ..Set::new("published4", &[Protocol, Port])
};
const PUBLISHED6: Set = Set {
    data: &[Ipv6, Port],
    ..Set::new("published6", &[Protocol, Port])
};
const PUBLISHED_AT4: Set = Set {
    data: &[Ipv4, Port],
    ..Set::new("published_at4", &[Ipv4, Protocol, Port])
};
const PUBLISHED_AT6: Set = Set {
    data: &[Ipv6, Port],
    ..Set::new("published_at6", &[Ipv6, Protocol, Port])
};
const SETS: [Set; 10] = [
    BRIDGES,
    SAME,
    INTERNAL,
    MASQUERADING,
    OWN4,
    OWN6,
    PUBLISHED4,
    PUBLISHED6,
    PUBLISHED_AT4,
    PUBLISHED_AT6,
];

/// Makes the table without elements; one that is there keeps them.
pub fn make(transaction: &mut Transaction<'_>) {
    transaction.add_table();
    for set in &SETS {
        transaction.add_set(set);
    }
    for (name, kind, number, priority) in [
        ("raw", "filter", Hook::PREROUTING, -300),
        ("prerouting", "nat", Hook::PREROUTING, -100),
        ("output", "nat", Hook::OUTPUT, -100),
        ("forward", "filter", Hook::FORWARD, 0),
        ("postrouting", "nat", Hook::POSTROUTING, 100),
    ] {
        let hook = Hook {
            kind,
            number,
            priority,
            policy: Policy::Accept,
        };
        transaction.add_chain(name, Some(&hook));
    }
    for name in ["publish", "into_bridge"] {
        transaction.add_chain(name, None);
    }
    // Rules would be there twice, were the table made twice.
    transaction.flush(None);
    for (chain, rule) in rules() {
        transaction.add_rule(chain, &rule);
    }
}

/// Puts in what a bridge needs.
pub fn add_bridge(transaction: &mut Transaction<'_>, bridge: &Bridge) {
    for (set, elements) in bridge_elements(bridge) {
        transaction.add_elements(set, elements);
    }
}

/// The elements of a bridge, by set.
#[must_use]
pub fn bridge_elements(bridge: &Bridge) -> Vec<(&'static str, Vec<Element>)> {
    let link = || vec![Element::link(&bridge.link)];
    let name = link_name(&bridge.link);
    let mut elements = vec![
        (BRIDGES.name, link()),
        (SAME.name, vec![Element::new(&[&name, &name])]),
    ];
    if bridge.is_internal {
        elements.push((INTERNAL.name, link()));
    } else if bridge.masquerade {
        elements.push((MASQUERADING.name, link()));
    }
    for network in &bridge.addresses {
        let range = match (network.network(), network.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.octets(), last.octets());
                let element = Element::range(&[(&name, &name), (&first, &last)]);
                (OWN4.name, vec![element])
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.octets(), last.octets());
                let element = Element::range(&[(&name, &name), (&first, &last)]);
                (OWN6.name, vec![element])
            }
            _ => continue,
        };
        elements.push(range);
    }
    elements
}

/// The element of a published port, and the map that it belongs to. A host address of the other family than the
/// instance's has none.
#[must_use]
pub fn publication_element(publication: &Publication) -> Option<(&'static str, Element)> {
    let protocol = [publication.protocol as u8];
    let port = publication.host_port.to_be_bytes();
    let to_port = publication.to_port.to_be_bytes();
    Some(match (publication.host, publication.to) {
        (None, IpAddr::V4(to)) => {
            let element = Element::new(&[&protocol, &port]);
            (
                PUBLISHED4.name,
                element.with_data(&[&to.octets(), &to_port]),
            )
        }
        (None, IpAddr::V6(to)) => {
            let element = Element::new(&[&protocol, &port]);
            (
                PUBLISHED6.name,
                element.with_data(&[&to.octets(), &to_port]),
            )
        }
        (Some(IpAddr::V4(host)), IpAddr::V4(to)) => {
            let element = Element::new(&[&host.octets(), &protocol, &port]);
            let element = element.with_data(&[&to.octets(), &to_port]);
            (PUBLISHED_AT4.name, element)
        }
        (Some(IpAddr::V6(host)), IpAddr::V6(to)) => {
            let element = Element::new(&[&host.octets(), &protocol, &port]);
            let element = element.with_data(&[&to.octets(), &to_port]);
            (PUBLISHED_AT6.name, element)
        }
        _ => return None,
    })
}

/// All rules, with their chains.
fn rules() -> Vec<(&'static str, Rule)> {
    let mut rules = Vec::new();
    let drop = |rule: Rule| rule.counter().verdict(Policy::Drop);
    let rule = Rule::default;
    let ipv4 = || {
        rule()
            .meta(0, Meta::Family)
            .compare(0, EQUAL, &[NFPROTO_IPV4])
    };
    let ipv6 = || {
        rule()
            .meta(0, Meta::Family)
            .compare(0, EQUAL, &[NFPROTO_IPV6])
    };
    let from_bridge = |rule: Rule| rule.meta(0, Meta::InputName).lookup(0, BRIDGES.name);
    let into_bridge = |rule: Rule| rule.meta(0, Meta::OutputName).lookup(0, BRIDGES.name);
    let loopback = |rule: Rule, offset, operator| {
        rule.payload(0, Base::Network, offset, 1)
            .compare(0, operator, &[127])
    };
    let is_dnat = |rule: Rule| {
        rule.conntrack(0, Conntrack::Status)
            .mask(0, &Rule::DNAT.to_ne_bytes())
            .compare(0, Operator::NotEqual, &[0; 4])
    };

    rules.push(("raw", drop(loopback(from_bridge(ipv4()), V4_TO, EQUAL))));

    let local = |rule: Rule| {
        rule.destination_type(0)
            .compare(0, EQUAL, &LOCAL.to_ne_bytes())
            .goto("publish")
    };
    rules.push(("prerouting", loopback(ipv4(), V4_TO, EQUAL).return_()));
    rules.push(("prerouting", local(rule())));
    rules.push(("output", local(rule())));

    for (rule, family, map, map_at, offset, words) in [
        (ipv4(), 4, PUBLISHED4.name, PUBLISHED_AT4.name, V4_TO, 1),
        (ipv6(), 6, PUBLISHED6.name, PUBLISHED_AT6.name, V6_TO, 4),
    ] {
        let at = rule
            .clone()
            .payload(0, Base::Network, offset, words * 4)
            .meta(words, Meta::Protocol)
            .payload(words + 1, Base::Transport, 2, 2)
            .map(0, map_at, 0)
            .destination_nat(family, 0, words);
        let anywhere = rule
            .meta(0, Meta::Protocol)
            .payload(1, Base::Transport, 2, 2)
            .map(0, map, 0)
            .destination_nat(family, 0, words);
        rules.push(("publish", at));
        rules.push(("publish", anywhere));
    }

    let accept = |rule: Rule| rule.verdict(Policy::Accept);
    let known = (Rule::ESTABLISHED | Rule::RELATED).to_ne_bytes();
    let is_known = |rule: Rule| {
        rule.conntrack(0, Conntrack::State)
            .mask(0, &known)
            .compare(0, Operator::NotEqual, &[0; 4])
    };
    let is_same = |rule: Rule| {
        rule.meta(0, Meta::InputName)
            .meta(4, Meta::OutputName)
            .lookup(0, SAME.name)
    };
    rules.push(("forward", into_bridge(rule()).goto("into_bridge")));
    let from_internal = rule().meta(0, Meta::InputName).lookup(0, INTERNAL.name);
    rules.push(("forward", drop(from_internal)));
    rules.push(("into_bridge", accept(is_known(rule()))));
    rules.push(("into_bridge", accept(is_same(rule()))));
    let published = is_dnat(rule())
        .meta(0, Meta::OutputName)
        .lookup_none(0, INTERNAL.name)
        .meta(0, Meta::InputName)
        .lookup_none(0, INTERNAL.name);
    rules.push(("into_bridge", accept(published)));
    rules.push(("into_bridge", drop(rule())));

    let leaving = rule()
        .meta(0, Meta::InputName)
        .lookup(0, MASQUERADING.name)
        .meta(0, Meta::OutputName)
        .lookup_none(0, BRIDGES.name);
    rules.push(("postrouting", leaving.masquerade()));
    // By the source's address, not by the link that it came from: frames that stay in a bridge have none here.
    let back = |rule: Rule, set, offset, length| {
        rule.meta(0, Meta::OutputName)
            .payload(4, Base::Network, offset, length)
            .lookup(0, set)
            .masquerade()
    };
    rules.push(("postrouting", back(is_dnat(ipv4()), OWN4.name, V4_FROM, 4)));
    rules.push(("postrouting", back(is_dnat(ipv6()), OWN6.name, V6_FROM, 16)));
    let from_loopback = loopback(into_bridge(ipv4()), V4_FROM, EQUAL);
    rules.push(("postrouting", from_loopback.masquerade()));
    rules
}

const EQUAL: Operator = Operator::Equal;
/// Where IPv4's and IPv6's headers have the source's and the destination's address.
const V4_FROM: u32 = 12;
const V4_TO: u32 = 16;
const V6_FROM: u32 = 8;
const V6_TO: u32 = 24;

/// The family of the table that routes.
pub const FAMILY: Family = Family::Inet;
