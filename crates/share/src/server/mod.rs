//! The server: one request after the other, each answered from the host's files. Only who waits for a lock or for a
//! disk is answered later.
//!
//! Nothing of the host's files is cached here. What the guest's kernel caches, and for how long, is decided in
//! [`CACHED`] and [`Session::open`].

mod attributes;
mod directories;
mod files;
mod names;
mod waiting;
mod xattrs;

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode, OFlags, Statx};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::MAX_SHARES;
use crate::handles::Handles;
use crate::locks::Locks;
use crate::nodes::{Found, Nodes};
use crate::protocol::{
    MAJOR, MAX_DATA, MAX_REQUEST, MINOR, OLDEST_MINOR, Put, REPLY_HEADER, ROOT, init,
};
use crate::request::{self, LengthError, Operation, Request};
use crate::syncs::Syncs;

/// For so long the guest's kernel believes names and attributes without asking. Changes of the host are seen after that at
/// the latest; by open(2) at once.
const CACHED: Duration = Duration::from_millis(100);

/// Why the server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It was not started by [`spawn`](crate::spawn).
    #[error("it is started by isle-shim, with the number of shares, at most {MAX_SHARES}")]
    Arguments,
    /// A share cannot be opened.
    #[error("cannot open share {index}")]
    Share {
        /// Which.
        index: usize,
        /// Why.
        source: io::Error,
    },
    /// The connection is broken.
    #[error("cannot {what} the guest")]
    Connection {
        /// To read from or to write to.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The guest says what makes no sense.
    #[error("the guest sent no request")]
    Protocol(#[from] LengthError),
}

/// `isle-share COUNT`: serves `/0` to `/COUNT-1` to the guest at the other end of standard input, until that is closed.
///
/// # Errors
/// [`ServeError`]
pub fn main(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<(), ServeError> {
    let count = arguments
        .nth(1)
        .and_then(|count| count.to_str()?.parse().ok());
    let count: usize = count
        .filter(|count| *count <= MAX_SHARES)
        .ok_or(ServeError::Arguments)?;
    let mut shares = Vec::new();
    for index in 0..count {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let share = rustix::fs::open(format!("/{index}"), flags, Mode::empty());
        shares.push(share.map_err(|errno| ServeError::Share {
            index,
            source: errno.into(),
        })?);
    }
    Session::new(rustix::stdio::stdin(), shares)?.serve()
}

/// What one guest knows and has open.
#[derive(Debug)]
pub struct Session<'a> {
    connection: BorrowedFd<'a>,
    shares: Vec<OwnedFd>,
    /// The nodes of the shares.
    roots: Vec<u64>,
    nodes: Nodes,
    handles: Handles,
    locks: Locks,
    syncs: Syncs,
    /// Processes that were told that a file is out of date, and when.
    stale: HashMap<u32, Instant>,
    /// The reply that is being made, behind room for its header.
    out: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A session for a guest that gets these folders and files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(
        connection: BorrowedFd<'a>,
        shares: Vec<OwnedFd>,
    ) -> Result<Session<'a>, ServeError> {
        let mut session = Session {
            connection,
            shares,
            roots: Vec::new(),
            nodes: Nodes::new(0),
            handles: Handles::new(0),
            locks: Locks::new(0),
            syncs: Syncs::new().map_err(failed_to("wait for"))?,
            stale: HashMap::new(),
            out: Vec::new(),
        };
        session.reset()?;
        Ok(session)
    }

    /// Forgets what a guest knew.
    fn reset(&mut self) -> Result<(), ServeError> {
        let most = descriptors();
        self.nodes = Nodes::new(most / 2);
        self.handles = Handles::new(most / 4);
        self.locks = Locks::new(most / 8);
        self.syncs = Syncs::new().map_err(failed_to("wait for"))?;
        self.stale.clear();
        self.roots.clear();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut all = vec![rustix::fs::open("/", flags, Mode::empty())];
        all.extend(
            self.shares
                .iter()
                .map(|share| rustix::io::fcntl_dupfd_cloexec(share, 0)),
        );
        for (index, share) in all.into_iter().enumerate() {
            let node = share
                .and_then(Found::of)
                .and_then(|found| self.nodes.add_forever(found));
            let node = node.map_err(|errno| ServeError::Share {
                index: index.saturating_sub(1),
                source: errno.into(),
            })?;
            if index > 0 {
                self.roots.push(node);
            }
        }
        Ok(())
    }

    /// Serves until the other end is closed.
    ///
    /// # Errors
    /// [`ServeError`]
    pub fn serve(&mut self) -> Result<(), ServeError> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.serve_on() {
            Err(ServeError::Connection { source, .. })
                if matches!(source.kind(), BrokenPipe | ConnectionReset) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn serve_on(&mut self) -> Result<(), ServeError> {
        let mut input: Vec<u8> = Vec::with_capacity(MAX_REQUEST);
        loop {
            while let Some(length) = request::length(&input)? {
                let Some(bytes) = input.get(..length) else {
                    break;
                };
                self.take(bytes)?;
                input.drain(..length);
            }
            if !self.receive(&mut input)? {
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ServeError> {
        let request = request::parse(bytes)?;
        self.begin();
        if let Ok(Operation::Init { .. }) = request.operation {
            self.reset()?;
        }
        let outcome = match request.operation {
            Ok(Operation::SetLock {
                request: lock,
                waits,
            }) => return self.set_lock(request.unique, request.caller.pid, lock, waits),
            Ok(Operation::Sync {
                handle,
                is_data_only,
            }) => {
                return match self.sync(request.unique, handle, is_data_only) {
                    None => Ok(()),
                    Some(outcome) => self.finish(request.unique, outcome),
                };
            }
            Ok(Operation::Interrupt { unique }) => {
                // Everything else is done by now, or will be: a disk cannot be interrupted.
                return match self.locks.interrupt(unique) {
                    true => self.finish(unique, Err(Errno::INTR)),
                    false => Ok(()),
                };
            }
            Ok(operation) => self.perform(&request, operation),
            Err(errno) => Err(errno),
        };
        match request.is_answered {
            true => self.finish(request.unique, outcome),
            false => Ok(()),
        }
    }

    fn perform(&mut self, request: &Request<'_>, operation: Operation<'_>) -> Result<(), Errno> {
        let (node, caller) = (request.node, request.caller);
        match operation {
            Operation::Init {
                major,
                minor,
                max_readahead,
                flags,
            } => self.init(major, minor, max_readahead, flags),
            Operation::Destroy => Ok(()),
            Operation::Forget { lookups } => {
                self.nodes.forget(node, lookups);
                Ok(())
            }
            Operation::BatchForget(all) => {
                for (node, lookups) in all {
                    self.nodes.forget(node, lookups);
                }
                Ok(())
            }
            Operation::Lookup { name } => self.lookup(node, name),
            Operation::GetAttributes { handle } => self.get_attributes(node, handle),
            Operation::SetAttributes(wanted) => self.set_attributes(node, &wanted),
            Operation::ReadLink => self.read_link(node),
            Operation::Symlink { name, target } => self.symlink(node, name, target, caller),
            Operation::MakeNode {
                name,
                mode,
                device,
                umask,
            } => self.make_node(node, name, (mode, device, umask), caller),
            Operation::MakeDirectory { name, mode, umask } => {
                self.make_directory(node, name, (mode, umask), caller)
            }
            Operation::Unlink { name } => self.unlink(node, name, false),
            Operation::RemoveDirectory { name } => self.unlink(node, name, true),
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => self.rename((node, name), (new_parent, new_name), flags),
            Operation::Link {
                node: existing,
                new_name,
            } => self.link(existing, node, new_name),
            Operation::Open {
                flags,
                kills_privileges,
            } => self.open(node, flags, kills_privileges, caller),
            Operation::Create {
                name,
                flags,
                mode,
                umask,
                kills_privileges,
            } => self.create((node, name), (flags, mode, umask), kills_privileges, caller),
            Operation::TemporaryFile { flags, mode, umask } => {
                self.temporary_file(node, (flags, mode, umask), caller)
            }
            Operation::Read {
                handle,
                offset,
                size,
            } => self.read(handle, offset, size),
            Operation::Write { .. } => self.write(operation),
            Operation::Flush { handle, owner } => {
                let node = self.handles.file(handle)?.node;
                self.locks.close(node, owner);
                Ok(())
            }
            Operation::Release { handle } => {
                self.locks.release(handle);
                self.handles.remove(handle);
                Ok(())
            }
            Operation::ReleaseDirectory { handle } => {
                self.handles.remove(handle);
                Ok(())
            }
            Operation::Allocate {
                handle,
                offset,
                length,
                mode,
            } => self.allocate(handle, offset, length, mode),
            Operation::Seek {
                handle,
                offset,
                whence,
            } => self.seek(handle, offset, whence),
            Operation::CopyRange {
                handle,
                offset,
                into,
                into_offset,
                length,
            } => self.copy_range((handle, offset), (into, into_offset), length),
            Operation::Statistics => self.statistics(node),
            Operation::OpenDirectory => self.open_directory(node, caller),
            Operation::ReadDirectory {
                handle,
                offset,
                size,
                with_attributes,
            } => self.read_directory(node, handle, (offset, size), with_attributes),
            Operation::GetXattr { name, size } => self.get_xattr(node, name, size),
            Operation::SetXattr { name, value, flags } => self.set_xattr(node, name, value, flags),
            Operation::ListXattr { size } => self.list_xattr(node, size),
            Operation::RemoveXattr { name } => self.remove_xattr(node, name),
            Operation::GetLock(request) => self.get_lock(&request, caller.pid),
            // They are answered later.
            Operation::SetLock { .. } | Operation::Sync { .. } | Operation::Interrupt { .. } => {
                Err(Errno::INVAL)
            }
        }
    }

    fn init(
        &mut self,
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    ) -> Result<(), Errno> {
        // As many as pipelines of the guest's kernel may fill.
        const BACKGROUND: u16 = 64;
        if major < MAJOR || (major == MAJOR && minor < OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        self.out.put_u32(MAJOR);
        self.out.put_u32(MINOR);
        if major > MAJOR {
            // It asks again in our version.
            self.out.resize(REPLY_HEADER + 64, 0);
            return Ok(());
        }
        self.out.put_u32(max_readahead.min(MAX_DATA as u32));
        self.out.put_u32(flags & init::WANTED);
        self.out.put_u16(BACKGROUND);
        self.out.put_u16(BACKGROUND / 4 * 3);
        self.out.put_u32(MAX_DATA as u32);
        self.out.put_u32(1); // Times have nanoseconds.
        self.out.put_u16((MAX_DATA / 4096) as u16);
        self.out.resize(REPLY_HEADER + 64, 0);
        Ok(())
    }

    /// Makes room for a reply's header.
    fn begin(&mut self) {
        self.out.clear();
        self.out.resize(REPLY_HEADER, 0);
    }

    fn head(&mut self, unique: u64, error: i32) {
        let length = self.out.len() as u32;
        self.out[..4].copy_from_slice(&length.to_le_bytes());
        self.out[4..8].copy_from_slice(&error.to_le_bytes());
        self.out[8..REPLY_HEADER].copy_from_slice(&unique.to_le_bytes());
    }

    fn finish(&mut self, unique: u64, outcome: Result<(), Errno>) -> Result<(), ServeError> {
        if outcome.is_err() {
            self.begin();
        }
        self.head(
            unique,
            outcome.map_or_else(|errno| -errno.raw_os_error(), |()| 0),
        );
        self.send()
    }

    fn send(&mut self) -> Result<(), ServeError> {
        let out = std::mem::take(&mut self.out);
        let outcome = self.send_all(&out);
        self.out = out;
        outcome
    }

    fn send_all(&self, mut bytes: &[u8]) -> Result<(), ServeError> {
        while !bytes.is_empty() {
            match rustix::io::write(self.connection, bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.poll(PollFlags::OUT)?,
                Err(errno) => return Err(failed_to("write to")(errno)),
            }
        }
        Ok(())
    }

    /// Tells the guest's kernel something unasked, before the reply that is being made.
    fn notify(&self, code: i32, body: &[u8]) -> Result<(), Errno> {
        let mut bytes = Vec::with_capacity(REPLY_HEADER + body.len());
        bytes.put_u32((REPLY_HEADER + body.len()) as u32);
        bytes.put_u32(code.cast_unsigned());
        bytes.put_u64(0);
        bytes.extend_from_slice(body);
        // The reply itself will meet the same error.
        self.send_all(&bytes).map_err(|_| Errno::IO)
    }

    /// A directory in which the guest may use names: every one but that of the shares.
    fn directory(&mut self, node: u64) -> Result<std::rc::Rc<OwnedFd>, Errno> {
        match (node, self.nodes.kind(node)?) {
            (ROOT, _) => Err(Errno::ROFS),
            (_, FileType::Directory) => self.nodes.descriptor(node),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Appends `struct fuse_entry_out`.
    fn put_entry(&mut self, node: u64, statx: &Statx) {
        self.out.put_u64(node);
        self.out.put_u64(0);
        for seconds in [0, 0] {
            self.out.put_u64(seconds);
        }
        for nanoseconds in [CACHED.subsec_nanos(), CACHED.subsec_nanos()] {
            self.out.put_u32(nanoseconds);
        }
        let inode = self.nodes.inode(statx);
        self.out.put_attributes(inode, statx);
    }
}

fn failed_to(what: &'static str) -> impl Fn(Errno) -> ServeError {
    move |errno| ServeError::Connection {
        what,
        source: errno.into(),
    }
}

/// As many as the process may have; as many as it can get.
fn descriptors() -> usize {
    const ENOUGH: u64 = 1 << 20;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => most as usize,
        Err(_) => limit.current.unwrap_or(1024) as usize,
    }
}
