//! Attributes as they come from the kernel: never trusted to have the length that they claim.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Attributes one after the other, each with its type (without flags) and its value.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a type.
    #[must_use]
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The attributes within the first one of a type.
    #[must_use]
    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A text, without the zero byte at its end.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0);
        str::from_utf8(&value[..end.unwrap_or(value.len())]).ok()
    }

    /// A number in the machine's byte order.
    #[must_use]
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A number in the network's byte order.
    #[must_use]
    pub fn number_be(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Messages one after the other: type, sequence number, and what comes after the header.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..crate::batch::HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let payload = self.0.get(crate::batch::HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, payload))
    }
}

/// An address of 4 or 16 bytes.
#[must_use]
pub fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// The family of an address, `AF_INET` or `AF_INET6`, and its bytes.
pub(crate) fn octets(address: IpAddr) -> (u8, [u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            (AF_INET, bytes, 4)
        }
        IpAddr::V6(address) => (AF_INET6, address.octets(), 16),
    }
}

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{link, nftables, packet_log};

    proptest! {
        #[test]
        fn what_the_kernel_never_says_is_read_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in any::<u16>(),
        ) {
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / 4);
            prop_assert!(Messages(&bytes).count() <= bytes.len() / 16);
            let _ = link::parse(&bytes);
            let _ = crate::address::parse(&bytes);
            let _ = crate::route::parse(&bytes);
            let _ = nftables::parse_loss(kind, &bytes);
            let _ = nftables::parse_generation(kind, &bytes);
            let _ = packet_log::parse(kind, &bytes);
        }
    }
}
