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
