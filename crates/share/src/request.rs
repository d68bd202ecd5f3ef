//! What the guest asks for. Whatever bytes come, this reads them without harm: a request that makes no sense is
//! answered with `EINVAL`.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::protocol::{HEADER, MAX_DATA, MAX_REQUEST, opcode};

/// A name may be so long.
const MAX_NAME: usize = 255;
/// A link may be so long.
const MAX_TARGET: usize = 4095;
/// The name of an extended attribute may be so long.
const MAX_XATTR_NAME: usize = 255;

/// The bytes are no request, nor is what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request of {0} bytes; they have at least {HEADER} and at most {MAX_REQUEST}")]
pub struct LengthError(pub usize);

/// How long the request is that begins with these bytes; `None`: more of it is needed to tell.
///
/// # Errors
/// When no request is that long.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, LengthError> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    match u32::from_le_bytes(*length) as usize {
        length @ HEADER..=MAX_REQUEST => Ok(Some(length)),
        length => Err(LengthError(length)),
    }
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its number, for the reply.
    pub unique: u64,
    /// What it is about.
    pub node: u64,
    /// Who asks.
    pub caller: Caller,
    /// What for; else the error to answer with.
    pub operation: Result<Operation<'a>, Errno>,
    /// Whether it is answered at all.
    pub is_answered: bool,
}

/// The process in the guest that a request comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
}

/// What a request is about. The fields are those of the records in `linux/fuse.h`.
#[allow(missing_docs, reason = "they are those of the kernel's header")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    Destroy,
    Interrupt {
        unique: u64,
    },
    Forget {
        lookups: u64,
    },
    BatchForget(Forgotten<'a>),
    Lookup {
        name: &'a CStr,
    },
    GetAttributes {
        handle: Option<u64>,
    },
    SetAttributes(SetAttributes),
    ReadLink,
    Symlink {
        name: &'a CStr,
        target: &'a CStr,
    },
    MakeNode {
        name: &'a CStr,
        mode: u32,
        device: u32,
        umask: u32,
    },
    MakeDirectory {
        name: &'a CStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a CStr,
    },
    RemoveDirectory {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        new_parent: u64,
        new_name: &'a CStr,
        flags: u32,
    },
    Link {
        node: u64,
        new_name: &'a CStr,
    },
    Open {
        flags: u32,
        kills_privileges: bool,
    },
    Create {
        name: &'a CStr,
        flags: u32,
        mode: u32,
        umask: u32,
        kills_privileges: bool,
    },
    TemporaryFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: usize,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        flags: u32,
        is_from_cache: bool,
        kills_privileges: bool,
    },
    Flush {
        handle: u64,
        owner: u64,
    },
    Release {
        handle: u64,
    },
    Sync {
        handle: u64,
        is_data_only: bool,
    },
    Allocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyRange {
        handle: u64,
        offset: u64,
        into: u64,
        into_offset: u64,
        length: u64,
    },
    Statistics,
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        size: usize,
        with_attributes: bool,
    },
    ReleaseDirectory {
        handle: u64,
    },
    GetXattr {
        name: &'a CStr,
        size: usize,
    },
    SetXattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
    },
    ListXattr {
        size: usize,
    },
    RemoveXattr {
        name: &'a CStr,
    },
    GetLock(LockRequest),
    SetLock {
        request: LockRequest,
        waits: bool,
    },
}

/// `struct fuse_setattr_in`
#[allow(missing_docs, reason = "they are those of the kernel's header")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
    pub handle: Option<u64>,
    pub kills_privileges: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// That of the host.
    Now,
    /// Seconds and nanoseconds since 1970.
    At(i64, u32),
}

/// `struct fuse_lk_in`
#[allow(missing_docs, reason = "they are those of the kernel's header")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    pub handle: u64,
    pub owner: u64,
    pub kind: LockKind,
    pub start: i64,
    /// The last byte; `None`: the end of the file.
    pub last: Option<i64>,
    pub is_flock: bool,
}

/// `F_RDLCK` and its kin.
#[allow(missing_docs, reason = "they are those of fcntl(2)")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    Shared,
    Exclusive,
    Unlocked,
}

/// Nodes, and how many lookups of each are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten<'a>(&'a [u8]);

impl Iterator for Forgotten<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let mut fields = Fields(self.0);
        let both = fields.u64().ok().zip(fields.u64().ok());
        self.0 = fields.0;
        both
    }
}

/// What is left of a request.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    /// Text up to its zero byte.
    fn text(&mut self, longest: usize) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        if text.is_empty() {
            return Err(Errno::INVAL);
        }
        if text.count_bytes() > longest {
            return Err(Errno::NAMETOOLONG);
        }
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// A name in a directory: nothing that could lead out of it.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text(MAX_NAME)?;
        match name.to_bytes() {
            b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }

    fn size(&mut self, largest: usize) -> Result<usize, Errno> {
        Ok((self.u32()? as usize).min(largest))
    }
}

/// Reads a request of the length that [`length`] has told.
///
/// # Errors
/// When there are fewer bytes than a header has.
pub fn parse(bytes: &[u8]) -> Result<Request<'_>, LengthError> {
    parse_header(bytes).map_err(|_| LengthError(bytes.len()))
}

