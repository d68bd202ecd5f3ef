//! The end of a group: killing what runs in it, removing its directories.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::directory::children;
use crate::{Cgroup, Error, Version, freezer};

/// How long to wait for processes that are ending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Some,
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Calls `visit` for a directory and all groups below it.
fn walk(path: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    visit(path)?;
    let below = match children(path) {
        Ok(below) => below,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    below.iter().try_for_each(|child| walk(child, visit))
}

pub(crate) fn kill_all(group: &Cgroup) -> Result<(), Error> {
    if let Some(directory) = group.directory_with("") {
        // Linux 5.14
        match directory.try_write("cgroup.kill", "1") {
            // A process that has joined some version 1 hierarchies only, by an attempt that failed
            // half way, is not in version 2's list.
            Ok(()) => return kill_strays(group),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(directory.write_error("cgroup.kill", "1", errno)),
        }
    }
    kill_one_by_one(group)
}

fn kill_strays(group: &Cgroup) -> Result<(), Error> {
    let Some(directory) = group.directories.iter().find(|d| d.version == Version::V1) else {
        return Ok(());
    };
    for pid in processes_below(&directory.path)? {
        if let Some(pid) = Pid::from_raw(pid) {
            // ESRCH: it has ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

/// Every process in a directory and in the groups below it.
pub(crate) fn processes_below(directory: &Path) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    walk(directory, &mut |path| {
        let text = match std::fs::read_to_string(path.join("cgroup.procs")) {
            Ok(text) => text,
            // Gone since it was listed, or a threaded group, whose processes its root lists.
            Err(error)
                if path != directory
                    && matches!(
                        error.raw_os_error().map(Errno::from_raw_os_error),
                        Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)
                    ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // 0: a process of another pid namespace
        pids.extend(
            text.lines()
                .filter_map(|pid| pid.parse::<i32>().ok())
                .filter(|&pid| pid > 0),
        );
        Ok(())
    })
    .map_err(|source| Error::Read {
        path: directory.join("cgroup.procs"),
        source,
    })?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Frozen, no process can fork while the list is read; the signals act when they thaw. Without a
/// freezer the list is read until it is empty.
fn kill_one_by_one(group: &Cgroup) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_frozen = freezer::freeze(group).is_ok();
        let pids = group.processes();
        for pid in pids.iter().flatten() {
            if let Some(pid) = Pid::from_raw(*pid) {
                // ESRCH: it has ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if is_frozen {
            freezer::thaw(group)?;
        }
        let pids = pids?;
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let path = group.path().to_owned();
            return Err(Error::KillTimeout { path, pids });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn remove(group: &Cgroup) -> Result<(), Error> {
    // Do all that can be done, then tell what failed first.
    let mut result = Ok(());
    let mut patience = Patience::Some;
    for directory in &group.directories {
        let removed = remove_directory(&directory.path, patience);
        if removed.is_err() {
            // The same processes are in the other hierarchies: do not wait for them again.
            patience = Patience::None;
        }
        result = result.and(removed);
    }
    result
}

/// Removes one directory and all groups below it.
pub(crate) fn remove_directory(path: &Path, patience: Patience) -> Result<(), Error> {
    // The kernel counts a process out a moment after its parent has seen it end.
    let mut deadline = None;
    let mut pause = Duration::from_micros(50);
    loop {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => {
                return Err(Error::Remove {
                    path: path.to_owned(),
                    source: errno.into(),
                });
            }
        }
        for child in children(path).unwrap_or_default() {
            remove_directory(&child, patience)?;
        }
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        let now = Instant::now();
        if patience == Patience::None || now >= *deadline.get_or_insert(now + PATIENCE) {
            return Err(Error::Busy {
                path: path.to_owned(),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
