//! What files are: stat(2), chmod(2), chown(2), truncate(2), utimensat(2), statfs(2).

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    Uid, chmodat, chownat, fstatvfs, ftruncate, utimensat,
};
use rustix::io::Errno;

use super::{CACHED, Session};
use crate::handles::{path_of, reopen};
use crate::identity::without_privileges;
use crate::nodes;
use crate::protocol::{Put, ROOT};
use crate::request::{SetAttributes, Time};

fn timespec(time: Option<Time>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, UTIME_OMIT),
        Some(Time::Now) => (0, UTIME_NOW),
        Some(Time::At(seconds, nanoseconds)) => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

impl Session<'_> {
    /// Appends `struct fuse_attr_out`.
    fn put_status(&mut self, statx: &Statx) {
        self.out.put_u64(0);
        self.out.put_u32(CACHED.subsec_nanos());
        self.out.put_u32(0);
        let inode = self.nodes.inode(statx);
        self.out.put_attributes(inode, statx);
    }

    pub(super) fn get_attributes(&mut self, node: u64, handle: Option<u64>) -> Result<(), Errno> {
        let open = handle.and_then(|handle| self.handles.file(handle).ok());
        let statx = match open.filter(|open| open.node == node) {
            Some(open) => {
                let statx = nodes::status(&*open.descriptor)?;
                self.nodes.tell(node, &statx);
                statx
            }
            None => self.nodes.status(node)?,
        };
        self.put_status(&statx);
        Ok(())
    }

    pub(super) fn set_attributes(
        &mut self,
        node: u64,
        wanted: &SetAttributes,
    ) -> Result<(), Errno> {
        if node == ROOT {
            return Err(Errno::ROFS);
        }
        let descriptor = self.nodes.descriptor(node)?;
        if wanted.uid.is_some() || wanted.gid.is_some() {
            let uid = wanted.uid.filter(|uid| *uid != u32::MAX).map(Uid::from_raw);
            let gid = wanted.gid.filter(|gid| *gid != u32::MAX).map(Gid::from_raw);
            chownat(&*descriptor, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = wanted.mode {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            chmodat(CWD, path_of(&descriptor), mode, AtFlags::empty())?;
        }
        if let Some(size) = wanted.size {
            let open = wanted
                .handle
                .and_then(|handle| self.handles.file(handle).ok());
            let open = open.filter(|open| open.node == node).cloned();
            without_privileges(wanted.kills_privileges, || match &open {
                Some(open) => ftruncate(&*open.descriptor, size),
                None => self.truncate(node, size),
            })?;
        }
        if wanted.accessed.is_some() || wanted.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(wanted.accessed),
                last_modification: timespec(wanted.modified),
            };
            utimensat(CWD, path_of(&descriptor), &times, AtFlags::empty())?;
        }
        let statx = self.nodes.status(node)?;
        self.put_status(&statx);
        Ok(())
    }

    fn truncate(&mut self, node: u64, size: u64) -> Result<(), Errno> {
        match self.nodes.kind(node)? {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let file = reopen(&*self.nodes.descriptor(node)?, OFlags::WRONLY)?;
        ftruncate(file, size)
    }

    pub(super) fn statistics(&mut self, node: u64) -> Result<(), Errno> {
        let all = fstatvfs(&*self.nodes.descriptor(node)?)?;
        for blocks in [
            all.f_blocks,
            all.f_bfree,
            all.f_bavail,
            all.f_files,
            all.f_ffree,
        ] {
            self.out.put_u64(blocks);
        }
        for size in [all.f_bsize, all.f_namemax, all.f_frsize] {
            self.out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
        }
        for _ in 0..7 {
            self.out.put_u32(0);
        }
        Ok(())
    }
}
