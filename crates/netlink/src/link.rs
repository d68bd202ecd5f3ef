//! Links: `RTM_NEWLINK`, see rtnetlink(7), `linux/if_link.h`.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Batch;
use crate::attributes::Attributes;
use crate::batch::NLM_F_ACK;

pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u16 = 10;

/// What is said about a link; what is `None` (and the index 0) is not said.
#[derive(Clone, Copy, Default)]
pub struct Link<'a> {
    /// Which link, by its number.
    pub index: u32,
    /// Which link by its name, or the name of a new one; at most 15 bytes.
    pub name: Option<&'a str>,
    /// Whether it is up.
    pub is_up: Option<bool>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Index of the bridge that it is a port of; 0: of none.
    pub master: Option<u32>,
    /// Index of the link that it is made upon.
    pub parent: Option<u32>,
    /// The network namespace that a new one is made in; one that is there is moved.
    pub namespace: Option<BorrowedFd<'a>>,
    /// The kernel gives it no IPv6 address of its own making.
    pub is_without_link_local: bool,
}

/// What kind of link is made.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// A switch.
    Bridge,
    /// A cable: with its other end.
    Veth(&'a Link<'a>),
    /// A link with an address of its own on the parent, see ip-link(8).
    Macvlan(MacvlanMode),
    /// The same with a character device, `/dev/tapN`, in place of the host's stack.
    Macvtap(MacvlanMode),
    /// A link through other networks, with the number of what it carries, see ip-link(8).
    Vxlan(u32),
}

/// How macvlan links of one parent see each other (`MACVLAN_MODE_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MacvlanMode {
    /// Not at all.
    Private = 1,
    /// By way of a switch outside.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// There is one alone, which has the parent's own address.
    Passthru = 8,
}

/// What is told of a link, see [`parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Hardware address; `None`: it has none of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge that it is a port of; 0: of none.
    pub master: u32,
    /// `bridge`, `veth`, …; empty for a device.
    pub kind: String,
    /// A bridge tells this of its port: when it is gone, it has left the bridge.
    pub is_of_bridge: bool,
}

impl Batch {
    /// Makes a link. The kernel refuses one whose name is taken (`EEXIST`).
    pub fn create_link(&mut self, link: &Link<'_>, kind: Kind<'_>) {
        self.message(
            RTM_NEWLINK,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            &header(link),
        );
        self.link_attributes(link);
        let information = self.begin(IFLA_LINKINFO);
        self.text(
            IFLA_INFO_KIND,
            match kind {
                Kind::Bridge => "bridge",
                Kind::Veth(_) => "veth",
                Kind::Macvlan(_) => "macvlan",
                Kind::Macvtap(_) => "macvtap",
                Kind::Vxlan(_) => "vxlan",
            },
        );
        let data = self.begin(IFLA_INFO_DATA);
        match kind {
            Kind::Bridge => {}
            Kind::Veth(peer) => {
                let nest = self.begin(VETH_INFO_PEER);
                self.raw(&header(peer));
                self.link_attributes(peer);
                self.end(nest);
            }
            Kind::Macvlan(mode) | Kind::Macvtap(mode) => {
                self.number(IFLA_MACVLAN_MODE, mode as u32);
            }
            Kind::Vxlan(number) => self.number(IFLA_VXLAN_ID, number),
        }
        self.end(data);
        self.end(information);
    }

    /// Changes a link, which is named by its index, or else by its name.
    pub fn change_link(&mut self, link: &Link<'_>) {
        self.message(RTM_NEWLINK, NLM_F_ACK, &header(link));
        self.link_attributes(link);
        if link.is_without_link_local {
            let families = self.begin(IFLA_AF_SPEC);
            let inet6 = self.begin(AF_INET6);
            self.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            self.end(inet6);
            self.end(families);
        }
    }

    /// Deletes a link; with one end of a cable its other end goes.
    pub fn delete_link(&mut self, name: &str) {
        self.message(RTM_DELLINK, NLM_F_ACK, &[0; 16]);
        self.text(IFLA_IFNAME, name);
    }

    /// How a bridge treats a port: whether it may send a frame back to where that came from, and
    /// whether the port is kept from others that are isolated, see bridge(8).
    pub fn change_bridge_port(&mut self, index: u32, is_hairpin: bool, is_isolated: bool) {
        let mut fixed = [0; 16];
        fixed[0] = AF_BRIDGE;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.message(RTM_SETLINK, NLM_F_ACK, &fixed);
        let port = self.begin(IFLA_PROTINFO);
        self.attribute(IFLA_BRPORT_MODE, &[u8::from(is_hairpin)]);
        self.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(is_isolated)]);
        self.end(port);
    }

    /// Asks for one link. Before it answers, the kernel acts upon a change of the link's carrier, which it may
    /// otherwise put off for a second (`linkwatch_sync_dev`, Linux 6.2).
    pub fn settle_link(&mut self, index: u32) {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.message(RTM_GETLINK, NLM_F_ACK, &fixed);
    }

    /// Asks for all links, see [`crate::Socket::dump`] and [`parse`].
    pub fn list_links(&mut self) {
        self.message(RTM_GETLINK, NLM_F_DUMP, &[0; 16]);
    }

    fn link_attributes(&mut self, link: &Link<'_>) {
        if let Some(name) = link.name {
            self.text(IFLA_IFNAME, name);
        }
        if let Some(mac) = link.mac {
            self.attribute(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = link.mtu {
            self.number(IFLA_MTU, mtu);
        }
        if let Some(parent) = link.parent {
            self.number(IFLA_LINK, parent);
        }
        if let Some(master) = link.master {
            self.number(IFLA_MASTER, master);
        }
        if let Some(namespace) = link.namespace {
            let number = namespace.as_raw_fd().cast_unsigned();
            self.number(IFLA_NET_NS_FD, number);
        }
    }
}

/// `struct ifinfomsg`.
fn header(link: &Link<'_>) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&link.index.to_ne_bytes());
    if let Some(is_up) = link.is_up {
        let flags = if is_up { IFF_UP } else { 0 };
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    fixed
}

/// What a message of type `RTM_NEWLINK` or `RTM_DELLINK` tells.
#[must_use]
pub fn parse(payload: &[u8]) -> Option<Told> {
    let fixed = payload.get(..16)?;
    let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| fixed[at + byte]));
    let attributes = Attributes(&payload[16..]);
    let information = attributes.nested(IFLA_LINKINFO);
    Some(Told {
        index: number(4),
        name: attributes.text(IFLA_IFNAME)?.to_owned(),
        is_up: number(8) & IFF_UP != 0,
        mac: attributes
            .get(IFLA_ADDRESS)
            .and_then(|mac| mac.try_into().ok()),
        mtu: attributes.number(IFLA_MTU).unwrap_or(0),
        master: attributes.number(IFLA_MASTER).unwrap_or(0),
        kind: information
            .and_then(|information| information.text(IFLA_INFO_KIND))
            .unwrap_or_default()
            .to_owned(),
        is_of_bridge: fixed[0] == AF_BRIDGE,
    })
}

/// Bytes received and sent on all links but loopback, of a table as in `/proc/net/dev`, see proc_pid_net(5).
#[must_use]
pub fn carried(table: &str) -> (u64, u64) {
    let links = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    let mut sum = (0, 0);
    for (_, counters) in links.filter(|(name, _)| name.trim() != "lo") {
        let mut numbers = counters
            .split_whitespace()
            .map(|n| n.parse().unwrap_or(0_u64));
        sum.0 += numbers.next().unwrap_or(0);
        sum.1 += numbers.nth(7).unwrap_or(0);
    }
    sum
}
