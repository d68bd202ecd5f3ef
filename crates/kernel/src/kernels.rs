//! [`Kernels`]: those that are installed, and which of them is in use.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::description::{Description, FORMAT, FileRecord};
use crate::digest;
use crate::error::KernelError;
use crate::staging::{HIDDEN, Staging, gate};

const DESCRIPTION: &str = "kernel.json";
const CURRENT: &str = "current";

/// The guest kernels below one state root. Several processes use them at the same time.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub(crate) folder: PathBuf,
}

/// One installed kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub(crate) folder: PathBuf,
    /// What it is.
    pub description: Description,
}

/// One entry of the list.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is the one in use.
    pub is_current: bool,
    /// The kernel, or what is wrong with it.
    pub kernel: Result<Kernel, KernelError>,
}

/// Keeps a kernel from being removed while it lives: a running virtual machine has one. Ends with the process
/// at the latest.
#[derive(Debug)]
pub struct Hold {
    _folder: File,
}

impl Kernels {
    /// Those below a state root. Makes nothing.
    #[must_use]
    pub fn new(root: &Path) -> Kernels {
        Kernels {
            folder: root.join("kernels"),
        }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, KernelError> {
        let current = self.current_name()?;
        Ok(self
            .names()?
            .into_iter()
            .map(|name| Entry {
                is_current: current.as_deref() == Some(&name),
                kernel: self.get(&name),
                name,
            })
            .collect())
    }

    /// The one that virtual machines boot from.
    ///
    /// # Errors
    /// [`KernelError::NoneInstalled`] and its kin, with the remedy.
    pub fn current(&self) -> Result<Kernel, KernelError> {
        match self.current_name()? {
            Some(name) => self.get(&name),
            None => {
                let names = self.names()?;
                Err(match names.is_empty() {
                    true => KernelError::NoneInstalled,
                    false => KernelError::NoneChosen { names },
                })
            }
        }
    }

    /// One by its name. Its files are there in their full size; their content is looked at by
    /// [`Kernel::verify`].
    ///
    /// # Errors
    /// When there is none, or it cannot be used here.
    pub fn get(&self, name: &str) -> Result<Kernel, KernelError> {
        let folder = self.folder_of(name)?;
        let path = folder.join(DESCRIPTION);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_dir() => {
                return Err(KernelError::NotFound {
                    name: name.to_owned(),
                    names: self.names()?,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(name, DESCRIPTION, "is missing"));
            }
            Err(error) => return Err(KernelError::io("read", &path)(error)),
        };
        let description = parse(name, &bytes)?;
        let kernel = Kernel {
            folder,
            description,
        };
        for file in kernel.files() {
            kernel.check_size(file)?;
        }
        Ok(kernel)
    }

    /// Makes a kernel the one that virtual machines boot from, from their next start on.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be used here.
    pub fn choose(&self, name: &str) -> Result<Kernel, KernelError> {
        self.get(name)?;
        // Not while somebody removes it.
        let _gate = gate(&self.folder, FlockOperation::LockExclusive)?;
        let kernel = self.get(name)?;
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix(".current-")
                .tempfile_in(&self.folder)?;
            writeln!(file, "{name}")?;
            file.as_file().sync_all()?;
            file.persist(self.folder.join(CURRENT))
                .map_err(|error| error.error)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(KernelError::io("write", &self.folder.join(CURRENT)))?;
        Ok(kernel)
    }

    /// Removes a kernel, damaged or not.
    ///
    /// # Errors
    /// [`KernelError::InUse`] while a [`Hold`] on it lives.
    pub fn remove(&self, name: &str) -> Result<(), KernelError> {
        let folder = self.folder_of(name)?;
        if !folder.is_dir() {
            return Err(KernelError::NotFound {
                name: name.to_owned(),
                names: self.names()?,
            });
        }
        let staging = Staging::new(&self.folder)?;
        let gate = gate(&self.folder, FlockOperation::LockExclusive)?;
        let lock = File::open(&folder).map_err(KernelError::io("open", &folder))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(KernelError::InUse {
                    name: name.to_owned(),
                });
            }
            Err(errno) => return Err(KernelError::io("lock", &folder)(errno.into())),
        }
        let failed = |source| KernelError::io("remove", &folder)(source);
        if self.current_name()?.as_deref() == Some(name) {
            fs::remove_file(self.folder.join(CURRENT)).map_err(failed)?;
        }
        // Gone at once, whatever happens while its files are removed.
        fs::rename(&folder, staging.path().join(name)).map_err(failed)?;
        gate.sync_all().map_err(failed)
    }

    /// Keeps a kernel from being removed.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn hold(&self, name: &str) -> Result<Hold, KernelError> {
        let folder = self.folder_of(name)?;
        loop {
            let file = match File::open(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(KernelError::NotFound {
                        name: name.to_owned(),
                        names: self.names()?,
                    });
                }
                other => other.map_err(KernelError::io("open", &folder))?,
            };
            flock(&file, FlockOperation::LockShared)
                .map_err(|errno| KernelError::io("lock", &folder)(errno.into()))?;
            // Replaced or removed between the two calls?
            let ours = file
                .metadata()
                .map_err(KernelError::io("look at", &folder))?;
            let is_same = fs::metadata(&folder)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            if is_same {
                return Ok(Hold { _folder: file });
            }
        }
    }

    /// Describes what was put into `staging`, and makes it a kernel. One of the same name is replaced.
    pub(crate) fn commit(
        &self,
        staging: Staging,
        description: &Description,
    ) -> Result<Kernel, KernelError> {
        let folder = self.folder_of(&description.name)?;
        let path = staging.path().join(DESCRIPTION);
        let mut text = serde_json::to_vec_pretty(description).expect("text and numbers");
        text.push(b'\n');
        fs::write(&path, text).map_err(KernelError::io("write", &path))?;
        staging.commit(&folder)?;
        self.get(&description.name)
    }

    fn names(&self) -> Result<Vec<String>, KernelError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(KernelError::io("read", &self.folder))?,
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with(HIDDEN))
            .collect();
        names.sort();
        Ok(names)
    }

    fn current_name(&self) -> Result<Option<String>, KernelError> {
        let path = self.folder.join(CURRENT);
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KernelError::io("read", &path)(error)),
        }
    }

    fn folder_of(&self, name: &str) -> Result<PathBuf, KernelError> {
        let is_good = name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name != CURRENT
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"._+-".contains(&c));
        match is_good {
            true => Ok(self.folder.join(name)),
            false => Err(KernelError::Name {
                name: name.to_owned(),
            }),
        }
    }
}

