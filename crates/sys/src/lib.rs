//! Typed Linux system calls that rustix does not have. The only crate with `unsafe`.
