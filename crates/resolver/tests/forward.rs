//! What comes back from outside.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use isle_resolver::{Directory, Forward, Reply, Transport, Unfit, addresses, respond};
use proptest::prelude::*;
use simple_dns::rdata::{A, CNAME, RData};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

struct Empty;

impl Directory for Empty {
    type Network = ();
    fn networks_of(&self, (): (), _: IpAddr) -> Option<Vec<()>> {
        Some(vec![()])
    }
    fn may_ask_outside(&self, (): (), _: IpAddr, _: Option<&str>) -> bool {
        true
    }
    fn network_name(&self, (): ()) -> &str {
        "net"
    }
    fn addresses(&self, (): (), _: &str) -> Option<Vec<IpAddr>> {
        None
    }
    fn name_of(&self, (): (), _: IpAddr) -> Option<&str> {
        None
    }
    fn covers(&self, (): (), _: IpAddr) -> bool {
        false
    }
}

const NAME: &str = "www.example.org";

fn packet(id: u16) -> Packet<'static> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(NAME).unwrap(),
        QTYPE::TYPE(TYPE::A),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet
}

fn forward() -> Forward {
    let asked = packet(5).build_bytes_vec().unwrap();
    match respond(
        &Empty,
        (),
        IpAddr::from([1, 1, 1, 1]),
        &asked,
        Transport::Datagram,
        0,
    ) {
        Reply::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

fn record(owner: &'static str, ttl: u32, rdata: RData<'static>) -> ResourceRecord<'static> {
    ResourceRecord::new(Name::new(owner).unwrap(), CLASS::IN, ttl, rdata)
}

fn a(last: u8) -> RData<'static> {
    RData::A(A {
        address: Ipv4Addr::new(192, 0, 2, last).to_bits(),
    })
}

fn response(id: u16, records: Vec<ResourceRecord<'static>>) -> Vec<u8> {
    let mut packet = packet(id);
    packet.set_flags(PacketFlag::RESPONSE);
    packet.answers = records;
    packet.build_bytes_vec_compressed().unwrap()
}

#[test]
fn the_answer_comes_back_under_the_askers_number() {
    let bytes = response(9, vec![record(NAME, 60, a(1))]);
    let answer = forward().accept(9, &bytes, true).unwrap();
    assert_eq!(answer[..2], [0, 5]);
    assert_eq!(answer[2..], bytes[2..]);
}

#[test]
fn what_answers_something_else_is_not_taken() {
    let right = response(9, vec![]);
    let unfit = |id: u16, bytes: &[u8]| forward().accept(id, bytes, true).unwrap_err();
    assert_eq!(unfit(8, &right), Unfit::Foreign);
    assert_eq!(
        unfit(9, &packet(9).build_bytes_vec().unwrap()),
        Unfit::Foreign
    );
    assert_eq!(unfit(9, &right[..right.len() - 1]), Unfit::Foreign);
    assert_eq!(unfit(9, &[]), Unfit::Foreign);
    let mut other = right.clone();
    other[13] ^= 1;
    assert_eq!(unfit(9, &other), Unfit::Foreign);
    // In letters of its own it is the same name.
    let mut louder = right;
    louder[13] ^= 0x20;
    assert!(forward().accept(9, &louder, true).is_ok());
}

#[test]
fn a_server_that_cannot_leaves_it_to_the_next() {
    let mut failure = packet(9);
    failure.set_flags(PacketFlag::RESPONSE);
    *failure.rcode_mut() = RCODE::ServerFailure;
    let bytes = failure.build_bytes_vec().unwrap();
    assert_eq!(forward().accept(9, &bytes, true), Err(Unfit::Code(2)));
    failure.questions.clear();
    *failure.rcode_mut() = RCODE::FormatError;
    let bytes = failure.build_bytes_vec().unwrap();
    assert_eq!(forward().accept(9, &bytes, true), Err(Unfit::Code(1)));
}

#[test]
fn more_than_the_asker_takes_is_cut() {
    let many = (0..100).map(|last| record(NAME, 60, a(last))).collect();
    let bytes = response(9, many);
    let answer = forward().accept(9, &bytes, true).unwrap();
    assert!(answer.len() <= 512);
    let cut = Packet::parse(&answer).unwrap();
    assert!(cut.has_flags(PacketFlag::TRUNCATION | PacketFlag::RESPONSE));
    assert_eq!(
        forward().accept(9, &bytes, false).unwrap().len(),
        bytes.len()
    );
}

#[test]
fn addresses_are_found_through_other_names_and_hold_as_long_as_the_shortest() {
    let alias = |to: &'static str| RData::CNAME(CNAME(Name::new(to).unwrap()));
    let bytes = response(
        9,
        vec![
            record("b.example.net", 500, a(1)),
            record("WWW.example.org", 300, alias("a.example.net")),
            record("a.example.net", 20, alias("b.example.net")),
            record("b.example.net", 10, a(2)),
            record("evil.example.net", 500, a(66)),
        ],
    );
    let found = addresses(&bytes);
    assert_eq!(
        found,
        [
            (IpAddr::from([192, 0, 2, 1]), 20),
            (IpAddr::from([192, 0, 2, 2]), 10)
        ]
    );
}

#[test]
fn an_answer_that_announces_much_and_has_nothing_costs_nothing() {
    let mut bytes = response(9, vec![]);
    bytes[6..12].fill(0xff);
    assert_eq!(addresses(&bytes), []);
    assert_eq!(addresses(&[]), []);
}

proptest! {
    #[test]
    fn no_answer_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = addresses(&bytes);
        let _ = forward().accept(9, &bytes, true);
    }

    #[test]
    fn a_changed_answer_does_no_harm(at in 0_usize..400, value in any::<u8>()) {
        let many = (0..20).map(|last| record(NAME, 60, a(last))).collect();
        let mut bytes = response(9, many);
        let place = at % bytes.len();
        bytes[place] = value;
        let _ = addresses(&bytes);
        if let Ok(answer) = forward().accept(9, &bytes, true) {
            prop_assert!(answer.len() <= 512);
        }
    }
}