/// What an emulated machine does without. There is no speculation to protect against; the checks of copies and the
/// random place of the stack are code that runs, and is translated, at each system call, in a machine that is no
/// security boundary anyway; and a repeated string instruction is a loop in the emulator with one turn an element, which
/// a loop of the kernel's own does in fewer.
const WITHOUT_HARDWARE: &str =
    "mitigations=off hardened_usercopy=off randomize_kstack_offset=off clearcpuid=rep_good";

impl Kernel {
    /// The kernel itself: what QEMU's `-kernel` takes.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join(&self.description.image.file)
    }

    /// Its command line for a machine that software emulates, or that hardware runs.
    ///
    /// Emulated, some of what the kernel can do is turned off: [`WITHOUT_HARDWARE`].
    #[must_use]
    pub fn command_line(&self, is_emulated: bool) -> String {
        match is_emulated {
            true => format!("{} {WITHOUT_HARDWARE}", self.description.command_line),
            false => self.description.command_line.clone(),
        }
    }

    /// Whether it can do something of [`Description::features`].
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.description.features.iter().any(|has| has == feature)
    }

    /// Reads its files and compares their digests: before a template is made or a machine boots from them.
    /// Takes some 20 ms.
    ///
    /// # Errors
    /// [`KernelError::Damaged`].
    pub fn verify(&self) -> Result<(), KernelError> {
        for record in self.files() {
            self.check_size(record)?;
            let path = self.folder.join(&record.file);
            let found = digest::of_file(&path).map_err(KernelError::io("read", &path))?;
            if found != record.digest {
                let what = format!("has the digest {found} instead of {}", record.digest);
                return Err(damaged(&self.description.name, &record.file, &what));
            }
        }
        Ok(())
    }

    /// Like [`Kernel::verify`], and reads files again only when they have changed since: what was found is noted
    /// in the folder `marks`, which must not outlive the host's boot (a loss of power damages files and leaves
    /// their times as they were).
    ///
    /// # Errors
    /// As [`Kernel::verify`]; also when the mark cannot be written.
    pub fn verify_once(&self, marks: &Path) -> Result<(), KernelError> {
        let mut stamps = String::new();
        for record in self.files() {
            self.check_size(record)?;
            let path = self.folder.join(&record.file);
            let stamp = stamp(&path).map_err(KernelError::io("look at", &path))?;
            stamps.push_str(&format!("{stamp} {}\n", record.digest));
        }
        let mark = marks.join(&self.description.name);
        if fs::read_to_string(&mark).is_ok_and(|marked| marked == stamps) {
            return Ok(());
        }
        self.verify()?;
        let write = || -> io::Result<()> {
            fs::create_dir_all(marks)?;
            let mut file = tempfile::NamedTempFile::new_in(marks)?;
            file.write_all(stamps.as_bytes())?;
            file.persist(&mark).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(KernelError::io("write", &mark))
    }

    fn files(&self) -> impl Iterator<Item = &FileRecord> {
        std::iter::once(&self.description.image).chain(&self.description.modules)
    }

    fn check_size(&self, record: &FileRecord) -> Result<(), KernelError> {
        let name = &self.description.name;
        match fs::metadata(self.folder.join(&record.file)) {
            Ok(metadata) if metadata.len() == record.bytes => Ok(()),
            Ok(metadata) => {
                let what = format!("has {} bytes instead of {}", metadata.len(), record.bytes);
                Err(damaged(name, &record.file, &what))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(damaged(name, &record.file, "is missing"))
            }
            Err(error) => Err(KernelError::io("read", &self.folder.join(&record.file))(
                error,
            )),
        }
    }
}

