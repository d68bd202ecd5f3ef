//! Packets that a rule logs ([`crate::nftables::Rule::log`]), see `linux/netfilter/nfnetlink_log.h`.

use std::io;

use crate::attributes::Attributes;
use crate::batch::NLM_F_ACK;
use crate::{Batch, Protocol, Refused, Socket};

const NFNL_SUBSYS_ULOG: u16 = 4 << 8;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;

/// A packet that was logged.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    /// The rule's text.
    pub prefix: &'a str,
    /// Index of the link that it came from.
    pub link: Option<u32>,
    /// Its first bytes, from IPv4's or IPv6's header on.
    pub packet: &'a [u8],
}

/// A socket that gets what is logged to a group, the first `bytes` of each packet; one process at a
/// time can have a group (`EPERM`). [`Socket::receive`] and [`parse`] read it.
///
/// # Errors
/// When the kernel cannot log to sockets, another process has the group, or `CAP_NET_ADMIN` is missing.
pub fn open(group: u16, bytes: u32) -> Result<Socket, Refused> {
    let socket = Socket::open(Protocol::Netfilter)?;
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_ULOG | NFULNL_MSG_CONFIG;
    let [high, low] = group.to_be_bytes();
    batch.message(kind, NLM_F_ACK, &[0, 0, high, low]);
    batch.attribute(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
    // struct nfulnl_msg_config_mode, packed
    let [a, b, c, d] = bytes.to_be_bytes();
    batch.attribute(NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
    // Hundredths of a second until what was gathered is handed over.
    batch.number_be(NFULA_CFG_TIMEOUT, 10);
    socket.send(&batch)?;
    Ok(socket)
}

/// What a message tells, when it is about a packet.
#[must_use]
pub fn parse(kind: u16, payload: &[u8]) -> Option<Logged<'_>> {
    if kind != NFNL_SUBSYS_ULOG | NFULNL_MSG_PACKET {
        return None;
    }
    let attributes = Attributes(payload.get(4..)?);
    Some(Logged {
        prefix: attributes.text(NFULA_PREFIX).unwrap_or_default(),
        link: attributes.number_be(NFULA_IFINDEX_INDEV),
        packet: attributes.get(NFULA_PAYLOAD)?,
    })
}

/// Whether an error of [`Socket::receive`] says only that packets were lost.
#[must_use]
pub fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
