//! A host end for tests, and the two kinds of guests that it meets: an agent in namespaces of this host, and one in a
//! virtual machine.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "these are tests, of which each program uses some"
)]

pub mod machine;
pub mod namespaced;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use isle_guest::{Connection, Ended, RemoteProcess, Stdio, UserRequest};
use oci_spec::runtime::{Process, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const SPEC: &str = include_str!("spec.json");

/// A specification as the engine makes them, with these arguments.
pub fn spec(arguments: &[&str]) -> Spec {
    let mut spec: Spec = serde_json::from_str(SPEC).unwrap();
    let process = self::process(&spec, arguments);
    spec.set_process(Some(process));
    spec
}

/// A further process.
pub fn process(spec: &Spec, arguments: &[&str]) -> Process {
    let mut process = spec.process().clone().unwrap();
    let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    process.set_args(Some(arguments));
    process
}

/// The default policy, compiled.
pub fn seccomp() -> Vec<isle_seccomp::Instruction> {
    let policy = isle_seccomp::Profile::docker_default().resolve(&Default::default());
    isle_seccomp::compile(&policy).unwrap()
}

/// A user.
pub fn user(name: &str) -> UserRequest {
    UserRequest {
        user: name.to_owned(),
        groups: Vec::new(),
    }
}

/// Our ends of a process's streams.
pub struct Ends {
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

/// Streams for a process. Without input it has `/dev/null`.
pub fn streams(has_input: bool) -> (Stdio, Ends) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (stdout_reader, stdout) = pipe();
    let (stderr_reader, stderr) = pipe();
    let (stdin, ours) = match has_input {
        true => {
            let (reader, writer) = pipe();
            (reader, Some(File::from(writer)))
        }
        false => (File::open("/dev/null").unwrap().into(), None),
    };
    let stdio = Stdio::Streams {
        stdin,
        stdout,
        stderr,
    };
    let ends = Ends {
        stdin: ours,
        stdout: stdout_reader.into(),
        stderr: stderr_reader.into(),
    };
    (stdio, ends)
}

/// Whether a descriptor can be read, without waiting.
pub fn is_readable(fd: &OwnedFd) -> bool {
    let now = Timespec::default();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap() > 0
}

/// Tends a connection until something is so.
pub fn until(connection: &mut Connection, mut is_so: impl FnMut(&mut Connection) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        connection.tend().unwrap();
        if is_so(connection) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "nothing has happened for half a minute"
        );
        let soon = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let fd = connection.as_fd();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&soon)).unwrap();
    }
}

/// Reads without waiting.
pub fn read_some(file: &mut File, into: &mut Vec<u8>) {
    let flags = rustix::fs::fcntl_getfl(&*file).unwrap();
    rustix::fs::fcntl_setfl(&*file, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = file.read(&mut buffer) {
        into.extend_from_slice(&buffer[..count]);
    }
}

/// Waits for the end of a process while its output is read: how it ended, standard output, standard error.
pub fn outcome(
    connection: &mut Connection,
    process: &RemoteProcess,
    mut ends: Ends,
) -> (Ended, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    until(connection, |_| {
        read_some(&mut ends.stdout, &mut out);
        read_some(&mut ends.stderr, &mut err);
        is_readable(&process.ended)
    });
    let ended = connection.reap(process.id).unwrap();
    read_some(&mut ends.stdout, &mut out);
    read_some(&mut ends.stderr, &mut err);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (ended, text(&out), text(&err))
}