fn parse_header(bytes: &[u8]) -> Result<Request<'_>, Errno> {
    let mut fields = Fields(bytes);
    let _length = fields.u32()?;
    let code = fields.u32()?;
    let unique = fields.u64()?;
    let node = fields.u64()?;
    let caller = Caller {
        uid: fields.u32()?,
        gid: fields.u32()?,
        pid: fields.u32()?,
    };
    let _extensions = fields.u32()?;
    Ok(Request {
        unique,
        node,
        caller,
        operation: operation(code, &mut fields),
        is_answered: !matches!(
            code,
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
        ),
    })
}

fn operation<'a>(code: u32, fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    /// `FUSE_OPEN_KILL_SUIDGID`
    const OPEN_KILLS: u32 = 1;
    Ok(match code {
        opcode::INIT => Operation::Init {
            major: fields.u32()?,
            minor: fields.u32()?,
            max_readahead: fields.u32()?,
            flags: fields.u32()?,
        },
        opcode::DESTROY => Operation::Destroy,
        opcode::INTERRUPT => Operation::Interrupt {
            unique: fields.u64()?,
        },
        opcode::FORGET => Operation::Forget {
            lookups: fields.u64()?,
        },
        opcode::BATCH_FORGET => {
            let count = fields.u32()? as usize;
            let _dummy = fields.u32()?;
            let length = count.checked_mul(16).ok_or(Errno::INVAL)?;
            Operation::BatchForget(Forgotten(fields.0.get(..length).ok_or(Errno::INVAL)?))
        }
        opcode::LOOKUP => Operation::Lookup {
            name: fields.name()?,
        },
        opcode::GETATTR => {
            const HAS_HANDLE: u32 = 1;
            let flags = fields.u32()?;
            let _dummy = fields.u32()?;
            let handle = fields.u64()?;
            Operation::GetAttributes {
                handle: (flags & HAS_HANDLE != 0).then_some(handle),
            }
        }
        opcode::SETATTR => Operation::SetAttributes(set_attributes(fields)?),
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::Symlink {
            name: fields.name()?,
            target: fields.text(MAX_TARGET)?,
        },
        opcode::MKNOD => {
            let (mode, device) = (fields.u32()?, fields.u32()?);
            let (umask, _padding) = (fields.u32()?, fields.u32()?);
            Operation::MakeNode {
                name: fields.name()?,
                mode,
                device,
                umask,
            }
        }
        opcode::MKDIR => {
            let (mode, umask) = (fields.u32()?, fields.u32()?);
            Operation::MakeDirectory {
                name: fields.name()?,
                mode,
                umask,
            }
        }
        opcode::UNLINK => Operation::Unlink {
            name: fields.name()?,
        },
        opcode::RMDIR => Operation::RemoveDirectory {
            name: fields.name()?,
        },
        opcode::RENAME | opcode::RENAME2 => {
            let new_parent = fields.u64()?;
            let flags = match code {
                opcode::RENAME => 0,
                _ => {
                    let flags = fields.u32()?;
                    let _padding = fields.u32()?;
                    flags
                }
            };
            Operation::Rename {
                name: fields.name()?,
                new_parent,
                new_name: fields.name()?,
                flags,
            }
        }
        opcode::LINK => Operation::Link {
            node: fields.u64()?,
            new_name: fields.name()?,
        },
        opcode::OPEN => Operation::Open {
            flags: fields.u32()?,
            kills_privileges: fields.u32()? & OPEN_KILLS != 0,
        },
        opcode::CREATE => {
            let (flags, mode) = (fields.u32()?, fields.u32()?);
            let (umask, kills) = (fields.u32()?, fields.u32()?);
            Operation::Create {
                name: fields.name()?,
                flags,
                mode,
                umask,
                kills_privileges: kills & OPEN_KILLS != 0,
            }
        }
        opcode::TMPFILE => Operation::TemporaryFile {
            flags: fields.u32()?,
            mode: fields.u32()?,
            umask: fields.u32()?,
        },
        opcode::READ => Operation::Read {
            handle: fields.u64()?,
            offset: fields.u64()?,
            size: fields.size(MAX_DATA)?,
        },
        opcode::WRITE => write(fields)?,
        opcode::FLUSH => {
            let handle = fields.u64()?;
            let _padding = fields.u64()?;
            Operation::Flush {
                handle,
                owner: fields.u64()?,
            }
        }
        opcode::RELEASE => Operation::Release {
            handle: fields.u64()?,
        },
        opcode::RELEASEDIR => Operation::ReleaseDirectory {
            handle: fields.u64()?,
        },
        opcode::FSYNC | opcode::FSYNCDIR => Operation::Sync {
            handle: fields.u64()?,
            is_data_only: fields.u32()? & 1 != 0,
        },
        opcode::FALLOCATE => Operation::Allocate {
            handle: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u64()?,
            mode: fields.u32()?,
        },
        opcode::LSEEK => Operation::Seek {
            handle: fields.u64()?,
            offset: fields.u64()?,
            whence: fields.u32()?,
        },
        opcode::COPY_FILE_RANGE => {
            let (handle, offset) = (fields.u64()?, fields.u64()?);
            let _node = fields.u64()?;
            Operation::CopyRange {
                handle,
                offset,
                into: fields.u64()?,
                into_offset: fields.u64()?,
                length: fields.u64()?,
            }
        }
        opcode::STATFS => Operation::Statistics,
        opcode::OPENDIR => Operation::OpenDirectory,
        opcode::READDIR | opcode::READDIRPLUS => Operation::ReadDirectory {
            handle: fields.u64()?,
            offset: fields.u64()?,
            size: fields.size(MAX_DATA)?,
            with_attributes: code == opcode::READDIRPLUS,
        },
        opcode::GETXATTR => {
            let (size, _padding) = (fields.u32()?, fields.u32()?);
            Operation::GetXattr {
                name: fields.text(MAX_XATTR_NAME)?,
                size: size as usize,
            }
        }
        opcode::SETXATTR => {
            let (size, flags) = (fields.u32()?, fields.u32()?);
            Operation::SetXattr {
                name: fields.text(MAX_XATTR_NAME)?,
                value: fields.0.get(..size as usize).ok_or(Errno::INVAL)?,
                flags,
            }
        }
        opcode::LISTXATTR => Operation::ListXattr {
            size: fields.u32()? as usize,
        },
        opcode::REMOVEXATTR => Operation::RemoveXattr {
            name: fields.text(MAX_XATTR_NAME)?,
        },
        opcode::GETLK => Operation::GetLock(lock(fields)?),
        opcode::SETLK | opcode::SETLKW => Operation::SetLock {
            request: lock(fields)?,
            waits: code == opcode::SETLKW,
        },
        _ => return Err(Errno::NOSYS),
    })
}

