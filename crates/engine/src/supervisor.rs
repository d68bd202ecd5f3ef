//! The supervisor of one instance: what the program `isle-shim` runs.

/// Runs the supervisor of the instance that the command line names, until the instance has ended
/// and nothing is left to do. Returns the exit code of the supervisor itself.
#[must_use]
pub fn main() -> i32 {
    todo!()
}
