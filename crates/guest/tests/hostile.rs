//! A guest that lies, floods, stalls and goes away.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use isle_guest::{
    Connection, End, Ended, Error, Prepare, RemoteProcess, Stats, Stdio, WORKLOAD, Welcome,
    Workload,
};
use isle_guest_protocol::frame::{self, Inbox, kind};
use isle_guest_protocol::{Ack, Hello, Reply, Stream, VERSION, WINDOW, decode, encode};
use oci_spec::runtime::Spec;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A guest's end, which says whatever the test wants.
struct Guest {
    socket: UnixStream,
    inbox: Inbox,
}

impl Guest {
    /// Hears the greeting and answers it properly.
    fn greet(&mut self, version: u16) {
        let hello = self.hear(kind::HELLO);
        let hello: Hello = decode(&hello).unwrap();
        let mut bytes = b"left over from before".to_vec();
        bytes.extend_from_slice(&hello.nonce);
        let welcome = Welcome {
            version,
            kernel: "6.1".to_owned(),
            is_prepared: false,
            tasks: Vec::new(),
        };
        frame::put(&mut bytes, kind::WELCOME, 0, &encode(&welcome));
        self.say(&bytes);
    }

    fn hear(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            if let Some(frame) = self.inbox.next_whole() {
                if frame.header.kind == wanted {
                    return frame.payload.to_vec();
                }
                continue;
            }
            let mut buffer = [0; 4096];
            let count = self.socket.read(&mut buffer).unwrap();
            assert!(count > 0, "the host end has gone");
            self.inbox.tail().extend_from_slice(&buffer[..count]);
        }
    }

    /// As much as the socket takes: the host end need not read all of it.
    fn say(&mut self, bytes: &[u8]) {
        self.socket
            .set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let _ = self.socket.write_all(bytes);
    }
}

fn pair() -> (Connection, Guest) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::open(OwnedFd::from(ours)).unwrap();
    connection.set_patience(Duration::from_millis(300));
    connection.tend().unwrap();
    let guest = Guest {
        socket: theirs,
        inbox: Inbox::default(),
    };
    (connection, guest)
}

fn spec() -> Spec {
    serde_json::from_str(
        r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
            "linux":{"namespaces":[{"type":"mount"}]}}"#,
    )
    .unwrap()
}

/// A workload whose output nobody reads.
fn launch(connection: &mut Connection) -> (RemoteProcess, [OwnedFd; 2]) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((out, stdout), (err, stderr)) = (pipe(), pipe());
    let stdio = Stdio::Streams {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout,
        stderr,
    };
    let spec = spec();
    let workload = Workload {
        id: "x",
        spec: &spec,
        user: None,
        seccomp: None,
        root_share: None,
    };
    let process = connection
        .launch(&Prepare::default(), &workload, stdio)
        .unwrap();
    (process, [out, err])
}

/// Tends until the connection ends, or nothing is left to hear.
fn tend(connection: &mut Connection) -> Result<(), Error> {
    loop {
        connection.tend()?;
        let soon = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let fd = connection.as_fd();
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&soon)).unwrap() == 0 {
            return Ok(());
        }
    }
}

fn piece(offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_piece(
        &mut bytes,
        kind::STDOUT,
        WORKLOAD,
        offset,
        &vec![b'x'; length],
    );
    bytes
}

fn said(kind: u8, id: u32, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put(&mut bytes, kind, id, message);
    bytes
}

#[track_caller]
fn refused(say: &[Vec<u8>], expected: &str) {
    let (mut connection, mut guest) = pair();
    guest.greet(VERSION);
    let (process, _ends) = launch(&mut connection);
    let mut result = Ok(());
    for bytes in say {
        guest.say(bytes);
        result = tend(&mut connection);
        if result.is_err() {
            break;
        }
    }
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
    // Whoever waits for the process hears of it, and every further call says the same.
    assert!(
        poll(
            &mut [PollFd::new(&process.ended, PollFlags::IN)],
            Some(&Timespec::default())
        )
        .unwrap()
            > 0
    );
    // An end that was told before stays what it was.
    if let Err(again) = connection.reap(process.id) {
        assert_eq!(again.to_string(), error.to_string());
    }
    assert_eq!(
        connection.stats().unwrap_err().to_string(),
        error.to_string()
    );
}

#[test]
fn a_flood_beyond_the_window_ends_the_connection() {
    let pieces: Vec<Vec<u8>> = (0..WINDOW as u64 / 16_384 + 5)
        .map(|n| piece(n * 16_384, 16_384))
        .collect();
    refused(&pieces, "without an acknowledgement");
}