fn write<'a>(fields: &mut Fields<'a>) -> Result<Operation<'a>, Errno> {
    const IS_FROM_CACHE: u32 = 1;
    const KILLS: u32 = 4;
    let (handle, offset) = (fields.u64()?, fields.u64()?);
    let (size, how) = (fields.u32()? as usize, fields.u32()?);
    let _owner = fields.u64()?;
    let (flags, _padding) = (fields.u32()?, fields.u32()?);
    Ok(Operation::Write {
        handle,
        offset,
        data: fields.0.get(..size).ok_or(Errno::INVAL)?,
        flags,
        is_from_cache: how & IS_FROM_CACHE != 0,
        kills_privileges: how & KILLS != 0,
    })
}

fn set_attributes(fields: &mut Fields<'_>) -> Result<SetAttributes, Errno> {
    const MODE: u32 = 1 << 0;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const HANDLE: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const KILLS: u32 = 1 << 11;
    let valid = fields.u32()?;
    let _padding = fields.u32()?;
    let handle = fields.u64()?;
    let size = fields.u64()?;
    let _owner = fields.u64()?;
    let (accessed, modified) = (fields.u64()?.cast_signed(), fields.u64()?.cast_signed());
    let _changed = fields.u64()?;
    let (accessed_ns, modified_ns) = (fields.u32()?, fields.u32()?);
    let _changed_ns = fields.u32()?;
    let mode = fields.u32()?;
    let _unused = fields.u32()?;
    let (uid, gid) = (fields.u32()?, fields.u32()?);
    let time = |set: u32, now: u32, seconds: i64, nanoseconds: u32| match valid {
        valid if valid & now != 0 => Some(Time::Now),
        valid if valid & set != 0 => Some(Time::At(seconds, nanoseconds)),
        _ => None,
    };
    Ok(SetAttributes {
        mode: (valid & MODE != 0).then_some(mode),
        uid: (valid & UID != 0).then_some(uid),
        gid: (valid & GID != 0).then_some(gid),
        size: (valid & SIZE != 0).then_some(size),
        accessed: time(ATIME, ATIME_NOW, accessed, accessed_ns),
        modified: time(MTIME, MTIME_NOW, modified, modified_ns),
        handle: (valid & HANDLE != 0).then_some(handle),
        kills_privileges: valid & KILLS != 0,
    })
}

fn lock(fields: &mut Fields<'_>) -> Result<LockRequest, Errno> {
    const IS_FLOCK: u32 = 1;
    let (handle, owner) = (fields.u64()?, fields.u64()?);
    let (start, end) = (fields.u64()?, fields.u64()?);
    let (kind, _pid) = (fields.u32()?, fields.u32()?);
    let flags = fields.u32()?;
    let start = i64::try_from(start).map_err(|_| Errno::INVAL)?;
    // The largest offset means the end of the file.
    let last = i64::try_from(end).ok().filter(|last| *last != i64::MAX);
    if last.is_some_and(|last| last < start) {
        return Err(Errno::INVAL);
    }
    Ok(LockRequest {
        handle,
        owner,
        kind: match kind {
            0 => LockKind::Shared,
            1 => LockKind::Exclusive,
            2 => LockKind::Unlocked,
            _ => return Err(Errno::INVAL),
        },
        start,
        last,
        is_flock: flags & IS_FLOCK != 0,
    })
}
