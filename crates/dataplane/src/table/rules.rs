//! The rules of the table that routes. They never change.

use std::net::Ipv6Addr;

use isle_netlink::nftables::{Base, Conntrack, Hook, Meta, Policy, Rule};

use super::{
    BRIDGES, EQUAL, GUARDS4, GUARDS6, INTERNAL, MASQUERADING, NFPROTO_IPV4, NFPROTO_IPV6, OTHER,
    OWN4, OWN6, PUBLISHED_AT4, PUBLISHED_AT6, PUBLISHED4, PUBLISHED6, SAME, V4_FROM, V4_TO,
    V6_FROM, V6_TO,
};

/// Chains that packets come to: name, type, hook, priority.
pub(super) const HOOKS: [(&str, &str, u32, i32); 6] = [
    ("raw", "filter", Hook::PREROUTING, -300),
    ("prerouting", "nat", Hook::PREROUTING, -100),
    ("output", "nat", Hook::OUTPUT, -100),
    ("input", "filter", Hook::INPUT, 0),
    ("forward", "filter", Hook::FORWARD, 0),
    ("postrouting", "nat", Hook::POSTROUTING, 100),
];
/// Chains that rules go to.
pub(super) const CHAINS: [&str; 5] = ["publish", "into_bridge", "guard", "guard_input", "refuse"];

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;
/// `PACKET_HOST`: for this host alone.
const TO_HOST: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// `ND_ROUTER_SOLICIT` to `ND_NEIGHBOR_ADVERT`
const NEIGHBOUR_DISCOVERY: (u8, u8) = (133, 136);
/// Port of the name server at a gateway.
const DNS: u16 = 53;
/// What is logged of a refused packet: the headers.
const LOGGED_BYTES: u32 = 128;

fn rule() -> Rule {
    Rule::default()
}

pub(super) fn ipv4() -> Rule {
    rule()
        .meta(0, Meta::Family)
        .compare(0, EQUAL, &[NFPROTO_IPV4])
}

pub(super) fn ipv6() -> Rule {
    rule()
        .meta(0, Meta::Family)
        .compare(0, EQUAL, &[NFPROTO_IPV6])
}

fn drop(rule: Rule) -> Rule {
    rule.counter().verdict(Policy::Drop)
}

fn accept(rule: Rule) -> Rule {
    rule.verdict(Policy::Accept)
}

fn from(rule: Rule, set: &str) -> Rule {
    rule.meta(0, Meta::InputName).lookup(0, set)
}

fn into(rule: Rule, set: &str) -> Rule {
    rule.meta(0, Meta::OutputName).lookup(0, set)
}

fn is_known(rule: Rule) -> Rule {
    let known = Rule::ESTABLISHED | Rule::RELATED;
    rule.conntrack(0, Conntrack::State)
        .mask(0, &known.to_ne_bytes())
        .compare(0, OTHER, &[0; 4])
}

fn is_published(rule: Rule) -> Rule {
    rule.conntrack(0, Conntrack::Status)
        .mask(0, &Rule::DNAT.to_ne_bytes())
        .compare(0, OTHER, &[0; 4])
}

fn is_same(rule: Rule) -> Rule {
    rule.meta(0, Meta::InputName)
        .meta(4, Meta::OutputName)
        .lookup(0, SAME.name)
}

fn is_loopback(rule: Rule, offset: u32) -> Rule {
    rule.payload(0, Base::Network, offset, 1)
        .compare(0, EQUAL, &[127])
}

fn is_loopback6(rule: Rule) -> Rule {
    rule.payload(0, Base::Network, V6_TO, 16)
        .compare(0, EQUAL, &Ipv6Addr::LOCALHOST.octets())
}

fn to_local(rule: Rule) -> Rule {
    rule.destination_type(0)
        .compare(0, EQUAL, &LOCAL.to_ne_bytes())
}

