//! The agent's end: frames that were cut off, requests that are none, streams that break the rules.
#![no_main]

use isle_guest_protocol::frame::{Inbox, kind, piece};
use isle_guest_protocol::{Assembly, Incoming, MAX_REQUEST, Outgoing, Request, WINDOW, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut inbox = Inbox::default();
    let mut requests = Assembly::new(MAX_REQUEST);
    let (mut incoming, mut outgoing) = (Incoming::default(), Outgoing::default());
    outgoing.push(&[0; 1000]);
    outgoing.mark_sent(500);
    for part in bytes.chunks(997) {
        assert!(inbox.room() >= part.len());
        inbox.tail().extend_from_slice(part);
        while let Some(frame) = inbox.next_whole() {
            match frame.header.kind {
                kind::REQUEST => {
                    let _ = requests.add(frame, |_, bytes| decode::<Request>(bytes).is_ok());
                }
                kind::STDIN => {
                    if let Some((offset, piece)) = piece(frame.payload) {
                        let _ = incoming.accept(offset, piece.len());
                    }
                }
                kind::ACK => {
                    let _ = outgoing.ack(u64::from(frame.header.id));
                }
                _ => {}
            }
            assert!(incoming.received() - incoming.acked() <= WINDOW as u64);
            assert!(outgoing.acked() <= outgoing.sent() && outgoing.sent() <= outgoing.total());
        }
    }
});
