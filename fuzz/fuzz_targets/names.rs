//! What an instance sends to the name server of its network, and what a server outside answers.
#![no_main]

use std::net::IpAddr;

use isle_resolver::{Directory, Reply, Transport, addresses, respond};
use libfuzzer_sys::fuzz_target;

struct OneNetwork;

impl Directory for OneNetwork {
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
    fn addresses(&self, (): (), name: &str) -> Option<Vec<IpAddr>> {
        (name.len() < 5).then(|| {
            (0..200)
                .map(|last| IpAddr::from([10, 0, 0, last]))
                .collect()
        })
    }
    fn name_of(&self, (): (), address: IpAddr) -> Option<&str> {
        (address == IpAddr::from([10, 0, 0, 1])).then_some("web")
    }
    fn covers(&self, (): (), address: IpAddr) -> bool {
        address.is_ipv4()
    }
}

// A byte that says how the question comes, its length, the question, what a server answers.
fuzz_target!(|input: &[u8]| {
    let [how, length, rest @ ..] = input else {
        return;
    };
    let is_datagram = how & 1 == 0;
    let (question, from_outside) = rest.split_at(rest.len().min(usize::from(*length)));
    let (transport, limit) = match is_datagram {
        true => (
            Transport::Datagram,
            usize::from(isle_resolver::LARGEST_DATAGRAM),
        ),
        false => (Transport::Stream, usize::from(u16::MAX)),
    };
    let source = IpAddr::from([10, 0, 0, 2]);
    match respond(&OneNetwork, (), source, question, transport, 1) {
        Reply::Answer(answer) | Reply::Withheld { answer, .. } => {
            assert!(answer.len() <= limit);
            assert_eq!(answer[..2], question[..2]);
            assert!(answer[2] & 0x80 != 0);
            assert!(question[2] & 0x80 == 0);
        }
        Reply::Forward(forward) => {
            let sent = forward.message(7);
            assert!(sent.len() <= question.len());
            // Nothing but its number was changed.
            assert_eq!(sent[2..], question[2..sent.len()]);
            if let Ok(answer) = forward.accept(7, from_outside, is_datagram) {
                assert!(!is_datagram || answer.len() <= limit);
                assert_eq!(answer[..2], question[..2]);
            }
        }
        Reply::Silence => {}
    }
    let _ = addresses(from_outside);
});
