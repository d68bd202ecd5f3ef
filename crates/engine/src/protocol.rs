//! What clients and the supervisor of an instance say to each other over its Unix socket.
//!
//! Both directions carry frames. All numbers are little-endian:
//!
//! ```text
//!  byte   0        1         2      3      4 … 7           8 …
//!       ┌────────┬─────────┬──────┬──────┬───────────────┬──────────────────┐
//!       │ 0x69 i │ version │ kind │ 0    │ payload bytes │ payload          │
//!       └────────┴─────────┴──────┴──────┴───────────────┴──────────────────┘
//! ```
//!
//! A payload is raw bytes (standard streams), JSON, or empty, as [`kind`] says. It is at most
//! [`MAX_PAYLOAD`] long; a frame that is not like this ends the connection, after a
//! [`kind::FAILED`] that says why.
//!
//! A supervisor lives as long as its instance, so it meets clients newer than itself: what a
//! version of a frame means never changes, JSON objects may gain members, and both ends ignore
//! members that they do not know.
//!
//! A connection is one conversation:
//!
//! | client begins with | supervisor answers | then |
//! |---|---|---|
//! | `START` (only the starter's own connection) | `STARTED` or `FAILED` | as `ATTACH`, when it attaches |
//! | `ATTACH` | `ATTACHED` or `FAILED` | `STDOUT`, `STDERR` … `EXIT` one way, `STDIN`, `CLOSE_STDIN`, `RESIZE` the other |
//! | `EXEC` | `EXEC_STARTED` with descriptors (`SCM_RIGHTS`), or `FAILED` | `SIGNAL` from the client, at last `EXIT` |
//! | `WAIT` | `EXIT` when it has come to that | further requests |
//! | `STATS` | `STATS_READ` or `FAILED` | further requests |
//! | any other | `DONE` or `FAILED` | further requests |
//!
//! A front door that hangs up has detached; the instance does not notice.

use std::time::Duration;

use isle_network::Publish;
use isle_types::Signal;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::inside::{Carry, Question};
use crate::config::{InstanceConfig, NetworkAttachment, Resources, RestartPolicy};
use crate::session::WindowSize;
use crate::state::Exit;
use crate::{AttachRequest, ExecRequest, Stats, Unpublish, WaitCondition};

/// The version that this program speaks.
pub(crate) const VERSION: u8 = 1;
/// The bytes before a payload.
pub(crate) const HEADER: usize = 8;
/// The longest payload: room for any argument list that execve(2) takes by default, in JSON.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;
/// The longest payload of a stream frame; keeps every buffer small.
pub(crate) const MAX_STREAM_PAYLOAD: usize = 64 << 10;

const MAGIC: u8 = b'i';

/// What a frame is.
pub(crate) mod kind {
    // Requests.
    pub(crate) const START: u8 = 1;
    pub(crate) const ATTACH: u8 = 2;
    pub(crate) const EXEC: u8 = 3;
    pub(crate) const SIGNAL: u8 = 4;
    pub(crate) const STOP: u8 = 5;
    pub(crate) const RESTART: u8 = 6;
    pub(crate) const PAUSE: u8 = 7;
    pub(crate) const RESUME: u8 = 8;
    pub(crate) const UPDATE: u8 = 9;
    pub(crate) const STATS: u8 = 10;
    pub(crate) const RESIZE: u8 = 11;
    pub(crate) const WAIT: u8 = 12;
    pub(crate) const STDIN: u8 = 13;
    pub(crate) const CLOSE_STDIN: u8 = 14;
    pub(crate) const ASK: u8 = 15;
    pub(crate) const CARRY: u8 = 16;
    pub(crate) const NETWORKS: u8 = 17;
    pub(crate) const HOLD: u8 = 18;

    // Answers.
    pub(crate) const STARTED: u8 = 64;
    pub(crate) const ATTACHED: u8 = 65;
    pub(crate) const FAILED: u8 = 66;
    pub(crate) const DONE: u8 = 67;
    pub(crate) const STATS_READ: u8 = 68;
    pub(crate) const EXIT: u8 = 69;
    pub(crate) const STDOUT: u8 = 70;
    pub(crate) const STDERR: u8 = 71;
    pub(crate) const EXEC_STARTED: u8 = 72;
    pub(crate) const PART: u8 = 73;
    pub(crate) const ANSWERED: u8 = 74;
}

