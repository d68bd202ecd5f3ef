//! Lists that are sent as the output of a task, because they can be long.
//!
//! Each record has its length before it, as four bytes, little-endian.

use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::message::{DecodeError, decode, encode};

/// The longest record: a path has at most 4096 bytes, and a command line is cut.
pub const MAX_RECORD: usize = 16 << 10;

/// A file that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Its absolute path.
    pub path: Bytes,
}

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It is in the image, otherwise.
    Changed,
    /// It is not in the image.
    Added,
    /// It is in the image only.
    Deleted,
}

/// A process of the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid in the guest.
    pub pid: i32,
    /// That of its parent.
    pub parent: i32,
    /// Its effective user.
    pub uid: u32,
    /// The state, as proc_pid_stat(5) has it.
    pub state: char,
    /// The controlling terminal's device number; 0: none.
    pub terminal: u64,
    /// CPU time, in ms.
    pub cpu_ms: u64,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// Nice value.
    pub nice: i32,
    /// Threads.
    pub threads: u32,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Bytes in memory.
    pub resident_bytes: u64,
    /// Its short name.
    pub name: Bytes,
    /// Its command line, arguments separated by spaces; empty for one that has none.
    pub command: Bytes,
}

/// Why a list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record that is too long.
    #[error("a record of {0} bytes; at most {MAX_RECORD} are allowed")]
    TooLong(usize),
    /// A record that means nothing.
    #[error("a record that cannot be read")]
    Unreadable(#[source] DecodeError),
    /// The end in the middle of a record.
    #[error("a record that is cut off")]
    CutOff,
}

/// Appends a record.
pub fn put<T: Serialize>(into: &mut Vec<u8>, record: &T) {
    let bytes = encode(record);
    debug_assert!(bytes.len() <= MAX_RECORD);
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(&bytes);
}

/// Reads a whole list.
///
/// # Errors
/// [`RecordError`]
pub fn read<T: serde::de::DeserializeOwned>(mut bytes: &[u8]) -> Result<Vec<T>, RecordError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(RecordError::CutOff)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_RECORD {
            return Err(RecordError::TooLong(length));
        }
        let (record, rest) = rest.split_at_checked(length).ok_or(RecordError::CutOff)?;
        records.push(decode(record).map_err(RecordError::Unreadable)?);
        bytes = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let changes = [ChangeKind::Added, ChangeKind::Deleted].map(|kind| Change {
            kind,
            path: Bytes(b"/a\xff".to_vec()),
        });
        let mut bytes = Vec::new();
        for change in &changes {
            put(&mut bytes, change);
        }
        assert_eq!(read::<Change>(&bytes), Ok(changes.to_vec()));
        assert_eq!(
            read::<Change>(&bytes[..bytes.len() - 1]),
            Err(RecordError::CutOff)
        );
        assert_eq!(
            read::<Change>(&[255, 255, 0, 0]),
            Err(RecordError::TooLong(65535))
        );
    }
}
