//! Names in directories: they are found, made, moved and removed.

use std::ffi::CStr;

use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, linkat, mkdirat, mknodat, readlinkat, renameat_with,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::Session;
use crate::identity::as_caller;
use crate::nodes::{Found, find};
use crate::protocol::{ROOT, device};
use crate::request::Caller;

impl Session<'_> {
    pub(super) fn lookup(&mut self, parent: u64, name: &CStr) -> Result<(), Errno> {
        if parent == ROOT {
            let index = name
                .to_str()
                .ok()
                .and_then(|name| name.parse::<usize>().ok());
            let node = index.and_then(|index| self.roots.get(index)).copied();
            let node = node.ok_or(Errno::NOENT)?;
            let statx = self.nodes.status(node)?;
            self.put_entry(node, &statx);
            return Ok(());
        }
        let directory = self.directory(parent)?;
        let found = find(&*directory, name)?;
        self.tell_of(found, (parent, name))
    }

    /// Answers with what was found or made.
    pub(super) fn tell_of(&mut self, found: Found, place: (u64, &CStr)) -> Result<(), Errno> {
        let statx = found.statx;
        let node = self.nodes.add(found, Some(place))?;
        self.put_entry(node, &statx);
        Ok(())
    }

    fn tell_of_new(&mut self, parent: u64, name: &CStr) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let found = find(&*directory, name)?;
        self.tell_of(found, (parent, name))
    }

    pub(super) fn symlink(
        &mut self,
        parent: u64,
        name: &CStr,
        target: &CStr,
        caller: Caller,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        as_caller(caller, 0, || symlinkat(target, &*directory, name))?;
        self.tell_of_new(parent, name)
    }

    pub(super) fn make_node(
        &mut self,
        parent: u64,
        name: &CStr,
        (mode, number, umask): (u32, u32, u32),
        caller: Caller,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let kind = FileType::from_raw_mode(mode);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        as_caller(caller, umask, || {
            mknodat(&*directory, name, kind, mode, device(number))
        })?;
        self.tell_of_new(parent, name)
    }

    pub(super) fn make_directory(
        &mut self,
        parent: u64,
        name: &CStr,
        (mode, umask): (u32, u32),
        caller: Caller,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        as_caller(caller, umask, || mkdirat(&*directory, name, mode))?;
        self.tell_of_new(parent, name)
    }

    pub(super) fn link(&mut self, node: u64, parent: u64, name: &CStr) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let existing = self.nodes.descriptor(node)?;
        linkat(&*existing, "", &*directory, name, AtFlags::EMPTY_PATH)?;
        self.tell_of_new(parent, name)
    }

    pub(super) fn unlink(
        &mut self,
        parent: u64,
        name: &CStr,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        let known = self.nodes.known(parent, name);
        let flags = match is_directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        unlinkat(&*directory, name, flags)?;
        if let Some(node) = known {
            self.nodes.removed(node, parent, name);
        }
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        (parent, name): (u64, &CStr),
        (new_parent, new_name): (u64, &CStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.directory(parent)?, self.directory(new_parent)?);
        let moved = self.nodes.known(parent, name);
        let replaced = self.nodes.known(new_parent, new_name);
        renameat_with(&*from, name, &*to, new_name, flags)?;
        if moved == replaced {
            // Two names of one file: nothing happened.
            return Ok(());
        }
        if let Some(node) = replaced {
            match flags.contains(RenameFlags::EXCHANGE) {
                true => self.nodes.moved(node, parent, name),
                false => self.nodes.removed(node, new_parent, new_name),
            }
        }
        if let Some(node) = moved {
            self.nodes.moved(node, new_parent, new_name);
        }
        Ok(())
    }

    pub(super) fn read_link(&mut self, node: u64) -> Result<(), Errno> {
        if self.nodes.kind(node)? != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = readlinkat(&*self.nodes.descriptor(node)?, c"", Vec::new())?;
        self.out.extend_from_slice(target.to_bytes());
        Ok(())
    }
}