/// Why bytes are not a conversation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// It does not begin as a frame does.
    #[error("not a frame: it begins with {first:#04x}")]
    NotAFrame { first: u8 },
    /// It speaks another version.
    #[error("a frame of version {found}, and the supervisor speaks version {VERSION}")]
    Version { found: u8 },
    /// It has no such kind.
    #[error("a frame of the unknown kind {kind}")]
    UnknownKind { kind: u8 },
    /// Too long.
    #[error("a frame of kind {kind} with {length} bytes; at most {limit} are allowed")]
    TooLong {
        kind: u8,
        length: usize,
        limit: usize,
    },
    /// The JSON in it is not what it should be.
    #[error("a frame of kind {kind} that cannot be read: {message}")]
    Payload { kind: u8, message: String },
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) length: usize,
}

impl Header {
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Header, ProtocolError> {
        let [magic, version, kind, _, l0, l1, l2, l3] = bytes;
        if magic != MAGIC {
            return Err(ProtocolError::NotAFrame { first: magic });
        }
        if version != VERSION {
            return Err(ProtocolError::Version { found: version });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let limit = match kind {
            kind::STDIN | kind::STDOUT | kind::STDERR => MAX_STREAM_PAYLOAD,
            kind::START..=kind::HOLD | kind::STARTED..=kind::ANSWERED => MAX_PAYLOAD,
            _ => return Err(ProtocolError::UnknownKind { kind }),
        };
        if length > limit {
            return Err(ProtocolError::TooLong {
                kind,
                length,
                limit,
            });
        }
        Ok(Header { kind, length })
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        debug_assert!(self.length <= MAX_PAYLOAD);
        let [l0, l1, l2, l3] = (self.length as u32).to_le_bytes();
        [MAGIC, VERSION, self.kind, 0, l0, l1, l2, l3]
    }
}

/// Appends a frame.
pub(crate) fn put(buffer: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = payload.len();
    buffer.extend_from_slice(&Header { kind, length }.encode());
    buffer.extend_from_slice(payload);
}

/// Appends a frame with a JSON payload.
pub(crate) fn put_json<T: Serialize>(buffer: &mut Vec<u8>, kind: u8, value: &T) {
    let payload = serde_json::to_vec(value).expect("messages have string keys only");
    put(buffer, kind, &payload);
}

/// Reads a JSON payload.
pub(crate) fn from_json<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(payload).map_err(|error| ProtocolError::Payload {
        kind,
        message: error.to_string(),
    })
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Start(Start),
    Attach(AttachRequest),
    Exec(Exec),
    Signal(Signal),
    Stop(Stop),
    Restart(Stop),
    Pause,
    Resume,
    Update(Update),
    Stats,
    Resize(WindowSize),
    Wait(WaitCondition),
    Stdin(Vec<u8>),
    CloseStdin,
    Ask(Question),
    Carry(Carry),
    Networks(Box<Networks>),
    /// Paused for as long as this connection lasts, or until it asks for [`Request::Resume`].
    Hold,
}

/// A change of networks or ports, and the configuration that results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Networks {
    pub(crate) change: NetworkChange,
    pub(crate) config: InstanceConfig,
}

/// What changes of an instance's networks while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NetworkChange {
    /// It is on one more.
    Connect(NetworkAttachment),
    /// It is on this one, by its id, no more.
    Disconnect(String),
    /// Others call it otherwise: the rows say so already.
    Names,
    /// Ports lead to it, or do so no more.
    Ports {
        add: Vec<Publish>,
        remove: Vec<Unpublish>,
    },
}

/// The starter's request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) attach: Option<AttachRequest>,
    pub(crate) window: Option<WindowSize>,
}

/// A further process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) request: ExecRequest,
    pub(crate) window: Option<WindowSize>,
}

/// `None`: as the instance is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    pub(crate) signal: Option<Signal>,
    pub(crate) timeout: Option<Duration>,
}

/// New limits and restart policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) resources: Resources,
    pub(crate) restart: Option<RestartPolicy>,
}

/// The answer [`kind::FAILED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// What failed, on what, and why, ready to be shown.
    pub(crate) message: String,
    /// As [`crate::backend::StartError::exit_code`].
    pub(crate) exit_code: u8,
    /// What kind of failure, where the client acts upon it.
    #[serde(default)]
    pub(crate) cause: Cause,
}