fn damaged(name: &str, file: &str, what: &str) -> KernelError {
    KernelError::Damaged {
        name: name.to_owned(),
        file: file.to_owned(),
        what: what.to_owned(),
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<Description, KernelError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
    }
    let broken = |error: serde_json::Error| damaged(name, DESCRIPTION, &error.to_string());
    let version: Version = serde_json::from_slice(bytes).map_err(broken)?;
    if version.format > FORMAT {
        return Err(KernelError::TooNew {
            name: name.to_owned(),
            found: version.format,
        });
    }
    let description: Description = serde_json::from_slice(bytes).map_err(broken)?;
    let files = std::iter::once(&description.image).chain(&description.modules);
    for record in files {
        let is_plain = !record.file.contains('/') && !record.file.starts_with('.');
        if !is_plain || record.file.is_empty() {
            return Err(damaged(name, DESCRIPTION, "names a file of another folder"));
        }
    }
    if description.name != name {
        return Err(damaged(name, DESCRIPTION, "is that of another kernel"));
    }
    if description.architecture != std::env::consts::ARCH {
        return Err(KernelError::Architecture {
            name: name.to_owned(),
            architecture: description.architecture,
            host: std::env::consts::ARCH,
        });
    }
    Ok(description)
}

/// Which file it is, as far as can be told without reading it.
pub(crate) fn stamp(path: &Path) -> io::Result<String> {
    let file = fs::metadata(path)?;
    if !file.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let what = format!(
        "{}:{}:{}:{}.{}:{}.{}",
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    );
    let digest = digest::of_bytes(what.as_bytes());
    Ok(digest["sha256:".len()..][..16].to_owned())
}

/// What a file of a folder is, to be put into a description.
pub(crate) fn record(folder: &Path, file: &str) -> Result<FileRecord, KernelError> {
    let path = folder.join(file);
    let read = || -> io::Result<FileRecord> {
        Ok(FileRecord {
            file: file.to_owned(),
            bytes: fs::metadata(&path)?.len(),
            digest: digest::of_file(&path)?,
        })
    };
    read().map_err(KernelError::io("read", &path))
}
