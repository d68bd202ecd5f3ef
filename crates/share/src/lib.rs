//! Folders of the host in a virtual machine: a confined FUSE server behind a byte stream.

#![forbid(unsafe_code)]

mod filter;
mod spawn;

pub use spawn::{MAX_SHARES, PROGRAM, Request, Server, Share, SpawnError, spawn};