/// All rules, with their chains.
pub(super) fn rules(log_group: u16) -> Vec<(&'static str, Rule)> {
    let mut rules = vec![
        ("raw", drop(is_loopback(from(ipv4(), BRIDGES.name), V4_TO))),
        ("prerouting", is_loopback(ipv4(), V4_TO).return_()),
        ("prerouting", to_local(rule()).goto("publish")),
        // Not to be passed on: the kernel sends nothing with that source. Who answers there is a program.
        ("output", is_loopback6(ipv6()).return_()),
        ("output", to_local(rule()).goto("publish")),
    ];
    publish(&mut rules);

    rules.push(("input", accept(is_known(rule()))));
    rules.push(("input", from(rule(), BRIDGES.name).jump("guard_input")));
    internal_input(&mut rules);
    rules.push(("forward", accept(is_known(rule()))));
    rules.push(("forward", from(rule(), BRIDGES.name).jump("guard")));
    rules.push(("forward", into(rule(), BRIDGES.name).goto("into_bridge")));
    rules.push(("forward", drop(from(rule(), INTERNAL.name))));
    rules.push(("into_bridge", accept(is_same(rule()))));
    let published = is_published(rule())
        .meta(0, Meta::OutputName)
        .lookup_none(0, INTERNAL.name)
        .meta(0, Meta::InputName)
        .lookup_none(0, INTERNAL.name);
    rules.push(("into_bridge", accept(published)));
    rules.push(("into_bridge", drop(rule())));
    guards(&mut rules, log_group);

    let leaving = from(rule(), MASQUERADING.name)
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
    let back4 = back(is_published(ipv4()), OWN4.name, V4_FROM, 4);
    let back6 = back(is_published(ipv6()), OWN6.name, V6_FROM, 16);
    rules.push(("postrouting", back4));
    rules.push(("postrouting", back6));
    let from_loopback = is_loopback(into(ipv4(), BRIDGES.name), V4_FROM);
    rules.push(("postrouting", from_loopback.masquerade()));
    rules
}

fn publish(rules: &mut Vec<(&'static str, Rule)>) {
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
}

/// Of the host, an internal network sees its gateway alone. IPv6's link-local addresses are neighbours.
fn internal_input(rules: &mut Vec<(&'static str, Rule)>) {
    let other4 = to_local(from(ipv4(), INTERNAL.name))
        .meta(0, Meta::InputName)
        .payload(4, Base::Network, V4_TO, 4)
        .lookup_none(0, OWN4.name);
    let other6 = to_local(from(ipv6(), INTERNAL.name))
        .payload(0, Base::Network, V6_TO, 2)
        .mask(0, &[0xff, 0xc0])
        .compare(0, OTHER, &[0xfe, 0x80])
        .meta(0, Meta::InputName)
        .payload(4, Base::Network, V6_TO, 16)
        .lookup_none(0, OWN6.name);
    rules.push(("input", drop(other4)));
    rules.push(("input", drop(other6)));
}

fn guards(rules: &mut Vec<(&'static str, Rule)>, log_group: u16) {
    rules.push(("guard", is_same(rule()).return_()));
    let discovery = ipv6()
        .meta(0, Meta::Protocol)
        .compare(0, EQUAL, &[IPPROTO_ICMPV6])
        .payload(0, Base::Transport, 0, 1)
        .within(0, &[NEIGHBOUR_DISCOVERY.0], &[NEIGHBOUR_DISCOVERY.1]);
    rules.push(("guard_input", discovery.return_()));
    for (family, own, offset, length) in [
        (ipv4(), OWN4.name, V4_TO, 4),
        (ipv6(), OWN6.name, V6_TO, 16),
    ] {
        for protocol in [IPPROTO_UDP, IPPROTO_TCP] {
            let name_server = family
                .clone()
                .meta(0, Meta::Protocol)
                .compare(0, EQUAL, &[protocol])
                .payload(0, Base::Transport, 2, 2)
                .compare(0, EQUAL, &DNS.to_be_bytes())
                .meta(0, Meta::InputName)
                .payload(4, Base::Network, offset, length)
                .lookup(0, own);
            rules.push(("guard_input", name_server.return_()));
        }
    }
    for chain in ["guard", "guard_input"] {
        let by4 = ipv4().payload(0, Base::Network, V4_FROM, 4);
        let by6 = ipv6().payload(0, Base::Network, V6_FROM, 16);
        rules.push((chain, by4.jump_by(0, GUARDS4.name)));
        rules.push((chain, by6.jump_by(0, GUARDS6.name)));
    }
    let to_many = rule()
        .meta(0, Meta::PacketType)
        .compare(0, OTHER, &[TO_HOST]);
    rules.push(("refuse", to_many.verdict(Policy::Drop)));
    let logged = rule()
        .up_to_packets(100, 200)
        .log(log_group, "egress", LOGGED_BYTES);
    rules.push(("refuse", logged));
    let reset = rule()
        .meta(0, Meta::Protocol)
        .compare(0, EQUAL, &[IPPROTO_TCP]);
    rules.push(("refuse", reset.counter().reject_with_reset()));
    rules.push(("refuse", rule().counter().reject()));
}
