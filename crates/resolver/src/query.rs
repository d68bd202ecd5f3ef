//! Reading a question as it comes over the wire: RFC 1035 section 4, RFC 6891.
//!
//! By hand, unlike answers: a server that passes questions on has to pass those for kinds of records that it does
//! not know, and simple-dns refuses them; and it takes memory for as many records as the header announces.

/// Kinds of records (RFC 1035 section 3.2.2, RFC 3596, RFC 6891).
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Not a record: what the sender can do.
    pub const OPT: u16 = 41;
    /// All changes since, and all records, of a zone.
    pub(crate) const TRANSFERS: [u16; 2] = [251, 252];
    /// Whatever there is.
    pub const ANY: u16 = 255;
}

pub(crate) const HEADER: usize = 12;
const LONGEST_NAME: usize = 255;
/// Records behind the question: OPT, perhaps a signature.
const MOST_ADDITIONAL: u16 = 4;

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub(crate) mod code {
    pub const SUCCESS: u16 = 0;
    pub const MALFORMED: u16 = 1;
    pub const FAILURE: u16 = 2;
    pub const NO_SUCH_NAME: u16 = 3;
    pub const NOT_IMPLEMENTED: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BAD_VERSION: u16 = 16;
}

pub(crate) mod flag {
    pub const RESPONSE: u16 = 1 << 15;
    pub const OPERATION: u16 = 0b1111 << 11;
    pub const AUTHORITATIVE: u16 = 1 << 10;
    pub const TRUNCATED: u16 = 1 << 9;
    pub const RECURSION_DESIRED: u16 = 1 << 8;
    pub const RECURSION_AVAILABLE: u16 = 1 << 7;
    pub const CHECKING_DISABLED: u16 = 1 << 4;
    pub const CODE: u16 = 0b1111;
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// The question as it came: name, kind, class. Empty when there is none to echo.
    pub(crate) question: Vec<u8>,
    /// The name in lower case, parts joined by dots; `None` when it has bytes that no name of ours has (a dot within
    /// a part among them).
    pub(crate) name: Option<String>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// The largest datagram that the asker takes, when it said something about it.
    pub(crate) datagram: Option<u16>,
    /// Bytes of the packet up to the last record.
    pub(crate) length: usize,
}

/// What is wrong with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It gets no answer: it is an answer itself, or too short to be anything.
    Silence,
    /// The asker is told.
    Code(Query, u16),
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.packet.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// The parts of a name that points nowhere, as in the first question of a packet: there is nothing before it.
    fn plain_name(&mut self) -> Option<Vec<&'a [u8]>> {
        let mut labels = Vec::new();
        let start = self.at;
        loop {
            let length = usize::from(*self.take(1)?.first()?);
            match length {
                0 => break,
                1..=63 => labels.push(self.take(length)?),
                // A pointer, or a form that was never used.
                _ => return None,
            }
            if self.at - start >= LONGEST_NAME {
                return None;
            }
        }
        Some(labels)
    }

    /// Goes past a name. Pointers are not followed, so there is nothing to run in circles; true: it is the root.
    fn skip_name(&mut self) -> Option<bool> {
        let start = self.at;
        loop {
            let length = usize::from(*self.take(1)?.first()?);
            match length {
                0 => return Some(self.at - start == 1),
                1..=63 => {
                    self.take(length)?;
                }
                0xc0.. => {
                    self.take(1)?;
                    return Some(false);
                }
                _ => return None,
            }
            if self.at - start >= LONGEST_NAME {
                return None;
            }
        }
    }
}

