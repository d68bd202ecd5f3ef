//! Open files: open(2) to fsync(2).

use std::ffi::CStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{
    FallocateFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, copy_file_range, fallocate,
    openat2,
};
use rustix::io::{Errno, ReadWriteFlags, fcntl_dupfd_cloexec, pread, pwritev2};

use super::{CACHED, Session};
use crate::handles::reopen;
use crate::identity::{as_caller, without_privileges};
use crate::nodes::{Found, find};
use crate::protocol::{NOTIFY_ENTRY, NOTIFY_INODE, OPEN_WITHOUT_FLUSH, Put};
use crate::request::{Caller, Operation};
use crate::syncs;

/// Processes that were told to look again, at most.
const MOST_STALE: usize = 1024;
/// One copy_file_range(2) takes no longer than everybody else can wait.
const MAX_COPY: u64 = 16 << 20;

/// What of the guest's flags is meant for the host's file too. Writes say themselves whether they append, and O_DIRECT
/// promises nothing that the host could not break anyway.
fn flags_of(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
        & (OFlags::ACCMODE | OFlags::DSYNC | OFlags::SYNC | OFlags::NOATIME)
}

fn is_reading(flags: u32) -> bool {
    OFlags::from_bits_retain(flags) & OFlags::ACCMODE == OFlags::RDONLY
}

