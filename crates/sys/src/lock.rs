//! Locks on ranges of files that belong to an open file description: fcntl(2), "Open file description locks".

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may read too.
    Shared,
    /// Nobody else.
    Exclusive,
    /// None.
    Unlocked,
}

/// A lock, or a question for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: i64,
    /// Its length in bytes; 0: up to the end, however large the file becomes.
    pub length: i64,
}

fn raw(lock: Lock) -> libc::flock {
    let kind = match lock.kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
        Kind::Unlocked => libc::F_UNLCK,
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: lock.start,
        l_len: lock.length,
        l_pid: 0,
    }
}

/// Takes, changes or lets go of a lock, without waiting.
///
/// # Errors
/// `EAGAIN` when somebody else has one that is in the way; others as in fcntl(2).
pub fn set(file: BorrowedFd<'_>, lock: Lock) -> io::Result<()> {
    let lock = raw(lock);
    // SAFETY: the structure is valid for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The first lock that would be in the way, and the process that has it (-1: it belongs to an open file
/// description).
///
/// # Errors
/// As in fcntl(2).
pub fn obstacle(file: BorrowedFd<'_>, lock: Lock) -> io::Result<Option<(Lock, i32)>> {
    let mut lock = raw(lock);
    // SAFETY: the structure is valid for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let kind = match i32::from(lock.l_type) {
        libc::F_RDLCK => Kind::Shared,
        libc::F_WRLCK => Kind::Exclusive,
        _ => return Ok(None),
    };
    let found = Lock {
        kind,
        start: lock.l_start,
        length: lock.l_len,
    };
    Ok(Some((found, lock.l_pid)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_lock_is_in_the_way_of_another_open_file() {
        let path = std::env::temp_dir().join(format!("isle-lock-{}", std::process::id()));
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap()
        };
        let (first, second) = (open(), open());
        let lock = |kind, start, length| Lock {
            kind,
            start,
            length,
        };
        set(first.as_fd(), lock(Kind::Exclusive, 0, 10)).unwrap();
        let refused = set(second.as_fd(), lock(Kind::Shared, 5, 1)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
        let found = obstacle(second.as_fd(), lock(Kind::Shared, 5, 0)).unwrap();
        assert_eq!(found, Some((lock(Kind::Exclusive, 0, 10), -1)));
        set(second.as_fd(), lock(Kind::Shared, 10, 0)).unwrap();
        set(first.as_fd(), lock(Kind::Unlocked, 0, 0)).unwrap();
        assert_eq!(
            obstacle(second.as_fd(), lock(Kind::Exclusive, 0, 0)).unwrap(),
            None
        );
        std::fs::remove_file(&path).unwrap();
    }
}
