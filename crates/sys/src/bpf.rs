//! bpf(2): programs that decide about devices in a version 2 control group.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction, `struct bpf_insn` of linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub registers: u8,
    /// Of a jump or an access to memory.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is missing as 0.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct IdAttributes {
    id: u32,
    next: u32,
    flags: u32,
}

/// bpf(2) with the attributes of one command.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a live structure of `size_of::<T>()` bytes in the layout of linux/bpf.h
    // for `command`; each caller keeps alive what its pointers name until this returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            std::mem::size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors and 0: both fit.
    Ok(libc::c_int::try_from(result).unwrap_or(libc::c_int::MAX))
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: called with the new descriptor that bpf(2) has just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. The kernel verifies it.
///
/// # Errors
/// `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN` in the first user namespace; `EINVAL` or `EACCES`
/// when the kernel does not accept the program.
pub fn load_cgroup_device(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"isle_devices");
    let mut attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    bpf(BPF_PROG_LOAD, &mut attributes).map(owned)
}

/// Attaches a program beside those that the group and its ancestors have.
///
/// # Errors
/// `EPERM` when an ancestor does not allow programs below it.
pub fn attach_cgroup_device(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: descriptor(group),
        program: descriptor(program),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replaced: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Takes a program away from a group.
///
/// # Errors
/// `ENOENT` when it is not attached there.
pub fn detach_cgroup_device(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: descriptor(group),
        program: descriptor(program),
        attach_type: BPF_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    bpf(BPF_PROG_DETACH, &mut attributes).map(drop)
}

/// The ids of the device programs attached to a group itself (64 at most, the kernel's own limit).
///
/// # Errors
/// As bpf(2).
pub fn cgroup_device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attributes = QueryAttributes {
        target: descriptor(group),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes.count)
        .unwrap_or(ids.len())
        .min(ids.len());
    Ok(ids[..count].to_vec())
}

/// A loaded program.
///
/// # Errors
/// `ENOENT` when it is gone.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = IdAttributes {
        id,
        next: 0,
        flags: 0,
    };
    bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes).map(owned)
}
