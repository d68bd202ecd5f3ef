//! Answering system calls that a seccomp filter hands to another process
//! (`SECCOMP_RET_USER_NOTIF`, seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// A system call that waits for its answer, `struct seccomp_notif`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// What the answer refers to.
    pub id: u64,
    /// The thread that called, in the pid namespace of the listener; 0: it is in none of ours.
    pub pid: u32,
    /// No flags are defined.
    pub flags: u32,
    /// Number of the call.
    pub number: i32,
    /// `AUDIT_ARCH_*`
    pub architecture: u32,
    /// Where the calling instruction is.
    pub instruction_pointer: u64,
    /// The call's arguments.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

// _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp),
// _IOW('!', 3, struct seccomp_notif_addfd) of linux/seccomp.h
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const ADD_DESCRIPTOR: libc::Ioctl = 0x4018_2103_u32 as libc::Ioctl;
/// `SECCOMP_ADDFD_FLAG_SETFD`
const AT_NUMBER: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`, Linux 5.14
const AND_ANSWER: u32 = 2;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`
const CONTINUE: u32 = 1;

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the next call that waits. Blocks until there is one; a listener is readable when there is.
///
/// # Errors
/// `ENOENT` when the caller was killed meanwhile, or when no process has the filter any more.
pub fn receive(listener: impl AsFd) -> io::Result<Request> {
    // The kernel wants it to be all zero.
    let mut request = Request::default();
    // SAFETY: the kernel writes a structure of the size that the request's number holds, which is
    // that of `request`, and `request` lives until the call returns.
    check(unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), RECEIVE, &raw mut request) })?;
    Ok(request)
}

/// Lets the kernel carry the call out. Of no use against who wants to deceive: another thread may change
/// what the arguments point to meanwhile.
///
/// # Errors
/// `ENOENT` when the caller does not wait any more.
pub fn carry_out(listener: impl AsFd, request: &Request) -> io::Result<()> {
    let mut response = Response {
        id: request.id,
        value: 0,
        error: 0,
        flags: CONTINUE,
    };
    // SAFETY: the kernel reads a structure of the size that the request's number holds.
    check(unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), SEND, &raw mut response) })
}

/// Answers a call with a copy of a descriptor: it gets this number in the process that called, and
/// the number is what the call returns. Linux 5.14.
///
/// # Errors
/// `EBADF` when the number is above the process's limit; `ENOENT` when the caller does not wait
/// any more; `EINVAL` before Linux 5.14.
pub fn answer_with_descriptor(
    listener: impl AsFd,
    request: &Request,
    descriptor: BorrowedFd<'_>,
    number: RawFd,
) -> io::Result<()> {
    let argument = AddDescriptor {
        id: request.id,
        flags: AT_NUMBER | AND_ANSWER,
        source: descriptor.as_raw_fd().cast_unsigned(),
        new: number.cast_unsigned(),
        new_flags: 0,
    };
    // SAFETY: the kernel reads a structure of the size that the request's number holds.
    check(unsafe {
        libc::ioctl(
            listener.as_fd().as_raw_fd(),
            ADD_DESCRIPTOR,
            &raw const argument,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_that_the_numbers_of_the_requests_hold() {
        let size = |number: libc::Ioctl| (number as usize >> 16) & 0x3fff;
        assert_eq!(size_of::<Request>(), size(RECEIVE));
        assert_eq!(size_of::<Response>(), size(SEND));
        assert_eq!(size_of::<AddDescriptor>(), size(ADD_DESCRIPTOR));
    }
}
