//! Docker in a root of its own: no bridge, no rules in the host's firewall.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::wait_for;

/// A running `dockerd` and its `containerd`; ended when dropped.
#[derive(Debug)]
pub struct Docker {
    folder: PathBuf,
    daemons: Vec<Child>,
}

impl Docker {
    /// Starts both below one folder, which should be short: it holds Unix sockets.
    ///
    /// # Errors
    /// Says which daemon did not start, with the end of its log.
    pub fn start(folder: &Path) -> Result<Docker, String> {
        Docker::start_with(folder, &[])
    }

    /// The same, with further flags for `dockerd`.
    ///
    /// # Errors
    /// As of [`Docker::start`].
    pub fn start_with(folder: &Path, flags: &[String]) -> Result<Docker, String> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let mut docker = Docker {
            folder: folder.to_owned(),
            daemons: Vec::new(),
        };
        let path = |name: &str| folder.join(name);
        let containerd = path("containerd.sock");
        docker.launch(
            Command::new("containerd")
                .arg("--root")
                .arg(path("containerd-root"))
                .arg("--state")
                .arg(path("containerd-state"))
                .arg("--address")
                .arg(&containerd),
            "containerd",
            &containerd,
        )?;
        let socket = path("docker.sock");
        docker.launch(
            Command::new("dockerd")
                .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
                .args(["--default-ulimit", "nofile=1024:4096"])
                .args(flags)
                .arg("--containerd")
                .arg(&containerd)
                .arg("--data-root")
                .arg(path("data"))
                .arg("--exec-root")
                .arg(path("exec"))
                .arg("--pidfile")
                .arg(path("docker.pid"))
                .arg("--host")
                .arg(format!("unix://{}", socket.display())),
            "dockerd",
            &socket,
        )?;
        wait_for("dockerd answers", || {
            docker
                .command(["version"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
        Ok(docker)
    }

    fn launch(&mut self, command: &mut Command, name: &str, socket: &Path) -> Result<(), String> {
        let log = self.folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| error.to_string())?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn()
            .map_err(|error| format!("cannot run {name}: {error}"))?;
        self.daemons.push(child);
        let last = self.daemons.len() - 1;
        let mut has_ended = false;
        wait_for(&format!("{name} listens"), || {
            has_ended = !matches!(self.daemons[last].try_wait(), Ok(None));
            has_ended || socket.exists()
        });
        if has_ended {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let end: Vec<&str> = text.lines().rev().take(5).collect();
            return Err(format!("{name} ended at once: {}", end.join("\n")));
        }
        Ok(())
    }

    /// `docker` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.folder.join("docker.sock").display()
            ))
            .args(arguments)
            .env("HOME", &self.folder)
            .stdin(Stdio::null());
        command
    }

    /// The pids of the daemons.
    #[must_use]
    pub fn daemons(&self) -> Vec<u32> {
        self.daemons.iter().map(Child::id).collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // First dockerd, which needs containerd to end its containers.
        for daemon in self.daemons.iter_mut().rev() {
            if let Some(pid) = i32::try_from(daemon.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = daemon.wait();
        }
        // What dockerd mounts in the host's mount namespace it leaves behind now and then.
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.to_string_lossy().into_owned();
        for line in table.lines().rev() {
            if let Some(target) = line.split(' ').nth(4)
                && target.starts_with(&folder)
            {
                let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}
