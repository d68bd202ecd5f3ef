//! Snapshots of volumes, and volumes that are copies of others.
//!
//! Every copy is made in a workspace below `<root>/tmp` and put into its place by one rename, in the
//! transaction that writes its row: killed at any moment, a volume is as it was or as it is to be,
//! and what is new is there or not.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, syncfs};

use super::volumes::disk_bytes;
use super::{Engine, EngineError, VolumeRequest, volume_names};
use crate::backend::container::{Limit, limit_folders};
use crate::config::ConfigError;
use crate::state::Instance;
use crate::store::StoreError;
use crate::volume::{self, Backing, Declaration, FILLING, Snapshot, Volume};
use crate::{InstanceLock, failpoint, tree};

/// A volume, or one of its snapshots: `NAME` or `NAME@SNAPSHOT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSource {
    /// The volume.
    pub volume: String,
    /// The snapshot.
    pub snapshot: Option<String>,
}

impl FromStr for VolumeSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<VolumeSource, Self::Err> {
        // No name has an @ in it.
        Ok(match text.split_once('@') {
            Some((volume, snapshot)) => VolumeSource {
                volume: volume.to_owned(),
                snapshot: Some(snapshot.to_owned()),
            },
            None => VolumeSource {
                volume: text.to_owned(),
                snapshot: None,
            },
        })
    }
}

impl fmt::Display for VolumeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => f.write_str(&self.volume),
        }
    }
}

/// How long those that have just ended may take until they let go of a volume.
const PATIENCE: Duration = Duration::from_secs(5);

/// A volume that nobody else replaces, copies or begins to use, as long as this lives.
#[derive(Debug)]
pub(super) struct VolumeLock {
    _file: File,
}

impl Engine {
    /// Keeps a copy of a volume as it is now. With `pause` the instances that mount it stand still
    /// meanwhile, so that no file is caught half written.
    ///
    /// # Errors
    /// When there is a snapshot of that name, or the volume cannot be copied.
    pub fn snapshot_volume(
        &self,
        volume: &str,
        name: Option<&str>,
        pause: bool,
    ) -> Result<Snapshot, EngineError> {
        let volume = self.find_volume(volume)?;
        let files = self.files_of(&volume)?;
        let _lock = self.lock_volume(&volume.name)?;
        let created_at = Timestamp::now();
        let name = self.snapshot_name(&volume.name, name, created_at)?;
        let fail = |source| EngineError::io("copy", &files)(source);

        let workspace = self.images.workspace()?;
        let staged = workspace.path().join("_data");
        make_private(&staged).map_err(fail)?;
        self.copy_paused(&volume.name, &files, &staged, pause)?;
        let snapshot = Snapshot {
            bytes: disk_bytes(&staged),
            volume: volume.name,
            name,
            created_at,
        };
        let place = self.snapshot_path(&snapshot.volume, &snapshot.name);
        self.clear_snapshot_place(&place)?;
        self.images.database().durably(|transaction| {
            failpoint::hit("rename-snapshot").map_err(StoreError::Files)?;
            rename_durably(&staged, &place).map_err(StoreError::Files)?;
            failpoint::hit("commit-snapshot").map_err(StoreError::Files)?;
            volume::add_snapshot(transaction, &snapshot)
        })?;
        Ok(snapshot)
    }

    fn snapshot_name(
        &self,
        volume: &str,
        wanted: Option<&str>,
        now: Timestamp,
    ) -> Result<String, EngineError> {
        let connection = self.images.database().connection();
        let Some(wanted) = wanted else {
            let base = now.strftime("%Y%m%d-%H%M%S").to_string();
            let mut name = base.clone();
            let mut number = 1;
            while volume::get_snapshot(connection, volume, &name)?.is_some() {
                number += 1;
                name = format!("{base}-{number}");
            }
            return Ok(name);
        };
        if !volume::is_name(wanted) {
            return Err(EngineError::InvalidConfig(ConfigError {
                field: "snapshot",
                value: wanted.to_owned(),
                reason:
                    "a name has letters, digits, _ . and - only, and begins with a letter or digit"
                        .to_owned(),
                hint: Some("choose another name, or none"),
            }));
        }
        match volume::get_snapshot(connection, volume, wanted)? {
            None => Ok(wanted.to_owned()),
            Some(_) => Err(EngineError::Volume {
                name: volume.to_owned(),
                reason: format!("it has a snapshot {wanted} already"),
            }),
        }
    }