/// The text of a name.
fn text(labels: &[&[u8]]) -> Option<String> {
    let mut name = String::new();
    for label in labels {
        if !name.is_empty() {
            name.push('.');
        }
        for byte in *label {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_') {
                return None;
            }
            name.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(name)
}

impl Query {
    pub(crate) fn read(packet: &[u8]) -> Result<Query, Fault> {
        let mut reader = Reader { packet, at: 0 };
        let mut header = [0; 6];
        for field in &mut header {
            *field = reader.u16().ok_or(Fault::Silence)?;
        }
        let [id, flags, questions, answers, authorities, additional] = header;
        if flags & flag::RESPONSE != 0 {
            return Err(Fault::Silence);
        }
        let mut query = Query {
            id,
            flags,
            question: Vec::new(),
            name: None,
            kind: 0,
            class: 0,
            datagram: None,
            length: HEADER,
        };
        if flags & flag::OPERATION != 0 {
            return Err(Fault::Code(query, code::NOT_IMPLEMENTED));
        }
        if questions != 1 || answers != 0 || authorities > 1 || additional > MOST_ADDITIONAL {
            return Err(Fault::Code(query, code::MALFORMED));
        }
        if query.read_question(&mut reader).is_none() {
            return Err(Fault::Code(query, code::MALFORMED));
        }
        let mut version = 0;
        for _ in 0..authorities + additional {
            match query.read_additional(&mut reader) {
                Some(found) => version = version.max(found),
                None => return Err(Fault::Code(query, code::MALFORMED)),
            }
        }
        query.length = reader.at;
        match version {
            0 => Ok(query),
            _ => Err(Fault::Code(query, code::BAD_VERSION)),
        }
    }

    fn read_question(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let start = reader.at;
        let labels = reader.plain_name()?;
        let (kind, class) = (reader.u16()?, reader.u16()?);
        self.name = text(&labels);
        (self.kind, self.class) = (kind, class);
        self.question = reader.packet.get(start..reader.at)?.to_vec();
        Some(())
    }

    /// Goes past a record, and looks at it when it is OPT. Returns the version of EDNS, 0 for other records.
    fn read_additional(&mut self, reader: &mut Reader<'_>) -> Option<u8> {
        let is_root = reader.skip_name()?;
        let (kind, class) = (reader.u16()?, reader.u16()?);
        let (_, version) = (reader.take(1)?, *reader.take(1)?.first()?);
        reader.take(2)?;
        let length = reader.u16()?;
        reader.take(usize::from(length))?;
        if kind != kind::OPT {
            return Some(0);
        }
        // Two of them are an error (RFC 6891 section 6.1.1), and so is one that has a name.
        if !is_root || self.datagram.replace(class).is_some() {
            return None;
        }
        Some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::rdata::OPT;
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

    fn packet(name: &str, kind: TYPE, datagram: Option<u16>) -> Vec<u8> {
        let mut packet = Packet::new_query(0x1234);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(
            Name::new(name).unwrap(),
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        *packet.opt_mut() = datagram.map(|udp_packet_size| OPT {
            opt_codes: Vec::new(),
            udp_packet_size,
            version: 0,
        });
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_is_read() {
        let bytes = packet("Web.Front", TYPE::AAAA, Some(4096));
        let query = Query::read(&bytes).unwrap();
        assert_eq!(query.id, 0x1234);
        assert_eq!(query.name.as_deref(), Some("web.front"));
        assert_eq!((query.kind, query.class), (kind::AAAA, 1));
        assert_eq!(query.datagram, Some(4096));
        assert_eq!(query.length, bytes.len());
        assert!(query.question.starts_with(b"\x03Web\x05Front\x00"));
    }

    #[test]
    fn a_question_for_a_kind_that_nobody_knows_is_read() {
        let mut bytes = packet("a", TYPE::A, None);
        let kind = bytes.len() - 4;
        bytes[kind..kind + 2].copy_from_slice(&65_400_u16.to_be_bytes());
        assert!(
            Packet::parse(&bytes).is_err(),
            "if simple-dns does now, use it"
        );
        assert_eq!(Query::read(&bytes).unwrap().kind, 65_400);
    }

    #[test]
    fn answers_and_scraps_get_silence() {
        let mut response = packet("a", TYPE::A, None);
        response[2] |= 0x80;
        assert_eq!(Query::read(&response), Err(Fault::Silence));
        for length in 0..HEADER {
            assert_eq!(Query::read(&response[..length]), Err(Fault::Silence));
        }
    }

    fn code_of(bytes: &[u8]) -> u16 {
        match Query::read(bytes) {
            Err(Fault::Code(query, code)) => {
                assert_eq!(query.id, 0x1234);
                code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_questions_are_malformed() {
        let whole = packet("a.b", TYPE::A, Some(512));
        for length in HEADER..whole.len() {
            assert_eq!(code_of(&whole[..length]), code::MALFORMED, "{length}");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            bytes
        };
        // No question, many; answers; a name that points to itself; a long part.
        for (at, value) in [
            (5, 0),
            (5, 2),
            (4, 255),
            (7, 1),
            (6, 255),
            (12, 0xc0),
            (12, 64),
            (12, 0x80),
            (10, 255),
        ] {
            assert_eq!(code_of(&changed(at, value)), code::MALFORMED, "{at}");
        }
        assert_eq!(code_of(&changed(2, 0x28)), code::NOT_IMPLEMENTED);
        // Version 1 of EDNS: behind the header, the question (5 + 4), the root, two numbers and a code.
        assert_eq!(code_of(&changed(12 + 9 + 1 + 4 + 1, 1)), code::BAD_VERSION);
        // A name of more than 255 bytes.
        let mut long = whole[..HEADER].to_vec();
        for _ in 0..5 {
            long.push(63);
            long.extend([b'a'; 63]);
        }
        long.extend([0, 0, 1, 0, 1]);
        long[11] = 0;
        assert_eq!(code_of(&long), code::MALFORMED);
        // Two OPT.
        let mut twice = whole.clone();
        twice.extend_from_slice(&whole[12 + 9..]);
        twice[11] = 2;
        assert_eq!(code_of(&twice), code::MALFORMED);
    }

    #[test]
    fn a_dot_within_a_part_is_no_name_of_ours() {
        let bytes = packet("a\\.b", TYPE::A, None);
        assert_eq!(Query::read(&bytes).unwrap().name, None);
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::read(&bytes);
        }

        #[test]
        fn what_simple_dns_writes_is_read(
            name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,50}){0,3}",
            datagram in prop::option::of(any::<u16>()),
        ) {
            let query = Query::read(&packet(&name, TYPE::A, datagram)).unwrap();
            prop_assert_eq!(query.name.as_deref(), Some(name.as_str()));
            prop_assert_eq!(query.datagram, datagram);
        }
    }
}