#[test]
fn every_break_of_the_rules_has_its_own_words() {
    refused(&[piece(7, 10)], "offset 7");
    refused(&[piece(0, 0), piece(0, 0)], "after the end");
    refused(&[said(kind::STDOUT, 99, &[0; 9])], "task 99");
    refused(
        &[said(kind::STDOUT, WORKLOAD, &[0; 3])],
        "without an offset",
    );
    refused(
        &[said(kind::REPLY, 12345, &encode(&Reply::Done))],
        "request 12345",
    );
    refused(&[said(kind::REPLY, 1, &[0xff; 40])], "");
    refused(&[said(kind::HELLO, 0, &[])], "kind 1");
    refused(&[vec![0; 20]], "unknown kind 0");
    refused(
        &[vec![kind::REPLY, 0, 0xff, 0xff, 0, 0, 0, 0]],
        "65535 bytes",
    );
    let endless: Vec<Vec<u8>> = (0..20)
        .map(|_| {
            let mut frame = said(kind::REPLY, 1, &[1; 32 << 10]);
            frame[1] = frame::MORE;
            frame
        })
        .collect();
    refused(&endless, "message of more than");
    let ended = encode(&Ended {
        end: End::Code(0),
        oom_kills: 0,
        out_of_memory: None,
    });
    refused(&[said(kind::ENDED, 7, &ended)], "task 7");
    refused(
        &[
            said(kind::ENDED, WORKLOAD, &ended),
            said(kind::ENDED, WORKLOAD, &ended),
        ],
        "does not run",
    );
    let ack = encode(&Ack {
        stream: Stream::Stdin,
        offset: 1,
    });
    refused(&[said(kind::ACK, WORKLOAD, &ack)], "takes none");
}

#[test]
fn an_agent_of_another_version_is_not_talked_to() {
    let (mut connection, mut guest) = pair();
    guest.greet(VERSION + 1);
    let error = connection.welcome().unwrap_err();
    assert!(
        matches!(error, Error::Version { found, .. } if found == VERSION + 1),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn last_words_are_the_reason() {
    let (mut connection, mut guest) = pair();
    guest.greet(VERSION);
    let (process, _ends) = launch(&mut connection);
    guest.say(&said(
        kind::LAST_WORDS,
        0,
        b"the agent has failed: index out of bounds",
    ));
    let error = tend(&mut connection).unwrap_err();
    assert!(error.to_string().contains("index out of bounds"), "{error}");
    assert!(connection.reap(process.id).unwrap_err().is_final());
}

#[test]
fn a_guest_that_stalls_is_waited_for_only_so_long() {
    let (mut connection, _guest) = pair();
    let begun = Instant::now();
    for _ in 0..2 {
        let error = connection.stats().unwrap_err();
        assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
        // It may yet recover.
        assert!(!error.is_final());
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_answer_that_comes_too_late_is_nobodys() {
    let (mut connection, mut guest) = pair();
    guest.greet(VERSION);
    connection.stats().unwrap_err();
    guest.say(&said(
        kind::REPLY,
        1,
        &encode(&Reply::Stats(Box::default())),
    ));
    tend(&mut connection).unwrap();
    guest.say(&said(
        kind::REPLY,
        2,
        &encode(&Reply::Stats(Box::default())),
    ));
    assert_eq!(connection.stats().unwrap(), Stats::default());
}

#[test]
fn an_answer_to_something_else_ends_the_connection() {
    let (mut connection, mut guest) = pair();
    guest.greet(VERSION);
    guest.say(&said(kind::REPLY, 1, &encode(&Reply::Trimmed(1))));
    let error = connection.stats().unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
}

#[test]
fn garbage_in_place_of_a_greeting_is_given_up() {
    let (mut connection, mut guest) = pair();
    let speaking = std::thread::spawn(move || {
        let garbage = vec![b'x'; 1 << 20];
        while guest.socket.write_all(&garbage).is_ok() {}
    });
    let error = loop {
        if let Err(error) = connection.tend() {
            break error;
        }
    };
    assert!(error.to_string().contains("greeting"), "{error}");
    drop(connection);
    speaking.join().unwrap();
}

#[derive(Clone, Debug)]
enum Say {
    Piece(u32, bool, u64, usize),
    Bytes(u8, u32, Vec<u8>),
    Reply(u32, Reply),
    End(u32),
    Raw(Vec<u8>),
}

fn say() -> impl Strategy<Value = Say> {
    let id = || 0_u32..4;
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (id(), any::<bool>(), 0_u64..5000, 0_usize..3000)
            .prop_map(|(id, e, o, n)| Say::Piece(id, e, o, n)),
        (14_u8..24, id(), bytes()).prop_map(|(kind, id, bytes)| Say::Bytes(kind, id, bytes)),
        (
            id(),
            prop_oneof![
                Just(Reply::Done),
                Just(Reply::Started { pid: 3 }),
                Just(Reply::Trimmed(9))
            ]
        )
            .prop_map(|(id, reply)| Say::Reply(id, reply)),
        id().prop_map(Say::End),
        bytes().prop_map(Say::Raw),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_guest_says_the_host_end_goes_on_or_ends_with_a_reason(all in proptest::collection::vec(say(), 0..40)) {
        let (mut connection, mut guest) = pair();
        guest.greet(VERSION);
        let (process, ends) = launch(&mut connection);
        for one in all {
            let bytes = match one {
                Say::Piece(id, is_err, offset, length) => {
                    let mut bytes = Vec::new();
                    let kind = if is_err { kind::STDERR } else { kind::STDOUT };
                    frame::put_piece(&mut bytes, kind, id, offset, &vec![0; length]);
                    bytes
                }
                Say::Bytes(kind, id, bytes) => said(kind, id, &bytes),
                Say::Reply(id, reply) => said(kind::REPLY, id, &encode(&reply)),
                Say::End(id) => said(kind::ENDED, id, &encode(&Ended { end: End::Code(1), oom_kills: 0, out_of_memory: None })),
                Say::Raw(bytes) => bytes,
            };
            guest.say(&bytes);
        }
        let is_over = tend(&mut connection).is_err();
        drop(ends);
        let _ = connection.reap(process.id);
        let _ = connection.stats();
        prop_assert!(!is_over || connection.stats().is_err());
    }
}
