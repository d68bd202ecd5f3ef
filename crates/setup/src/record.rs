//! What was changed and how it was before, in `/etc/isle/setup/<engine>.json`.
//!
//! It is written before the first file is: whoever is interrupted can still undo.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Engine, Host, SetupError};

/// Of this form; another one is refused.
const FORMAT_VERSION: u32 = 1;

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format_version: u32,
    /// The files, in the order in which they were written.
    pub files: Vec<Entry>,
    /// Folders that were made for them, the outermost first.
    pub folders: Vec<PathBuf>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Its text before the first change; `None`: it was not there.
    pub before: Option<String>,
    /// Its text after the last.
    pub after: String,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            format_version: FORMAT_VERSION,
            files: Vec::new(),
            folders: Vec::new(),
        }
    }
}

/// Where the record of an engine is.
#[must_use]
pub fn path(host: &Host, engine: Engine) -> PathBuf {
    host.etc("isle/setup").join(format!("{engine}.json"))
}

impl Record {
    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Option<Record>, SetupError> {
        let damaged = |what: String| SetupError::Record {
            path: path.to_owned(),
            what,
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(SetupError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.format_version != FORMAT_VERSION {
            return Err(damaged(format!("format {}", record.format_version)));
        }
        Ok(Some(record))
    }

    /// As it is written.
    pub(crate) fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a record is plain data");
        text.push('\n');
        text
    }

    /// The entry of a file.
    pub(crate) fn entry(&self, path: &Path) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.path == path)
    }
}
