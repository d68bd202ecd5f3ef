//! What a guest asks of the host's files: the requests, and a server that carries them out in a folder of its own.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use isle_share::Session;
use isle_share::request::{self, Operation};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{Mode, OFlags};

/// Bytes of a request's header.
const HEADER: usize = 40;

/// A request for each `opcode node length body…`.
fn requests(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    while let [opcode, node, length, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let mut request = ((HEADER + body.len()) as u32).to_le_bytes().to_vec();
        request.extend(u32::from(*opcode).to_le_bytes());
        request.extend((requests.len() as u64).to_le_bytes());
        request.extend(u64::from(*node).to_le_bytes());
        request.extend([0; 16]);
        request.extend(body);
        requests.push(request);
        bytes = rest;
    }
    requests
}

/// A name that the server will use beneath a folder leads nowhere else.
fn check(bytes: &[u8]) {
    let Ok(request) = request::parse(bytes) else {
        return;
    };
    let names = match request.operation {
        Ok(
            Operation::Lookup { name }
            | Operation::Symlink { name, .. }
            | Operation::MakeNode { name, .. }
            | Operation::MakeDirectory { name, .. }
            | Operation::Unlink { name }
            | Operation::RemoveDirectory { name }
            | Operation::Link { new_name: name, .. }
            | Operation::Create { name, .. },
        ) => vec![name],
        Ok(Operation::Rename { name, new_name, .. }) => vec![name, new_name],
        Ok(Operation::BatchForget(all)) => {
            assert!(all.count() * 16 <= bytes.len());
            return;
        }
        Ok(Operation::Write { data, .. }) => return assert!(data.len() <= bytes.len()),
        _ => return,
    };
    for name in names {
        let name = name.to_bytes();
        assert!(!name.is_empty() && name.len() <= 255 && !name.contains(&b'/'));
        assert!(name != b"." && name != b"..");
    }
}

fn folder() -> &'static tempfile::TempDir {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"))
}

fuzz_target!(|bytes: &[u8]| {
    let _ = request::length(bytes);
    check(bytes);
    let requests = requests(bytes);
    for request in &requests {
        check(request);
    }
    let share = tempfile::tempdir_in(folder()).expect("a folder");
    std::fs::write(share.path().join("a"), "content").expect("a file");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(share.path(), flags, Mode::empty()).expect("the folder");
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let mut replies = ours.try_clone().expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut session = Session::new(theirs.as_fd(), vec![descriptor]).expect("a session");
            // A request of no length may come first: that is an end too.
            let _ = session.serve();
        });
        scope.spawn(move || {
            let mut all = Vec::new();
            let _ = replies.read_to_end(&mut all);
        });
        for request in &requests {
            if ours.write_all(request).is_err() {
                break;
            }
        }
        let _ = ours.shutdown(Shutdown::Write);
    });
});