/// What a client can tell failures apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) enum Cause {
    /// Any other, also one that only a newer supervisor knows.
    #[default]
    Failed,
    /// Nothing runs.
    NotRunning,
    /// It runs already, or another supervisor looks after it.
    AlreadyRunning,
    /// It is paused, and cannot do this then; or is paused already.
    Paused,
    /// It is not paused.
    NotPaused,
    /// Its level cannot do it.
    Unsupported,
    /// There is no such path inside.
    NoSuchPath,
    /// The path inside is no directory.
    NotADirectory,
}

const CAUSES: [(Cause, &str); 8] = [
    (Cause::Failed, "failed"),
    (Cause::NotRunning, "not_running"),
    (Cause::AlreadyRunning, "already_running"),
    (Cause::Paused, "paused"),
    (Cause::NotPaused, "not_paused"),
    (Cause::Unsupported, "unsupported"),
    (Cause::NoSuchPath, "no_such_path"),
    (Cause::NotADirectory, "not_a_directory"),
];

impl From<String> for Cause {
    fn from(text: String) -> Cause {
        let known = CAUSES.iter().find(|(_, name)| *name == text);
        known.map_or(Cause::Failed, |(cause, _)| *cause)
    }
}

impl From<Cause> for String {
    fn from(cause: Cause) -> String {
        let known = CAUSES.iter().find(|(known, _)| *known == cause);
        known.map_or("failed", |(_, name)| name).to_owned()
    }
}

/// The answer [`kind::STARTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
}

/// The answer [`kind::ATTACHED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// All output up to here is in the log, none after it: where a replay ends.
    pub(crate) logged_until: Option<Timestamp>,
}

/// The answer [`kind::EXEC_STARTED`]: which descriptors came with it, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecStarted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) terminal: bool,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        let out = &mut buffer;
        match self {
            Request::Start(start) => put_json(out, kind::START, start),
            Request::Attach(attach) => put_json(out, kind::ATTACH, attach),
            Request::Exec(exec) => put_json(out, kind::EXEC, exec),
            Request::Signal(signal) => put_json(out, kind::SIGNAL, signal),
            Request::Stop(stop) => put_json(out, kind::STOP, stop),
            Request::Restart(stop) => put_json(out, kind::RESTART, stop),
            Request::Pause => put(out, kind::PAUSE, &[]),
            Request::Resume => put(out, kind::RESUME, &[]),
            Request::Update(update) => put_json(out, kind::UPDATE, update),
            Request::Stats => put(out, kind::STATS, &[]),
            Request::Resize(size) => put_json(out, kind::RESIZE, size),
            Request::Wait(condition) => put_json(out, kind::WAIT, condition),
            Request::Stdin(bytes) => put(out, kind::STDIN, bytes),
            Request::CloseStdin => put(out, kind::CLOSE_STDIN, &[]),
            Request::Ask(question) => put_json(out, kind::ASK, question),
            Request::Carry(what) => put_json(out, kind::CARRY, what),
            Request::Networks(networks) => put_json(out, kind::NETWORKS, networks),
            Request::Hold => put(out, kind::HOLD, &[]),
        }
        buffer
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Request, ProtocolError> {
        Ok(match kind {
            kind::START => Request::Start(from_json(kind, payload)?),
            kind::ATTACH => Request::Attach(from_json(kind, payload)?),
            kind::EXEC => Request::Exec(from_json(kind, payload)?),
            kind::SIGNAL => Request::Signal(from_json(kind, payload)?),
            kind::STOP => Request::Stop(from_json(kind, payload)?),
            kind::RESTART => Request::Restart(from_json(kind, payload)?),
            kind::PAUSE => Request::Pause,
            kind::RESUME => Request::Resume,
            kind::UPDATE => Request::Update(from_json(kind, payload)?),
            kind::STATS => Request::Stats,
            kind::RESIZE => Request::Resize(from_json(kind, payload)?),
            kind::WAIT => Request::Wait(from_json(kind, payload)?),
            kind::ASK => Request::Ask(from_json(kind, payload)?),
            kind::CARRY => Request::Carry(from_json(kind, payload)?),
            kind::NETWORKS => Request::Networks(from_json(kind, payload)?),
            kind::HOLD => Request::Hold,
            kind::STDIN => Request::Stdin(payload.to_vec()),
            kind::CLOSE_STDIN => Request::CloseStdin,
            _ => return Err(ProtocolError::UnknownKind { kind }),
        })
    }
}

