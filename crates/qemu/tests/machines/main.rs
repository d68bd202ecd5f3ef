//! Templates and their copies, with a real QEMU and a real guest.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod confinement;
#[path = "../guest/mod.rs"]
mod guest;
mod pool;
mod running;
mod templates;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use guest::{PATIENCE, World};

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn disk(world: &World, name: &str, mib: u64, text: &str) -> std::path::PathBuf {
    let path = world.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(mib << 20).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    path
}

fn opened(path: &std::path::Path, is_writable: bool) -> OwnedFd {
    File::options()
        .read(true)
        .write(is_writable)
        .open(path)
        .unwrap()
        .into()
}

fn digest(path: &Path) -> Vec<u8> {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
