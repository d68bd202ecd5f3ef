//! Who is in the house: every process of its user namespace, found in `/proc`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The namespaces of a house, as links in `/proc/<pid>/ns` name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spaces {
    user: String,
    mounts: String,
}

impl Spaces {
    /// Those of the calling process.
    pub(crate) fn own() -> io::Result<Spaces> {
        Spaces::of(Path::new("/proc/self"))
    }

    fn of(process: &Path) -> io::Result<Spaces> {
        let link = |name: &str| -> io::Result<String> {
            let target = fs::read_link(process.join("ns").join(name))?;
            Ok(target.to_string_lossy().into_owned())
        };
        Ok(Spaces {
            user: link("user")?,
            mounts: link("mnt")?,
        })
    }

    pub(crate) fn text(&self) -> String {
        format!("{} {}\n", self.user, self.mounts)
    }

    pub(crate) fn parse(text: &str) -> Option<Spaces> {
        let (user, mounts) = text.trim().split_once(' ')?;
        Some(Spaces {
            user: user.to_owned(),
            mounts: mounts.to_owned(),
        })
    }

    /// A process that is in both of them.
    pub(crate) fn some_resident(&self) -> Option<OwnedFd> {
        processes().find_map(|pid| {
            let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let found = Spaces::of(&process_folder(pid)).ok()?;
            (found == *self).then_some(held)
        })
    }

    /// The processes of the user namespace but these: what ends is held, so that one can wait for it.
    pub(crate) fn residents(&self, but: &[Pid]) -> Vec<OwnedFd> {
        processes()
            .filter(|pid| !but.contains(pid))
            .filter_map(|pid| {
                let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                let user = fs::read_link(process_folder(pid).join("ns/user")).ok()?;
                (user.to_string_lossy() == self.user).then_some(held)
            })
            .collect()
    }
}

/// What the kernel tells of a process.
pub(crate) fn process_folder(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string())
}

/// All processes of the host.
pub(crate) fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}
