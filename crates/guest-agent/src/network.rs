//! Interfaces, addresses and routes, told to the kernel in one batch over rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use isle_guest_protocol::{Network, NetworkAddress, NetworkRoute};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

// linux/netlink.h and linux/rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is the host's to give.
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;

/// Messages, one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    start: usize,
}

impl Batch {
    fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.start = self.bytes.len();
        self.messages += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.end();
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.end();
    }

    /// Aligns, and writes the length of the message so far.
    fn end(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// `struct ifinfomsg`: bring an interface up.
    fn link_up(&mut self, index: u32) {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        self.begin(RTM_NEWLINK, 0, &fixed);
    }

    /// Give an interface, which is down, its address.
    fn link_address(&mut self, name: &str, mac: [u8; 6], mtu: Option<u32>) {
        let mut fixed = [0; 16];
        fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        self.begin(RTM_NEWLINK, 0, &fixed);
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        self.attribute(IFLA_IFNAME, &text);
        self.attribute(IFLA_ADDRESS, &mac);
        if let Some(mtu) = mtu {
            self.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
    }

    /// `struct ifaddrmsg`.
    fn address(&mut self, index: u32, address: &NetworkAddress) {
        let (family, bytes) = parts(address.address);
        let mut fixed = [family, address.prefix, 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
        self.attribute(IFA_LOCAL, &bytes);
        self.attribute(IFA_ADDRESS, &bytes);
        if family == AF_INET6 {
            self.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        }
    }

    /// `struct rtmsg`.
    fn route(&mut self, index: u32, route: &NetworkRoute) {
        let (family, gateway) = parts(route.gateway);
        let prefix = route.destination.prefix;
        let mut fixed = [0; 12];
        fixed[0] = family;
        fixed[1] = prefix;
        fixed[4..8].copy_from_slice(&[
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
        ]);
        self.begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
        if prefix > 0 {
            let (_, destination) = parts(route.destination.address);
            self.attribute(RTA_DST, &destination);
        }
        self.attribute(RTA_GATEWAY, &gateway);
        self.attribute(RTA_OIF, &index.to_ne_bytes());
    }
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Sends a batch and waits for the kernel's word on each message; the first refusal.
fn send(batch: &Batch) -> io::Result<()> {
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sendto(
        &socket,
        &batch.bytes,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answered = 0;
    let mut result = Ok(());
    let mut buffer = [0; 8192];
    while answered < batch.messages {
        let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..count];
        while rest.len() >= HEADER + 4 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if u16::from_ne_bytes([rest[4], rest[5]]) == NLMSG_ERROR {
                answered += 1;
                let code = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                if code != 0 && result.is_ok() {
                    result = Err(io::Error::from_raw_os_error(-code));
                }
            }
            let length = length.next_multiple_of(4).max(HEADER);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    result
}

/// Brings the loopback interface up: always the first one.
pub(crate) fn loopback_up() -> io::Result<()> {
    let mut batch = Batch::default();
    batch.link_up(1);
    send(&batch)
}

/// Gives an interface its address and all that goes with it.
pub(crate) fn configure(network: &Network) -> io::Result<()> {
    let path = format!("/sys/class/net/{}/ifindex", network.interface);
    let index = std::fs::read_to_string(path)?;
    let index: u32 = index
        .trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData)?;
    let mut batch = Batch::default();
    batch.link_address(&network.interface, network.mac, network.mtu);
    batch.link_up(index);
    for address in &network.addresses {
        batch.address(index, address);
    }
    for route in &network.routes {
        batch.route(index, route);
    }
    send(&batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_aligned_and_tell_their_lengths() {
        let mut batch = Batch::default();
        batch.link_address("eth0", [2, 0, 0, 0, 0, 1], Some(1400));
        batch.link_up(2);
        let address = NetworkAddress {
            address: "fd00::2".parse().unwrap(),
            prefix: 64,
        };
        batch.address(2, &address);
        let mut rest = &batch.bytes[..];
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            kinds.push(u16::from_ne_bytes([rest[4], rest[5]]));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [RTM_NEWLINK, RTM_NEWLINK, RTM_NEWADDR]);
    }
}
