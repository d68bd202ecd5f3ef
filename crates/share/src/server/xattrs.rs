//! Extended attributes, among them access control lists: xattr(7).

use std::ffi::CStr;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::Session;
use crate::handles::path_of;
use crate::protocol::{MAX_XATTR, Put, REPLY_HEADER, ROOT};

impl Session<'_> {
    /// Room for a value of the size that was asked for, or any.
    fn room(&mut self, size: usize) -> &mut [u8] {
        let size = if size == 0 {
            MAX_XATTR
        } else {
            size.min(MAX_XATTR)
        };
        self.out.resize(REPLY_HEADER + size, 0);
        &mut self.out[REPLY_HEADER..]
    }

    /// Whoever asks with size 0 wants to know the size.
    fn tell(&mut self, length: usize, size: usize) {
        self.out.truncate(REPLY_HEADER + length);
        if size == 0 {
            self.out.truncate(REPLY_HEADER);
            self.out.put_u32(length as u32);
            self.out.put_u32(0);
        }
    }

    pub(super) fn get_xattr(&mut self, node: u64, name: &CStr, size: usize) -> Result<(), Errno> {
        let path = path_of(&*self.nodes.descriptor(node)?);
        let length = getxattr(path, name, self.room(size))?;
        self.tell(length, size);
        Ok(())
    }

    pub(super) fn list_xattr(&mut self, node: u64, size: usize) -> Result<(), Errno> {
        let path = path_of(&*self.nodes.descriptor(node)?);
        let length = listxattr(path, self.room(size))?;
        self.tell(length, size);
        Ok(())
    }

    pub(super) fn set_xattr(
        &mut self,
        node: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if node == ROOT {
            return Err(Errno::ROFS);
        }
        setxattr(path_of(&*self.nodes.descriptor(node)?), name, value, flags)
    }

    pub(super) fn remove_xattr(&mut self, node: u64, name: &CStr) -> Result<(), Errno> {
        if node == ROOT {
            return Err(Errno::ROFS);
        }
        removexattr(path_of(&*self.nodes.descriptor(node)?), name)
    }
}
