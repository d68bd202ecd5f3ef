//! What a guest sends: frames, and the messages in them.
#![no_main]

use isle_guest_protocol as protocol;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = protocol::decode::<protocol::Reply>(bytes);
    let _ = protocol::decode::<protocol::Ended>(bytes);
    let _ = protocol::decode::<protocol::Welcome>(bytes);
    let _ = protocol::decode::<protocol::Request>(bytes);
    let _ = protocol::decode::<protocol::Stats>(bytes);
    let _ = protocol::records::read::<protocol::TaskState>(bytes);
    if let Some((_, piece)) = protocol::frame::piece(bytes) {
        assert!(piece.len() <= bytes.len());
    }
});
