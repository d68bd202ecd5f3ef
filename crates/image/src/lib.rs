//! The image store: one for all levels of isolation.

#![forbid(unsafe_code)]

/// The store, open on one root.
#[derive(Debug)]
pub struct Store {}
