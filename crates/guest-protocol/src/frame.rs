//! Frames: how a row of bytes is cut into pieces.
//!
//! ```text
//!  byte   0      1       2      3      4 … 7      8 …           last
//!       ┌──────┬───────┬─────────────┬──────────┬─────────────┬───────┐
//!       │ kind │ flags │ payload     │ id       │ payload     │ 0xa5  │
//!       └──────┴───────┴─────────────┴──────────┴─────────────┴───────┘
//! ```
//!
//! Numbers are little-endian. A kind is never zero: zero bytes between frames are skipped by the agent. The last
//! byte tells a whole frame from one that was cut off and filled up with zeros.

/// Bytes before a payload.
pub const HEADER: usize = 8;
/// The longest payload of a frame.
pub const MAX_PAYLOAD: usize = 32 << 10;
/// The longest frame.
pub const MAX_FRAME: usize = HEADER + MAX_PAYLOAD + 1;
/// So many zero bytes end any frame that was begun.
pub const FILLER: usize = MAX_FRAME + HEADER;
/// Ends a frame.
pub const TRAILER: u8 = 0xa5;
/// Flag: the message goes on in the next frame of this kind.
pub const MORE: u8 = 1;
/// Bytes of a stream's offset, at the beginning of the payload.
pub const OFFSET: usize = 8;
/// The longest piece of a stream in one frame.
pub const MAX_PIECE: usize = MAX_PAYLOAD - OFFSET;
/// Bytes of a nonce.
pub const NONCE: usize = 16;

/// What a frame is.
pub mod kind {
    /// Host to agent: [`Hello`](crate::Hello).
    pub const HELLO: u8 = 1;
    /// Host to agent: [`Request`](crate::Request); the id is its number.
    pub const REQUEST: u8 = 2;
    /// Host to agent: a piece of a task's standard input; without bytes: its end.
    pub const STDIN: u8 = 3;
    /// Both ways: [`Ack`](crate::Ack); the id is the task.
    pub const ACK: u8 = 4;
    /// Agent to host: [`Welcome`](crate::Welcome), right after the nonce.
    pub const WELCOME: u8 = 16;
    /// Agent to host: [`Reply`](crate::Reply) to the request of that number.
    pub const REPLY: u8 = 17;
    /// Agent to host: a piece of a task's standard output; without bytes: its end.
    pub const STDOUT: u8 = 18;
    /// Agent to host: the same for standard error.
    pub const STDERR: u8 = 19;
    /// Agent to host: [`Ended`](crate::Ended); the id is the task.
    pub const ENDED: u8 = 20;
    /// Agent to host: why the agent cannot go on, as text.
    pub const LAST_WORDS: u8 = 21;
    /// Agent to host: [`MemoryKills`](crate::MemoryKills), as they happen.
    pub const OUT_OF_MEMORY: u8 = 22;
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is, see [`kind`].
    pub kind: u8,
    /// [`MORE`] or 0.
    pub flags: u8,
    /// Bytes of payload.
    pub length: u16,
    /// A request's number, or a task.
    pub id: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// Flags that mean nothing.
    #[error("a frame with the unknown flags {0:#04x}")]
    Flags(u8),
    /// Longer than allowed.
    #[error("a frame with {0} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong(usize),
    /// It does not end as a frame does.
    #[error("a frame that ends with {0:#04x}")]
    Trailer(u8),
}

impl Header {
    /// Reads one.
    ///
    /// # Errors
    /// [`FrameError`]
    pub fn decode(bytes: [u8; HEADER]) -> Result<Header, FrameError> {
        let [kind, flags, l0, l1, i0, i1, i2, i3] = bytes;
        if !matches!(kind, kind::HELLO..=kind::ACK | kind::WELCOME..=kind::OUT_OF_MEMORY) {
            return Err(FrameError::Kind(kind));
        }
        if flags & !MORE != 0 {
            return Err(FrameError::Flags(flags));
        }
        let length = u16::from_le_bytes([l0, l1]);
        if usize::from(length) > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length.into()));
        }
        Ok(Header {
            kind,
            flags,
            length,
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        })
    }

    /// Writes one.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let [l0, l1] = self.length.to_le_bytes();
        let [i0, i1, i2, i3] = self.id.to_le_bytes();
        [self.kind, self.flags, l0, l1, i0, i1, i2, i3]
    }
}

