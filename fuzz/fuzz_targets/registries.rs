//! Our own `registries.toml`.
#![no_main]

use isle_registry::Registries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
    let file = folder.path().join("registries.toml");
    std::fs::write(&file, bytes).expect("memory");
    match Registries::in_file(&file) {
        Ok(registries) => drop(format!("{registries:?}")),
        Err(error) => drop(error.to_string()),
    }
});
