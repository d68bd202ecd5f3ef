//! Folders of the host in a virtual machine, with the meaning that they have in a container.
//!
//! ```text
//!  guest                                              host
//!  ┌───────────────────────────────────┐              ┌──────────────────────────────────────────┐
//!  │ program ── kernel's FUSE client   │              │ isle-share, one a guest, confined        │
//!  │                 │ /dev/fuse       │ virtio-      │   Session: requests -> system calls      │
//!  │            relay (in the agent) ──┼─ serial port ┼─> on descriptors beneath                 │
//!  └───────────────────────────────────┘              │   /0  /1  …  mounts of the shared folders│
//!                                                     └──────────────────────────────────────────┘
//! ```
//!
//! [`spawn`] starts the server, for whoever owns the virtual machine; [`main`] is what it runs; the guest's
//! end is in the crate `isle-guest-agent`. One connection carries any number of shares: the file system that the guest mounts has one entry a
//! share, `0`, `1` and so on, a folder or a single file each.
//!
//! FUSE because its requests are few (attributes come with names), its client caches what it is told to, and every
//! kernel has it; a port of the serial device because a clone of a template can have it. Figures and what was given
//! up: docs/decisions/0012-folders-in-virtual-machines.md.
//!
//! # Trust
//! The guest is hostile. Each request has a length that is checked before it is read, names have no `/` and are no
//! `..`, and what is opened is opened beneath a descriptor, links not followed (openat2(2)). Nodes, open files and
//! locks are counted. Whatever gets through that finds a process with an empty root, no network, no other process
//! and the rights that root has in a container on the same folders.
//!
//! # What a guest sees
//! - Owners are numbers, as in a container without a user namespace. Files belong to who makes them in the guest.
//! - A change on the host is seen by the next open(2) of the file; by stat(2), and where a
//!   folder or a link on the way was replaced, after a tenth of a second. A change in the guest is
//!   seen on the host at once; by way of a shared mapping, after msync(2) or when the guest writes back.
//! - fsync(2) returns when the host's has. Locks of flock(2) and fcntl(2) count on both sides.
//! - `O_DIRECT` is taken and means nothing. Sockets and devices are shown, and are the guest's own.
//! - inotify(7) tells of changes that are made in the guest alone.

#![forbid(unsafe_code)]

mod filter;
mod handles;
mod identity;
mod locks;
mod nodes;
mod protocol;
pub mod request;
mod server;
mod spawn;
mod syncs;

pub use server::{ServeError, Session, main};
pub use spawn::{MAX_SHARES, PROGRAM, Request, Server, Share, SpawnError, spawn};
