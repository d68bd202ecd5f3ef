//! Typed Linux system calls that rustix does not have. The only crate with `unsafe`.
//!
//! - [`bpf`]: programs that decide about devices in a version 2 control group (bpf(2)).
//! - [`credentials`]: whose files a thread makes (setfsuid(2)).
//! - [`features`]: what the kernel can do, asked in ways that change nothing.
//! - [`filesystem`]: blocks that no file has.
//! - [`kvm`]: whether a guest can run.
//! - [`launch`]: a new process that carries out a prepared list of steps in namespaces of its own
//!   and then executes a program (clone3(2), and all that may happen before execve(2)).
//! - [`lock`]: locks of an open file description on ranges of a file (fcntl(2)).
//! - [`memory`]: giving memory back.
//! - [`mount`]: mount_setattr(2), and new mounts from the caller's own namespace.
//! - [`namespace`]: namespaces of a thread (unshare(2), setns(2)).
//! - [`netlink`]: options of sockets that speak to the kernel.
//! - [`pidfd`]: how a process has ended that is not the caller's child.
//! - [`poller`]: everything that an event loop waits for (epoll(7)).
//! - [`process`]: the few calls that a runtime's parent process needs.
//! - [`quota`]: limits of what a project of files holds.
//! - [`random`]: a seed for the kernel's random numbers.
//! - [`resource_usage`]: CPU time of children, for benchmarks.
//! - [`seccomp_notify`]: answering system calls that a filter hands to another process.
//! - [`signals`]: signals as something to read.
//! - [`socket`]: what a socket tells about itself, and which link it belongs to.
//! - [`tun`]: virtual network cards.
//! - [`watched`]: a descriptor in an epoll(7).
//!
//! Calls return [`std::io::Result`] and own their descriptors, which are close-on-exec.

pub mod bpf;
pub mod credentials;
pub mod features;
pub mod filesystem;
pub mod kvm;
pub mod launch;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod pidfd;
pub mod poller;
pub mod process;
pub mod quota;
pub mod random;
pub mod resource_usage;
pub mod seccomp_notify;
pub mod signals;
pub mod socket;
pub mod time;
pub mod tun;
pub mod watched;
