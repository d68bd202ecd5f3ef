//! A guest that says what it wants: no kernel between it and the server.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use isle_share::{ServeError, Session};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat, open};
use rustix::io::Errno;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SYMLINK: u32 = 6;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const SETLKW: u32 = 33;
const CREATE: u32 = 35;
const BATCH_FORGET: u32 = 42;
const READDIRPLUS: u32 = 44;

/// A folder, and a server of it that runs in a thread.
struct Hostile {
    folder: tempfile::TempDir,
    wire: Option<UnixStream>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Hostile {
    fn new() -> Hostile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("share");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "content").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let (wire, theirs) = UnixStream::pair().unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let share = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let server = std::thread::spawn(move || Session::new(theirs.as_fd(), vec![share])?.serve());
        Hostile {
            folder,
            wire: Some(wire),
            server: Some(server),
        }
    }

    fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    fn send(&mut self, bytes: &[u8]) {
        self.wire.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// The number of the request, and what it is answered with.
    fn receive(&mut self) -> (u64, Result<Vec<u8>, i32>) {
        let wire = self.wire.as_mut().unwrap();
        let mut header = [0; 16];
        wire.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; word(0) as usize - 16];
        wire.read_exact(&mut body).unwrap();
        let unique = u64::from_le_bytes(header[8..].try_into().unwrap());
        let error = word(4).cast_signed();
        (unique, if error == 0 { Ok(body) } else { Err(-error) })
    }

    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.send(&request(opcode, node, body));
        self.receive().1
    }

    /// Looks a name up, and tells its node.
    fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        let entry = self.ask(LOOKUP, parent, &[name.as_bytes(), &[0]].concat())?;
        Ok(number(&entry))
    }

    /// How the server ends once nobody talks to it any more.
    fn end(mut self) {
        self.wire = None;
        let server = self.server.take().unwrap();
        server.join().expect("it panicked").unwrap();
    }
}

/// The number at the beginning.
fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = (40 + body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(9_u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend_from_slice(body);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn errno<T: std::fmt::Debug>(outcome: Result<T, i32>) -> Errno {
    Errno::from_raw_os_error(outcome.unwrap_err())
}

#[test]
fn names_do_not_lead_out() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    for name in [
        "..",
        ".",
        "",
        "a/b",
        "/etc/passwd",
        "../secret",
        "file/",
        "/",
    ] {
        let refused = errno(hostile.look_up(share, name));
        assert_eq!(refused, Errno::INVAL, "{name:?}");
    }
    for name in ["..", "proc", "etc", "1", "isle-share", "00x"] {
        assert!(hostile.look_up(1, name).is_err(), "{name:?}");
    }
    // Nothing can be made where the shares are, nor be moved there.
    let create = [&[0; 16][..], b"new\0"].concat();
    assert_eq!(errno(hostile.ask(CREATE, 1, &create)), Errno::ROFS);
    let rename = [&share.to_le_bytes()[..], b"0\0moved\0"].concat();
    assert_eq!(errno(hostile.ask(RENAME, 1, &rename)), Errno::ROFS);
    let rename = [&1_u64.to_le_bytes()[..], b"file\0etc\0"].concat();
    assert_eq!(errno(hostile.ask(RENAME, share, &rename)), Errno::ROFS);
    hostile.end();
}

#[test]
fn links_are_never_followed() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    // The guest makes one itself, and treats it as a folder and as a file.
    let link = number(&hostile.ask(SYMLINK, share, b"out\0/etc\0").unwrap());
    assert_eq!(errno(hostile.look_up(link, "passwd")), Errno::NOTDIR);
    assert_eq!(errno(hostile.ask(OPENDIR, link, &[0; 8])), Errno::NOTDIR);
    assert_eq!(errno(hostile.ask(OPEN, link, &[0; 8])), Errno::NXIO);
    symlink("../secret", hostile.share().join("near")).unwrap();
    let create = [&[0; 16][..], b"near\0"].concat();
    assert!(hostile.ask(CREATE, share, &create).is_err());
    let secret = fs::read_to_string(hostile.folder.path().join("secret"));
    assert_eq!(secret.unwrap(), "secret");
    hostile.end();
}

