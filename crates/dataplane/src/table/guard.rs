//! What an endpoint may reach: a chain of its own, and who it is.

use std::net::IpAddr;
use std::time::Duration;

use isle_netlink::nftables::{Base, Element, Meta, Rule, Transaction, link_name};

use crate::wanted::{Allowed, Destination, Guard, Protocol};

use super::elements::InSet;
use super::rules::{ipv4, ipv6};
use super::{
    EQUAL, FRAMES, GUARDED, GUARDS4, GUARDS6, IDENTITY4, IDENTITY6, NAMED4, NAMED6, ROUTED,
    V4_FROM, V4_TO, V6_FROM, V6_TO,
};

/// Puts a guard in, in place of one of the same link.
pub fn add_guard<'a>(transaction: &mut Transaction<'a>, name: &'a str, guard: &Guard) {
    transaction.turn_to(FRAMES, name);
    for (set, element) in identity(guard) {
        transaction.add_elements(set, [element]);
    }
    transaction.turn_to(ROUTED, name);
    let chain = chain(guard);
    transaction.add_chain(&chain, None);
    transaction.flush(Some(&chain));
    for allowed in &guard.allowed {
        for rule in rules(allowed) {
            transaction.add_rule(&chain, &rule);
        }
    }
    transaction.add_rule(&chain, &Rule::default().goto("refuse"));
    for (set, element) in addresses(guard, &chain) {
        transaction.add_elements(set, [element]);
    }
}

/// Takes a guard away. All of it is made first, so that it is no error when some of it is gone.
pub fn delete_guard<'a>(transaction: &mut Transaction<'a>, name: &'a str, guard: &Guard) {
    add_guard(transaction, name, guard);
    let chain = chain(guard);
    for (set, element) in addresses(guard, &chain) {
        transaction.delete_elements(set, [element]);
    }
    transaction.flush(Some(&chain));
    transaction.delete_chain(&chain);
    transaction.turn_to(FRAMES, name);
    for (set, element) in identity(guard) {
        transaction.delete_elements(set, [element]);
    }
    transaction.turn_to(ROUTED, name);
}

/// An address that a name has, for the endpoint with another one; `None` when they are of different families.
#[must_use]
pub fn named_element(from: IpAddr, number: u16, to: IpAddr, time: Duration) -> Option<InSet> {
    let number = number.to_be_bytes();
    let (set, element) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let element = Element::new(&[&from.octets(), &to.octets(), &number]);
            (NAMED4.name, element)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let element = Element::new(&[&from.octets(), &to.octets(), &number]);
            (NAMED6.name, element)
        }
        _ => return None,
    };
    Some((set, element.with_timeout(time)))
}

fn chain(guard: &Guard) -> String {
    format!("egress_{}", guard.link)
}

/// Its addresses, as what leads to its chain.
fn addresses(guard: &Guard, chain: &str) -> Vec<InSet> {
    let element = |address: &IpAddr| match address {
        IpAddr::V4(address) => (
            GUARDS4.name,
            Element::single(&address.octets()).with_jump(chain),
        ),
        IpAddr::V6(address) => (
            GUARDS6.name,
            Element::single(&address.octets()).with_jump(chain),
        ),
    };
    guard.addresses.iter().map(element).collect()
}

/// Who it is, in the table that looks at frames.
fn identity(guard: &Guard) -> Vec<InSet> {
    let link = link_name(&guard.link);
    let mut elements = Vec::new();
    for address in &guard.addresses {
        match address {
            IpAddr::V4(address) => {
                let element = Element::new(&[&link, &guard.mac, &address.octets()]);
                elements.push((IDENTITY4.name, element));
            }
            IpAddr::V6(address) => {
                let element = Element::new(&[&link, &guard.mac, &address.octets()]);
                elements.push((IDENTITY6.name, element));
            }
        }
    }
    let unspecified = Element::new(&[&link, &guard.mac, &[0; 16]]);
    elements.push((IDENTITY6.name, unspecified));
    elements.push((GUARDED.name, Element::single(&link)));
    elements
}

/// The rules that let something through: none when it is empty.
fn rules(allowed: &Allowed) -> Vec<Rule> {
    let rules = match allowed.to {
        Destination::Net(net) if net.prefix_len() == 0 => vec![match net.addr() {
            IpAddr::V4(_) => ipv4(),
            IpAddr::V6(_) => ipv6(),
        }],
        Destination::Net(net) => vec![match (net.network(), net.netmask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => ipv4()
                .payload(0, Base::Network, V4_TO, 4)
                .mask(0, &mask.octets())
                .compare(0, EQUAL, &address.octets()),
            (IpAddr::V6(address), IpAddr::V6(mask)) => ipv6()
                .payload(0, Base::Network, V6_TO, 16)
                .mask(0, &mask.octets())
                .compare(0, EQUAL, &address.octets()),
            _ => return Vec::new(),
        }],
        Destination::Named(number) => {
            let [high, low] = number.to_be_bytes();
            let number = [high, low, 0, 0];
            vec![
                ipv4()
                    .payload(0, Base::Network, V4_FROM, 4)
                    .payload(1, Base::Network, V4_TO, 4)
                    .value(2, &number)
                    .lookup(0, NAMED4.name),
                ipv6()
                    .payload(0, Base::Network, V6_FROM, 16)
                    .payload(4, Base::Network, V6_TO, 16)
                    .value(8, &number)
                    .lookup(0, NAMED6.name),
            ]
        }
    };
    // Ports without a protocol are those of all that have some: another's header has something else at their place.
    let protocols = match (allowed.protocol, allowed.ports) {
        (Some(protocol), _) => vec![Some(protocol)],
        (None, Some(_)) => vec![
            Some(Protocol::Tcp),
            Some(Protocol::Udp),
            Some(Protocol::Sctp),
        ],
        (None, None) => vec![None],
    };
    let mut narrowed = Vec::new();
    for rule in rules {
        for protocol in &protocols {
            let mut rule = rule.clone();
            if let Some(protocol) = protocol {
                rule = rule
                    .meta(0, Meta::Protocol)
                    .compare(0, EQUAL, &[*protocol as u8]);
            }
            if let Some((first, last)) = allowed.ports {
                let (first, last) = (first.to_be_bytes(), last.to_be_bytes());
                rule = rule.payload(0, Base::Transport, 2, 2);
                rule = match first == last {
                    true => rule.compare(0, EQUAL, &first),
                    false => rule.within(0, &first, &last),
                };
            }
            narrowed.push(rule.return_());
        }
    }
    narrowed
}