impl Session<'_> {
    /// Has the guest look again when the host has put another file at a node's place; once for one open(2), which fails
    /// when it hears so twice: what it has found then was there after it began.
    pub(super) fn check_place(&mut self, node: u64, caller: Caller) -> Result<(), Errno> {
        let looks_again = self.stale.remove(&caller.pid);
        if looks_again.is_some_and(|told| told.elapsed() < CACHED) {
            return Ok(());
        }
        let Some((parent, name)) = self.nodes.was_replaced(node)? else {
            return Ok(());
        };
        if self.stale.len() >= MOST_STALE {
            self.stale.clear();
        }
        self.stale.insert(caller.pid, Instant::now());
        let mut body = Vec::new();
        body.put_u64(parent);
        body.put_u32(name.count_bytes() as u32);
        body.put_u32(0);
        body.extend_from_slice(name.to_bytes_with_nul());
        self.notify(NOTIFY_ENTRY, &body)?;
        // open(2) then looks up all names anew: path_openat with LOOKUP_REVAL.
        Err(Errno::STALE)
    }

    /// Opens a file. Whoever opens it sees what the host has made of it, whatever the guest's kernel has cached.
    pub(super) fn open(
        &mut self,
        node: u64,
        flags: u32,
        kills: bool,
        caller: Caller,
    ) -> Result<(), Errno> {
        match self.nodes.kind(node)? {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // The guest's kernel opens its own devices, pipes and sockets.
            _ => return Err(Errno::NXIO),
        }
        self.check_place(node, caller)?;
        if self.nodes.has_changed(node)? {
            let mut body = Vec::new();
            body.put_u64(node);
            // Attributes alone: pages are dropped by the guest's kernel when it opens a file.
            body.put_u64(u64::MAX);
            body.put_u64(0);
            self.notify(NOTIFY_INODE, &body)?;
        }
        let descriptor = self.nodes.descriptor(node)?;
        let truncate = OFlags::from_bits_retain(flags) & OFlags::TRUNC;
        let file = without_privileges(kills && !truncate.is_empty(), || {
            reopen(&descriptor, flags_of(flags) | truncate)
        })?;
        self.tell_of_open(file, node, flags)
    }

    fn tell_of_open(&mut self, file: OwnedFd, node: u64, flags: u32) -> Result<(), Errno> {
        let handle = self.handles.add_file(file, node)?;
        self.out.put_u64(handle);
        self.out.put_u32(match is_reading(flags) {
            true => OPEN_WITHOUT_FLUSH,
            false => 0,
        });
        self.out.put_u32(0);
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        (parent, name): (u64, &CStr),
        (flags, mode, umask): (u32, u32, u32),
        kills: bool,
        caller: Caller,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let how = flags_of(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = as_caller(caller, umask, || {
            openat2(
                &*directory,
                name,
                how | OFlags::NOFOLLOW,
                Mode::from_raw_mode(mode & 0o7777),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            )
        });
        let is_exclusive = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        match made {
            Ok(file) => {
                let found = Found::of(reopen(&file, OFlags::PATH)?)?;
                self.tell_of(found, (parent, name))?;
                let node = self.told();
                self.tell_of_open(file, node, flags)
            }
            Err(Errno::EXIST) if !is_exclusive => {
                // The host was faster than the guest.
                let found = find(&*directory, name)?;
                self.tell_of(found, (parent, name))?;
                let node = self.told();
                match self.nodes.kind(node)? {
                    FileType::RegularFile => self.open(node, flags, kills, caller),
                    FileType::Symlink => Err(Errno::STALE),
                    _ => Err(Errno::EXIST),
                }
                .inspect_err(|_| self.nodes.forget(node, 1))
            }
            Err(errno) => Err(errno),
        }
    }

    /// The node that the reply being made begins with.
    fn told(&self) -> u64 {
        let bytes = self
            .out
            .get(crate::protocol::REPLY_HEADER..)
            .unwrap_or_default();
        bytes
            .first_chunk()
            .map_or(0, |node| u64::from_le_bytes(*node))
    }

    pub(super) fn temporary_file(
        &mut self,
        parent: u64,
        (flags, mode, umask): (u32, u32, u32),
        caller: Caller,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let unlinkable = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let how = flags_of(flags) | OFlags::TMPFILE | OFlags::CLOEXEC | unlinkable;
        let file = as_caller(caller, umask, || {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            openat2(&*directory, c".", how, mode, ResolveFlags::BENEATH)
        })?;
        let found = Found::of(reopen(&file, OFlags::PATH)?)?;
        let statx = found.statx;
        let node = self.nodes.add(found, None)?;
        self.put_entry(node, &statx);
        self.tell_of_open(file, node, flags)
    }

    pub(super) fn read(&mut self, handle: u64, offset: u64, size: usize) -> Result<(), Errno> {
        let file = self.handles.file(handle)?.descriptor.clone();
        let mut end = self.out.len();
        self.out.resize(end + size, 0);
        let begin = end;
        // Less than was asked for means to the guest that the file ends there.
        while end < self.out.len() {
            let at = offset
                .checked_add((end - begin) as u64)
                .ok_or(Errno::INVAL)?;
            match pread(&*file, &mut self.out[end..], at) {
                Ok(0) => break,
                Ok(got) => end += got,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.out.truncate(end);
        Ok(())
    }

    pub(super) fn write(&mut self, operation: Operation<'_>) -> Result<(), Errno> {
        let Operation::Write {
            handle,
            offset,
            data,
            flags,
            is_from_cache,
            kills_privileges,
        } = operation
        else {
            return Err(Errno::INVAL);
        };
        let file = self.handles.file(handle)?.descriptor.clone();
        let flags = OFlags::from_bits_retain(flags);
        let mut how = ReadWriteFlags::empty();
        for (flag, likewise) in [
            (OFlags::APPEND, ReadWriteFlags::APPEND),
            (OFlags::DSYNC, ReadWriteFlags::DSYNC),
            (OFlags::SYNC, ReadWriteFlags::SYNC),
        ] {
            // Pages of a mapping belong where they are, however the file was opened.
            if flags.contains(flag) && !(is_from_cache && flag == OFlags::APPEND) {
                how |= likewise;
            }
        }
        let written = without_privileges(kills_privileges, || {
            let mut written = 0;
            while written < data.len() {
                let parts = [IoSlice::new(&data[written..])];
                let at = offset.checked_add(written as u64).ok_or(Errno::FBIG)?;
                match pwritev2(&*file, &parts, at, how) {
                    Ok(0) => break,
                    Ok(count) => written += count,
                    Err(Errno::INTR) => {}
                    Err(errno) if written == 0 => return Err(errno),
                    // What was written counts; the next write meets the error.
                    Err(_) => break,
                }
            }
            Ok(written)
        })?;
        self.out.put_u32(written as u32);
        self.out.put_u32(0);
        Ok(())
    }

    /// Begins to write a file or directory back to the disk; `None`: it is answered later.
    pub(super) fn sync(
        &mut self,
        unique: u64,
        handle: u64,
        is_data_only: bool,
    ) -> Option<Result<(), Errno>> {
        let file = match self.handles.directory(handle) {
            Ok(directory) => fcntl_dupfd_cloexec(directory.descriptor(), 0).map(Arc::new),
            Err(_) => self
                .handles
                .file(handle)
                .map(|open| open.descriptor.clone()),
        };
        match file {
            Ok(file) if self.syncs.begin(unique, &file, is_data_only) => None,
            Ok(file) => Some(syncs::sync(&file, is_data_only)),
            Err(errno) => Some(Err(errno)),
        }
    }

    pub(super) fn allocate(
        &mut self,
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<(), Errno> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        fallocate(
            &*self.handles.file(handle)?.descriptor,
            mode,
            offset,
            length,
        )
    }

    pub(super) fn seek(&mut self, handle: u64, offset: u64, whence: u32) -> Result<(), Errno> {
        const DATA: u32 = 3;
        const HOLE: u32 = 4;
        let to = match whence {
            DATA => SeekFrom::Data(offset),
            HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let found = rustix::fs::seek(&*self.handles.file(handle)?.descriptor, to)?;
        self.out.put_u64(found);
        Ok(())
    }

    pub(super) fn copy_range(
        &mut self,
        (handle, mut offset): (u64, u64),
        (into, mut into_offset): (u64, u64),
        length: u64,
    ) -> Result<(), Errno> {
        let (from, to) = (self.handles.file(handle)?, self.handles.file(into)?);
        let length = length.min(MAX_COPY) as usize;
        let copied = copy_file_range(
            &*from.descriptor,
            Some(&mut offset),
            &*to.descriptor,
            Some(&mut into_offset),
            length,
        )?;
        self.out.put_u32(copied as u32);
        self.out.put_u32(0);
        Ok(())
    }
}
