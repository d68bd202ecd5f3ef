//! A small house with two networks, and what is answered in it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use isle_resolver::{Directory, Reply, Transport, kind, respond};
use proptest::prelude::*;
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// `web` is in both, `db` in the back, `many` has a hundred addresses in the front.
struct House {
    names: BTreeMap<(u8, &'static str), Vec<IpAddr>>,
}

const FRONT: u8 = 1;
const BACK: u8 = 2;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn house() -> House {
    let mut names = BTreeMap::new();
    names.insert((FRONT, "web"), vec![ip("10.1.0.2"), ip("fd01::2")]);
    names.insert((FRONT, "four"), vec![ip("10.1.0.3")]);
    names.insert(
        (FRONT, "service"),
        vec![ip("10.1.0.4"), ip("10.1.0.5"), ip("10.1.0.6")],
    );
    names.insert((FRONT, "dotted.name"), vec![ip("10.1.0.7")]);
    names.insert((BACK, "web"), vec![ip("10.2.0.2")]);
    names.insert((BACK, "db"), vec![ip("10.2.0.3")]);
    let many = (1..=100)
        .map(|last| IpAddr::from([10, 1, 1, last]))
        .collect();
    names.insert((FRONT, "many"), many);
    House { names }
}

impl Directory for House {
    type Network = u8;

    fn networks_of(&self, network: u8, source: IpAddr) -> Option<Vec<u8>> {
        match (network, source.to_string().as_str()) {
            (FRONT, "10.1.0.2") | (BACK, "10.2.0.2") => Some(vec![FRONT, BACK]),
            (FRONT, "10.1.0.3") => Some(vec![FRONT]),
            (BACK, "10.2.0.3") => Some(vec![BACK]),
            _ => None,
        }
    }

    fn may_ask_outside(&self, _: u8, source: IpAddr, name: Option<&str>) -> bool {
        match source.to_string().as_str() {
            "10.1.0.3" => name.is_some_and(|name| name.ends_with(".example.com")),
            "10.2.0.3" => false,
            _ => true,
        }
    }

    fn network_name(&self, network: u8) -> &str {
        if network == FRONT { "Front" } else { "back" }
    }

    fn addresses(&self, network: u8, name: &str) -> Option<Vec<IpAddr>> {
        let known = |(at, known): &&(u8, &'static str)| *at == network && *known == name;
        let key = self.names.keys().find(known)?;
        self.names.get(key).cloned()
    }

    fn name_of(&self, network: u8, address: IpAddr) -> Option<&str> {
        let has = |((at, _), all): &(&(u8, &'static str), &Vec<IpAddr>)| {
            *at == network && all.contains(&address)
        };
        self.names.iter().find(has).map(|((_, name), _)| *name)
    }

    fn covers(&self, network: u8, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[..2] == [10, network],
            IpAddr::V6(address) => address.segments()[0] == 0xfd00 + u16::from(network),
        }
    }
}

fn question(name: &str, kind: TYPE, datagram: Option<u16>) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
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

/// The code, and the records in order.
fn read(answer: &[u8], asked: &[u8]) -> (RCODE, Vec<String>) {
    let packet = Packet::parse(answer).expect("ours can be read");
    assert_eq!(packet.id(), 77);
    assert!(packet.has_flags(
        PacketFlag::RESPONSE | PacketFlag::RECURSION_AVAILABLE | PacketFlag::RECURSION_DESIRED
    ));
    let asked = Packet::parse(asked).unwrap();
    assert_eq!(
        packet.questions[0].qname.to_string(),
        asked.questions[0].qname.to_string()
    );
    assert_eq!(packet.opt().is_some(), asked.opt().is_some());
    let record = |record: &simple_dns::ResourceRecord<'_>| {
        assert_eq!(record.name, asked.questions[0].qname);
        match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from_bits(a.address).to_string(),
            RData::AAAA(a) => std::net::Ipv6Addr::from_bits(a.address).to_string(),
            RData::PTR(name) => name.0.to_string(),
            other => panic!("{other:?}"),
        }
    };
    (packet.rcode(), packet.answers.iter().map(record).collect())
}

fn ask_in(network: u8, source: &str, name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    let asked = question(name, kind, None);
    match respond(
        &house(),
        network,
        ip(source),
        &asked,
        Transport::Datagram,
        0,
    ) {
        Reply::Answer(answer) | Reply::Withheld { answer, .. } => read(&answer, &asked),
        other => panic!("{other:?}"),
    }
}

fn ask(name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    ask_in(FRONT, "10.1.0.2", name, kind)
}

