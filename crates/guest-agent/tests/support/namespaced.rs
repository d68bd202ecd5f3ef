//! An agent in namespaces of this host, behind something like QEMU's socket: the host end can be replaced.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

/// Only test programs are told where it is; examples have none.
const PROGRAM: Option<&str> = option_env!("CARGO_BIN_EXE_isle-guest-outside");

/// A running agent.
pub struct Agent {
    pub folder: TempDir,
    process: Child,
    port: UnixStream,
    host: Arc<Mutex<Option<UnixStream>>>,
    from_host: Mutex<Option<JoinHandle<()>>>,
}

/// Whether this host can run one.
pub fn is_possible() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: namespaces without a user namespace need root");
    }
    is_root
}

impl Agent {
    /// One whose root file system holds busybox and two users.
    pub fn start() -> Agent {
        let folder = tempfile::tempdir().unwrap();
        for name in ["files", "root"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        super::machine::fill_root(&folder.path().join("root"));
        let (port, theirs) = UnixStream::pair().unwrap();
        let process = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--net",
                "--ipc",
                "--uts",
            ])
            .arg(PROGRAM.unwrap())
            .arg(folder.path())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let host = Arc::new(Mutex::new(None));
        let (from, to) = (port.try_clone().unwrap(), Arc::clone(&host));
        std::thread::spawn(move || to_host(from, &to));
        Agent {
            folder,
            process,
            port,
            host,
            from_host: Mutex::default(),
        }
    }

    /// Another host end, instead of the one before. What the agent had said to that one and it has not heard is lost;
    /// what it had said itself arrives, as it does in QEMU.
    pub fn connect(&self) -> OwnedFd {
        let (ours, theirs) = UnixStream::pair().unwrap();
        if let Some(old) = self.host.lock().unwrap().take() {
            let _ = old.shutdown(std::net::Shutdown::Read);
        }
        let mut from_host = self.from_host.lock().unwrap();
        if let Some(before) = from_host.take() {
            before.join().unwrap();
        }
        let mut from = theirs.try_clone().unwrap();
        let mut to = self.port.try_clone().unwrap();
        *self.host.lock().unwrap() = Some(theirs);
        *from_host = Some(std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        }));
        ours.into()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.port.shutdown(std::net::Shutdown::Both);
        if let Some(host) = self.host.lock().unwrap().take() {
            let _ = host.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn to_host(mut from: UnixStream, host: &Mutex<Option<UnixStream>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let current = host
            .lock()
            .unwrap()
            .as_ref()
            .map(|host| host.try_clone().unwrap());
        // Without a host end, or with one that is just going away, it is lost.
        if let Some(mut current) = current {
            let _ = current.write_all(&buffer[..count]);
        }
    }
}
