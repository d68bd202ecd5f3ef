//! The rules of the table that looks at frames as they enter a bridge. They never change.

use isle_netlink::nftables::{Base, Hook, Meta, Policy, Rule};

use super::{EQUAL, GUARDED, IDENTITY4, IDENTITY6, RATES, V4_FROM, V6_FROM};

/// Before the host's IP rules see frames.
pub(super) const HOOKS: [(&str, &str, u32, i32); 1] =
    [("prerouting", "filter", Hook::PREROUTING, -300)];

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Where Ethernet's header has the source's address.
const SOURCE: u32 = 6;
/// Where ARP has the sender's hardware address, and its IPv4 address.
const ARP_MAC: u32 = 8;
const ARP_IP: u32 = 14;

/// All rules, with their chains.
///
/// IPv6's link-local addresses are made by whoever has them, and no router passes them on: any of them is fine with the
/// right hardware address, which the element with the unspecified address stands for. That is itself what neighbours are
/// looked for with before there is an address.
pub(super) fn rules() -> Vec<(&'static str, Rule)> {
    let from = |set: &str| Rule::default().meta(0, Meta::InputName).lookup(0, set);
    let of_type = |number: u16| {
        Rule::default()
            .meta(0, Meta::EtherType)
            .compare(0, EQUAL, &number.to_be_bytes())
    };
    let who = |rule: Rule| {
        rule.meta(0, Meta::InputName)
            .payload(4, Base::Link, SOURCE, 6)
    };
    let accept = |rule: Rule, set: &str| rule.lookup(0, set).verdict(Policy::Accept);

    let ipv4 = who(of_type(ETH_P_IP)).payload(6, Base::Network, V4_FROM, 4);
    let arp = who(of_type(ETH_P_ARP))
        .payload(6, Base::Network, ARP_IP, 4)
        .lookup(0, IDENTITY4.name)
        .payload(4, Base::Network, ARP_MAC, 6);
    let ipv6 = who(of_type(ETH_P_IPV6)).payload(6, Base::Network, V6_FROM, 16);
    let link_local = of_type(ETH_P_IPV6)
        .payload(0, Base::Network, V6_FROM, 2)
        .mask(0, &[0xff, 0xc0])
        .compare(0, EQUAL, &[0xfe, 0x80]);
    let link_local = who(link_local).value(6, &[0; 16]);
    vec![
        (
            "prerouting",
            from(RATES.name).counter().verdict(Policy::Drop),
        ),
        ("prerouting", from(GUARDED.name).goto("identity")),
        ("identity", accept(ipv4, IDENTITY4.name)),
        ("identity", accept(arp, IDENTITY4.name)),
        ("identity", accept(ipv6, IDENTITY6.name)),
        ("identity", accept(link_local, IDENTITY6.name)),
        ("identity", Rule::default().counter().verdict(Policy::Drop)),
    ]
}