fn ok(records: &[&str]) -> (RCODE, Vec<String>) {
    (
        RCODE::NoError,
        records.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn names_are_found_whatever_their_case() {
    assert_eq!(ask("web", TYPE::A), ok(&["10.1.0.2"]));
    assert_eq!(ask("WeB", TYPE::AAAA), ok(&["fd01::2"]));
    assert_eq!(ask("dotted.name", TYPE::A), ok(&["10.1.0.7"]));
}

#[test]
fn a_kind_that_a_name_does_not_have_is_an_empty_success() {
    assert_eq!(ask("four", TYPE::AAAA), ok(&[]));
    assert_eq!(ask("four", TYPE::TXT), ok(&[]));
    assert_eq!(ask("four", TYPE::PTR), ok(&[]));
}

#[test]
fn the_network_in_which_one_asks_comes_first_and_others_by_name() {
    assert_eq!(ask_in(BACK, "10.2.0.2", "web", TYPE::A), ok(&["10.2.0.2"]));
    assert_eq!(ask_in(BACK, "10.2.0.2", "four", TYPE::A), ok(&["10.1.0.3"]));
    assert_eq!(ask("web.BACK", TYPE::A), ok(&["10.2.0.2"]));
    assert_eq!(ask("web.front", TYPE::A), ok(&["10.1.0.2"]));
    assert_eq!(ask("dotted.name.front", TYPE::A), ok(&["10.1.0.7"]));
}

#[test]
fn what_is_in_another_network_is_unknown() {
    let (code, _) = ask_in(BACK, "10.2.0.3", "four", TYPE::A);
    assert_eq!(code, RCODE::NameError);
    let (code, _) = ask_in(BACK, "10.2.0.3", "web.front", TYPE::A);
    assert_eq!(code, RCODE::NameError);
}

#[test]
fn who_is_not_in_the_network_is_refused() {
    assert_eq!(ask_in(FRONT, "10.2.0.2", "web", TYPE::A).0, RCODE::Refused);
    assert_eq!(ask_in(FRONT, "10.1.0.99", "web", TYPE::A).0, RCODE::Refused);
}

#[test]
fn addresses_have_names_and_those_without_are_not_asked_for_outside() {
    assert_eq!(ask("3.0.1.10.in-addr.arpa", TYPE::PTR), ok(&["four.front"]));
    let v6 = format!("2.{}1.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&v6, TYPE::PTR), ok(&["web.front"]));
    assert_eq!(ask("3.0.2.10.in-addr.arpa", TYPE::PTR), ok(&["db.back"]));
    assert_eq!(ask("99.0.1.10.in-addr.arpa", TYPE::PTR).0, RCODE::NameError);
    assert_eq!(ask("3.0.1.10.in-addr.arpa", TYPE::A), ok(&[]));
    assert_eq!(ask("1.0.0.127.in-addr.arpa", TYPE::PTR), ok(&["localhost"]));
    assert_eq!(ask("localhost", TYPE::A), ok(&["127.0.0.1"]));
}

#[test]
fn several_addresses_come_in_turns() {
    let asked = question("service", TYPE::A, None);
    let mut firsts = Vec::new();
    for turn in [0, 1, 2, 3, u32::MAX] {
        let reply = respond(
            &house(),
            FRONT,
            ip("10.1.0.2"),
            &asked,
            Transport::Datagram,
            turn,
        );
        let Reply::Answer(answer) = reply else {
            panic!("{reply:?}");
        };
        let (_, mut records) = read(&answer, &asked);
        firsts.push(records[0].clone());
        records.sort();
        assert_eq!(records, ["10.1.0.4", "10.1.0.5", "10.1.0.6"]);
    }
    assert_eq!(
        firsts,
        ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.4", "10.1.0.4"]
    );
}

#[test]
fn what_does_not_fit_is_cut_and_comes_whole_by_tcp() {
    let sizes = [
        (None, 512),
        (Some(100), 512),
        (Some(800), 800),
        (Some(65_535), 1232),
    ];
    for (said, limit) in sizes {
        let asked = question("many", TYPE::A, said);
        let reply = respond(
            &house(),
            FRONT,
            ip("10.1.0.2"),
            &asked,
            Transport::Datagram,
            0,
        );
        let Reply::Answer(answer) = reply else {
            panic!("{reply:?}");
        };
        assert!(
            answer.len() <= limit && answer.len() + 16 > limit,
            "{}",
            answer.len()
        );
        assert!(
            Packet::parse(&answer)
                .unwrap()
                .has_flags(PacketFlag::TRUNCATION)
        );
        let reply = respond(
            &house(),
            FRONT,
            ip("10.1.0.2"),
            &asked,
            Transport::Stream,
            0,
        );
        let Reply::Answer(answer) = reply else {
            panic!("{reply:?}");
        };
        assert!(
            !Packet::parse(&answer)
                .unwrap()
                .has_flags(PacketFlag::TRUNCATION)
        );
        assert_eq!(read(&answer, &asked).1.len(), 100);
    }
}

fn decide(source: &str, network: u8, name: &str) -> Reply {
    let asked = question(name, TYPE::A, None);
    respond(
        &house(),
        network,
        ip(source),
        &asked,
        Transport::Datagram,
        0,
    )
}

#[test]
fn other_names_are_asked_of_the_host_by_those_who_may() {
    assert!(matches!(
        decide("10.1.0.2", FRONT, "www.example.org"),
        Reply::Forward(_)
    ));
    // Listed, not listed, and nothing at all.
    assert!(matches!(
        decide("10.1.0.3", FRONT, "www.Example.com"),
        Reply::Forward(_)
    ));
    for (source, network) in [("10.1.0.3", FRONT), ("10.2.0.3", BACK)] {
        let Reply::Withheld { answer, name } = decide(source, network, "www.example.org") else {
            panic!("not to be asked");
        };
        assert_eq!(name.as_deref(), Some("www.example.org"));
        assert_eq!(Packet::parse(&answer).unwrap().rcode(), RCODE::NameError);
    }
}

#[test]
fn a_question_is_passed_on_under_another_number_and_without_what_lies_behind_it() {
    let asked = question("www.example.org", TYPE::A, Some(1400));
    let mut padded = asked.clone();
    padded.extend([1; 100]);
    let reply = respond(
        &house(),
        FRONT,
        ip("10.1.0.2"),
        &padded,
        Transport::Datagram,
        0,
    );
    let Reply::Forward(forward) = reply else {
        panic!("{reply:?}");
    };
    let message = forward.message(0xbeef);
    assert_eq!(message[..2], [0xbe, 0xef]);
    assert_eq!(message[2..], asked[2..]);
    assert_eq!(forward.name(), Some("www.example.org"));
    let failure = Packet::parse(&forward.failure()).map(|packet| packet.rcode());
    assert_eq!(failure.unwrap(), RCODE::ServerFailure);
}

#[test]
fn transfers_and_other_classes_are_refused() {
    let mut chaos = question("web", TYPE::TXT, None);
    let end = chaos.len();
    chaos[end - 1] = 3;
    let reply = respond(
        &house(),
        FRONT,
        ip("10.1.0.2"),
        &chaos,
        Transport::Stream,
        0,
    );
    assert!(matches!(reply, Reply::Answer(answer) if answer[3] & 15 == 5));
    let mut transfer = question("web", TYPE::A, None);
    transfer[end - 3] = 252;
    let reply = respond(
        &house(),
        FRONT,
        ip("10.1.0.2"),
        &transfer,
        Transport::Stream,
        0,
    );
    assert!(matches!(reply, Reply::Answer(answer) if answer[3] & 15 == 4));
    // Whatever there is.
    transfer[end - 3] = kind::ANY as u8;
    let reply = respond(
        &house(),
        FRONT,
        ip("10.1.0.2"),
        &transfer,
        Transport::Stream,
        0,
    );
    assert!(matches!(reply, Reply::Answer(answer) if answer[7] == 2));
}

proptest! {
    #[test]
    fn no_packet_does_harm_and_none_is_answered_with_much_more(
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        inside in any::<bool>(),
    ) {
        let source = if inside { "10.1.0.2" } else { "192.0.2.1" };
        if let Reply::Answer(answer) = respond(&house(), FRONT, ip(source), &bytes, Transport::Datagram, 3) {
            prop_assert!(answer.len() <= 1232);
            prop_assert!(answer[2] & 0x80 != 0);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
            // Strangers learn nothing, and cannot have much sent to somebody else.
            prop_assert!(inside || answer.len() <= bytes.len().max(12) + 11);
        }
    }

    #[test]
    fn an_answer_is_never_answered(mut bytes in prop::collection::vec(any::<u8>(), 12..200)) {
        bytes[2] |= 0x80;
        let reply = respond(&house(), FRONT, ip("10.1.0.2"), &bytes, Transport::Datagram, 0);
        prop_assert_eq!(reply, Reply::Silence);
    }

    #[test]
    fn a_question_with_bits_turned_over_does_no_harm(at in 0_usize..40, bit in 0_u8..8) {
        let mut asked = question("web.front", TYPE::A, Some(1232));
        let place = at % asked.len();
        asked[place] ^= 1 << bit;
        let _ = respond(&house(), FRONT, ip("10.1.0.2"), &asked, Transport::Datagram, 0);
    }
}
