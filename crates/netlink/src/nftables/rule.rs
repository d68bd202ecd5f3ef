//! The expressions of a rule, which the kernel evaluates one after the other until one does not match.

use crate::Batch;

use super::Policy;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG32_00: u32 = 8;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

/// One of sixteen places for four bytes; longer values take several.
pub type Register = u32;

/// What is known of a packet besides its bytes (`NFT_META_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// Ethernet's type, 2 bytes.
    EtherType = 1,
    /// Name of the link that it came from, 16 bytes.
    InputName = 6,
    /// Name of the link that it leaves by, 16 bytes.
    OutputName = 7,
    /// IPv4 or IPv6 (`NFPROTO_…`), 1 byte.
    Family = 15,
    /// TCP, UDP, …, 1 byte.
    Protocol = 16,
    /// To whom Ethernet sends it (`PACKET_…`), 1 byte.
    PacketType = 19,
}

/// What is known of a packet's connection (`NFT_CT_…`), 4 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Conntrack {
    /// Bits: [`Rule::ESTABLISHED`], …
    State = 0,
    /// Bits: [`Rule::DNAT`], …
    Status = 2,
}

/// From where in a packet bytes are counted (`NFT_PAYLOAD_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Base {
    /// Ethernet's header.
    Link = 0,
    /// IPv4's, IPv6's, ARP's.
    Network = 1,
    /// TCP's, UDP's.
    Transport = 2,
}

/// How values are compared (`NFT_CMP_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operator {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// A rule. Each method adds an expression.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    batch: Batch,
}

