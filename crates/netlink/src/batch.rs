//! Messages, one after the other.

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
/// On an attribute: others are within.
const NLA_F_NESTED: u16 = 0x8000;

/// Messages for the kernel, one after the other, see netlink(7). They are numbered from 0.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: u32,
    /// Where the last message begins; `None`: these are attributes alone, for a message to come.
    start: Option<usize>,
}

/// An attribute with others within that has been begun; [`Batch::end`] ends it.
#[must_use]
pub struct Nest(usize);

impl Batch {
    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages as usize
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of all messages.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The messages as they go to the kernel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins a message of a type (`RTM_…`, `NFT_MSG_…`) with `NLM_F_…` flags besides
    /// `NLM_F_REQUEST`, and the structure that comes before its attributes.
    pub fn message(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.messages += 1;
        self.numbered(self.messages, kind, flags, fixed);
    }

    /// Begins a message that is not counted: the brackets of a transaction. Its number is 0, that of an answer
    /// to the batch as a whole.
    pub(crate) fn bracket(&mut self, kind: u16, fixed: &[u8]) {
        self.numbered(0, kind, 0, fixed);
    }

    fn numbered(&mut self, number: u32, kind: u16, flags: u16, fixed: &[u8]) {
        self.start = Some(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = NLM_F_REQUEST | flags;
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&number.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.align();
    }

    /// Adds an attribute to the last message. A value has at most 65,531 bytes.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(value.len() <= usize::from(u16::MAX) - 4);
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
    }

    /// Adds a text that ends with a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) {
        let length = (value.len() + 5) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    /// Adds a number in the machine's byte order.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Adds a number in the network's byte order, which nf_tables wants.
    pub fn number_be(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Begins an attribute that has attributes within.
    pub fn begin(&mut self, kind: u16) -> Nest {
        let start = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        Nest(start)
    }

    /// Ends it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "what has ended cannot be ended again"
    )]
    pub fn end(&mut self, nest: Nest) {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds bytes as they are, a structure within an attribute.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    /// Adds `NLM_F_…` flags to the last message.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        if let Some(start) = self.start {
            let at = &mut self.bytes[start + 6..start + 8];
            let all = u16::from_ne_bytes([at[0], at[1]]) | flags;
            at.copy_from_slice(&all.to_ne_bytes());
        }
    }

    /// Fills up to a multiple of 4, and writes the length of the message so far.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        if let Some(start) = self.start {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, Messages};
    use crate::link::{Kind, Link};

    #[test]
    fn messages_are_aligned_and_tell_their_lengths() {
        let mut batch = Batch::default();
        let peer = Link {
            name: Some("eth0"),
            mac: Some([2, 0, 0, 0, 0, 1]),
            ..Link::default()
        };
        let link = Link {
            name: Some("ie1"),
            mtu: Some(1400),
            ..Link::default()
        };
        batch.create_link(&link, Kind::Veth(&peer));
        batch.add_address(2, [10, 0, 0, 1].into(), 8);
        batch.bracket(17, &[0; 4]);
        let messages: Vec<_> = Messages(batch.as_bytes()).collect();
        let numbers: Vec<_> = messages
            .iter()
            .map(|(kind, number, _)| (*kind, *number))
            .collect();
        // RTM_NEWLINK, RTM_NEWADDR, and what is not counted.
        assert_eq!(numbers, [(16, 1), (20, 2), (17, 0)]);
        assert_eq!(batch.len(), 2);
        let attributes = Attributes(&messages[0].2[16..]);
        assert_eq!(attributes.text(3), Some("ie1"));
        assert_eq!(attributes.number(4), Some(1400));
        let information = attributes.nested(18).unwrap();
        assert_eq!(information.text(1), Some("veth"));
        let inside = information.nested(2).unwrap().get(1).unwrap();
        let inside = Attributes(&inside[16..]);
        assert_eq!(inside.text(3), Some("eth0"));
        assert_eq!(inside.get(1), Some(&[2, 0, 0, 0, 0, 1][..]));
    }
}
