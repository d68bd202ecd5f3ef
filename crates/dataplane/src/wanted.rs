//! What there shall be, as plain values.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Whose networks: the name of the tables. Each root of Isle's has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm(String);

impl Realm {
    /// A realm of that name, which nf_tables has to accept: letters, digits and `_`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Where the kernel logs what guards refuse, see [`isle_netlink::packet_log`]. It is made of the name, above the
    /// numbers that people give by hand.
    #[must_use]
    pub fn log_group(&self) -> u16 {
        4096 + (short_hash(&self.0) % 60_000) as u16
    }
}

/// FNV-1a.
pub(crate) fn short_hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// A network's switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The link's name, at most 15 bytes.
    pub link: String,
    /// The host's addresses on it, the gateways of the network, with the prefix of that.
    pub addresses: Vec<IpNet>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Nothing goes from it to other networks or comes from there.
    pub is_internal: bool,
    /// What leaves it for elsewhere does so with an address of the host.
    pub masquerade: bool,
    /// Its endpoints do not reach each other.
    pub is_isolated: bool,
}

impl Bridge {
    /// A bridge of that name without addresses.
    #[must_use]
    pub fn new(link: &str) -> Self {
        Self {
            link: link.to_owned(),
            addresses: Vec::new(),
            mtu: None,
            is_internal: false,
            masquerade: false,
            is_isolated: false,
        }
    }
}

/// An instance's place in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The link on the host, at most 15 bytes.
    pub link: String,
    /// The bridge that it is a port of.
    pub bridge: String,
    /// Whether that is one whose endpoints do not reach each other.
    pub is_isolated: bool,
    /// The link inside.
    pub interface: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses, with the prefix of their network; IPv6 is off inside when there is none.
    pub addresses: Vec<IpNet>,
    /// Where what goes elsewhere is sent, one a family at most.
    pub gateways: Vec<IpAddr>,
    /// More ways.
    pub routes: Vec<Route>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// How much it may carry.
    pub rate: Rate,
}

/// Bytes a second; `None`: as many as the host can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// What comes to the instance. More waits, for a while.
    pub into: Option<u64>,
    /// What the instance sends. More is thrown away, on the host: nothing inside can change it. What was not sent for
    /// a second may be sent at once.
    pub out_of: Option<u64>,
}

/// A way from an instance to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The next hop; `None`: it is at the link itself.
    pub gateway: Option<IpAddr>,
}

/// What carries ports (`IPPROTO_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// tcp(7)
    Tcp = 6,
    /// udp(7)
    Udp = 17,
    /// SCTP, RFC 9260
    Sctp = 132,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A published port: what comes to the host's goes to an instance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publication {
    /// What carries it.
    pub protocol: Protocol,
    /// The host's address; `None`: all addresses of the family of `to`. `127.0.0.1` is for the host alone;
    /// the kernel does not forward `::1`.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The instance's address, of the same family as the host's.
    pub to: IpAddr,
    /// The instance's port.
    pub to_port: u16,
}

impl fmt::Display for Publication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V6(host)) => write!(formatter, "[{host}]:")?,
            Some(IpAddr::V4(host)) => write!(formatter, "{host}:")?,
            None => {}
        }
        write!(formatter, "{}/{}", self.host_port, self.protocol)
    }
}

/// What an endpoint may reach beyond its network. What is not allowed is refused, and logged to
/// [`Realm::log_group`]; so that it cannot pretend to be another, only frames with its own addresses pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The endpoint's link on the host.
    pub link: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it may reach; none: nothing.
    pub allowed: Vec<Allowed>,
}

/// Something that may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Who.
    pub to: Destination,
    /// By what; `None`: anything.
    pub protocol: Option<Protocol>,
    /// The first and the last port; `None`: all.
    pub ports: Option<(u16, u16)>,
}

/// Who may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All of a network.
    Net(IpNet),
    /// The addresses that [`crate::Dataplane::allow`] gives with that number: those of a name.
    Named(u16),
}

/// Everything that there shall be in a realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All bridges.
    pub bridges: Vec<Bridge>,
    /// All endpoints on them.
    pub endpoints: Vec<Endpoint>,
    /// All published ports.
    pub publications: Vec<Publication>,
    /// All guards.
    pub guards: Vec<Guard>,
}
