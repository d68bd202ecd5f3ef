//! Files and directories that the guest has open.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;

/// An open file.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    /// Its descriptor.
    pub(crate) descriptor: Arc<OwnedFd>,
    /// The node that it is.
    pub(crate) node: u64,
}

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) inode: u64,
    pub(crate) kind: FileType,
    /// Where the next one is.
    pub(crate) next: u64,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    descriptor: OwnedFd,
    /// Entries that were read and not handed out.
    entries: VecDeque<Entry>,
    /// Where the first of them is.
    offset: u64,
}

impl Directory {
    /// One that is read from its beginning.
    pub(crate) fn new(descriptor: OwnedFd) -> Directory {
        Directory {
            descriptor,
            entries: VecDeque::new(),
            offset: 0,
        }
    }

    /// Its descriptor.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Goes to where the guest wants to read on.
    pub(crate) fn go_to(&mut self, offset: u64) -> Result<(), Errno> {
        // From the beginning means: as it is now.
        if offset != self.offset || offset == 0 {
            self.entries.clear();
            seek(&self.descriptor, SeekFrom::Start(offset))?;
            self.offset = offset;
        }
        Ok(())
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Errno> {
        if self.entries.is_empty() {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 8 << 10];
            let mut raw = RawDir::new(&self.descriptor, &mut buffer);
            while let Some(entry) = raw.next() {
                let entry = entry?;
                self.entries.push_back(Entry {
                    name: entry.file_name().to_owned(),
                    inode: entry.ino(),
                    kind: entry.file_type(),
                    next: entry.next_entry_cookie(),
                });
                if raw.is_buffer_empty() {
                    break;
                }
            }
        }
        let entry = self.entries.pop_front();
        if let Some(entry) = &entry {
            self.offset = entry.next;
        }
        Ok(entry)
    }

    /// Where the next entry is.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns an entry that there is no room for, which was at this offset.
    pub(crate) fn put_back(&mut self, entry: Entry, offset: u64) {
        self.entries.push_front(entry);
        self.offset = offset;
    }
}

#[derive(Debug)]
enum Handle {
    File(Open),
    Directory(Directory),
}

/// All of them, by the numbers that the guest has for them.
#[derive(Debug)]
pub(crate) struct Handles {
    handles: HashMap<u64, Handle>,
    next: u64,
    most: usize,
}

impl Handles {
    /// None, and at most so many.
    pub(crate) fn new(most: usize) -> Handles {
        Handles {
            handles: HashMap::new(),
            next: 1,
            most,
        }
    }

    fn add(&mut self, handle: Handle) -> Result<u64, Errno> {
        if self.handles.len() >= self.most {
            return Err(Errno::NFILE);
        }
        let number = self.next;
        self.next += 1;
        self.handles.insert(number, handle);
        Ok(number)
    }

    /// Adds a file.
    pub(crate) fn add_file(&mut self, descriptor: OwnedFd, node: u64) -> Result<u64, Errno> {
        self.add(Handle::File(Open {
            descriptor: Arc::new(descriptor),
            node,
        }))
    }

    /// Adds a directory.
    pub(crate) fn add_directory(&mut self, descriptor: OwnedFd) -> Result<u64, Errno> {
        self.add(Handle::Directory(Directory::new(descriptor)))
    }

    /// An open file.
    pub(crate) fn file(&self, number: u64) -> Result<&Open, Errno> {
        match self.handles.get(&number) {
            Some(Handle::File(open)) => Ok(open),
            _ => Err(Errno::BADF),
        }
    }

    /// An open directory.
    pub(crate) fn directory(&mut self, number: u64) -> Result<&mut Directory, Errno> {
        match self.handles.get_mut(&number) {
            Some(Handle::Directory(directory)) => Ok(directory),
            _ => Err(Errno::BADF),
        }
    }

    /// Takes a directory out, to be [returned](Handles::put_back).
    pub(crate) fn take_directory(&mut self, number: u64) -> Result<Directory, Errno> {
        match self.handles.remove(&number) {
            Some(Handle::Directory(directory)) => Ok(directory),
            Some(other) => {
                self.handles.insert(number, other);
                Err(Errno::BADF)
            }
            None => Err(Errno::BADF),
        }
    }

    /// Returns what was taken out.
    pub(crate) fn put_back(&mut self, number: u64, directory: Directory) {
        self.handles.insert(number, Handle::Directory(directory));
    }

    /// Closes one.
    pub(crate) fn remove(&mut self, number: u64) {
        self.handles.remove(&number);
    }
}

/// A path that leads to what a descriptor refers to, even `O_PATH` ones.
pub(crate) fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Opens what a descriptor refers to once more, in another way.
pub(crate) fn reopen(descriptor: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path_of(descriptor), flags | OFlags::CLOEXEC, Mode::empty())
}
