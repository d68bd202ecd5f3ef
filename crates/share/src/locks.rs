//! Locks of processes of the guest, which count on the host too.
//!
//! flock(2) belongs to an open file, and every file that the guest opens is one of ours. Locks of fcntl(2) belong to a
//! process and a file: each such pair gets an open file of its own, whose locks stand for that process.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use isle_sys::lock::{self, Kind, Lock};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::handles::{Open, reopen};
use crate::request::{LockKind, LockRequest};

/// The most that wait at a time.
const MAX_WAITING: usize = 4096;

/// A request that waits for a lock.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Its number.
    pub(crate) unique: u64,
    /// The process that asks.
    pub(crate) pid: u32,
    /// What for.
    pub(crate) request: LockRequest,
}

#[derive(Debug)]
struct Owner {
    file: OwnedFd,
    /// The process that was the last to ask.
    pid: u32,
    /// The guest's open file that it asked with.
    handle: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Locks {
    owners: HashMap<(u64, u64), Owner>,
    most: usize,
    /// Those that wait, the first in front.
    pub(crate) waiting: Vec<Waiting>,
}

fn lock_of(request: &LockRequest) -> Result<Lock, Errno> {
    let length = match request.last {
        None => 0,
        Some(last) => (last - request.start).checked_add(1).ok_or(Errno::INVAL)?,
    };
    Ok(Lock {
        kind: match request.kind {
            LockKind::Shared => Kind::Shared,
            LockKind::Exclusive => Kind::Exclusive,
            LockKind::Unlocked => Kind::Unlocked,
        },
        start: request.start,
        length,
    })
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Locks {
    /// None, and at most so many open files for them.
    pub(crate) fn new(most: usize) -> Locks {
        Locks {
            owners: HashMap::new(),
            most,
            waiting: Vec::new(),
        }
    }

    fn owner(&mut self, open: &Open, request: &LockRequest, pid: u32) -> Result<&mut Owner, Errno> {
        let key = (open.node, request.owner);
        if !self.owners.contains_key(&key) {
            if self.owners.len() >= self.most {
                return Err(Errno::NOLCK);
            }
            let ways = [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY];
            let mut outcome = Err(Errno::ACCESS);
            for way in ways {
                outcome = reopen(&open.descriptor, way);
                if outcome.is_ok() {
                    break;
                }
            }
            self.owners.insert(
                key,
                Owner {
                    file: outcome?,
                    pid,
                    handle: request.handle,
                },
            );
        }
        let owner = self.owners.get_mut(&key).ok_or(Errno::NOLCK)?;
        (owner.pid, owner.handle) = (pid, request.handle);
        Ok(owner)
    }

    /// Takes, changes or lets go of a lock, without waiting.
    pub(crate) fn set(
        &mut self,
        open: &Open,
        request: &LockRequest,
        pid: u32,
    ) -> Result<(), Errno> {
        if request.is_flock {
            let operation = match request.kind {
                LockKind::Shared => FlockOperation::NonBlockingLockShared,
                LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
                LockKind::Unlocked => FlockOperation::NonBlockingUnlock,
            };
            return rustix::fs::flock(&open.descriptor, operation);
        }
        if request.kind == LockKind::Unlocked
            && !self.owners.contains_key(&(open.node, request.owner))
        {
            return Ok(());
        }
        let lock = lock_of(request)?;
        let owner = self.owner(open, request, pid)?;
        lock::set(owner.file.as_fd(), lock).map_err(|error| errno(&error))
    }

    /// The lock that would be in the way, and the process of the guest that has it, 0 for one of the host.
    pub(crate) fn obstacle(
        &mut self,
        open: &Open,
        request: &LockRequest,
        pid: u32,
    ) -> Result<Option<(Lock, u32)>, Errno> {
        let lock = lock_of(request)?;
        let asked = self.owner(open, request, pid)?;
        let found = lock::obstacle(asked.file.as_fd(), lock).map_err(|error| errno(&error))?;
        Ok(found.map(|(lock, pid)| {
            let is_of_guest = pid == -1;
            let mut others = (self.owners.iter())
                .filter(|((node, owner), _)| *node == open.node && *owner != request.owner);
            let holder = others.next().filter(|_| is_of_guest);
            (lock, holder.map_or(0, |(_, owner)| owner.pid))
        }))
    }

    /// A process has closed a file: its locks on it go.
    pub(crate) fn close(&mut self, node: u64, owner: u64) {
        self.owners.remove(&(node, owner));
    }

    /// An open file of the guest is gone: locks taken with it go.
    pub(crate) fn release(&mut self, handle: u64) {
        if !self.owners.is_empty() {
            self.owners.retain(|_, owner| owner.handle != handle);
        }
    }

    /// Has a request wait.
    pub(crate) fn wait(&mut self, waiting: Waiting) -> Result<(), Errno> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Errno::NOLCK);
        }
        self.waiting.push(waiting);
        Ok(())
    }

    /// A request that waits no longer.
    pub(crate) fn interrupt(&mut self, unique: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.unique != unique);
        self.waiting.len() < before
    }
}
