//! What supervisors and the keeper say to each other over a Unix stream: a length (four bytes, little-endian), then a
//! message as postcard.
//!
//! A supervisor sends [`Request`]s and gets one [`Answer`] for each; [`Notice`]s come whenever there is something to
//! tell. Who hangs up has nothing more on any network; who is hung up upon starts another keeper.

use std::io::{self, Read};
use std::net::IpAddr;

use isle_network::Protocol;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longer messages there are none.
const LONGEST: usize = 64 * 1024;
const PREFIX: usize = 4;

/// What a supervisor sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first one: whom the connection belongs to. Its rows are there.
    Attach {
        /// The instance's id.
        instance: String,
        /// `--dns`: who is asked for names that are not of its networks; the host's servers when there are none.
        servers: Vec<IpAddr>,
    },
    /// The instance's rows are others than before.
    Changed,
}

/// What the keeper sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To the request that was sent first and not answered yet.
    Answer(Answer),
    /// Something happened.
    Notice(Notice),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The rows are known; all names and addresses in them are answered on all gateways of the instance's networks.
    Ready,
    /// It cannot be done.
    Failed {
        /// What, and why.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// What a supervisor writes into the list of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The instance wanted to reach what its policy does not allow.
    EgressRefused {
        /// Whom.
        to: Refused,
        /// How often since the last notice of this kind for the same destination.
        times: u32,
    },
    /// Somebody had taken away what the networks need in the kernel, and it was put back. One supervisor is told.
    Repaired {
        /// What was missing.
        what: String,
    },
    /// Somebody has deleted the instance's link to a network: only its supervisor can make another.
    LinkLost {
        /// The link's name on the host.
        link: String,
    },
    /// Something could not be done that nobody waits for.
    Failed {
        /// What, and why.
        reason: String,
    },
}

/// Whom an instance may not reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Refused {
    /// A packet was stopped.
    Packet {
        /// The destination.
        address: IpAddr,
        /// Its number as in `/etc/protocols`, when it is none whose ports can be published.
        protocol: Result<Protocol, u8>,
        /// The destination's port, where the protocol has ports.
        port: Option<u16>,
        /// The name by which the instance had asked for the address.
        name: Option<String>,
    },
    /// A name was not looked up.
    Name(String),
}

/// A message as it is sent.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let body =
        postcard::to_allocvec(message).expect("messages have nothing that cannot be written");
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    bytes
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What has come over a connection and was not read yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Vec<u8>);

impl Inbox {
    /// Takes what is there, once. False: the other end has hung up.
    pub(crate) fn fill(&mut self, mut from: impl Read) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        match from.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.0.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next message, when it is there as a whole.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(prefix) = self.0.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > LONGEST {
            return Err(broken("the message is too long"));
        }
        let Some(body) = self.0.get(PREFIX..PREFIX + length) else {
            return Ok(None);
        };
        let message = postcard::from_bytes(body).map_err(|_| broken("the message is none"))?;
        self.0.drain(..PREFIX + length);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_through_in_pieces() {
        let sent = [
            Request::Attach {
                instance: "a".repeat(64),
                servers: vec![IpAddr::from([1, 1, 1, 1])],
            },
            Request::Changed,
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(frame).collect();
        let mut inbox = Inbox::default();
        let mut found: Vec<Request> = Vec::new();
        for byte in &bytes {
            assert!(inbox.fill(&[*byte][..]).unwrap());
            found.extend(inbox.next().unwrap());
        }
        assert_eq!(found, sent);
        assert!(!inbox.fill(&[][..]).unwrap());
    }

    #[test]
    fn a_length_beyond_all_bounds_is_an_error() {
        let mut inbox = Inbox::default();
        inbox.fill(&[0xff; 8][..]).unwrap();
        inbox.next::<Request>().unwrap_err();
    }

    proptest! {
        #[test]
        fn anything_can_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut inbox = Inbox::default();
            inbox.fill(&bytes[..]).unwrap();
            while let Ok(Some(_)) = inbox.next::<Message>() {}
        }
    }
}
