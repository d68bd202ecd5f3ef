//! Which process the instance's is, so that a later supervisor knows it again: its pid, its start
//! time, and the boot of the host, in the file `process` of the run directory. A pid alone may
//! belong to another process by then.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::backend::{Process, stat_field};

/// The file's name.
pub(super) const NAME: &str = "process";

/// Notes that there is going to be a process.
pub(super) fn announce(directory: &Path) -> io::Result<()> {
    std::fs::write(directory.join(NAME), "")
}

/// Notes which process it is.
pub(super) fn write(directory: &Path, pid: i32) -> io::Result<()> {
    std::fs::write(directory.join(NAME), describe(pid)?)
}

/// The process that was noted, if it still lives.
pub(super) fn find(directory: &Path) -> io::Result<Option<Process>> {
    let text = match std::fs::read_to_string(directory.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let Some(pid) = text.split(' ').next().and_then(|pid| pid.parse().ok()) else {
        return Ok(None);
    };
    let Some(ended) = open(pid)? else {
        return Ok(None);
    };
    // The descriptor holds the process: what is true of the pid after it was opened is true of it.
    match describe(pid) {
        Ok(now) if now == text => Ok(Some(Process {
            pid,
            ended,
            terminal: None,
            task: 0,
        })),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn describe(pid: i32) -> io::Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let started = stat_field(&stat, 22).unwrap_or("?");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{pid} {started} {boot}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_again_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(find(folder.path()).unwrap().is_none());
        write(folder.path(), pid).unwrap();
        let found = find(folder.path()).unwrap().unwrap();
        assert_eq!(found.pid, pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(find(folder.path()).unwrap().is_none());
    }

    #[test]
    fn the_same_pid_of_another_boot_is_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        write(folder.path(), pid).unwrap();
        assert!(find(folder.path()).unwrap().is_some());
        let file = folder.path().join(NAME);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace('-', "_")).unwrap();
        assert!(find(folder.path()).unwrap().is_none());
    }
}
