//! The host's end of the channel to a guest that says whatever it likes.
#![no_main]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

use isle_guest::{Connection, Prepare, Stdio, Tree, Welcome, Workload};
use isle_guest_protocol::frame::{self, Inbox, kind};
use isle_guest_protocol::{Hello, VERSION, decode, encode};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::Spec;

static SPEC: LazyLock<Spec> = LazyLock::new(|| {
    let text = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
        "linux":{"namespaces":[{"type":"mount"}]}}"#;
    serde_json::from_str(text).expect("it is a specification")
});

fuzz_target!(|bytes: &[u8]| {
    let (ours, mut guest) = UnixStream::pair().expect("sockets");
    let mut host = Connection::open(OwnedFd::from(ours)).expect("descriptors");
    host.set_patience(Duration::from_millis(1));
    host.tend().expect("nothing was said yet");
    // The nonce is the one thing that a guest has to have heard.
    let mut heard = [0; 256];
    let count = guest.read(&mut heard).expect("the greeting");
    let mut inbox = Inbox::default();
    inbox.tail().extend_from_slice(&heard[..count]);
    let frame = inbox.next_whole().expect("the greeting is whole");
    let hello: Hello = decode(frame.payload).expect("it is a greeting");
    let mut said = hello.nonce.to_vec();
    let welcome = Welcome {
        version: VERSION,
        kernel: String::new(),
        is_prepared: false,
        tasks: Vec::new(),
    };
    frame::put(&mut said, kind::WELCOME, 0, &encode(&welcome));
    said.extend_from_slice(bytes);
    guest.set_nonblocking(true).expect("a socket");
    let _ = guest.write_all(&said);

    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("null"));
    let (_reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let stdio = Stdio::Streams {
        stdin: null(),
        stdout: writer,
        stderr: null(),
    };
    let workload = Workload {
        id: "x",
        spec: &SPEC,
        user: None,
        seccomp: None,
    };
    let Ok(process) = host.launch(&Prepare::default(), &workload, stdio) else {
        return;
    };
    let _ = host.started(&process);
    let _ = host.stats();
    let _ = host.read_tree(Tree::Root, null());
    let _ = host.processes();
    let _ = host.reap(process.id);
    // Once it has ended it says so for ever.
    if host.tend().is_err() {
        assert!(host.stats().is_err());
    }
});
