//! What a later supervisor has to know of a machine that runs: by then another kernel may be the current one, and the
//! template gone.

use std::io;
use std::path::Path;

use isle_types::Accelerator;
use serde::{Deserialize, Serialize};

/// The file's name in the instance's run directory, which a boot of the host ends.
const NAME: &str = "vm.json";

/// A running machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) accelerator: Accelerator,
    /// The machine's memory.
    pub(super) memory_bytes: u64,
    /// What of it the guest is left.
    pub(super) guest_memory_bytes: u64,
    /// Whether that follows what the host has.
    pub(super) is_elastic: bool,
    /// Virtual processors.
    pub(super) vcpus: u32,
    /// The pid of what serves folders of the host.
    pub(super) server: Option<i32>,
    /// The name of the kernel that it runs on.
    pub(super) kernel: String,
}

impl Record {
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        std::fs::write(directory.join(NAME), serde_json::to_vec(self)?)
    }

    pub(super) fn read(directory: &Path) -> io::Result<Record> {
        Ok(serde_json::from_slice(&std::fs::read(
            directory.join(NAME),
        )?)?)
    }

    pub(super) fn remove(directory: &Path) -> io::Result<()> {
        match std::fs::remove_file(directory.join(NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_gone_once_removed() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record {
            accelerator: Accelerator::Tcg,
            memory_bytes: 128 << 20,
            guest_memory_bytes: 64 << 20,
            is_elastic: true,
            vcpus: 1,
            server: Some(77),
            kernel: "isle-6.1".to_owned(),
        };
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), record);
        Record::remove(folder.path()).unwrap();
        Record::remove(folder.path()).unwrap();
        assert!(Record::read(folder.path()).is_err());
    }
}
