//! Docker's `config.json`. No program is executed: there is none on the path.
#![no_main]

use isle_registry::CredentialStore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::set_var("PATH", "/nowhere") };
    },
    |bytes: &[u8]| {
        let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
        let file = folder.path().join("config.json");
        std::fs::write(&file, bytes).expect("memory");
        let store = CredentialStore::in_file(&file);
        for registry in ["docker.io", "127.0.0.1:5000", "registry.example.com"] {
            match store.get(registry) {
                Ok(credential) => drop(format!("{credential:?}")),
                Err(error) => drop(error.to_string()),
            }
        }
    }
);
