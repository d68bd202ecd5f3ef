//! nf_tables: what the kernel lets through, and where it sends it, see nft(8) and
//! `linux/netfilter/nf_tables.h`.
//!
//! A [`Transaction`] changes tables as a whole or not at all. [`Rule`] has the expressions of a rule, [`Set`] describes
//! a set or a map, [`Element`] is one of its elements.

mod rule;
mod set;
mod transaction;

pub use rule::{Base, Conntrack, Meta, Operator, Register, Rule};
pub use set::{DataType, Element, Set, link_name};
pub use transaction::{Family, Hook, Policy, Transaction};

use crate::attributes::Attributes;
use crate::{Batch, Refused, Socket};

const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;

/// `struct nfgenmsg`: family, version, resource.
fn header(family: Family) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

/// The number of the last transaction, whoever made it.
///
/// # Errors
/// When the kernel has no nf_tables, or does not let the process ask.
pub fn generation(socket: &Socket) -> Result<u32, Refused> {
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_NFTABLES | NFT_MSG_GETGEN;
    batch.message(kind, crate::batch::NLM_F_ACK, &header(Family::Any));
    let mut generation = 0;
    socket.dump(&batch, |kind, payload| {
        if let Some((told, _)) = parse_generation(kind, payload) {
            generation = told;
        }
    })?;
    Ok(generation)
}

/// What a message of the group [`crate::monitor::NFTABLES`] says about the end of a transaction: its number, and
/// the process that made it.
#[must_use]
pub fn parse_generation(kind: u16, payload: &[u8]) -> Option<(u32, u32)> {
    if kind != NFNL_SUBSYS_NFTABLES | NFT_MSG_NEWGEN {
        return None;
    }
    let attributes = Attributes(payload.get(4..)?);
    let process = attributes.number_be(NFTA_GEN_PROC_PID).unwrap_or(0);
    Some((attributes.number_be(NFTA_GEN_ID)?, process))
}

/// Which table a message of the group [`crate::monitor::NFTABLES`] is about, when it tells that the table, a chain, a
/// rule or a set has gone. Elements of sets come and go without that.
#[must_use]
pub fn parse_loss(kind: u16, payload: &[u8]) -> Option<&str> {
    let is_loss = [
        NFT_MSG_DELTABLE,
        NFT_MSG_DELCHAIN,
        NFT_MSG_DELRULE,
        NFT_MSG_DELSET,
    ]
    .contains(&(kind & 0xff));
    if kind & 0xff00 != NFNL_SUBSYS_NFTABLES || !is_loss {
        return None;
    }
    // The table's name is attribute 1 of all of them.
    Attributes(payload.get(4..)?).text(NFTA_TABLE_NAME)
}

/// Calls `told` with the chain of each rule of a table. None when there is no such table.
///
/// # Errors
/// When the kernel has no nf_tables, or does not let the process ask.
pub fn rules(
    socket: &Socket,
    family: Family,
    table: &str,
    mut told: impl FnMut(&str),
) -> Result<(), Refused> {
    const NFTA_RULE_CHAIN: u16 = 2;
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_NFTABLES | NFT_MSG_GETRULE;
    batch.message(kind, NLM_F_DUMP, &header(family));
    batch.text(NFTA_TABLE_NAME, table);
    socket.dump(&batch, |_, payload| {
        let attributes = Attributes(payload.get(4..).unwrap_or_default());
        // Old kernels do not leave the others out.
        if attributes.text(NFTA_TABLE_NAME) == Some(table)
            && let Some(chain) = attributes.text(NFTA_RULE_CHAIN)
        {
            told(chain);
        }
    })
}

/// A chain of somebody's that packets come to by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `ip`, `ip6`, `inet`, …; empty for one that nft(8) has no name for.
    pub family: &'static str,
    /// The table that it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where: `NF_INET_…`, see [`Hook`].
    pub hook: u32,
    /// What happens to a packet that no rule of it decides about.
    pub policy: Policy,
}

/// The base chains of all tables.
///
/// # Errors
/// When the kernel has no nf_tables, or does not let the process ask.
pub fn base_chains(socket: &Socket) -> Result<Vec<BaseChain>, Refused> {
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_NFTABLES | NFT_MSG_GETCHAIN;
    batch.message(kind, NLM_F_DUMP, &header(Family::Any));
    let mut chains = Vec::new();
    socket.dump(&batch, |_, payload| chains.extend(parse_chain(payload)))?;
    Ok(chains)
}

fn parse_chain(payload: &[u8]) -> Option<BaseChain> {
    const NFTA_CHAIN_TABLE: u16 = 1;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_POLICY: u16 = 5;
    const NFTA_HOOK_HOOKNUM: u16 = 1;
    let attributes = Attributes(payload.get(4..)?);
    let hook = attributes.nested(NFTA_CHAIN_HOOK)?;
    Some(BaseChain {
        family: match payload[0] {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "",
        },
        table: attributes.text(NFTA_CHAIN_TABLE)?.to_owned(),
        name: attributes.text(NFTA_CHAIN_NAME)?.to_owned(),
        hook: hook.number_be(NFTA_HOOK_HOOKNUM)?,
        policy: match attributes.number_be(NFTA_CHAIN_POLICY) {
            Some(0) => Policy::Drop,
            _ => Policy::Accept,
        },
    })
}
