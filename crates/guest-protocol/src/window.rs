//! Flow control: one direction of one stream.

use std::collections::VecDeque;

use crate::WINDOW;

/// A peer that breaks the rules of flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// A piece that is not the next one.
    #[error("a piece at offset {found} of a stream of which {expected} bytes have come")]
    Offset {
        /// Where it says to belong.
        found: u64,
        /// Where the next one belongs.
        expected: u64,
    },
    /// More than was allowed.
    #[error("{ahead} bytes of a stream without an acknowledgement; at most {WINDOW} are allowed")]
    TooMuch {
        /// How far it is ahead.
        ahead: u64,
    },
    /// An acknowledgement of what was never sent, or of less than before.
    #[error("an acknowledgement up to {found} of a stream of which {sent} bytes were sent")]
    Ack {
        /// What it says.
        found: u64,
        /// What was sent.
        sent: u64,
    },
    /// Bytes after the end.
    #[error("a piece after the end of its stream")]
    Ended,
}

/// The sending end: bytes that were not acknowledged yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    kept: VecDeque<u8>,
    acked: u64,
    sent: u64,
    is_ended: bool,
    is_end_sent: bool,
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A piece, at an offset.
    Piece(u64, &'a [u8]),
    /// The end, at an offset.
    End(u64),
}

impl Outgoing {
    /// One of which some was sent and acknowledged before.
    #[must_use]
    pub fn at(offset: u64) -> Outgoing {
        Outgoing {
            acked: offset,
            sent: offset,
            ..Outgoing::default()
        }
    }

    /// How many more bytes it takes; nothing is taken beyond a window.
    #[must_use]
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.kept.len())
    }

    /// Takes bytes. At most [`Outgoing::room`] may be given.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room() && !self.is_ended);
        self.kept.extend(bytes);
    }

    /// No more bytes will come.
    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// Whether [`Outgoing::end`] was called.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether everything, the end included, was acknowledged or needs no acknowledgement.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_end_sent && self.kept.is_empty()
    }

    /// Bytes that were pushed in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.acked + self.kept.len() as u64
    }

    /// Bytes that were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What is to be sent next, at most `most` bytes of it; [`Outgoing::mark_sent`] says that it was.
    #[must_use]
    pub fn next(&self, most: usize) -> Option<Next<'_>> {
        let from = (self.sent - self.acked) as usize;
        if from < self.kept.len() {
            let (front, back) = self.kept.as_slices();
            let piece = match front.get(from..) {
                Some(piece) if !piece.is_empty() => piece,
                _ => &back[from - front.len()..],
            };
            return Some(Next::Piece(self.sent, &piece[..piece.len().min(most)]));
        }
        (self.is_ended && !self.is_end_sent).then_some(Next::End(self.sent))
    }

    /// So many bytes were sent; 0: the end was.
    pub fn mark_sent(&mut self, count: usize) {
        match count {
            0 => self.is_end_sent = true,
            count => self.sent = (self.sent + count as u64).min(self.total()),
        }
    }

    /// The other end has passed on everything before `offset`.
    ///
    /// # Errors
    /// [`WindowError::Ack`]
    pub fn ack(&mut self, offset: u64) -> Result<(), WindowError> {
        if offset < self.acked || offset > self.sent {
            return Err(WindowError::Ack {
                found: offset,
                sent: self.sent,
            });
        }
        self.kept.drain(..(offset - self.acked) as usize);
        self.acked = offset;
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
        Ok(())
    }

    /// A new reader begins where the acknowledgements of the old one have ended: everything since is sent again.
    pub fn rewind(&mut self) {
        self.sent = self.acked;
        self.is_end_sent = false;
    }

    /// Nobody will read it: what is kept is thrown away, and the end need not be sent.
    pub fn discard(&mut self) {
        self.acked = self.total();
        self.sent = self.acked;
        self.kept = VecDeque::new();
        self.is_ended = true;
        self.is_end_sent = true;
    }
}

/// The receiving end: which piece must come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    received: u64,
    acked: u64,
    is_ended: bool,
}

impl Incoming {
    /// One of which some was received before.
    #[must_use]
    pub fn at(offset: u64) -> Incoming {
        Incoming {
            received: offset,
            acked: offset,
            is_ended: false,
        }
    }

