//! Tasks of the project: `cargo xtask <task>`.

#![forbid(unsafe_code)]

fn main() {}