#[test]
fn a_folder_that_becomes_a_link_leads_nowhere() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    let inside = hostile.share().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("secret"), "harmless").unwrap();
    let aside = hostile.share().join("aside");
    let outside = hostile.folder.path().to_owned();
    let stop = AtomicBool::new(false);
    let mut found = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&inside, &aside).unwrap();
                symlink(&outside, &inside).unwrap();
                fs::remove_file(&inside).unwrap();
                fs::rename(&aside, &inside).unwrap();
            }
        });
        for _ in 0..2000 {
            let Ok(folder) = hostile.look_up(share, "inside") else {
                continue;
            };
            let Ok(file) = hostile.look_up(folder, "secret") else {
                continue;
            };
            if let Ok(status) = hostile.ask(GETATTR, file, &[0; 16]) {
                // Its size, after the time that it is valid for and the inode: "secret" is shorter.
                assert_eq!(number(&status[24..]), 8);
                found += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(found > 0);
    hostile.end();
}

#[test]
fn what_blocks_when_it_is_opened_is_not_opened() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    let pipe = hostile.share().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let node = hostile.look_up(share, "pipe").unwrap();
    assert_eq!(errno(hostile.ask(OPEN, node, &[0; 8])), Errno::NXIO);
    let create = [&[0; 16][..], b"pipe\0"].concat();
    assert_eq!(errno(hostile.ask(CREATE, share, &create)), Errno::EXIST);
    hostile.end();
}

#[test]
fn numbers_that_were_never_given_mean_nothing() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    assert_eq!(errno(hostile.ask(GETATTR, 77, &[0; 16])), Errno::STALE);
    assert_eq!(errno(hostile.ask(OPEN, u64::MAX, &[0; 8])), Errno::STALE);
    let read = words(&[77, 0, 100, 0, 0]);
    assert_eq!(errno(hostile.ask(READ, share, &read)), Errno::BADF);
    assert_eq!(errno(hostile.ask(99, share, &[])), Errno::NOSYS);
    assert_eq!(errno(hostile.ask(READ, share, &[0; 3])), Errno::INVAL);
    // It forgets more than there ever was, the shares too, and announces more than it sends.
    let forget = words(&[3, 1, u64::MAX, share, u64::MAX, 12_345, 1]);
    hostile.send(&request(BATCH_FORGET, 0, &forget));
    hostile.send(&request(BATCH_FORGET, 0, &words(&[1 << 28, 0])));
    assert_eq!(hostile.look_up(1, "0"), Ok(share));
    let file = hostile.look_up(share, "file").unwrap();
    let handle = number(&hostile.ask(OPEN, file, &[0; 8]).unwrap());
    let beyond = words(&[handle, u64::MAX, 100, 0, 0]);
    assert!(hostile.ask(READ, file, &beyond).is_err());
    // A file is no folder.
    let list = words(&[handle, 0, 4096, 0, 0]);
    assert_eq!(errno(hostile.ask(READDIRPLUS, share, &list)), Errno::BADF);
    hostile.end();
}

#[test]
fn a_request_of_no_length_ends_the_session() {
    for length in [0_u32, 39, 1 << 20, u32::MAX] {
        let mut hostile = Hostile::new();
        hostile.send(&[&length.to_le_bytes()[..], &[0; 36]].concat());
        let server = hostile.server.take().unwrap();
        let ended = server.join().expect("it panicked");
        assert!(
            matches!(ended, Err(ServeError::Protocol(_))),
            "{length}: {ended:?}"
        );
    }
}

