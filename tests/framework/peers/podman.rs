//! Podman in a root of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Podman with a root, run root and settings below one folder.
#[derive(Debug)]
pub struct Podman {
    folder: PathBuf,
    runtime: String,
}

impl Podman {
    /// # Panics
    /// When the folder cannot be written.
    #[must_use]
    pub fn new(folder: &Path, runtime: &str) -> Podman {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        // Podman's own default exceeds the hard limit of hosts that lower it.
        let limits =
            "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n";
        std::fs::write(folder.join("containers.conf"), limits).expect("the folder can be written");
        Podman {
            folder: folder.to_owned(),
            runtime: runtime.to_owned(),
        }
    }

    /// `podman` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .arg("--tmpdir")
            .arg(self.folder.join("tmp"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["--runtime", &self.runtime])
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self
            .command(["system", "reset", "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
