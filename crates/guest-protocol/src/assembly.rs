//! Messages that are longer than a frame.

use crate::frame::{Frame, MORE};

/// Why frames are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// Longer than allowed.
    #[error("a message of more than {limit} bytes")]
    TooLong {
        /// The most that is allowed.
        limit: usize,
    },
    /// Another message began before this one was whole.
    #[error("message {second} begins before message {first} has ended")]
    Mixed {
        /// What had begun.
        first: u32,
        /// What came instead of its end.
        second: u32,
    },
}

/// Puts the frames of one kind together.
#[derive(Debug)]
pub struct Assembly {
    limit: usize,
    begun: Option<u32>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// For messages of at most so many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Assembly {
        Assembly {
            limit,
            begun: None,
            bytes: Vec::new(),
        }
    }

    /// Forgets what has begun.
    pub fn reset(&mut self) {
        *self = Assembly::new(self.limit);
    }

    /// Takes a frame, and hands the message out when it is whole. The memory grows with what has come, never with what
    /// is announced.
    ///
    /// # Errors
    /// [`AssemblyError`]
    pub fn add<T>(
        &mut self,
        frame: Frame<'_>,
        read: impl FnOnce(u32, &[u8]) -> T,
    ) -> Result<Option<T>, AssemblyError> {
        let id = frame.header.id;
        if let Some(first) = self.begun
            && first != id
        {
            return Err(AssemblyError::Mixed { first, second: id });
        }
        if self.bytes.len() + frame.payload.len() > self.limit {
            return Err(AssemblyError::TooLong { limit: self.limit });
        }
        let goes_on = frame.header.flags & MORE != 0;
        if !goes_on && self.begun.is_none() {
            return Ok(Some(read(id, frame.payload)));
        }
        self.bytes.extend_from_slice(frame.payload);
        if goes_on {
            self.begun = Some(id);
            return Ok(None);
        }
        let value = read(id, &self.bytes);
        self.reset();
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Header, Inbox, kind, put};

    #[test]
    fn a_long_message_is_put_together_and_a_longer_one_refused() {
        for (length, fits) in [(0, true), (100_000, true), (100_001, false)] {
            let mut bytes = Vec::new();
            put(&mut bytes, kind::REQUEST, 3, &vec![1; length]);
            let mut assembly = Assembly::new(100_000);
            let mut inbox = Inbox::default();
            let mut result = Ok(None);
            for piece in bytes.chunks(20_000) {
                inbox.tail().extend_from_slice(piece);
                while let Some(frame) = inbox.next_frame().unwrap() {
                    result = assembly.add(frame, |id, bytes| (id, bytes.len()));
                }
            }
            match fits {
                true => assert_eq!(result, Ok(Some((3, length)))),
                false => assert_eq!(result, Err(AssemblyError::TooLong { limit: 100_000 })),
            }
        }
    }

    #[test]
    fn messages_are_not_mixed() {
        let frame = |id, flags| Frame {
            header: Header {
                kind: kind::REPLY,
                flags,
                length: 1,
                id,
            },
            payload: b"x",
        };
        let mut assembly = Assembly::new(10);
        assert_eq!(assembly.add(frame(1, MORE), |_, _| ()), Ok(None));
        let mixed = AssemblyError::Mixed {
            first: 1,
            second: 2,
        };
        assert_eq!(assembly.add(frame(2, 0), |_, _| ()), Err(mixed));
    }
}
