//! The OCI runtime command line.

#![forbid(unsafe_code)]

fn main() {}