#[test]
fn waiting_for_locks_stops_nobody_and_has_a_limit() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    let file = hostile.look_up(share, "file").unwrap();
    let held = fs::File::open(hostile.share().join("file")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let handle = number(&hostile.ask(OPEN, file, &[0; 8]).unwrap());
    // Handle, owner, start, end; exclusive and a process in one word; flock(2).
    let lock = words(&[handle, 1, 0, i64::MAX.cast_unsigned(), 1, 1]);
    const ASKED: usize = 4100;
    const MOST: usize = 4096;
    for _ in 0..ASKED {
        hostile.send(&request(SETLKW, file, &lock));
    }
    hostile.send(&request(LOOKUP, 1, b"0\0"));
    let mut refused = 0;
    while let Err(error) = hostile.receive().1 {
        assert_eq!(Errno::from_raw_os_error(error), Errno::NOLCK);
        refused += 1;
    }
    assert_eq!(refused, ASKED - MOST);
    hostile.end();
}

#[test]
fn a_flood_of_syncs_is_answered() {
    const FSYNC: u32 = 20;
    const ASKED: usize = 2000;
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    let file = hostile.look_up(share, "file").unwrap();
    let handle = number(&hostile.ask(OPEN, file, &[0; 8]).unwrap());
    let mut wire = hostile.wire.as_ref().unwrap().try_clone().unwrap();
    let sync = request(FSYNC, file, &words(&[handle, 0]));
    let sender = std::thread::spawn(move || {
        for _ in 0..ASKED {
            wire.write_all(&sync).unwrap();
        }
    });
    for _ in 0..ASKED {
        assert_eq!(hostile.receive().1, Ok(Vec::new()));
    }
    sender.join().unwrap();
    let unknown = hostile.ask(FSYNC, file, &words(&[77, 0]));
    assert_eq!(errno(unknown), Errno::BADF);
    hostile.end();
}

#[test]
fn a_guest_that_begins_again_starts_with_nothing() {
    let mut hostile = Hostile::new();
    let share = hostile.look_up(1, "0").unwrap();
    let file = hostile.look_up(share, "file").unwrap();
    let hello = |minor: u32| [7, minor, 131_072, u32::MAX].map(u32::to_le_bytes).concat();
    let agreed = hostile.ask(INIT, 0, &hello(36)).unwrap();
    assert_eq!(agreed.len(), 64);
    let forgotten = hostile.ask(GETATTR, file, &[0; 16]);
    assert_eq!(errno(forgotten), Errno::STALE);
    assert!(hostile.look_up(1, "0").is_ok());
    assert_eq!(errno(hostile.ask(INIT, 0, &hello(8))), Errno::PROTO);
    hostile.end();
}

/// Requests that are likely to be near something that means something.
fn requests() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let small = prop_oneof![4 => 0..6_u64, 1 => any::<u64>()];
    let part = prop_oneof![
        4 => small.clone().prop_map(|word| word.to_le_bytes().to_vec()),
        2 => any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
        2 => "[a-c.]{1,3}".prop_map(|name| [name.as_bytes(), &[0]].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let body = proptest::collection::vec(part, 0..8);
    let one = (0..54_u32, small, body)
        .prop_map(|(opcode, node, body)| request(opcode, node, &body.concat()));
    proptest::collection::vec(one, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_asked_nothing_breaks(requests in requests()) {
        const LAST: u8 = 77;
        let mut hostile = Hostile::new();
        hostile.look_up(1, "0").unwrap();
        for bytes in &requests {
            hostile.send(bytes);
        }
        // Everything that was asked before is answered before this is.
        let mut last = request(LOOKUP, 1, b"0\0");
        last[8] = LAST;
        hostile.send(&last);
        while hostile.receive().0 != u64::from(LAST) {}
        let secret = fs::read_to_string(hostile.folder.path().join("secret"));
        prop_assert_eq!(secret.unwrap(), "secret");
        let around = fs::read_dir(hostile.folder.path()).unwrap().count();
        prop_assert_eq!(around, 2);
        hostile.end();
    }
}
