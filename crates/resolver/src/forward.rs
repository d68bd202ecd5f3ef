//! Questions that are passed on, and what comes back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{Packet, RCODE};

use crate::answer;
use crate::query::{HEADER, Query, code, flag};

/// A question for a server of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    query: Query,
    /// As it came, without what lay behind it.
    message: Vec<u8>,
}

/// Why an answer from outside is not the one to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another number, another question, or no answer at all: somebody else's, late, or a forgery. The right one
    /// may still come.
    #[error("the packet answers another question")]
    Foreign,
    /// The server cannot or will not: another may.
    #[error("the server answers with code {0}")]
    Code(u16),
}

/// Names that lead to one another, at most.
const LONGEST_CHAIN: usize = 16;
/// A record has a name of one byte at least, and ten more.
const SMALLEST_RECORD: usize = 11;

impl Forward {
    pub(crate) fn new(query: Query, packet: &[u8]) -> Forward {
        let message = packet[..query.length].to_vec();
        Forward { query, message }
    }

    /// What is to be sent, under a number of the sender's own: one that the asker cannot know, so that it cannot
    /// answer itself.
    #[must_use]
    pub fn message(&self, id: u16) -> Vec<u8> {
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        message
    }

    /// The name that is asked for, in lower case; `None` when it cannot be written as text.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.query.name.as_deref()
    }

    /// Looks at what came back for [`Forward::message`] with this number, and makes it the answer for the asker, who
    /// gets it in a datagram or by TCP.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn accept(&self, id: u16, packet: &[u8], is_datagram: bool) -> Result<Vec<u8>, Unfit> {
        let header = packet.get(..HEADER).ok_or(Unfit::Foreign)?;
        let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (flags, questions) = (field(2), field(4));
        if field(0) != id || flags & flag::RESPONSE == 0 || flags & flag::OPERATION != 0 {
            return Err(Unfit::Foreign);
        }
        let code = flags & flag::CODE;
        let echo = packet.get(HEADER..HEADER + self.query.question.len());
        let is_echoed = questions == 1 && echo.is_some_and(|echo| self.is_same_question(echo));
        // One that did not understand may have left the question out.
        let is_left_out = questions == 0 && code != code::SUCCESS;
        if !is_echoed && !is_left_out {
            return Err(Unfit::Foreign);
        }
        if !matches!(code, code::SUCCESS | code::NO_SUCH_NAME) {
            return Err(Unfit::Code(code));
        }
        if is_datagram && packet.len() > answer::datagram_limit(&self.query) {
            return Ok(answer::truncated(&self.query));
        }
        let mut answer = packet.to_vec();
        answer[..2].copy_from_slice(&self.query.id.to_be_bytes());
        Ok(answer)
    }

    /// Some servers write the name in letters of their own.
    fn is_same_question(&self, echo: &[u8]) -> bool {
        echo.eq_ignore_ascii_case(&self.query.question)
    }

    /// The answer when no server has one.
    #[must_use]
    pub fn failure(&self) -> Vec<u8> {
        answer::bare(&self.query, code::FAILURE)
    }

    /// The answer to one who has asked too much.
    #[must_use]
    pub fn refusal(&self) -> Vec<u8> {
        answer::bare(&self.query, code::REFUSED)
    }
}

/// The addresses that an answer gives to the name that it is about, through the names that lead to one another, and
/// the seconds for which they hold: the fewest of all on the way.
#[must_use]
pub fn addresses(packet: &[u8]) -> Vec<(IpAddr, u32)> {
    let announced = |at: usize| {
        let bytes = packet
            .get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(usize::MAX, |bytes| usize::from(u16::from_be_bytes(bytes)))
    };
    // simple-dns takes memory for as many as are announced.
    let records = [6, 8, 10]
        .into_iter()
        .map(announced)
        .fold(0, usize::saturating_add);
    if records.saturating_mul(SMALLEST_RECORD) > packet.len() || announced(4) != 1 {
        return Vec::new();
    }
    let Ok(packet) = Packet::parse(packet) else {
        return Vec::new();
    };
    if packet.rcode() != RCODE::NoError {
        return Vec::new();
    }
    let Some(question) = packet.questions.first() else {
        return Vec::new();
    };
    // Names compare without regard to case.
    let mut names = vec![(&question.qname, u32::MAX)];
    for _ in 0..LONGEST_CHAIN {
        let known = names.len();
        for record in &packet.answers {
            let RData::CNAME(alias) = &record.rdata else {
                continue;
            };
            let from = names.iter().find(|(name, _)| **name == record.name);
            let Some((_, lifetime)) = from else { continue };
            if names.iter().all(|(name, _)| **name != alias.0) {
                names.push((&alias.0, record.ttl.min(*lifetime)));
            }
        }
        if names.len() == known {
            break;
        }
    }
    let mut found = Vec::new();
    for record in &packet.answers {
        let owner = names.iter().find(|(name, _)| **name == record.name);
        let Some((_, lifetime)) = owner else { continue };
        let address: IpAddr = match &record.rdata {
            RData::A(a) => Ipv4Addr::from_bits(a.address).into(),
            RData::AAAA(aaaa) => Ipv6Addr::from_bits(aaaa.address).into(),
            _ => continue,
        };
        found.push((address, record.ttl.min(*lifetime)));
    }
    found
}