/// Turns what arrives on a connection into requests.
///
/// Holds at most one frame: whoever feeds it takes the requests out before feeding it more.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes bytes that have arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next request, once it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, ProtocolError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let end = HEADER + header.length;
        let Some(payload) = self.buffer.get(HEADER..end) else {
            return Ok(None);
        };
        let request = Request::decode(header.kind, payload)?;
        self.buffer.drain(..end);
        if self.buffer.is_empty() {
            // A large request must not be paid for as long as the connection lasts.
            self.buffer = Vec::new();
        }
        Ok(Some(request))
    }
}

/// An answer as a frame of its own.
pub(crate) fn answer<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    let mut buffer = Vec::new();
    put_json(&mut buffer, kind, value);
    buffer
}

/// The frame that tells how a run ended.
pub(crate) fn exit_frame(exit: &Exit) -> Vec<u8> {
    answer(kind::EXIT, exit)
}

/// The frame with one reading.
pub(crate) fn stats_frame(stats: &Stats) -> Vec<u8> {
    answer(kind::STATS_READ, stats)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_of_each() -> Vec<Request> {
        vec![
            Request::Start(Start {
                attach: Some(AttachRequest {
                    stdin: true,
                    ..AttachRequest::default()
                }),
                window: Some(WindowSize {
                    rows: 24,
                    columns: 80,
                }),
            }),
            Request::Attach(AttachRequest::default()),
            Request::Exec(Exec {
                request: ExecRequest {
                    args: vec!["ls".into(), "ü\0\n".into()],
                    ..ExecRequest::default()
                },
                window: None,
            }),
            Request::Signal(Signal::TERM),
            Request::Stop(Stop {
                signal: Some(Signal::INT),
                timeout: Some(Duration::from_millis(1500)),
            }),
            Request::Restart(Stop::default()),
            Request::Pause,
            Request::Hold,
            Request::Resume,
            Request::Update(Update {
                resources: Resources::default(),
                restart: Some(RestartPolicy::OnFailure {
                    max_retries: Some(3),
                }),
            }),
            Request::Stats,
            Request::Resize(WindowSize {
                rows: 1,
                columns: 2,
            }),
            Request::Wait(WaitCondition::Removed),
            Request::Stdin(b"\0\xff bytes".to_vec()),
            Request::CloseStdin,
        ]
    }

    #[test]
    fn every_request_goes_both_ways_however_it_is_cut() {
        let bytes: Vec<u8> = some_of_each().iter().flat_map(Request::encode).collect();
        for size in [1, 2, 7, 8, 9, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.feed(chunk);
                while let Some(request) = decoder.next().unwrap() {
                    found.push(request);
                }
            }
            assert_eq!(found, some_of_each(), "cut every {size} bytes");
        }
    }

    #[test]
    fn what_is_no_frame_is_named() {
        let header = |bytes: [u8; HEADER]| Header::decode(bytes).unwrap_err().to_string();
        assert!(header(*b"GET / HT").contains("begins with 0x47"));
        assert!(header([b'i', 9, 1, 0, 0, 0, 0, 0]).contains("version 9"));
        assert!(header([b'i', 1, 40, 0, 0, 0, 0, 0]).contains("kind 40"));
        assert!(header([b'i', 1, 3, 0, 255, 255, 255, 255]).contains("4294967295 bytes"));
        assert!(header([b'i', 1, 13, 0, 1, 0, 1, 0]).contains("65537 bytes"));
        let mut decoder = Decoder::default();
        decoder.feed(&[b'i', 1, kind::SIGNAL, 0, 2, 0, 0, 0, b'{', b'}']);
        assert!(matches!(
            decoder.next(),
            Err(ProtocolError::Payload {
                kind: kind::SIGNAL,
                ..
            })
        ));
    }

    #[test]
    fn a_newer_client_may_say_more() {
        let json = br#"{"signal":"SIGINT","timeout":null,"reason":"new"}"#;
        let mut bytes = Vec::new();
        put(&mut bytes, kind::STOP, json);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        let expected = Stop {
            signal: Some(Signal::INT),
            timeout: None,
        };
        assert_eq!(decoder.next(), Ok(Some(Request::Stop(expected))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic_or_hoard(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            like_a_frame in any::<bool>(),
            kind in 0..80_u8,
        ) {
            let mut decoder = Decoder::default();
            if like_a_frame {
                decoder.feed(&[MAGIC, VERSION, kind, 0, 30, 0, 0, 0]);
            }
            'connection: for chunk in chunks {
                decoder.feed(&chunk);
                loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'connection,
                    }
                }
                prop_assert!(decoder.buffer.len() < HEADER + MAX_PAYLOAD);
            }
        }
    }
}