/// Appends a frame that is no longer than [`MAX_PAYLOAD`], made of two parts.
fn put_parts(into: &mut Vec<u8>, kind: u8, flags: u8, id: u32, parts: [&[u8]; 2]) {
    let length = parts[0].len() + parts[1].len();
    debug_assert!(length <= MAX_PAYLOAD);
    let header = Header {
        kind,
        flags,
        length: length as u16,
        id,
    };
    into.reserve(HEADER + length + 1);
    into.extend_from_slice(&header.encode());
    into.extend_from_slice(parts[0]);
    into.extend_from_slice(parts[1]);
    into.push(TRAILER);
}

/// Appends a message, in as many frames as it needs.
pub fn put(into: &mut Vec<u8>, kind: u8, id: u32, message: &[u8]) {
    let mut rest = message;
    while rest.len() > MAX_PAYLOAD {
        let (piece, tail) = rest.split_at(MAX_PAYLOAD);
        put_parts(into, kind, MORE, id, [piece, &[]]);
        rest = tail;
    }
    put_parts(into, kind, 0, id, [rest, &[]]);
}

/// Appends a piece of a stream, at most [`MAX_PIECE`] bytes; no bytes are its end.
pub fn put_piece(into: &mut Vec<u8>, kind: u8, task: u32, offset: u64, piece: &[u8]) {
    put_parts(into, kind, 0, task, [&offset.to_le_bytes(), piece]);
}

/// Takes the offset from the payload of a piece of a stream; `None` when it is too short to have one.
#[must_use]
pub fn piece(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (offset, piece) = payload.split_first_chunk::<OFFSET>()?;
    Some((u64::from_le_bytes(*offset), piece))
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub header: Header,
    /// What is in it.
    pub payload: &'a [u8],
}

