//! The system calls of the server: files, and what a program needs to live.

use std::io;

use isle_sys::launch::Instruction;
use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder};

/// All of them. Everything else fails with `EPERM`.
const CALLS: &[&str] = &[
    // memory, signals, time, the end
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "restart_syscall",
    "exit",
    "exit_group",
    "getrandom",
    "getpid",
    "gettid",
    "tgkill",
    "prlimit64",
    "getrlimit",
    "setrlimit",
    "sched_getaffinity",
    "sched_yield",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "arch_prctl",
    "prctl",
    "uname",
    // threads
    "clone",
    "clone3",
    "futex",
    // its own start
    "execve",
    // the connection
    "read",
    "readv",
    "write",
    "writev",
    "recvfrom",
    "recvmsg",
    "sendto",
    "sendmsg",
    "poll",
    "ppoll",
    "getsockopt",
    "setsockopt",
    "eventfd2",
    "close",
    "close_range",
    "dup",
    "fcntl",
    "fstat",
    "lseek",
    "ioctl",
    // whose name files are made in
    "setfsuid",
    "setfsgid",
    "umask",
    "capget",
    "capset",
    // files
    "open",
    "openat",
    "openat2",
    "statx",
    "newfstatat",
    "stat",
    "lstat",
    "readlink",
    "readlinkat",
    "getdents64",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync_file_range",
    "copy_file_range",
    "fstatfs",
    "statfs",
    "flock",
    "mkdirat",
    "mknodat",
    "symlinkat",
    "linkat",
    "unlinkat",
    "renameat",
    "renameat2",
    "fchmod",
    "fchmodat",
    "fchownat",
    "fchown",
    "utimensat",
    "getxattr",
];

/// Further ones: names and values of extended attributes.
const ATTRIBUTES: [&str; 5] = [
    "setxattr",
    "listxattr",
    "removexattr",
    "faccessat",
    "fadvise64",
];

/// The program for seccomp(2).
pub(crate) fn program() -> io::Result<Vec<Instruction>> {
    let names = CALLS
        .iter()
        .chain(&ATTRIBUTES)
        .map(|name| (*name).to_owned());
    let allowed = LinuxSyscallBuilder::default()
        .names(names.collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .map_err(io::Error::other)?;
    let policy = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls(vec![allowed])
        .build()
        .map_err(io::Error::other)?;
    let program = isle_seccomp::compile(&policy).map_err(io::Error::other)?;
    Ok(program
        .into_iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect())
}
