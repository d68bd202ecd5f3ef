//! The table of connections: entries are deleted so that a flow does not go on to where it no longer
//! should, see `linux/netfilter/nfnetlink_conntrack.h` and conntrack(8).

use std::net::IpAddr;

use crate::attributes::{AF_INET, AF_INET6, Attributes, ip_address};
use crate::batch::NLM_F_ACK;
use crate::{Batch, Refused, Socket};

const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// From where.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// TCP, UDP, … (`IPPROTO_…`).
    pub protocol: u8,
    /// From which port; 0 where there is none.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// Deletes the entries that `is_meant` says yes to, given what was sent and what is expected to
/// come back. How many.
///
/// # Errors
/// When the kernel has no such table, or `CAP_NET_ADMIN` is missing.
pub fn delete(
    socket: &Socket,
    mut is_meant: impl FnMut(&Tuple, &Tuple) -> bool,
) -> Result<usize, Refused> {
    let mut deleted = 0;
    for family in [AF_INET, AF_INET6] {
        let mut question = Batch::default();
        let kind = NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_GET;
        question.message(kind, NLM_F_DUMP, &[family, 0, 0, 0]);
        let mut requests = Vec::new();
        socket.dump(&question, |_, payload| {
            let attributes = Attributes(payload.get(4..).unwrap_or_default());
            let sent = attributes.nested(CTA_TUPLE_ORIG);
            let expected = attributes.nested(CTA_TUPLE_REPLY);
            if let Some((sent, expected)) = sent.zip(expected)
                && let Some((sent, expected)) = tuple(sent).zip(tuple(expected))
                && is_meant(&sent, &expected)
            {
                requests.push(deletion(family, attributes));
            }
        })?;
        for request in requests {
            match socket.send(&request) {
                Ok(()) => deleted += 1,
                // It ended by itself.
                Err(refused) if refused.error.kind() == std::io::ErrorKind::NotFound => {}
                Err(refused) => return Err(refused),
            }
        }
    }
    Ok(deleted)
}

/// Asks for the end of an entry, which is named by what was sent and by its number.
fn deletion(family: u8, entry: Attributes<'_>) -> Batch {
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_DELETE;
    batch.message(kind, NLM_F_ACK, &[family, 0, 0, 0]);
    if let Some(sent) = entry.get(CTA_TUPLE_ORIG) {
        let nest = batch.begin(CTA_TUPLE_ORIG);
        batch.raw(sent);
        batch.end(nest);
    }
    if let Some(number) = entry.get(CTA_ID) {
        batch.attribute(CTA_ID, number);
    }
    batch
}

fn tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let addresses = attributes.nested(CTA_TUPLE_IP)?;
    let protocol = attributes.nested(CTA_TUPLE_PROTO)?;
    let address = |v4, v6| ip_address(addresses.get(v4).or_else(|| addresses.get(v6))?);
    let port = |kind| {
        let bytes = protocol.get(kind).and_then(|value| value.try_into().ok());
        bytes.map_or(0, u16::from_be_bytes)
    };
    Some(Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        protocol: *protocol.get(CTA_PROTO_NUM)?.first()?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    })
}
