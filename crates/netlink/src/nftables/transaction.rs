//! Changes of tables, all or none.

use crate::batch::NLM_F_ACK;
use crate::link::NLM_F_CREATE;
use crate::{Batch, Refused, Socket};

use super::{
    Element, NFNL_SUBSYS_NFTABLES, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELSETELEM,
    NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE, NFTA_TABLE_NAME, Rule, Set, header,
};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NLM_F_APPEND: u16 = 0x800;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
/// Elements of one message together: a length is 16 bits wide.
const ELEMENTS_BYTES: usize = 48 * 1024;

/// Which packets a table sees (`NFPROTO_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// None: questions that concern all.
    Any = 0,
    /// IPv4 and IPv6.
    Inet = 1,
    /// What goes through bridges.
    Bridge = 7,
}

/// Where in a packet's way a chain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// `NF_INET_…` or `NF_BR_…`.
    pub number: u32,
    /// Which of several chains comes first.
    pub priority: i32,
    /// What happens to a packet that no rule decides about.
    pub policy: Policy,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Policy {
    /// It is thrown away.
    Drop = 0,
    /// It goes on.
    Accept = 1,
}

impl Hook {
    /// Before it is known where a packet goes (`NF_INET_PRE_ROUTING`, `NF_BR_PRE_ROUTING`).
    pub const PREROUTING: u32 = 0;
    /// For this host (`NF_INET_LOCAL_IN`).
    pub const INPUT: u32 = 1;
    /// From one link to another (`NF_INET_FORWARD`).
    pub const FORWARD: u32 = 2;
    /// From this host (`NF_INET_LOCAL_OUT`).
    pub const OUTPUT: u32 = 3;
    /// About to leave (`NF_INET_POST_ROUTING`).
    pub const POSTROUTING: u32 = 4;
}

/// Changes of one table.
#[derive(Clone, Debug)]
pub struct Transaction<'a> {
    family: Family,
    table: &'a str,
    batch: Batch,
}

impl<'a> Transaction<'a> {
    /// Begins changes of the table of that name.
    #[must_use]
    pub fn new(family: Family, table: &'a str) -> Self {
        let mut batch = Batch::default();
        // The resource of struct nfgenmsg is the subsystem, in the network's byte order.
        batch.bracket(NFNL_MSG_BATCH_BEGIN, &[0, 0, 0, 10]);
        Self {
            family,
            table,
            batch,
        }
    }

    /// Goes on with another table, in the same transaction.
    pub fn turn_to(&mut self, family: Family, table: &'a str) {
        self.family = family;
        self.table = table;
    }

    /// Whether nothing has been said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Makes the table; harmless when it is there.
    pub fn add_table(&mut self) {
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE);
        self.batch.text(NFTA_TABLE_NAME, self.table);
    }

    /// Deletes the table, and all that is in it.
    pub fn delete_table(&mut self) {
        self.message(NFT_MSG_DELTABLE, 0);
        self.batch.text(NFTA_TABLE_NAME, self.table);
    }

    /// Makes a chain, with a hook one that packets come to by themselves; harmless when it is there.
    pub fn add_chain(&mut self, name: &str, hook: Option<&Hook>) {
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        self.batch.text(NFTA_CHAIN_TABLE, self.table);
        self.batch.text(NFTA_CHAIN_NAME, name);
        if let Some(hook) = hook {
            let nest = self.batch.begin(NFTA_CHAIN_HOOK);
            self.batch.number_be(NFTA_HOOK_HOOKNUM, hook.number);
            self.batch
                .number_be(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
            self.batch.end(nest);
            self.batch.number_be(NFTA_CHAIN_POLICY, hook.policy as u32);
            self.batch.text(NFTA_CHAIN_TYPE, hook.kind);
        }
    }

    /// Deletes a chain that no rule goes to.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(NFT_MSG_DELCHAIN, 0);
        self.batch.text(NFTA_CHAIN_TABLE, self.table);
        self.batch.text(NFTA_CHAIN_NAME, name);
    }

    /// Deletes all rules of a chain, or of all chains.
    pub fn flush(&mut self, chain: Option<&str>) {
        self.message(NFT_MSG_DELRULE, 0);
        self.batch.text(NFTA_RULE_TABLE, self.table);
        if let Some(chain) = chain {
            self.batch.text(NFTA_RULE_CHAIN, chain);
        }
    }

    /// Adds a rule behind those of the chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        self.batch.text(NFTA_RULE_TABLE, self.table);
        self.batch.text(NFTA_RULE_CHAIN, chain);
        let nest = self.batch.begin(NFTA_RULE_EXPRESSIONS);
        self.batch.raw(rule.as_bytes());
        self.batch.end(nest);
    }

    /// Makes a set or a map; harmless when the same is there.
    pub fn add_set(&mut self, set: &Set) {
        self.message(NFT_MSG_NEWSET, NLM_F_CREATE);
        set.write(&mut self.batch, self.table);
    }

    /// Adds elements; harmless when the same are there.
    pub fn add_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    /// Adds elements. The transaction fails (`EEXIST`) when one with the same key is there.
    pub fn add_new_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        const NLM_F_EXCL: u16 = 0x200;
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.elements(NFT_MSG_NEWSETELEM, flags, set, elements);
    }

    /// Deletes elements, by their keys. The transaction fails (`ENOENT`) when one is not there.
    pub fn delete_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.elements(NFT_MSG_DELSETELEM, 0, set, elements);
    }

    /// Deletes all elements.
    pub fn clear(&mut self, set: &str) {
        self.message(NFT_MSG_DELSETELEM, 0);
        super::set::write_list(&mut self.batch, self.table, set);
    }

    /// Carries all out.
    ///
    /// # Errors
    /// The first refusal; nothing has changed.
    pub fn commit(mut self, socket: &Socket) -> Result<(), Refused> {
        // An answer to the last message alone: what fails before it is answered all the same.
        self.batch.add_flags(NLM_F_ACK);
        self.batch.bracket(NFNL_MSG_BATCH_END, &[0, 0, 0, 10]);
        socket.send(&self.batch)
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        elements: impl IntoIterator<Item = Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.message(kind, flags);
            let nest = super::set::begin_list(&mut self.batch, self.table, set);
            let start = self.batch.byte_len();
            while self.batch.byte_len() - start < ELEMENTS_BYTES
                && let Some(element) = elements.next()
            {
                element.write(&mut self.batch);
            }
            self.batch.end(nest);
        }
    }

    fn message(&mut self, kind: u16, flags: u16) {
        self.batch
            .message(NFNL_SUBSYS_NFTABLES | kind, flags, &header(self.family));
    }
}
