//! Where templates are.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{Key, Template, TemplateError};
use crate::file_identity;
use crate::machine::Machine;
use crate::program::Program;

/// The folders of templates.
#[derive(Clone, Debug)]
pub struct Store {
    /// What survives a boot: `<root>/templates`.
    pub directory: PathBuf,
    /// What does not: `<run>/templates`, which says what was compared with its digest since the boot.
    pub checked: PathBuf,
}

/// `template.json`
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub format: u32,
    pub family: String,
    pub program: Program,
    pub machine: Machine,
    pub memory_digest: String,
    pub state_digest: String,
    /// Seconds since 1970.
    pub created: u64,
    /// What an heir is about.
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub disk_digest: Option<String>,
}

pub(super) const FORMAT: u32 = 1;
pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";
pub(super) const DISK: &str = "disk";
pub(super) const RECORD: &str = "template.json";

/// A template in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The name of its folder.
    pub name: String,
    /// What has happened in it beyond its boot, see [`Subject::name`](super::Subject).
    pub subject: Option<String>,
    /// The machine; `None`: nothing can be read of it.
    pub machine: Option<Machine>,
    /// The version of its QEMU.
    pub qemu: Option<String>,
    /// What it takes on the disk.
    pub bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When a copy of it was started the last time.
    pub used: SystemTime,
}

impl Store {
    /// The template of this key; `None`: there is none, or it was damaged and is gone now.
    pub(super) fn find(&self, key: &Key) -> Option<Template> {
        let folder = self.directory.join(key.to_string());
        if !folder.exists() {
            return None;
        }
        let template = self.open(&folder, key);
        if template.is_err() {
            // Made again. Copies that run have its memory still.
            let _ = fs::remove_dir_all(&folder);
        }
        template.ok()
    }

    fn open(&self, folder: &Path, key: &Key) -> io::Result<Template> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let record: Record = serde_json::from_slice(&fs::read(folder.join(RECORD))?)?;
        if record.format != FORMAT {
            return Err(damaged("another format"));
        }
        let files = Files::open(folder)?;
        if files.memory.metadata()?.size() != record.machine.memory_bytes {
            return Err(damaged("another size of memory"));
        }
        let identity = files.identity()?;
        let mark = self.checked.join(key.to_string());
        if fs::read_to_string(&mark).ok().as_deref() != Some(&identity) {
            let digests = Digests {
                memory: record.memory_digest,
                state: record.state_digest,
                disk: record.disk_digest,
            };
            if files.digests()? != digests {
                return Err(damaged("another digest"));
            }
            file_identity::replace(&mark, identity.as_bytes());
        }
        // Best effort: for those who ask what was not used for long.
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        let _ = rustix::fs::utimensat(
            rustix::fs::CWD,
            folder.join(RECORD),
            &times,
            rustix::fs::AtFlags::empty(),
        );
        Ok(Template {
            key: key.clone(),
            program: record.program,
            machine: record.machine,
            memory: files.memory,
            state: files.state,
            disk: files.disk,
        })
    }

    /// Says that what was just written holds what its digests say.
    pub(super) fn mark(&self, key: &Key) -> io::Result<()> {
        let folder = self.directory.join(key.to_string());
        let identity = Files::open(&folder)?.identity()?;
        file_identity::replace(&self.checked.join(key.to_string()), identity.as_bytes());
        Ok(())
    }

    pub(super) fn make_folders(&self) -> Result<(), TemplateError> {
        for folder in [&self.directory, &self.checked] {
            let what = format!("make {}", folder.display());
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(TemplateError::io(what))?;
        }
        Ok(())
    }

    /// One maker or remover of a template at a time; ends with the file, or with its process.
    pub(super) fn lock(&self, name: &str, operation: FlockOperation) -> io::Result<File> {
        let path = self.checked.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        rustix::fs::flock(&file, operation)?;
        Ok(file)
    }

    /// The template of this name; `None`: there is none, or it was damaged and is gone now.
    #[must_use]
    pub fn open_by_name(&self, name: &str) -> Option<Template> {
        let text = fs::read(self.directory.join(name).join(RECORD)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        is_name(name).then(|| self.find(&Key::restored(name, record.family)))?
    }

    /// Whether there is a template of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        is_name(name) && self.directory.join(name).join(RECORD).exists()
    }

    /// All templates, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<Summary>, TemplateError> {
        let what = || TemplateError::io(format!("read {}", self.directory.display()));
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(what())?,
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry.map_err(what())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_name(&name) {
                list.push(summary(&entry.path(), name));
            }
        }
        list.sort_by_key(|summary| summary.created);
        Ok(list)
    }

    /// Removes a template. Copies that run keep its memory until they end; there is `true` when there
    /// was one.
    ///
    /// # Errors
    /// When it is just being made, or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, TemplateError> {
        let what = || TemplateError::io(format!("remove the template {name}"));
        if !is_name(name) {
            return Ok(false);
        }
        self.make_folders()?;
        let _lock = self
            .lock(name, FlockOperation::NonBlockingLockExclusive)
            .map_err(what())?;
        let _ = fs::remove_file(self.checked.join(name));
        match fs::remove_dir_all(self.directory.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(what()(error)),
        }
    }

    /// Removes what `family` had under other keys: nobody will ask for it again.
    pub(super) fn remove_older(&self, key: &Key) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_name(&name) || name == key.to_string() {
                continue;
            }
            let record = fs::read(entry.path().join(RECORD)).unwrap_or_default();
            let record: Result<Record, _> = serde_json::from_slice(&record);
            // One that cannot be read is of no use either.
            if record.map_or(true, |record| record.family == key.family) {
                let _ = self.remove(&name);
            }
        }
    }
}