    /// Checks a piece; without bytes it is the end.
    ///
    /// # Errors
    /// [`WindowError`]
    pub fn accept(&mut self, offset: u64, length: usize) -> Result<(), WindowError> {
        if self.is_ended {
            return Err(WindowError::Ended);
        }
        if offset != self.received {
            return Err(WindowError::Offset {
                found: offset,
                expected: self.received,
            });
        }
        if length == 0 {
            self.is_ended = true;
            return Ok(());
        }
        let ahead = self.received - self.acked + length as u64;
        if ahead > WINDOW as u64 {
            return Err(WindowError::TooMuch { ahead });
        }
        self.received += length as u64;
        Ok(())
    }

    /// Bytes that have come.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether the end has come.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Everything before `offset` was acknowledged. More than was received is taken as that.
    pub fn mark_acked(&mut self, offset: u64) {
        self.acked = offset.clamp(self.acked, self.received);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Send(usize),
        Ack(usize),
        NewReader,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..WINDOW).prop_map(Step::Push),
            (1..WINDOW).prop_map(Step::Send),
            (0..WINDOW).prop_map(Step::Ack),
            Just(Step::NewReader),
        ]
    }

    fn byte_at(offset: u64) -> u8 {
        (offset % 251) as u8
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order_whoever_reads(steps in proptest::collection::vec(step(), 0..60)) {
            let mut sender = Outgoing::default();
            let mut reader = Incoming::default();
            for step in steps {
                match step {
                    Step::Push(count) => {
                        let from = sender.total();
                        let bytes: Vec<u8> = (0..count.min(sender.room()) as u64).map(|n| byte_at(from + n)).collect();
                        sender.push(&bytes);
                    }
                    Step::Send(most) => {
                        if let Some(Next::Piece(offset, piece)) = sender.next(most) {
                            for (place, byte) in piece.iter().enumerate() {
                                prop_assert_eq!(*byte, byte_at(offset + place as u64));
                            }
                            let count = piece.len();
                            prop_assert!(reader.accept(offset, count).is_ok());
                            sender.mark_sent(count);
                        }
                    }
                    Step::Ack(count) => {
                        let offset = (reader.acked() + count as u64).min(reader.received());
                        prop_assert!(sender.ack(offset).is_ok());
                        reader.mark_acked(offset);
                    }
                    Step::NewReader => {
                        reader = Incoming::at(reader.acked());
                        sender.rewind();
                    }
                }
                prop_assert!(sender.total() - reader.acked() <= WINDOW as u64);
            }
        }

        #[test]
        fn acknowledgements_of_what_was_never_sent_are_refused(offset in any::<u64>()) {
            let mut sender = Outgoing::default();
            sender.push(b"0123456789");
            sender.mark_sent(5);
            prop_assert_eq!(sender.ack(offset).is_ok(), offset <= 5);
        }
    }

    #[test]
    fn a_flood_beyond_the_window_is_refused() {
        let mut reader = Incoming::default();
        reader.accept(0, WINDOW).unwrap();
        let ahead = WINDOW as u64 + 1;
        assert_eq!(
            reader.accept(WINDOW as u64, 1),
            Err(WindowError::TooMuch { ahead })
        );
        assert!(matches!(
            reader.accept(7, 1),
            Err(WindowError::Offset { .. })
        ));
        reader.accept(WINDOW as u64, 0).unwrap();
        assert_eq!(reader.accept(WINDOW as u64, 0), Err(WindowError::Ended));
    }

    #[test]
    fn the_end_comes_after_the_last_byte_and_again_for_a_new_reader() {
        let mut sender = Outgoing::default();
        sender.push(b"ab");
        sender.end();
        assert_eq!(sender.next(100), Some(Next::Piece(0, b"ab")));
        sender.mark_sent(2);
        assert_eq!(sender.next(100), Some(Next::End(2)));
        sender.mark_sent(0);
        assert_eq!(sender.next(100), None);
        assert!(!sender.is_done());
        sender.rewind();
        assert_eq!(sender.next(1), Some(Next::Piece(0, b"a")));
        sender.mark_sent(2);
        sender.mark_sent(0);
        sender.ack(2).unwrap();
        assert!(sender.is_done());
    }
}
