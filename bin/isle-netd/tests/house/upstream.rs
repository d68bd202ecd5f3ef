//! A name server of the world outside, as far as tests need one.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, RCODE, ResourceRecord};

/// How often it was asked.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    #[allow(dead_code, reason = "not every test counts")]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Answers every name with `192.0.2.<last>`, those that begin with `nx` with "no such name", those that begin with
/// `big` with many addresses. Ends with the test's process; its sockets are in the caller's namespace.
pub fn start(address: IpAddr, last: u8) -> Count {
    let count = Count::default();
    let to = SocketAddr::new(address, 53);
    let datagrams = UdpSocket::bind(to).expect("port 53 is free");
    let streams = TcpListener::bind(to).expect("port 53 is free");
    let counted = count.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            counted.0.fetch_add(1, Ordering::SeqCst);
            let answer = answer(&buffer[..length], last);
            let answer = match answer.len() {
                0..=512 => answer,
                _ => cut(&buffer[..length]),
            };
            let _ = datagrams.send_to(&answer, from);
        }
    });
    let counted = count.clone();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = streams.accept() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                counted.0.fetch_add(1, Ordering::SeqCst);
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).expect("a whole question");
                let answer = answer(&question, last);
                let length = u16::try_from(answer.len()).expect("it fits").to_be_bytes();
                let _ = stream.write_all(&[&length, &answer[..]].concat());
            }
        }
    });
    count
}

fn answer(question: &[u8], last: u8) -> Vec<u8> {
    let question = Packet::parse(question).expect("a question");
    let name = question.questions[0].qname.clone();
    let text = name.to_string();
    let mut packet = question.clone().into_reply();
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    packet.additional_records.clear();
    let count = match text.as_str() {
        text if text.starts_with("nx") => 0,
        text if text.starts_with("big") => 100,
        _ => 1,
    };
    if count == 0 {
        *packet.rcode_mut() = RCODE::NameError;
    }
    for more in 0..count {
        let address = Ipv4Addr::new(192, 0, 2, last + more).to_bits();
        packet.answers.push(ResourceRecord::new(
            name.clone(),
            CLASS::IN,
            60,
            RData::A(A { address }),
        ));
    }
    packet
        .build_bytes_vec_compressed()
        .expect("an answer can be written")
}

fn cut(question: &[u8]) -> Vec<u8> {
    let question = Packet::parse(question).expect("a question");
    let mut packet = question.into_reply();
    packet.set_flags(PacketFlag::TRUNCATION);
    packet.build_bytes_vec().expect("an answer can be written")
}
