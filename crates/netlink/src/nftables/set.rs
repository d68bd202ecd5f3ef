//! Sets, maps, and what is in them.

use std::time::Duration;

use crate::{Batch, Nest};

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
/// nft's own note on a set: the keys are in the host's byte order. Without it nft(8) lists no link names.
const HOST_BYTE_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPRESSIONS: u16 = 11;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_MAP: u32 = 8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_CONCAT: u32 = 0x80;

/// What a part of a key or a value is. The kernel looks at the lengths; the types are for whoever
/// lists the set with nft(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ether_addr`
    Mac,
    /// `inet_proto`: TCP, UDP, …
    Protocol,
    /// `inet_service`: a port.
    Port,
    /// `ifname`: a link's name.
    Link,
    /// `verdict`: a chain to go on in. For values only.
    Verdict,
}

impl DataType {
    /// nft's number of the type, and its bytes.
    fn number_and_len(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::Mac => (9, 6),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Link => (41, 16),
            // NFT_DATA_VERDICT; the kernel knows the length.
            Self::Verdict => (0xffff_ff00, 0),
        }
    }
}

/// A set, or a map when it has values.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Its name in the table.
    pub name: &'static str,
    /// Parts of the key.
    pub key: &'static [DataType],
    /// Parts of the value; none: a set.
    pub data: &'static [DataType],
    /// Keys may be ranges.
    pub has_intervals: bool,
    /// Elements may go after a time.
    pub has_timeouts: bool,
}

impl Set {
    /// A set of that name with such keys.
    #[must_use]
    pub const fn new(name: &'static str, key: &'static [DataType]) -> Self {
        Self {
            name,
            key,
            data: &[],
            has_intervals: false,
            has_timeouts: false,
        }
    }

    pub(super) fn write(&self, batch: &mut Batch, table: &str) {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let is_concatenation = self.key.len() > 1;
        batch.text(NFTA_SET_TABLE, table);
        batch.text(NFTA_SET_NAME, self.name);
        let flags = flag(self.has_intervals, NFT_SET_INTERVAL)
            | flag(!self.data.is_empty(), NFT_SET_MAP)
            | flag(self.has_timeouts, NFT_SET_TIMEOUT)
            | flag(is_concatenation, NFT_SET_CONCAT);
        batch.number_be(NFTA_SET_FLAGS, flags);
        let (kind, length) = combined(self.key);
        batch.number_be(NFTA_SET_KEY_TYPE, kind);
        batch.number_be(NFTA_SET_KEY_LEN, length);
        if !self.data.is_empty() {
            let (kind, length) = combined(self.data);
            batch.number_be(NFTA_SET_DATA_TYPE, kind);
            if length > 0 {
                batch.number_be(NFTA_SET_DATA_LEN, length);
            }
        }
        // Rules of the same transaction could name the set by it; the kernel wants one.
        batch.number_be(NFTA_SET_ID, 1);
        if self.key == [DataType::Link] {
            batch.attribute(NFTA_SET_USERDATA, &HOST_BYTE_ORDER);
        }
        if is_concatenation {
            let description = batch.begin(NFTA_SET_DESC);
            let concatenation = batch.begin(NFTA_SET_DESC_CONCAT);
            for part in self.key {
                let field = batch.begin(NFTA_LIST_ELEM);
                batch.number_be(NFTA_SET_FIELD_LEN, part.number_and_len().1);
                batch.end(field);
            }
            batch.end(concatenation);
            batch.end(description);
        }
    }
}

/// Type and length of a concatenation: six bits for each type, and each part takes whole words.
fn combined(parts: &[DataType]) -> (u32, u32) {
    if let [one] = parts {
        return one.number_and_len();
    }
    parts.iter().fold((0, 0), |(kind, length), part| {
        let (number, bytes) = part.number_and_len();
        (kind << 6 | number, length + bytes.next_multiple_of(4))
    })
}

/// An element. Keys and values are put together part by part; each takes whole words of four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    key: Vec<u8>,
    key_end: Vec<u8>,
    data: Vec<u8>,
    jump: Option<String>,
    timeout: Option<Duration>,
    expressions: Vec<u8>,
}

impl Element {
    /// An element whose key has one part only.
    #[must_use]
    pub fn single(key: &[u8]) -> Self {
        Self {
            key: key.to_vec(),
            ..Self::default()
        }
    }

    /// An element whose key is a link's name.
    #[must_use]
    pub fn link(name: &str) -> Self {
        Self::single(&link_name(name))
    }

    /// An element whose key has several parts.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut element = Self::default();
        for part in parts {
            push(&mut element.key, part);
        }
        element
    }

    /// An element whose key has several parts, each from one value up to another.
    #[must_use]
    pub fn range(parts: &[(&[u8], &[u8])]) -> Self {
        let mut element = Self::default();
        for (first, last) in parts {
            push(&mut element.key, first);
            push(&mut element.key_end, last);
        }
        element
    }

    /// With a value of several parts.
    #[must_use]
    pub fn with_data(mut self, parts: &[&[u8]]) -> Self {
        for part in parts {
            push(&mut self.data, part);
        }
        self
    }

    /// With a chain to go on in as its value.
    #[must_use]
    pub fn with_jump(mut self, chain: &str) -> Self {
        self.jump = Some(chain.to_owned());
        self
    }

    /// It goes after that time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// With expressions, which are evaluated when it is found; only when all match, it counts as found.
    #[must_use]
    pub fn with_expressions(mut self, rule: &super::Rule) -> Self {
        self.expressions = rule.as_bytes().to_vec();
        self
    }

    pub(super) fn write(&self, batch: &mut Batch) {
        let value = |batch: &mut Batch, kind: u16, bytes: &[u8]| {
            if !bytes.is_empty() {
                let nest = batch.begin(kind);
                batch.attribute(NFTA_DATA_VALUE, bytes);
                batch.end(nest);
            }
        };
        let nest = batch.begin(NFTA_LIST_ELEM);
        value(batch, NFTA_SET_ELEM_KEY, &self.key);
        value(batch, NFTA_SET_ELEM_KEY_END, &self.key_end);
        value(batch, NFTA_SET_ELEM_DATA, &self.data);
        if let Some(chain) = &self.jump {
            let data = batch.begin(NFTA_SET_ELEM_DATA);
            super::rule::write_jump(batch, chain);
            batch.end(data);
        }
        if let Some(timeout) = self.timeout {
            let milliseconds = timeout.as_millis() as u64;
            batch.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
        }
        if !self.expressions.is_empty() {
            let list = batch.begin(NFTA_SET_ELEM_EXPRESSIONS);
            batch.raw(&self.expressions);
            batch.end(list);
        }
        batch.end(nest);
    }
}

/// A link's name as a key: as long as the kernel's longest.
#[must_use]
pub fn link_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn push(to: &mut Vec<u8>, part: &[u8]) {
    to.extend_from_slice(part);
    to.resize(to.len().next_multiple_of(4), 0);
}

pub(super) fn begin_list(batch: &mut Batch, table: &str, set: &str) -> Nest {
    write_list(batch, table, set);
    batch.begin(NFTA_SET_ELEM_LIST_ELEMENTS)
}

pub(super) fn write_list(batch: &mut Batch, table: &str, set: &str) {
    batch.text(NFTA_SET_ELEM_LIST_TABLE, table);
    batch.text(NFTA_SET_ELEM_LIST_SET, set);
}
