//! Bundles for tests: a directory with busybox, and a specification like the one that Docker makes.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use isle_runtime::{Child, LaunchError, Options, Plan, Rootfs, Stdio};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

#[derive(Debug)]
pub struct Output {
    pub ended: Ended,
    pub stdout: String,
    pub stderr: String,
}

pub fn can_make_containers() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists()
}

/// Ends a test, with a word, where no container can be made.
macro_rules! need_root {
    () => {
        if !bundle::can_make_containers() {
            eprintln!("skipped: making containers needs root and busybox");
            return;
        }
    };
}

pub struct Bundle {
    directory: tempfile::TempDir,
    pub config: Value,
}

/// Docker's default capabilities.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Bundle {
    pub fn new() -> Bundle {
        let directory = tempfile::Builder::new()
            .prefix("isle-runtime-test-")
            .tempdir()
            .unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "work"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        // By another process: a descriptor open for writing in this one would be inherited by the
        // containers of other tests, and a file that is open for writing cannot be executed.
        let copied = std::process::Command::new("cp")
            .arg("/bin/busybox")
            .arg(root.join("bin/busybox"))
            .status()
            .unwrap();
        assert!(copied.success());
        for name in [
            "sh", "ls", "cat", "echo", "true", "sleep", "id", "hostname", "grep", "mount",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "isle-test",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["true"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES
                },
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            ],
            "linux": {
                "namespaces": [
                    {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}, {"type": "cgroup"},
                ],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Bundle { directory, config }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub fn args(mut self, args: &[&str]) -> Bundle {
        self.config["process"]["args"] = json!(args);
        self
    }

    pub fn sh(self, script: &str) -> Bundle {
        self.args(&["sh", "-c", script])
    }

    /// Sets a value by JSON pointer; parents must be there.
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[key] = value;
        self
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: Value) -> Bundle {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn spec(&self) -> Spec {
        serde_json::from_value(self.config.clone()).unwrap()
    }

    pub fn plan(&self) -> Plan {
        Plan::new(&self.spec(), self.options()).unwrap()
    }

    pub fn options(&self) -> Options {
        Options {
            id: "test".to_owned(),
            bundle: self.path().to_owned(),
            ..Options::default()
        }
    }

    pub fn rootfs(&self) -> Rootfs {
        Rootfs::Directory(self.root())
    }

    /// Runs to the end.
    pub fn run(&self) -> Output {
        self.try_run()
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub fn try_run(&self) -> Result<Output, LaunchError> {
        let streams = Streams::new();
        let child = self
            .plan()
            .create(self.rootfs(), None, streams.stdio())?
            .start()?;
        Ok(streams.output(&child))
    }
}

/// An error with its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Files for the standard streams: a program may write as much as it likes.
pub struct Streams {
    stdout: File,
    stderr: File,
}

impl Streams {
    pub fn new() -> Streams {
        Streams {
            stdout: tempfile::tempfile().unwrap(),
            stderr: tempfile::tempfile().unwrap(),
        }
    }

    pub fn stdio(&self) -> Stdio {
        let stdin: OwnedFd = File::open("/dev/null").unwrap().into();
        Stdio::Streams {
            stdin,
            stdout: self.stdout.try_clone().unwrap().into(),
            stderr: self.stderr.try_clone().unwrap().into(),
        }
    }

    pub fn output(mut self, child: &Child) -> Output {
        let ended = wait(child);
        let read = |file: &mut File| {
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        };
        Output {
            ended,
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
        }
    }
}

/// Waits for the end of a child.
pub fn wait(child: &Child) -> Ended {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap();
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(code),
        (_, Some(signal)) => Ended::Signal(signal),
        _ => panic!("{status:?}"),
    }
}

impl Bundle {
    /// Replaces a namespace, or adds it.
    pub fn namespace(mut self, kind: &str, path: Option<&str>) -> Bundle {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        namespaces.push(match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
        self
    }

    /// Changes the root file system.
    pub fn prepared(self, change: impl FnOnce(&Path)) -> Bundle {
        change(&self.root());
        self
    }
}

/// All that a terminal's master says until its last slave is closed.
pub fn read_terminal(master: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = rustix::io::read(master, &mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Children of this thread, ended or not. Other tests run in other threads.
pub fn count_of_own_children() -> usize {
    let tid = rustix::thread::gettid().as_raw_nonzero();
    std::fs::read_to_string(format!("/proc/self/task/{tid}/children"))
        .map_or(0, |text| text.split_whitespace().count())
}