/// The names of templates are digests; what is being made has another kind of name.
fn is_name(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The files of a template, opened for reading.
pub(super) struct Files {
    memory: File,
    state: File,
    disk: Option<File>,
}

/// What they hold.
#[derive(PartialEq, Eq)]
pub(super) struct Digests {
    pub memory: String,
    pub state: String,
    pub disk: Option<String>,
}

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Files> {
        let disk = match File::open(folder.join(DISK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            disk => Some(disk?),
        };
        Ok(Files {
            memory: File::open(folder.join(MEMORY))?,
            state: File::open(folder.join(STATE))?,
            disk,
        })
    }

    pub(super) fn digests(&self) -> io::Result<Digests> {
        Ok(Digests {
            memory: file_identity::digest_of(&self.memory)?,
            state: file_identity::digest_of(&self.state)?,
            disk: self
                .disk
                .as_ref()
                .map(file_identity::digest_of)
                .transpose()?,
        })
    }

    /// Which files they are.
    fn identity(&self) -> io::Result<String> {
        let mut text = String::new();
        for file in [&self.memory, &self.state].into_iter().chain(&self.disk) {
            text += &file_identity::identity(&file.metadata()?);
            text.push(' ');
        }
        Ok(text)
    }
}

fn summary(folder: &Path, name: String) -> Summary {
    let record = fs::read(folder.join(RECORD)).unwrap_or_default();
    let record: Option<Record> = serde_json::from_slice(&record).ok();
    let about = |name: &str| fs::metadata(folder.join(name)).ok();
    let bytes = [MEMORY, STATE, DISK, RECORD]
        .iter()
        .filter_map(|name| Some(about(name)?.blocks() * 512))
        .sum();
    let created = record
        .as_ref()
        .map(|record| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(record.created));
    let used = about(RECORD).and_then(|about| about.modified().ok());
    Summary {
        name,
        qemu: record
            .as_ref()
            .map(|record| record.program.version.to_string()),
        subject: record.as_ref().and_then(|record| record.subject.clone()),
        machine: record.map(|record| record.machine),
        bytes,
        created: created.unwrap_or(SystemTime::UNIX_EPOCH),
        used: used.unwrap_or(SystemTime::UNIX_EPOCH),
    }
}
