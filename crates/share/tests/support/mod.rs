//! A mount of a share by this host's own FUSE, as a guest would have it.

#![allow(clippy::unwrap_used, missing_docs, reason = "it is part of tests")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use isle_share::{Request, Server, Share, spawn};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// Says what a test lacks on this host, if it does.
pub fn skipped() -> bool {
    let lacking = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new("/dev/fuse").exists() {
        "/dev/fuse"
    } else {
        return false;
    };
    eprintln!("SKIPPED: needs {lacking}");
    true
}

/// The program as it is built beside the tests.
pub fn program() -> PathBuf {
    let beside = std::env::current_exe().unwrap();
    let program = beside.parent().unwrap().join("../isle-share");
    assert!(
        program.exists(),
        "run `cargo build -p isle-share-program` first"
    );
    program
}

/// A folder of the host, and the same as a guest sees it. In a mount namespace of the calling thread.
pub struct Shared {
    _folder: tempfile::TempDir,
    /// On the host.
    pub host: PathBuf,
    /// In the guest.
    pub guest: PathBuf,
    mount: PathBuf,
    server: Option<Server>,
    wire: UnixStream,
}

#[derive(Default)]
pub struct Options {
    pub is_read_only: bool,
    /// A file in the folder that is shared instead of it.
    pub file: Option<&'static str>,
    /// Whether a file system is mounted at `below` in the folder.
    pub has_mount: bool,
}

impl Shared {
    pub fn new() -> Shared {
        Shared::with(&Options::default())
    }

    pub fn with(options: &Options) -> Shared {
        own_mount_namespace();
        let folder = tempfile::Builder::new()
            .prefix("isle-share-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (host, at, place) = (path("host"), path("mount"), path("place"));
        std::fs::write(host.join("before"), "before").unwrap();
        if options.has_mount {
            let below = host.join("below");
            std::fs::create_dir(&below).unwrap();
            mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).unwrap();
        }
        let source = options.file.map_or(host.clone(), |file| host.join(file));
        let share = Share {
            is_recursive: true,
            source: rustix::fs::open(
                &source,
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .unwrap(),
            is_read_only: options.is_read_only,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = spawn(&Request {
            program: &program(),
            shares: &[share],
            connection: std::os::fd::AsFd::as_fd(&theirs),
            messages: Some(rustix::stdio::stderr()),
            cgroup: None,
            place: &place,
        })
        .unwrap();
        let wire = ours.try_clone().unwrap();
        isle_guest_agent::mount_shares(OwnedFd::from(ours), &at).unwrap();
        Shared {
            host,
            guest: at.join("0"),
            mount: at,
            server: Some(server),
            wire,
            _folder: folder,
        }
    }

    pub fn pid(&self) -> i32 {
        self.server.as_ref().unwrap().pid
    }

    /// Kills the server, as a host out of memory would.
    pub fn kill(&mut self) {
        let server = self.server.take().unwrap();
        pidfd_send_signal(&server.pidfd, Signal::KILL).unwrap();
        collect(&server);
    }
}

fn collect(server: &Server) {
    let pidfd = std::os::fd::AsFd::as_fd(&server.pidfd);
    waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).unwrap();
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = unmount(&self.mount, UnmountFlags::DETACH);
        let _ = unmount(self.host.join("below"), UnmountFlags::DETACH);
        // The server ends with its connection.
        let _ = self.wire.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            collect(&server);
        }
    }
}

/// Nothing that this thread mounts is seen by others.
fn own_mount_namespace() {
    isle_sys::namespace::unshare_mounts().unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
}