/// Bytes as they came in, from which frames are taken. Holds at most two frames.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Bytes that an inbox holds at most.
    pub const CAPACITY: usize = 2 * MAX_FRAME;

    /// How many more bytes it takes now. Never 0 after [`Inbox::next_frame`] has said that there is no whole frame.
    #[must_use]
    pub fn room(&self) -> usize {
        Inbox::CAPACITY - (self.bytes.len() - self.taken)
    }

    /// The bytes, at whose end at most [`Inbox::room`] may be appended.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        } else if self.taken >= MAX_FRAME {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        &mut self.bytes
    }

    /// Gives the memory of an empty inbox back.
    pub fn rest(&mut self) {
        if self.taken == self.bytes.len() {
            *self = Inbox::default();
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`FrameError`]; there is no way to go on then.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let bytes = &self.bytes[self.taken..];
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let length = HEADER + usize::from(header.length);
        let Some(&trailer) = bytes.get(length) else {
            return Ok(None);
        };
        if trailer != TRAILER {
            return Err(FrameError::Trailer(trailer));
        }
        let payload = self.taken + HEADER..self.taken + length;
        self.taken += length + 1;
        Ok(Some(Frame {
            header,
            payload: &self.bytes[payload],
        }))
    }

    /// The next whole frame, for the agent: skips zeros between frames and frames that were cut off.
    pub fn next_whole(&mut self) -> Option<Frame<'_>> {
        loop {
            while self.bytes.get(self.taken) == Some(&0) {
                self.taken += 1;
            }
            let bytes = &self.bytes[self.taken..];
            let header = bytes.first_chunk::<HEADER>()?;
            let Ok(header) = Header::decode(*header) else {
                self.taken += 1;
                continue;
            };
            let length = HEADER + usize::from(header.length);
            let trailer = *bytes.get(length)?;
            let start = self.taken;
            self.taken += length + 1;
            if trailer == TRAILER {
                return Some(Frame {
                    header,
                    payload: &self.bytes[start + HEADER..start + length],
                });
            }
        }
    }

    /// Drops everything up to the end of a nonce. `false`: it has not come yet.
    pub fn skip_to(&mut self, nonce: &[u8; NONCE]) -> bool {
        let bytes = &self.bytes[self.taken..];
        match bytes.windows(NONCE).position(|window| window == nonce) {
            Some(place) => {
                self.taken += place + NONCE;
                true
            }
            None => {
                // The end may be the beginning of it.
                self.taken += bytes.len().saturating_sub(NONCE - 1);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(inbox: &mut Inbox, bytes: &[u8]) {
        assert!(bytes.len() <= inbox.room());
        inbox.tail().extend_from_slice(bytes);
    }

    #[test]
    fn a_frame_that_was_cut_off_is_skipped_and_the_next_one_is_found() {
        let mut whole = Vec::new();
        put_piece(&mut whole, kind::STDIN, 7, 0, &[b'x'; 3000]);
        for cut in 0..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(cut + FILLER, 0);
            put(&mut bytes, kind::HELLO, 0, b"hello");
            let mut inbox = Inbox::default();
            feed(&mut inbox, &bytes);
            let frame = inbox.next_whole().expect("the new host end is heard");
            assert_eq!(
                (frame.header.kind, frame.payload),
                (kind::HELLO, &b"hello"[..]),
                "{cut}"
            );
            assert_eq!(inbox.next_whole(), None);
        }
    }

    #[test]
    fn a_nonce_is_found_across_reads() {
        let nonce = *b"0123456789abcdef";
        let mut inbox = Inbox::default();
        feed(&mut inbox, b"leftovers 01234567 and 012345");
        assert!(!inbox.skip_to(&nonce));
        feed(&mut inbox, b"6789abcdef");
        assert!(inbox.skip_to(&nonce));
        let mut welcome = Vec::new();
        put(&mut welcome, kind::WELCOME, 0, b"w");
        feed(&mut inbox, &welcome);
        assert_eq!(inbox.next_frame().unwrap().unwrap().payload, b"w");
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            messages in proptest::collection::vec(
                (prop_oneof![Just(kind::REQUEST), Just(kind::REPLY)], any::<u32>(), 0_usize..70_000), 0..4),
            step in 1_usize..50_000,
        ) {
            let mut bytes = Vec::new();
            for (kind, id, length) in &messages {
                put(&mut bytes, *kind, *id, &vec![*id as u8; *length]);
            }
            let mut inbox = Inbox::default();
            let mut found: Vec<(u8, u32, usize)> = Vec::new();
            let mut goes_on = false;
            let mut rest = &bytes[..];
            loop {
                while let Some(frame) = inbox.next_frame().unwrap() {
                    let Header { kind, flags, id, length } = frame.header;
                    prop_assert!(frame.payload.iter().all(|byte| *byte == id as u8));
                    if goes_on {
                        found.last_mut().unwrap().2 += usize::from(length);
                    } else {
                        found.push((kind, id, length.into()));
                    }
                    goes_on = flags == MORE;
                }
                if rest.is_empty() {
                    break;
                }
                let count = step.min(rest.len()).min(inbox.room());
                prop_assert!(count > 0);
                feed(&mut inbox, &rest[..count]);
                rest = &rest[count..];
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn hostile_bytes_never_panic_and_are_never_hoarded(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..20),
        ) {
            let (mut host, mut agent) = (Inbox::default(), Inbox::default());
            let mut has_failed = false;
            for piece in pieces {
                agent.tail().extend_from_slice(&piece);
                while agent.next_whole().is_some() {}
                prop_assert!(agent.room() > 0);
                if !has_failed {
                    host.tail().extend_from_slice(&piece);
                    while let Ok(Some(_)) = host.next_frame() {}
                    has_failed = host.next_frame().is_err();
                    prop_assert!(has_failed || host.room() > 0);
                }
            }
        }
    }
}
