//! `--userns auto`: which ids of the host a container has.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Gid, Uid, fchown};

use super::failed;
use super::spec::Identity;
use crate::Paths;
use crate::backend::{StartError, Stdio};
use crate::config::UserNamespace;
use crate::id_range::{self, IdRange};
use crate::state::Instance;
use crate::store::Store;

/// Takes a range for an instance: of the size asked for, else of what its image needs.
///
/// # Errors
/// When the image's accounts cannot be read, or no such range is free.
pub(crate) fn take(
    instance: &Instance,
    paths: &Paths,
    rootfs: BorrowedFd<'_>,
    size: Option<u32>,
) -> Result<IdRange, StartError> {
    let size = match size {
        Some(size) => size,
        None => {
            let user = instance.config.process.user.as_deref().unwrap_or_default();
            let groups = &instance.config.process.additional_groups;
            let user = isle_runtime::users::resolve(rootfs, user, groups)
                .map_err(failed("cannot find the user"))?;
            let own: Vec<u32> = [vec![user.uid, user.gid], user.groups].concat();
            id_range::size_for(rootfs, &own).map_err(failed("cannot count the image's users"))?
        }
    };
    let store = Store::open(paths).map_err(failed("cannot read the state file"))?;
    let pool = id_range::pool();
    let range = store
        .take_id_range(&instance.id, size, &pool)
        .map_err(failed("cannot take a range of user ids"))?;
    range.ok_or_else(|| StartError {
        message: format!(
            "no range of {size} user ids is free: remove instances with --userns auto, ask for \
             fewer with --userns auto:size=N, or give the user containers a larger range in \
             /etc/subuid and /etc/subgid"
        ),
        exit_code: 125,
    })
}

/// The range that an instance has taken, when it has a user namespace of its own.
///
/// # Errors
/// When the state file cannot be read.
pub(crate) fn of(instance: &Instance, paths: &Paths) -> Result<Option<IdRange>, StartError> {
    match instance.config.namespaces.user {
        UserNamespace::Default | UserNamespace::Host => Ok(None),
        UserNamespace::Auto { .. } => Store::open(paths)
            .and_then(|store| store.id_range(&instance.id))
            .map_err(failed("cannot read the state file")),
    }
}

/// Makes pipes the property of the user that a process runs as, who can then open `/dev/stdout`.
/// From within its user namespace nobody can give away what is the host's.
///
/// # Errors
/// What fchown(2) said.
pub(crate) fn give(stdio: &Stdio, range: IdRange, user: &Identity) -> io::Result<()> {
    let Stdio::Streams {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        return Ok(());
    };
    for stream in [stdin, stdout, stderr] {
        let stat = rustix::fs::fstat(stream)?;
        // The null device stays the host's.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let uid = Uid::from_raw(range.first.saturating_add(user.uid));
            let gid = Gid::from_raw(range.first.saturating_add(user.gid));
            fchown(stream, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}