    /// The snapshots of one volume, or of all, oldest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn volume_snapshots(&self, volume: Option<&str>) -> Result<Vec<Snapshot>, EngineError> {
        let connection = self.images.database().connection();
        Ok(volume::list_snapshots(connection, volume)?)
    }

    fn find_snapshot(&self, volume: &str, name: &str) -> Result<Snapshot, EngineError> {
        let connection = self.images.database().connection();
        volume::get_snapshot(connection, volume, name)?.ok_or_else(|| EngineError::NoSuchSnapshot {
            volume: volume.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Where the files of a snapshot are that is there.
    pub(super) fn find_snapshot_files(
        &self,
        volume: &str,
        name: &str,
    ) -> Result<PathBuf, EngineError> {
        self.find_snapshot(volume, name)?;
        Ok(self.snapshot_path(volume, name))
    }

    /// Takes a snapshot away.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove_snapshot(&self, volume: &str, name: &str) -> Result<(), EngineError> {
        let volume = self.find_volume(volume)?.name;
        let _lock = self.lock_volume(&volume)?;
        self.find_snapshot(&volume, name)?;
        self.images
            .database()
            .write(|transaction| volume::forget_snapshot(transaction, &volume, name))?;
        failpoint::hit("forgot-snapshot").map_err(EngineError::io("remove", &volume))?;
        self.clear_snapshot_place(&self.snapshot_path(&volume, name))
    }

    /// Makes a volume what it was. It must not be mounted by an instance that runs.
    ///
    /// # Errors
    /// [`EngineError::VolumeInUse`]; when there is no such snapshot.
    pub fn restore_volume(&self, volume: &str, snapshot: &str) -> Result<(), EngineError> {
        let volume = self.find_volume(volume)?;
        let _lock = self.lock_volume(&volume.name)?;
        let source = self.find_snapshot_files(&volume.name, snapshot)?;
        self.refuse_running("restore", &volume.name)?;
        let workspace = self.images.workspace()?;
        let staged = self.stage_data(&workspace.path(), &volume)?;
        copy_durably(&source, &staged).map_err(EngineError::io("copy", &source))?;
        self.exchange(&volume, &staged)?;
        Ok(self.images.database().write(|transaction| {
            volume::note_about(transaction, &volume.name, "restore", snapshot)
        })?)
    }

    /// Makes a new volume that has what another one, or a snapshot of it, has now.
    ///
    /// # Errors
    /// When there is one of that name, or the source cannot be copied.
    pub fn clone_volume(
        &self,
        source: &VolumeSource,
        name: &str,
        pause: bool,
    ) -> Result<Volume, EngineError> {
        let of = self.find_volume(&source.volume)?;
        let _lock = self.lock_volume(&of.name)?;
        let mut options = of.options.clone();
        // The copy is a folder of its own, whatever the source is.
        options.retain(|key, _| key == "size");
        let new = self.new_volume(&VolumeRequest {
            name: Some(name.to_owned()),
            labels: of.labels.clone(),
            options,
        })?;
        self.make_filled(&new, |staged| match &source.snapshot {
            None => self.copy_paused(&of.name, &self.files_of(&of)?, staged, pause),
            Some(snapshot) => {
                let files = self.find_snapshot_files(&of.name, snapshot)?;
                copy_durably(&files, staged).map_err(EngineError::io("copy", &files))
            }
        })?;
        Ok(new)
    }

    /// Makes a volume whose files `fill` puts into a folder. It is there once they all are.
    pub(super) fn make_filled(
        &self,
        new: &Volume,
        fill: impl FnOnce(&Path) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let place = self.paths.volumes().join(&new.name);
        let connection = self.images.database().connection();
        if volume::get(connection, &new.name)?.is_some() {
            return Err(EngineError::Volume {
                name: new.name.clone(),
                reason: "there is one of that name already".to_owned(),
            });
        }
        let workspace = self.images.workspace()?;
        let whole = workspace.path().join("volume");
        make_private(&whole).map_err(EngineError::io("make the folder", &whole))?;
        // Until its row is there, nobody takes it for a volume.
        File::create(whole.join(INCOMING)).map_err(EngineError::io("write to", &whole))?;
        fill(&self.stage_data(&whole, new)?)?;
        self.images.database().durably(|transaction| {
            match volume::declare(transaction, &self.paths, new)? {
                Declaration::Made => {}
                Declaration::Known(_) => {
                    return Err(StoreError::Files(io::ErrorKind::AlreadyExists.into()));
                }
            }
            if place.join(INCOMING).exists() {
                // One like us that was killed just before it had its row.
                let old = workspace.path().join("old");
                fs::rename(&place, &old).map_err(StoreError::Files)?;
            }
            failpoint::hit("rename-volume").map_err(StoreError::Files)?;
            rename_durably(&whole, &place).map_err(StoreError::Files)?;
            failpoint::hit("commit-volume").map_err(StoreError::Files)
        })?;
        failpoint::hit("committed-volume").map_err(EngineError::io("finish", &place))?;
        fs::remove_file(place.join(INCOMING)).map_err(EngineError::io("finish", &place))
    }

    /// A folder for the files of a volume, with its limit.
    pub(super) fn stage_data(&self, above: &Path, of: &Volume) -> Result<PathBuf, EngineError> {
        let staged = above.join("_data");
        let make = || {
            DirBuilder::new().mode(0o755).create(&staged)?;
            match Backing::parse(&of.options).map_err(io::Error::other)? {
                Backing::Folder { size: Some(size) } => {
                    limit_folders(&self.paths, std::slice::from_ref(&staged), size)
                }
                _ => Ok(()),
            }
        };
        make().map_err(EngineError::io("make the folder", &staged))?;
        Ok(staged)
    }

    /// Puts other files in the place of those of a volume, in one step. The caller has it locked, and
    /// has made sure that nobody uses it.
    pub(super) fn exchange(&self, volume: &Volume, staged: &Path) -> Result<(), EngineError> {
        if !matches!(Backing::parse(&volume.options)?, Backing::Folder { .. }) {
            return Err(EngineError::Volume {
                name: volume.name.clone(),
                reason: "its files are not Isle's to replace: they are a folder of the host, or a \
                         file system of its own"
                    .to_owned(),
            });
        }
        let data = self.volume_path(&volume.name);
        let folder = self.paths.volumes().join(&volume.name);
        let exchange = || {
            volume::make_data(&self.paths, &volume.name, &Backing::Folder { size: None })?;
            failpoint::hit("exchange")?;
            renameat_with(CWD, staged, CWD, &data, RenameFlags::EXCHANGE)?;
            failpoint::hit("exchanged")?;
            File::open(&folder)?.sync_all()?;
            // What is there now is whole.
            match fs::remove_file(folder.join(FILLING)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        exchange().map_err(EngineError::io("replace", &data))?;
        let limit = File::open(staged)
            .ok()
            .and_then(|old| Limit::of(old.as_fd()));
        if let Some(limit) = limit {
            // The number is free once no file has it.
            let _ = fs::remove_dir_all(staged);
            limit
                .lift(&self.paths)
                .map_err(EngineError::io("lift the limit of", staged))?;
        }
        Ok(())
    }

    /// Where the files of a volume are that can be copied as they are.
    pub(super) fn files_of(&self, volume: &Volume) -> Result<PathBuf, EngineError> {
        match Backing::parse(&volume.options)? {
            backing @ Backing::Folder { .. } => {
                volume::make_data(&self.paths, &volume.name, &backing).map_err(EngineError::io(
                    "make the folder",
                    self.volume_path(&volume.name),
                ))
            }
            Backing::Bind { device, .. } => Ok(device),
            Backing::FileSystem(_) => Err(EngineError::Volume {
                name: volume.name.clone(),
                reason:
                    "its file system is mounted only while an instance uses it: copy the files \
                         from inside, with isle cp"
                        .to_owned(),
            }),
        }
    }

    /// Where the files of a snapshot are.
    pub(super) fn snapshot_path(&self, volume: &str, name: &str) -> PathBuf {
        let folder = self.paths.volumes().join(volume);
        folder.join("snapshots").join(name)
    }

    /// Makes sure that the place of a snapshot that has no row is free.
    fn clear_snapshot_place(&self, place: &Path) -> Result<(), EngineError> {
        let above = place.parent().unwrap_or(place);
        let clear = || {
            make_private(above)?;
            let name = place.file_name().unwrap_or_default();
            let name = std::ffi::CString::new(name.as_encoded_bytes())?;
            isle_archive::removal::remove(File::open(above)?.as_fd(), &name)
        };
        clear().map_err(EngineError::io("remove", place))
    }

    /// Waits until nobody replaces, copies or begins to use a volume.
    pub(super) fn lock_volume(&self, name: &str) -> Result<VolumeLock, EngineError> {
        let folder = self.paths.volumes().join(name);
        let lock = || {
            make_private(&folder)?;
            let file = File::open(&folder)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(VolumeLock { _file: file })
        };
        lock().map_err(EngineError::io("lock", &folder))
    }

    /// The instances that run and mount a volume, or are about to.
    pub(super) fn running_users(&self, volume: &str) -> Result<Vec<Instance>, EngineError> {
        let mut users = self.list()?;
        users.retain(|instance| volume_names(instance).any(|name| name == volume));
        let mut running = Vec::new();
        for user in users {
            let is_held = InstanceLock::is_held(&self.paths, &user.id)
                .map_err(EngineError::io("look at the lock of", user.name.as_str()))?;
            if is_held || user.state.status.is_supervised() {
                running.push(user);
            }
        }
        Ok(running)
    }

    /// For what must not happen beneath a running instance.
    pub(super) fn refuse_running(
        &self,
        operation: &'static str,
        volume: &str,
    ) -> Result<(), EngineError> {
        let deadline = Instant::now() + PATIENCE;
        let users = loop {
            let users = self.running_users(volume)?;
            // One that has just ended is still being cleaned up after.
            let is_ending = !users.iter().any(|user| user.state.status.is_supervised());
            if users.is_empty() {
                return Ok(());
            }
            if !is_ending || Instant::now() >= deadline {
                break users;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Err(EngineError::VolumeInUse {
            operation,
            name: volume.to_owned(),
            users: users.iter().map(|user| user.name.to_string()).collect(),
        })
    }

    /// Copies the files of a volume while the instances that mount it stand still.
    pub(super) fn copy_paused(
        &self,
        volume: &str,
        files: &Path,
        staged: &Path,
        pause: bool,
    ) -> Result<(), EngineError> {
        let mut held = Vec::new();
        let mut copy = || {
            if pause {
                for user in self.running_users(volume)? {
                    held.extend(self.hold(&user)?);
                }
            }
            tree_copy(files, staged).map_err(EngineError::io("copy", files))
        };
        let copied = copy();
        let mut resumed = Ok(());
        for one in held {
            resumed = resumed.and(one.release());
        }
        copied?;
        resumed?;
        sync(staged).map_err(EngineError::io("write", staged))
    }
}

/// Beside the files of a volume that has no row yet.
const INCOMING: &str = "incoming";

fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn tree_copy(from: &Path, to: &Path) -> io::Result<()> {
    failpoint::hit("copy-volume")?;
    let (source, destination) = (File::open(from)?, File::open(to)?);
    tree::copy(source.as_fd(), destination.as_fd())?;
    failpoint::hit("copied-volume")
}

fn copy_durably(from: &Path, to: &Path) -> io::Result<()> {
    tree_copy(from, to)?;
    sync(to)
}

/// Everything that was written below a folder is on the disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    Ok(syncfs(File::open(folder)?)?)
}

/// Moves a folder so that the move is on the disk before the row that tells of it.
fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(above) => File::open(above)?.sync_all(),
        None => Ok(()),
    }
}
