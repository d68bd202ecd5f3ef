//! Where things are.

use std::path::PathBuf;

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the checkout")
        .to_owned()
}

/// Cargo's output folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => checkout().join(folder),
        None => checkout().join("target"),
    }
}

/// Programs that tasks need and that are not installed system-wide.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Example images, `$ISLE_EXAMPLES_CACHE` or `target/examples-cache`.
pub fn examples_cache() -> PathBuf {
    match std::env::var_os("ISLE_EXAMPLES_CACHE") {
        Some(folder) => checkout().join(folder),
        None => target().join("examples-cache"),
    }
}

/// The state root that the guest kernel of the tests is in: it outlives them.
pub fn guest_root() -> PathBuf {
    target().join("guest")
}

/// Cargo itself, as it called us.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
