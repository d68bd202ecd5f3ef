//! Being told when a group runs out of memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::fs::inotify;

use crate::{Cgroup, Error, Version};

/// A descriptor that becomes readable when the group may have run out of memory; what happened is
/// in [`Cgroup::oom_kills`].
#[derive(Debug)]
pub struct OomWatch {
    descriptor: OwnedFd,
}

impl OomWatch {
    /// Takes the notice, so that the descriptor is no longer readable. Does not wait.
    pub fn acknowledge(&self) {
        let mut buffer = [0_u8; 4096];
        // Nothing to read is as good as read.
        let _ = rustix::io::read(&self.descriptor, &mut buffer);
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Cgroup {
    /// Watches for lack of memory: version 1 by an eventfd (`cgroup.event_control`), version 2 by
    /// inotify(7) on `memory.events`. `None` without a memory controller.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, Error> {
        let Some(directory) = self.directory_with("memory") else {
            return Ok(None);
        };
        let fail = |file: &str, errno: rustix::io::Errno| Error::Open {
            path: directory.path.join(file),
            source: errno.into(),
        };
        let descriptor = match directory.version {
            Version::V1 => {
                let file = "memory.oom_control";
                let control = directory
                    .open_file(file, OFlags::RDONLY)
                    .map_err(|errno| fail(file, errno))?;
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .map_err(|errno| fail(file, errno))?;
                let numbers = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                directory.write("cgroup.event_control", &numbers)?;
                event
            }
            Version::V2 => {
                let file = "memory.events";
                let watch =
                    inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                        .map_err(|errno| fail(file, errno))?;
                inotify::add_watch(
                    &watch,
                    directory.path.join(file),
                    inotify::WatchFlags::MODIFY,
                )
                .map_err(|errno| fail(file, errno))?;
                watch
            }
        };
        Ok(Some(OomWatch { descriptor }))
    }
}
