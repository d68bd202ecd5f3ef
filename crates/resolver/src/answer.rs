//! Writing an answer: RFC 1035 section 4.1, RFC 6891.
//!
//! Every record of ours belongs to the name that was asked for, so each is its pointer, ten bytes and the data.

use std::net::IpAddr;

use crate::query::{HEADER, Query, code, flag, kind};

/// The largest datagram that is sent and asked for: what fits into an Ethernet frame after the headers of IPv6, with
/// room to spare (<https://www.dnsflagday.net/2020/>).
pub const LARGEST_DATAGRAM: u16 = 1232;
/// What everybody takes (RFC 1035 section 4.2.1).
const SMALLEST_DATAGRAM: u16 = 512;

/// Seconds that an answer of ours may be kept: as in Kubernetes. Whoever asks gets an answer from the same host.
const LIFETIME: u32 = 5;
const INTERNET: u16 = 1;
/// Where the name of the question is.
const POINTER: [u8; 2] = [0xc0, HEADER as u8];

/// One record of the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Address(IpAddr),
    /// In the form of the wire, see [`wire_name`].
    Name(Vec<u8>),
}

/// The limit in bytes for an answer to this question in a datagram.
pub(crate) fn datagram_limit(query: &Query) -> usize {
    let said = query.datagram.unwrap_or(SMALLEST_DATAGRAM);
    usize::from(said.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM))
}

/// An answer of our own.
pub(crate) fn own(query: &Query, code: u16, records: &[Record], limit: usize) -> Vec<u8> {
    let authority = match code {
        code::SUCCESS | code::NO_SUCH_NAME => flag::AUTHORITATIVE,
        _ => 0,
    };
    write(query, code, authority, records, limit)
}

/// The answer when nothing better can be said: `code` alone.
pub(crate) fn bare(query: &Query, code: u16) -> Vec<u8> {
    write(query, code, 0, &[], usize::from(SMALLEST_DATAGRAM))
}

/// The answer to one that has to come again by TCP.
pub(crate) fn truncated(query: &Query) -> Vec<u8> {
    write(
        query,
        code::SUCCESS,
        flag::TRUNCATED,
        &[],
        usize::from(SMALLEST_DATAGRAM),
    )
}

fn write(query: &Query, code: u16, extra: u16, records: &[Record], limit: usize) -> Vec<u8> {
    let echoed =
        query.flags & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED | flag::OPERATION);
    let mut flags =
        flag::RESPONSE | flag::RECURSION_AVAILABLE | echoed | extra | (code & flag::CODE);
    let options = query.datagram.map(|_| options(code));
    let reserved = options.map_or(0, |options| options.len());
    let mut body = Vec::new();
    let mut count: u16 = 0;
    let before = HEADER + query.question.len();
    for record in records {
        let written = body.len();
        write_record(&mut body, record);
        if before + body.len() + reserved > limit {
            body.truncate(written);
            flags |= flag::TRUNCATED;
            break;
        }
        count += 1;
    }
    let mut out = Vec::with_capacity(before + body.len() + reserved);
    let has_question = u16::from(!query.question.is_empty());
    let has_options = u16::from(options.is_some());
    for field in [query.id, flags, has_question, count, 0, has_options] {
        out.extend(field.to_be_bytes());
    }
    out.extend(&query.question);
    out.extend(body);
    out.extend(options.into_iter().flatten());
    out
}

/// The OPT record: root, kind, our largest datagram, the code's upper bits, version 0, no flags, no data.
fn options(code: u16) -> [u8; 11] {
    let [size_high, size_low] = LARGEST_DATAGRAM.to_be_bytes();
    let [kind_high, kind_low] = kind::OPT.to_be_bytes();
    let code_high = (code >> 4) as u8;
    [
        0, kind_high, kind_low, size_high, size_low, code_high, 0, 0, 0, 0, 0,
    ]
}

fn write_record(out: &mut Vec<u8>, record: &Record) {
    let mut put = |kind: u16, data: &[u8]| {
        let Ok(length) = u16::try_from(data.len()) else {
            return;
        };
        out.extend(POINTER);
        out.extend(kind.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        out.extend(LIFETIME.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(data);
    };
    match record {
        Record::Address(IpAddr::V4(address)) => put(kind::A, &address.octets()),
        Record::Address(IpAddr::V6(address)) => put(kind::AAAA, &address.octets()),
        Record::Name(name) => put(kind::PTR, name),
    }
}

/// A name in the form of the wire; `None` when it is none (a part of more than 63 bytes, more than 255 altogether).
pub(crate) fn wire_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        out.push(length);
        out.extend(label.as_bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}
