//! Bridges.

use std::net::IpAddr;

use isle_netlink::Batch;
use isle_netlink::link::{Kind, Link};
use rustix::io::Errno;

use super::{Dataplane, errno};
use crate::wanted::short_hash;
use crate::{Bridge, Error, settings, table};

impl Dataplane {
    /// Makes a bridge with its addresses, and lets its packets through; what is there stays.
    ///
    /// # Errors
    /// When the kernel refuses a link, an address or the table.
    pub fn ensure_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        self.ensure_bridge_link(bridge)?;
        let operation = format!("let bridge {:?} through", bridge.link);
        self.change_tables(&operation, |transaction, _| {
            for (set, element) in table::bridge_elements(bridge) {
                transaction.add_elements(set, [element]);
            }
        })
    }

    /// Deletes a bridge and what the table has of it; harmless when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_bridge(&mut self, bridge: &Bridge) -> Result<(), Error> {
        let operation = format!("delete bridge {:?}", bridge.link);
        self.delete_link(&operation, &bridge.link)?;
        self.delete_elements(&operation, table::ROUTED, table::bridge_elements(bridge))
    }

    /// The link alone, and its index.
    pub(super) fn ensure_bridge_link(&mut self, bridge: &Bridge) -> Result<u32, Error> {
        let operation = format!("make bridge {:?}", bridge.link);
        let index = match self.index(&bridge.link)? {
            Some(index) => index,
            None => self.create_bridge(bridge, &operation)?,
        };
        let mut batch = Batch::default();
        batch.change_link(&Link {
            index,
            is_up: Some(true),
            mtu: bridge.mtu,
            ..Link::default()
        });
        for net in &bridge.addresses {
            batch.add_address(index, net.addr(), net.prefix_len());
        }
        self.send(&operation, &batch)?;
        for is_ipv6 in [false, true] {
            let mut addresses = bridge.addresses.iter();
            if addresses.any(|net| net.addr().is_ipv6() == is_ipv6) {
                settings::forward(is_ipv6)?;
            }
        }
        // What is published on 127.0.0.1 comes from there, see `table`.
        settings::ensure(&format!("ipv4/conf/{}/route_localnet", bridge.link), "1")?;
        Ok(index)
    }

    fn create_bridge(&mut self, bridge: &Bridge, operation: &str) -> Result<u32, Error> {
        let mut batch = Batch::default();
        let link = Link {
            name: Some(&bridge.link),
            // Without one of its own it would have that of a port, and change it with the ports.
            mac: Some(mac(bridge)),
            mtu: bridge.mtu,
            ..Link::default()
        };
        batch.create_link(&link, Kind::Bridge);
        match self.send_refusable(&batch)? {
            // Another process was faster.
            Err(refused) if errno(&refused) == Some(Errno::EXIST) => {}
            answer => self.checked(operation, answer)?,
        }
        self.need(&bridge.link, operation)
    }
}

/// A locally administered address that stays the same: made of the first IPv4 address, which no one else on that network
/// has, or else of the name.
fn mac(bridge: &Bridge) -> [u8; 6] {
    let first = bridge.addresses.iter().find_map(|net| match net.addr() {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = first.unwrap_or_else(|| short_hash(&bridge.link).to_be_bytes());
    [0x02, 0x42, a, b, c, d]
}
