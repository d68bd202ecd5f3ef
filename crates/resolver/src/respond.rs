//! From a packet to a reply.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::answer::{self, Record};
use crate::query::{Fault, Query, code, kind};
use crate::{Directory, Forward, reverse};

/// What is to be done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This goes back to the asker.
    Answer(Vec<u8>),
    /// Somebody outside has to be asked.
    Forward(Forward),
    /// The asker may not look outside, and is told that there is no such name.
    Withheld {
        /// This goes back to the asker.
        answer: Vec<u8>,
        /// What it asked for, in lower case; `None` when it cannot be written as text.
        name: Option<String>,
    },
    /// Nothing.
    Silence,
}

/// How a question came, and how the answer goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Datagram,
    /// TCP.
    Stream,
}

const INTERNET: u16 = 1;
const ANY_CLASS: u16 = 255;

/// Decides about a packet that came from `source` in a network. `turn` is a number that changes from question to
/// question: it says which of several addresses comes first.
pub fn respond<D: Directory>(
    directory: &D,
    network: D::Network,
    source: IpAddr,
    packet: &[u8],
    transport: Transport,
    turn: u32,
) -> Reply {
    let query = match Query::read(packet) {
        Ok(query) => query,
        Err(Fault::Silence) => return Reply::Silence,
        Err(Fault::Code(query, code)) => return Reply::Answer(answer::bare(&query, code)),
    };
    let bare = |code| Reply::Answer(answer::bare(&query, code));
    let Some(mut networks) = directory.networks_of(network, source) else {
        return bare(code::REFUSED);
    };
    // The one in which it asks is looked at first.
    networks.sort_by_key(|other| *other != network);
    if !matches!(query.class, INTERNET | ANY_CLASS) {
        return bare(code::REFUSED);
    }
    if kind::TRANSFERS.contains(&query.kind) {
        return bare(code::NOT_IMPLEMENTED);
    }
    let limit = match transport {
        Transport::Datagram => answer::datagram_limit(&query),
        Transport::Stream => usize::from(u16::MAX),
    };
    match query
        .name
        .as_deref()
        .and_then(|name| known(directory, &networks, name))
    {
        Some(Known::Addresses(mut addresses)) => {
            addresses.retain(|address| match query.kind {
                kind::A => address.is_ipv4(),
                kind::AAAA => address.is_ipv6(),
                kind => kind == kind::ANY,
            });
            addresses.sort_unstable();
            addresses.dedup();
            let first = match addresses.len() {
                0 => 0,
                count => turn as usize % count,
            };
            addresses.rotate_left(first);
            let records: Vec<Record> = addresses.into_iter().map(Record::Address).collect();
            Reply::Answer(answer::own(&query, code::SUCCESS, &records, limit))
        }
        Some(Known::Name(name)) => {
            let wanted = matches!(query.kind, kind::PTR | kind::ANY);
            let record = wanted.then(|| answer::wire_name(&name)).flatten();
            let records: Vec<Record> = record.into_iter().map(Record::Name).collect();
            Reply::Answer(answer::own(&query, code::SUCCESS, &records, limit))
        }
        Some(Known::Nobody) => Reply::Answer(answer::own(&query, code::NO_SUCH_NAME, &[], limit)),
        None if directory.may_ask_outside(network, source, query.name.as_deref()) => {
            Reply::Forward(Forward::new(query, packet))
        }
        None => Reply::Withheld {
            answer: answer::own(&query, code::NO_SUCH_NAME, &[], limit),
            name: query.name,
        },
    }
}

/// What we know of a name.
enum Known {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// It is ours to know, and does not exist.
    Nobody,
}

/// `None`: not for us to say.
fn known<D: Directory>(directory: &D, networks: &[D::Network], name: &str) -> Option<Known> {
    if name == "localhost" || name.ends_with(".localhost") {
        let both = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Some(Known::Addresses(both));
    }
    let networks = networks.iter().copied();
    if let Some(address) = reverse::address(name) {
        if address.is_loopback() {
            return Some(Known::Name("localhost".to_owned()));
        }
        let mut is_ours = false;
        for network in networks {
            if let Some(found) = directory.name_of(network, address) {
                let name = format!("{found}.{}", directory.network_name(network));
                return Some(Known::Name(name.to_ascii_lowercase()));
            }
            is_ours |= directory.covers(network, address);
        }
        return is_ours.then_some(Known::Nobody);
    }
    for network in networks.clone() {
        if let Some(addresses) = directory.addresses(network, name) {
            return Some(Known::Addresses(addresses));
        }
    }
    // The name of an instance, and that of the network in which it is meant.
    for network in networks {
        let network_name = directory.network_name(network);
        let Some(at) = name.len().checked_sub(network_name.len() + 1) else {
            continue;
        };
        let (Some(first), Some(last)) = (name.get(..at), name.get(at + 1..)) else {
            continue;
        };
        if name.as_bytes()[at] == b'.'
            && last.eq_ignore_ascii_case(network_name)
            && let Some(addresses) = directory.addresses(network, first)
        {
            return Some(Known::Addresses(addresses));
        }
    }
    None
}
