//! Waiting: for the guest, for locks, for a disk.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{ServeError, Session, failed_to};
use crate::locks::Waiting;
use crate::protocol::{MAX_REQUEST, Put};
use crate::request::{LockKind, LockRequest};

/// How often it is tried whether a lock that somebody waits for is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

impl Session<'_> {
    /// Reads what has come; `false` at the end. Tries locks meanwhile.
    pub(super) fn receive(&mut self, input: &mut Vec<u8>) -> Result<bool, ServeError> {
        input.reserve(MAX_REQUEST.saturating_sub(input.len()));
        loop {
            if !self.locks.waiting.is_empty() || self.syncs.bell().is_some() {
                self.await_others()?;
            }
            match rustix::io::read(self.connection, rustix::buffer::spare_capacity(input)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.poll(PollFlags::IN)?,
                Err(errno) => return Err(failed_to("read from")(errno)),
            }
        }
    }

    pub(super) fn poll(&self, what: PollFlags) -> Result<(), ServeError> {
        let mut descriptors = [PollFd::from_borrowed_fd(self.connection, what)];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(failed_to("wait for")(errno)),
        }
    }

    /// Waits until something comes, and meanwhile answers those who wait for locks and disks.
    fn await_others(&mut self) -> Result<(), ServeError> {
        loop {
            while let Some((unique, outcome)) = self.syncs.next() {
                self.begin();
                self.finish(unique, outcome)?;
            }
            self.try_locks()?;
            let has_locks = !self.locks.waiting.is_empty();
            if !has_locks && self.syncs.bell().is_none() {
                return Ok(());
            }
            let interval = Timespec {
                tv_sec: 0,
                tv_nsec: LOCK_INTERVAL.subsec_nanos().into(),
            };
            let mut descriptors = vec![PollFd::from_borrowed_fd(self.connection, PollFlags::IN)];
            descriptors.extend(
                self.syncs
                    .bell()
                    .map(|bell| PollFd::new(bell, PollFlags::IN)),
            );
            match poll(&mut descriptors, has_locks.then_some(&interval)) {
                Ok(_) if !descriptors[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed_to("wait for")(errno)),
            }
        }
    }

    /// Hands out locks that have become free.
    fn try_locks(&mut self) -> Result<(), ServeError> {
        for one in std::mem::take(&mut self.locks.waiting) {
            let open = self.handles.file(one.request.handle).cloned();
            match open.and_then(|open| self.locks.set(&open, &one.request, one.pid)) {
                Err(Errno::AGAIN) => self.locks.waiting.push(one),
                outcome => {
                    self.begin();
                    self.finish(one.unique, outcome)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_lock(
        &mut self,
        unique: u64,
        pid: u32,
        lock: LockRequest,
        waits: bool,
    ) -> Result<(), ServeError> {
        let open = self.handles.file(lock.handle).cloned();
        let mut outcome = open.and_then(|open| self.locks.set(&open, &lock, pid));
        if waits && outcome == Err(Errno::AGAIN) {
            outcome = self.locks.wait(Waiting {
                unique,
                pid,
                request: lock,
            });
            if outcome.is_ok() {
                // It is answered when the lock is free, or when it is given up.
                return Ok(());
            }
        }
        self.finish(unique, outcome)
    }

    pub(super) fn get_lock(&mut self, request: &LockRequest, pid: u32) -> Result<(), Errno> {
        const LAST: u64 = i64::MAX.cast_unsigned();
        let open = self.handles.file(request.handle)?.clone();
        let Some((lock, holder)) = self.locks.obstacle(&open, request, pid)? else {
            self.out.put_u64(request.start.cast_unsigned());
            self.out
                .put_u64(request.last.map_or(LAST, i64::cast_unsigned));
            self.out.put_u32(LockKind::Unlocked as u32);
            self.out.put_u32(0);
            return Ok(());
        };
        let start = lock.start.cast_unsigned();
        self.out.put_u64(start);
        self.out.put_u64(match lock.length {
            0 => LAST,
            length => start + length.cast_unsigned() - 1,
        });
        let kind = match lock.kind {
            isle_sys::lock::Kind::Shared => LockKind::Shared,
            isle_sys::lock::Kind::Exclusive => LockKind::Exclusive,
            isle_sys::lock::Kind::Unlocked => LockKind::Unlocked,
        };
        self.out.put_u32(kind as u32);
        self.out.put_u32(holder);
        Ok(())
    }
}
