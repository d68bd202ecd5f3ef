//! Addresses of links: `RTM_NEWADDR`, see rtnetlink(7) and `linux/if_addr.h`.

use std::net::IpAddr;

use crate::Batch;
use crate::attributes::{AF_INET6, Attributes, ip_address, octets};
use crate::batch::NLM_F_ACK;
use crate::link::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};

pub(crate) const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is ours to give.
const IFA_F_NODAD: u32 = 2;

/// What is told of an address, see [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
    /// It is known beyond the link (`RT_SCOPE_UNIVERSE`).
    pub is_global: bool,
}

impl Batch {
    /// Gives the link with that index an address; harmless when it has it.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) {
        self.address(
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            index,
            address,
            prefix,
        );
    }

    /// Takes an address away.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix: u8) {
        self.address(RTM_DELADDR, 0, index, address, prefix);
    }

    /// Asks for all addresses, see [`crate::Socket::dump`] and [`parse`].
    pub fn list_addresses(&mut self) {
        self.message(RTM_GETADDR, NLM_F_DUMP, &[0; 8]);
    }

    fn address(&mut self, kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) {
        let (family, bytes, length) = octets(address);
        // struct ifaddrmsg: family, prefix length, flags, scope (universe), index
        let mut fixed = [family, prefix, 0, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.message(kind, NLM_F_ACK | flags, &fixed);
        self.attribute(IFA_LOCAL, &bytes[..length]);
        self.attribute(IFA_ADDRESS, &bytes[..length]);
        if family == AF_INET6 {
            self.number(IFA_FLAGS, IFA_F_NODAD);
        }
    }
}

/// What a message of type `RTM_NEWADDR` tells.
#[must_use]
pub fn parse(payload: &[u8]) -> Option<Told> {
    let fixed = payload.get(..8)?;
    let attributes = Attributes(&payload[8..]);
    // A link from point to point has its own address here, and that of the other end in IFA_ADDRESS.
    let address = attributes
        .get(IFA_LOCAL)
        .or_else(|| attributes.get(IFA_ADDRESS))?;
    Some(Told {
        link: u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        address: ip_address(address)?,
        prefix: fixed[1],
        is_global: fixed[3] == 0,
    })
}
