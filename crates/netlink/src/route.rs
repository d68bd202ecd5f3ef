//! Routes: `RTM_NEWROUTE`, see rtnetlink(7).

use std::net::IpAddr;

use crate::Batch;
use crate::attributes::{AF_INET6, Attributes, ip_address, octets};
use crate::batch::NLM_F_ACK;
use crate::link::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to: an address and the length of its prefix; length 0: everywhere.
    pub destination: (IpAddr, u8),
    /// The next hop; `None`: the network is at the link itself.
    pub gateway: Option<IpAddr>,
    /// The link's index.
    pub link: u32,
    /// Of several ways to the same network the one with the smallest is taken; `None`: the family's default.
    pub metric: Option<u32>,
}

impl Batch {
    /// Adds a route to the main table, in place of one to the same network with the same metric.
    pub fn add_route(&mut self, route: &Route) {
        self.route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
    }

    /// Takes a route out of the main table.
    pub fn delete_route(&mut self, route: &Route) {
        self.route(RTM_DELROUTE, 0, route);
    }

    /// Asks for all routes, see [`crate::Socket::dump`] and [`parse`].
    pub fn list_routes(&mut self) {
        self.message(RTM_GETROUTE, NLM_F_DUMP, &[0; 12]);
    }

    fn route(&mut self, kind: u16, flags: u16, route: &Route) {
        let (address, prefix) = route.destination;
        let (family, bytes, length) = octets(address);
        let scope = match route.gateway {
            Some(_) => RT_SCOPE_UNIVERSE,
            None => RT_SCOPE_LINK,
        };
        // struct rtmsg: family, destination's and source's prefix lengths, type of service
        let mut fixed = [family, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST]);
        self.message(kind, NLM_F_ACK | flags, &fixed);
        if prefix > 0 {
            self.attribute(RTA_DST, &bytes[..length]);
        }
        if let Some(gateway) = route.gateway {
            let (_, bytes, length) = octets(gateway);
            self.attribute(RTA_GATEWAY, &bytes[..length]);
        }
        self.number(RTA_OIF, route.link);
        if let Some(metric) = route.metric {
            self.number(RTA_PRIORITY, metric);
        }
    }
}

/// What a message of type `RTM_NEWROUTE` tells, when it is of the main table, to hosts or networks, by one link, and was not made by the
/// kernel itself for an address.
#[must_use]
pub fn parse(payload: &[u8]) -> Option<Route> {
    let fixed = payload.get(..12)?;
    let (family, prefix, table, protocol, kind) =
        (fixed[0], fixed[1], fixed[4], fixed[5], fixed[7]);
    if (table, kind) != (RT_TABLE_MAIN, RTN_UNICAST) || protocol == RTPROT_KERNEL {
        return None;
    }
    let attributes = Attributes(&payload[12..]);
    let everywhere = match family {
        AF_INET6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    };
    Some(Route {
        destination: (
            attributes
                .get(RTA_DST)
                .map_or(Some(everywhere), ip_address)?,
            prefix,
        ),
        gateway: attributes.get(RTA_GATEWAY).and_then(ip_address),
        link: attributes.number(RTA_OIF)?,
        metric: attributes.number(RTA_PRIORITY),
    })
}
