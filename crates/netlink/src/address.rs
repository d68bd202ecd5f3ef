//! Addresses of links: `RTM_NEWADDR`, see rtnetlink(7) and `linux/if_addr.h`.

use std::net::IpAddr;

use crate::Batch;
use crate::attributes::{AF_INET6, octets};
use crate::batch::NLM_F_ACK;
use crate::link::{NLM_F_CREATE, NLM_F_REPLACE};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is ours to give.
const IFA_F_NODAD: u32 = 2;

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
