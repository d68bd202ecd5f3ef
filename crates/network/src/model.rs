//! What a network, an endpoint and a publication are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Egress;

/// How the instances of a network are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// By a bridge of the host, which is their gateway.
    #[default]
    Bridge,
    /// Each as a link of its own on a network that the host is on.
    Macvlan {
        /// The host's link.
        parent: String,
        /// Who may talk to whom.
        mode: MacvlanMode,
    },
}

impl Driver {
    /// Docker's word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Macvlan { .. } => "macvlan",
        }
    }
}

/// `macvlan_mode` of ip-link(8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// The instances of one parent reach each other directly.
    #[default]
    Bridge,
    /// All traffic goes through the parent's network.
    Vepa,
    /// Instances never reach each other.
    Private,
    /// One instance has the parent for itself.
    Passthru,
}

impl FromStr for MacvlanMode {
    type Err = ();

    fn from_str(text: &str) -> Result<MacvlanMode, ()> {
        match text {
            "bridge" => Ok(MacvlanMode::Bridge),
            "vepa" => Ok(MacvlanMode::Vepa),
            "private" => Ok(MacvlanMode::Private),
            "passthru" => Ok(MacvlanMode::Passthru),
            _ => Err(()),
        }
    }
}

/// Addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All of them.
    pub subnet: IpNet,
    /// The host's own, or that of the router of a macvlan network.
    pub gateway: Option<IpAddr>,
    /// What is given to instances that ask for no certain one; the whole subnet when not given.
    pub range: Option<IpNet>,
    /// `--aux-address`: addresses of others, by name; never given away.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
}

/// What a network is asked to be, and what was chosen for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// How it connects.
    pub driver: Driver,
    /// `--internal`: nothing beyond it can be reached.
    pub internal: bool,
    /// `--ipv6` was given, or a subnet of that family.
    pub ipv6: bool,
    /// At most one a family, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// The largest packet, in bytes; the host's when not given.
    pub mtu: Option<u32>,
    /// Whether what leaves the network does so under the host's address.
    pub masquerade: bool,
    /// Whether its instances may talk to each other.
    pub inter_instance: bool,
    /// `--opt`, as given.
    pub options: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The bridge's name in the kernel; the parent's for a macvlan network.
    pub link: String,
    /// The rest.
    pub spec: Spec,
}

impl Network {
    /// The addresses of one family.
    #[must_use]
    pub fn subnet(&self, is_ipv6: bool) -> Option<&Subnet> {
        let mut subnets = self.spec.subnets.iter();
        subnets.find(|subnet| subnet.subnet.addr().is_ipv6() == is_ipv6)
    }

    /// The host's addresses on its bridge, with the length of the prefix.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> {
        self.spec.subnets.iter().filter_map(|subnet| {
            let gateway = subnet.gateway?;
            IpNet::new(gateway, subnet.subnet.prefix_len()).ok()
        })
    }
}

/// What [`crate::create`] makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// As in [`Spec`].
    pub driver: Driver,
    /// As in [`Spec`].
    pub internal: bool,
    /// With addresses of that family, chosen if none are given.
    pub ipv6: bool,
    /// `--subnet`, `--gateway`, `--ip-range`, `--aux-address`.
    pub subnets: Vec<SubnetRequest>,
    /// As in [`Spec`].
    pub mtu: Option<u32>,
    /// As in [`Spec`].
    pub no_masquerade: bool,
    /// As in [`Spec`].
    pub no_inter_instance: bool,
    /// The bridge's name in the kernel; chosen when not given.
    pub link: Option<String>,
    /// As in [`Spec`].
    pub options: BTreeMap<String, String>,
    /// As in [`Spec`].
    pub labels: BTreeMap<String, String>,
}

/// A subnet as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetRequest {
    /// All its addresses.
    pub subnet: IpNet,
    /// The first one when not given.
    pub gateway: Option<IpAddr>,
    /// Within the subnet.
    pub range: Option<IpNet>,
    /// Within the subnet.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// An instance's place on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// The instance's id.
    pub instance: String,
    /// What the instance calls it, `eth0`.
    pub interface: String,
    /// The hardware address.
    pub mac: [u8; 6],
    /// With the length of the network's prefix.
    pub ipv4: Option<Ipv4Net>,
    /// With the length of the network's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// What others on the network can call the instance.
    pub names: Vec<String>,
    /// What it may reach beyond its networks.
    pub egress: Egress,
    /// How much it may receive and send.
    pub rate: Rate,
}

/// `--net-rate`: the most that an instance receives and sends on each of its networks, in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// Without a limit when not given.
    pub into: Option<u64>,
    /// Without a limit when not given.
    pub out_of: Option<u64>,
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.ipv4.map(IpNet::V4);
        v4.into_iter().chain(self.ipv6.map(IpNet::V6))
    }

    /// The name of the host's end of it in the kernel: at most 15 characters.
    #[must_use]
    pub fn link(&self) -> String {
        format!("ie{}", &self.id[..12])
    }
}

/// A transport protocol whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293
    Tcp,
    /// RFC 768
    Udp,
    /// RFC 9260
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Protocol, ()> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(()),
        }
    }
}

/// A port of the host that leads to one of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publication {
    /// Of both ports.
    pub protocol: Protocol,
    /// The port inside.
    pub port: u16,
    /// The host's address; `None`: all, of both families.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
}

/// Whether a text can name a network: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as Docker's.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The hardware address that belongs to an address, as Docker makes it: whoever gets the address
/// again gets that too, and no neighbour has stale knowledge.
pub(crate) fn mac_of(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> [u8; 6] {
    match (ipv4, ipv6) {
        (Some(address), _) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x42, a, b, c, d]
        }
        (None, Some(address)) => {
            let [.., a, b, c, d] = address.octets();
            [0x02, 0x43, a, b, c, d]
        }
        (None, None) => [0x02, 0x42, 0, 0, 0, 0],
    }
}