impl Rule {
    /// The connection has been seen in both directions (`NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`).
    pub const ESTABLISHED: u32 = 2;
    /// It belongs to one that has (`IP_CT_RELATED`).
    pub const RELATED: u32 = 4;
    /// Its destination has been changed (`IPS_DST_NAT`).
    pub const DNAT: u32 = 1 << 5;

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.batch.as_bytes()
    }

    fn expression(mut self, name: &str, write: impl FnOnce(&mut Batch)) -> Self {
        let element = self.batch.begin(NFTA_LIST_ELEM);
        self.batch.text(NFTA_EXPR_NAME, name);
        let data = self.batch.begin(NFTA_EXPR_DATA);
        write(&mut self.batch);
        self.batch.end(data);
        self.batch.end(element);
        self
    }

    /// Loads what is known of the packet.
    #[must_use]
    pub fn meta(self, to: Register, key: Meta) -> Self {
        self.expression("meta", |batch| {
            batch.number_be(1, NFT_REG32_00 + to);
            batch.number_be(2, key as u32);
        })
    }

    /// Loads what is known of its connection.
    #[must_use]
    pub fn conntrack(self, to: Register, key: Conntrack) -> Self {
        self.expression("ct", |batch| {
            batch.number_be(1, NFT_REG32_00 + to);
            batch.number_be(2, key as u32);
        })
    }

    /// Loads bytes of the packet.
    #[must_use]
    pub fn payload(self, to: Register, base: Base, offset: u32, length: u32) -> Self {
        self.expression("payload", |batch| {
            batch.number_be(1, NFT_REG32_00 + to);
            batch.number_be(2, base as u32);
            batch.number_be(3, offset);
            batch.number_be(4, length);
        })
    }

    /// Loads the kind of the destination address (`RTN_…`), 4 bytes in the machine's order: `fib daddr type`.
    #[must_use]
    pub fn destination_type(self, to: Register) -> Self {
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 2;
        self.expression("fib", |batch| {
            batch.number_be(1, NFT_REG32_00 + to);
            batch.number_be(2, NFT_FIB_RESULT_ADDRTYPE);
            batch.number_be(3, NFTA_FIB_F_DADDR);
        })
    }

    /// Keeps the bits of a mask, in the order of the bytes.
    #[must_use]
    pub fn mask(self, register: Register, mask: &[u8]) -> Self {
        self.expression("bitwise", |batch| {
            batch.number_be(1, NFT_REG32_00 + register);
            batch.number_be(2, NFT_REG32_00 + register);
            batch.number_be(3, mask.len() as u32);
            for (kind, value) in [(4, mask), (5, &[0; 16][..mask.len()])] {
                let nest = batch.begin(kind);
                batch.attribute(NFTA_DATA_VALUE, value);
                batch.end(nest);
            }
        })
    }

    /// Matches when the comparison holds.
    #[must_use]
    pub fn compare(self, register: Register, operator: Operator, value: &[u8]) -> Self {
        self.expression("cmp", |batch| {
            batch.number_be(1, NFT_REG32_00 + register);
            batch.number_be(2, operator as u32);
            let nest = batch.begin(3);
            batch.attribute(NFTA_DATA_VALUE, value);
            batch.end(nest);
        })
    }

    /// Matches when the register is not below one value and not above another, both in the network's byte order.
    #[must_use]
    pub fn within(self, register: Register, first: &[u8], last: &[u8]) -> Self {
        const NFT_RANGE_EQ: u32 = 0;
        self.expression("range", |batch| {
            batch.number_be(1, NFT_REG32_00 + register);
            batch.number_be(2, NFT_RANGE_EQ);
            for (kind, value) in [(3, first), (4, last)] {
                let nest = batch.begin(kind);
                batch.attribute(NFTA_DATA_VALUE, value);
                batch.end(nest);
            }
        })
    }

    /// Loads a value.
    #[must_use]
    pub fn value(self, to: Register, value: &[u8]) -> Self {
        self.expression("immediate", |batch| {
            batch.number_be(1, NFT_REG32_00 + to);
            let nest = batch.begin(2);
            batch.attribute(NFTA_DATA_VALUE, value);
            batch.end(nest);
        })
    }

    /// Matches when what is from the register on is a key of the set.
    #[must_use]
    pub fn lookup(self, register: Register, set: &str) -> Self {
        self.find(register, set, None, false)
    }

    /// Matches when it is none.
    #[must_use]
    pub fn lookup_none(self, register: Register, set: &str) -> Self {
        self.find(register, set, None, true)
    }

    /// Matches when it is a key of the map, and loads the value.
    #[must_use]
    pub fn map(self, register: Register, map: &str, to: Register) -> Self {
        self.find(register, map, Some(NFT_REG32_00 + to), false)
    }

    /// Goes on in the chain that the map has for it, and behind this rule when it has none, or that decides nothing.
    #[must_use]
    pub fn jump_by(self, register: Register, map: &str) -> Self {
        self.find(register, map, Some(NFT_REG_VERDICT), false)
    }

    fn find(self, register: Register, set: &str, to: Option<u32>, is_inverse: bool) -> Self {
        self.expression("lookup", |batch| {
            batch.text(1, set);
            batch.number_be(2, NFT_REG32_00 + register);
            if let Some(to) = to {
                batch.number_be(3, to);
            }
            if is_inverse {
                batch.number_be(5, 1);
            }
        })
    }

    /// Counts the packets that come so far.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expression("counter", |_| {})
    }

    /// Matches as long as no more than so many packets a second come.
    #[must_use]
    pub fn up_to_packets(self, per_second: u64, burst: u32) -> Self {
        self.limit(per_second, burst, 0, 0)
    }

    /// Matches what is beyond so many bytes a second. The kernel lets those of one second and `burst` go at once.
    #[must_use]
    pub fn beyond_bytes(self, per_second: u64, burst: u32) -> Self {
        self.limit(per_second, burst, 1, 1)
    }

    fn limit(self, rate: u64, burst: u32, kind: u32, flags: u32) -> Self {
        self.expression("limit", |batch| {
            batch.attribute(1, &rate.to_be_bytes());
            batch.attribute(2, &1_u64.to_be_bytes());
            batch.number_be(3, burst);
            batch.number_be(4, kind);
            batch.number_be(5, flags);
        })
    }

    /// Sends the packet's first bytes to whoever reads a group of [`crate::packet_log`], with a text.
    #[must_use]
    pub fn log(self, group: u16, prefix: &str, bytes: u32) -> Self {
        self.expression("log", |batch| {
            batch.attribute(1, &group.to_be_bytes());
            batch.text(2, prefix);
            batch.number_be(3, bytes);
        })
    }

    /// The destination becomes the address, and the port, that the registers hold. `family` is 4 or 6.
    #[must_use]
    pub fn destination_nat(self, family: u8, address: Register, port: Register) -> Self {
        const NFT_NAT_DNAT: u32 = 1;
        let family = if family == 4 { 2 } else { 10 };
        self.expression("nat", |batch| {
            batch.number_be(1, NFT_NAT_DNAT);
            batch.number_be(2, family);
            batch.number_be(3, NFT_REG32_00 + address);
            batch.number_be(5, NFT_REG32_00 + port);
        })
    }

    /// The source becomes the address of the link that the packet leaves by.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// The sender is told that it may not.
    #[must_use]
    pub fn reject(self) -> Self {
        const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
        const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
        self.expression("reject", |batch| {
            batch.number_be(1, NFT_REJECT_ICMPX_UNREACH);
            batch.attribute(2, &[NFT_REJECT_ICMPX_ADMIN_PROHIBITED]);
        })
    }

    /// The sender's connection is closed at once (TCP).
    #[must_use]
    pub fn reject_with_reset(self) -> Self {
        const NFT_REJECT_TCP_RST: u32 = 1;
        self.expression("reject", |batch| batch.number_be(1, NFT_REJECT_TCP_RST))
    }

    /// Nothing more is asked in this table, here and now.
    #[must_use]
    pub fn verdict(self, policy: Policy) -> Self {
        self.end_with(policy as i32, None)
    }

    /// Goes on in another chain, and behind this rule when that decides nothing.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.end_with(NFT_JUMP, Some(chain))
    }

    /// Goes on in another chain.
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.end_with(NFT_GOTO, Some(chain))
    }

    /// Goes on where this chain was jumped to from.
    #[must_use]
    pub fn return_(self) -> Self {
        self.end_with(NFT_RETURN, None)
    }

    fn end_with(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |batch| {
            batch.number_be(1, NFT_REG_VERDICT);
            let data = batch.begin(2);
            write_verdict(batch, code, chain);
            batch.end(data);
        })
    }
}

fn write_verdict(batch: &mut Batch, code: i32, chain: Option<&str>) {
    let verdict = batch.begin(NFTA_DATA_VERDICT);
    batch.number_be(NFTA_VERDICT_CODE, code.cast_unsigned());
    if let Some(chain) = chain {
        batch.text(NFTA_VERDICT_CHAIN, chain);
    }
    batch.end(verdict);
}

/// A chain to go on in, as a value.
pub(super) fn write_jump(batch: &mut Batch, chain: &str) {
    write_verdict(batch, NFT_JUMP, Some(chain));
}
