//! The supervisor of one instance.

#![forbid(unsafe_code)]

fn main() {}
