//! The tables: what they are made of.
//!
//! The one of the family inet routes:
//! ```text
//! raw         (prerouting)  from a bridge to 127.0.0.0/8: drop (route_localnet is on for bridges)
//! prerouting  (dstnat)      for an address of the host, but not 127.0.0.0/8: publish
//! output      (dstnat)      for an address of the host: publish
//!   publish                 to what the maps say: by address, protocol and port, else by protocol and port
//! input       (filter)      from a bridge: guard_input; from an internal one to another address of the host: drop
//! forward     (filter)      answers: accept; from a bridge: guard; into a bridge: into_bridge; out of an internal one: drop
//!   into_bridge             from the same bridge: accept; published: accept (not to or from internal ones); else drop
//!   guard, guard_input      neighbours, names and neighbour discovery: return; else what the endpoint's own chain says
//!   egress_LINK             what the endpoint may reach: return; else refuse
//!   refuse                  log, and answer that it may not
//! postrouting (srcnat)      from a masquerading bridge to elsewhere: masquerade
//!                           published, and back into the bridge that it came from: masquerade (hairpin)
//!                           from 127.0.0.0/8 into a bridge: masquerade
//! ```
//! The one of the family bridge looks at frames that enter a bridge:
//! ```text
//! prerouting                beyond the rate of its link: drop; from a guarded link: identity
//!   identity                with the addresses of its endpoint: accept; else drop
//! ```
//! A packet that comes from outside for an instance's own address is dropped by `into_bridge`: it was not published. What is
//! not about our bridges passes all chains: their policy is accept, and the first rules are about nothing else.
//!
//! All of it is static but the sets and the chains `egress_LINK`.

mod elements;
mod frames;
mod guard;
mod rules;

use isle_netlink::nftables::{DataType, Family, Hook, Operator, Policy, Rule, Set, Transaction};

pub(crate) use elements::burst;
pub use elements::{InSet, bridge_elements, publication_element, rate_element, rate_key};
pub use guard::{add_guard, delete_guard, named_element};

use DataType::{Ipv4, Ipv6, Link, Mac, Port, Protocol, Verdict};

/// The family of the table that routes.
pub const ROUTED: Family = Family::Inet;
/// The family of the table that looks at frames.
pub const FRAMES: Family = Family::Bridge;

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
/// The chain of each guarded address.
const GUARDS4: Set = Set {
    data: &[Verdict],
    ..Set::new("guards4", &[Ipv4])
};
const GUARDS6: Set = Set {
    data: &[Verdict],
    ..Set::new("guards6", &[Ipv6])
};
/// For whom an address belongs to the name of which number.
const NAMED4: Set = Set {
    has_timeouts: true,
    ..Set::new("named4", &[Ipv4, Ipv4, Port])
};
const NAMED6: Set = Set {
    has_timeouts: true,
    ..Set::new("named6", &[Ipv6, Ipv6, Port])
};
const ROUTED_SETS: [Set; 14] = [
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
    GUARDS4,
    GUARDS6,
    NAMED4,
    NAMED6,
];
/// Links with guarded endpoints.
const GUARDED: Set = Set::new("guarded", &[Link]);
/// Who each of them is.
const IDENTITY4: Set = Set::new("identity4", &[Link, Mac, Ipv4]);
const IDENTITY6: Set = Set::new("identity6", &[Link, Mac, Ipv6]);
/// Links with a limit; each element has its own.
const RATES: Set = Set::new("rates", &[Link]);
const FRAME_SETS: [Set; 4] = [GUARDED, IDENTITY4, IDENTITY6, RATES];

const EQUAL: Operator = Operator::Equal;
const OTHER: Operator = Operator::NotEqual;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// Where IPv4's and IPv6's headers have the source's and the destination's address.
const V4_FROM: u32 = 12;
const V4_TO: u32 = 16;
const V6_FROM: u32 = 8;
const V6_TO: u32 = 24;

/// Makes the tables without elements; those that are there keep them. The transaction is turned to the one that routes.
pub fn make<'a>(transaction: &mut Transaction<'a>, name: &'a str, log_group: u16) {
    transaction.turn_to(FRAMES, name);
    transaction.add_table();
    for set in &FRAME_SETS {
        transaction.add_set(set);
    }
    add_chains(transaction, &frames::HOOKS, &["identity"]);
    add_rules(transaction, frames::rules());

    transaction.turn_to(ROUTED, name);
    transaction.add_table();
    for set in &ROUTED_SETS {
        transaction.add_set(set);
    }
    add_chains(transaction, &rules::HOOKS, &rules::CHAINS);
    add_rules(transaction, rules::rules(log_group));
}

/// How many rules each chain has that [`make`] makes.
#[must_use]
pub fn expected(family: Family) -> Vec<(&'static str, usize)> {
    let rules = match family {
        FRAMES => frames::rules(),
        _ => rules::rules(0),
    };
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for (chain, _) in rules {
        match counts.iter_mut().find(|(name, _)| *name == chain) {
            Some((_, count)) => *count += 1,
            None => counts.push((chain, 1)),
        }
    }
    counts
}

fn add_chains(
    transaction: &mut Transaction<'_>,
    hooks: &[(&'static str, &'static str, u32, i32)],
    chains: &[&'static str],
) {
    for (name, kind, number, priority) in hooks {
        let hook = Hook {
            kind,
            number: *number,
            priority: *priority,
            policy: Policy::Accept,
        };
        transaction.add_chain(name, Some(&hook));
        transaction.flush(Some(name));
    }
    for name in chains {
        transaction.add_chain(name, None);
        transaction.flush(Some(name));
    }
}

fn add_rules(transaction: &mut Transaction<'_>, rules: Vec<(&'static str, Rule)>) {
    for (chain, rule) in rules {
        transaction.add_rule(chain, &rule);
    }
}
