//! Lists of names: getdents(2).

use std::ffi::CStr;

use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::Errno;

use super::Session;
use crate::handles::{Directory, reopen};
use crate::nodes::find;
use crate::protocol::{Put, REPLY_HEADER, ROOT, padding};
use crate::request::Caller;

/// Bytes of `struct fuse_entry_out`.
const ENTRY: usize = 128;
/// Bytes of `struct fuse_dirent` before the name.
const DIRENT: usize = 24;

impl Session<'_> {
    pub(super) fn open_directory(&mut self, node: u64, caller: Caller) -> Result<(), Errno> {
        if self.nodes.kind(node)? != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        self.check_place(node, caller)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let descriptor = reopen(&*self.nodes.descriptor(node)?, flags)?;
        let handle = self.handles.add_directory(descriptor)?;
        self.out.put_u64(handle);
        self.out.put_u64(0);
        Ok(())
    }

    pub(super) fn read_directory(
        &mut self,
        node: u64,
        handle: u64,
        (offset, size): (u64, usize),
        with_attributes: bool,
    ) -> Result<(), Errno> {
        let mut directory = self.handles.take_directory(handle)?;
        let end = REPLY_HEADER + size;
        let outcome = match node {
            ROOT => self.list_shares(offset, end, with_attributes),
            _ => self.list(node, &mut directory, (offset, end), with_attributes),
        };
        self.handles.put_back(handle, directory);
        outcome
    }

    /// Lists as much as there is room for up to `end`.
    fn list(
        &mut self,
        node: u64,
        directory: &mut Directory,
        (offset, end): (u64, usize),
        with_attributes: bool,
    ) -> Result<(), Errno> {
        directory.go_to(offset)?;
        loop {
            let is_first = self.out.len() == REPLY_HEADER;
            let before = directory.offset();
            let entry = match directory.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                // What was found before is told first.
                Err(_) if !is_first => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let name = entry.name.to_bytes();
            let head = if with_attributes { ENTRY } else { 0 };
            if self.out.len() + head + DIRENT + name.len() + padding(name.len()) > end {
                directory.put_back(entry, before);
                return Ok(());
            }
            let mut inode = self.nodes.inode_beside(node, entry.inode);
            let mut kind = entry.kind;
            if with_attributes {
                match self.find_listed(node, directory, &entry.name) {
                    Some((child, statx)) => {
                        inode = self.nodes.inode(&statx);
                        kind = FileType::from_raw_mode(statx.stx_mode.into());
                        self.put_entry(child, &statx);
                    }
                    // Without a node the guest's kernel takes the name alone.
                    None => self.out.resize(self.out.len() + ENTRY, 0),
                }
            }
            self.out.put_dirent(inode, entry.next, kind, name);
        }
    }

    fn find_listed(
        &mut self,
        parent: u64,
        directory: &Directory,
        name: &CStr,
    ) -> Option<(u64, Statx)> {
        if matches!(name.to_bytes(), b"." | b"..") || self.nodes.are_many() {
            return None;
        }
        let found = find(directory.descriptor(), name).ok()?;
        let statx = found.statx;
        let child = self.nodes.add(found, Some((parent, name))).ok()?;
        Some((child, statx))
    }

    fn list_shares(&mut self, offset: u64, end: usize, with_attributes: bool) -> Result<(), Errno> {
        for index in usize::try_from(offset).unwrap_or(usize::MAX)..self.roots.len() {
            let node = self.roots[index];
            let name = index.to_string();
            let head = if with_attributes { ENTRY } else { 0 };
            if self.out.len() + head + DIRENT + name.len() + padding(name.len()) > end {
                break;
            }
            let statx = self.nodes.status(node)?;
            if with_attributes {
                self.put_entry(node, &statx);
            }
            let kind = FileType::from_raw_mode(statx.stx_mode.into());
            let inode = self.nodes.inode(&statx);
            self.out
                .put_dirent(inode, index as u64 + 1, kind, name.as_bytes());
        }
        Ok(())
    }
}
