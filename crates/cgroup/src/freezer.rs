//! Freezing and thawing all processes of a group.
//!
//! Version 2's `cgroup.freeze` where there is a version 2 hierarchy, be it without controllers: a
//! frozen process can be killed and traced there. Else version 1's freezer controller
//! (`Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst`).

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use crate::directory::{Directory, read_all};
use crate::group::told_for;
use crate::{Cgroup, Error};

const PATIENCE: Duration = Duration::from_secs(10);

enum Freezer<'a> {
    V1(&'a Directory),
    V2(&'a Directory),
}

fn freezer(group: &Cgroup) -> Result<Freezer<'_>, Error> {
    if let Some(directory) = group.directory_with("")
        && directory.has_file("cgroup.freeze")
    {
        return Ok(Freezer::V2(directory));
    }
    group
        .directory_with("freezer")
        .map(Freezer::V1)
        .ok_or(Error::NoController {
            controller: "freezer",
            limit: "pause",
        })
        .map_err(|error| told_for(&group.layout, error))
}

pub(crate) fn freeze(group: &Cgroup) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let (frozen, path) = match freezer(group)? {
        Freezer::V1(directory) => (freeze_v1(directory, deadline)?, &directory.path),
        Freezer::V2(directory) => (freeze_v2(directory, deadline)?, &directory.path),
    };
    if frozen {
        return Ok(());
    }
    // Half frozen is no state to leave anyone in.
    thaw(group)?;
    Err(Error::FreezeTimeout { path: path.clone() })
}

pub(crate) fn thaw(group: &Cgroup) -> Result<(), Error> {
    match freezer(group)? {
        Freezer::V1(directory) => directory.write("freezer.state", "THAWED"),
        Freezer::V2(directory) => directory.write("cgroup.freeze", "0"),
    }
}

pub(crate) fn is_frozen(group: &Cgroup) -> Result<bool, Error> {
    match freezer(group)? {
        Freezer::V1(directory) => Ok(directory.read("freezer.state")?.trim() == "FROZEN"),
        Freezer::V2(directory) => Ok(says_frozen(&directory.read("cgroup.events")?)),
    }
}

fn freeze_v1(directory: &Directory, deadline: Instant) -> Result<bool, Error> {
    let mut pause = Duration::from_micros(50);
    loop {
        // A process that forks just then can keep the group FREEZING: write again each time.
        directory.write("freezer.state", "FROZEN")?;
        if directory.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn freeze_v2(directory: &Directory, deadline: Instant) -> Result<bool, Error> {
    let fail = |errno: Errno| Error::Read {
        path: directory.path.join("cgroup.events"),
        source: errno.into(),
    };
    // Opened before the write: a change after it wakes poll(2).
    let events = directory
        .open_file("cgroup.events", OFlags::RDONLY)
        .map_err(fail)?;
    directory.write("cgroup.freeze", "1")?;
    loop {
        seek(&events, SeekFrom::Start(0)).map_err(fail)?;
        if says_frozen(&read_all(events.as_fd()).map_err(fail)?) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        match poll(
            &mut [PollFd::new(&events, PollFlags::PRI)],
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
}

fn says_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}
