//! Finding, making and removing volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use isle_types::nearest;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, statat};

use super::{Engine, EngineError, volume_names};
use crate::backend::container::check_quotas;
use crate::config::{ConfigError, InstanceConfig, MountSource};
use crate::names;
use crate::store::StoreError;
use crate::volume::{self, Backing, Declaration, RemovalOutcome, Volume};

/// What [`Engine::create_volume`] makes.
#[derive(Clone, Debug, Default)]
pub struct VolumeRequest {
    /// Its name; 64 random hexadecimal digits when not given.
    pub name: Option<String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--opt`: `type`, `device`, `o`, `size`.
    pub options: BTreeMap<String, String>,
}

/// What [`Engine::prune_volumes`] took away.
#[derive(Clone, Debug, Default)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes of their files.
    pub bytes: u64,
}

impl Engine {
    /// Makes a volume. One that is there already is returned, when it has the same options.
    ///
    /// # Errors
    /// When the name or an option makes no sense, or one is there with other options.
    pub fn create_volume(&self, request: &VolumeRequest) -> Result<Volume, EngineError> {
        let volume = self.new_volume(request)?;
        let declared = self
            .images
            .database()
            .durably(|transaction| volume::declare(transaction, &self.paths, &volume))?;
        let volume = match declared {
            Declaration::Made => volume,
            Declaration::Known(known) if known.options == request.options => known,
            Declaration::Known(known) => {
                return Err(EngineError::Volume {
                    name: known.name,
                    reason: format!(
                        "it is there already, with {}",
                        match known.options.is_empty() {
                            true => "no options".to_owned(),
                            false => format!("the options {}", spelled(&known.options)),
                        }
                    ),
                });
            }
        };
        volume::make_data(&self.paths, &volume.name, &Backing::parse(&volume.options)?).map_err(
            EngineError::io("make the folder", self.volume_path(&volume.name)),
        )?;
        Ok(volume)
    }

    /// A volume that can be made on this host.
    pub(crate) fn new_volume(&self, request: &VolumeRequest) -> Result<Volume, EngineError> {
        if let Some(name) = &request.name
            && !volume::is_name(name)
        {
            return Err(EngineError::InvalidConfig(ConfigError {
                field: "name",
                value: name.clone(),
                reason:
                    "a volume's name has letters, digits, _ . and - only, and begins with a letter \
                         or digit"
                        .to_owned(),
                hint: Some("choose another name"),
            }));
        }
        if let Backing::Folder { size: Some(size) } = Backing::parse(&request.options)? {
            check_quotas(&self.paths, "--opt size", size)?;
        }
        let random = || names::random_id().map(|id| id.to_string());
        Ok(Volume {
            name: match &request.name {
                Some(name) => name.clone(),
                None => {
                    random().map_err(EngineError::io("get random bytes from", "/dev/urandom"))?
                }
            },
            created_at: Timestamp::now(),
            is_anonymous: request.name.is_none(),
            labels: request.labels.clone(),
            options: request.options.clone(),
        })
    }

    /// Names the volumes of a new instance, and takes over what they were made with. Returns those
    /// that have to be there with it.
    pub(crate) fn choose_volumes(
        &self,
        config: &mut InstanceConfig,
    ) -> Result<Vec<Volume>, EngineError> {
        let mut volumes = Vec::new();
        for mount in &mut config.mounts {
            let MountSource::Volume(wanted) = &mut mount.source else {
                continue;
            };
            let known = match &wanted.name {
                Some(name) => volume::get(self.images.database().connection(), name)?,
                None => None,
            };
            let volume = match known {
                Some(known) if wanted.options.is_empty() || wanted.options == known.options => {
                    known
                }
                Some(known) => {
                    return Err(EngineError::InvalidConfig(ConfigError {
                        field: "volume-opt",
                        value: spelled(&wanted.options),
                        reason: format!(
                            "the volume {} is there already, with other options",
                            known.name
                        ),
                        hint: Some("leave volume-opt out, or name another volume"),
                    }));
                }
                None => self.new_volume(&VolumeRequest {
                    name: wanted.name.clone(),
                    labels: wanted.labels.clone(),
                    options: wanted.options.clone(),
                })?,
            };
            if let Backing::Bind { is_read_only, .. } = Backing::parse(&volume.options)? {
                mount.read_only |= is_read_only;
            }
            wanted.name = Some(volume.name.clone());
            wanted.options.clone_from(&volume.options);
            volumes.push(volume);
        }
        Ok(volumes)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        Ok(volume::list(self.images.database().connection())?)
    }

    /// The volume of a name.
    ///
    /// # Errors
    /// [`EngineError::NoSuchVolume`], whose hint holds the nearest name.
    pub fn find_volume(&self, name: &str) -> Result<Volume, EngineError> {
        let connection = self.images.database().connection();
        match volume::get(connection, name)? {
            Some(volume) => Ok(volume),
            None => Err(self.no_such_volume(name)?),
        }
    }

    fn no_such_volume(&self, name: &str) -> Result<EngineError, StoreError> {
        let names = volume::names(self.images.database().connection())?;
        Ok(EngineError::NoSuchVolume {
            name: name.to_owned(),
            nearest: nearest(name, names.iter().map(String::as_str)).map(str::to_owned),
        })
    }

    /// The instances that mount each volume, by name, whether they run or not.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn volume_users(&self) -> Result<BTreeMap<String, Vec<String>>, EngineError> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for instance in self.store().list()? {
            let mut names: Vec<&str> = volume_names(&instance).collect();
            names.sort_unstable();
            names.dedup();
            for volume in names {
                let of_volume = users.entry(volume.to_owned()).or_default();
                of_volume.push(instance.name.to_string());
            }
        }
        Ok(users)
    }

    /// Where the files of a volume are on the host, while no file system of its own is mounted there.
    #[must_use]
    pub fn volume_path(&self, name: &str) -> PathBuf {
        self.paths.volumes().join(name).join("_data")
    }

    /// Bytes that the files of a volume take on the disk: what a file with several names holds is
    /// counted once, and holes not at all.
    #[must_use]
    pub fn volume_bytes(&self, volume: &Volume) -> u64 {
        disk_bytes(&self.volume_path(&volume.name))
    }

    /// Takes a volume away, with its files; `force` takes its snapshots too.
    ///
    /// # Errors
    /// [`EngineError::NoSuchVolume`]; [`EngineError::VolumeInUse`] when an instance mounts it, even one
    /// that does not run; [`EngineError::HasSnapshots`].
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let name = self.find_volume(name)?.name;
        let name = name.as_str();
        // Who copies it or replaces its files finishes first.
        let _lock = self.lock_volume(name)?;
        let snapshots = self.volume_snapshots(Some(name))?;
        if !force && !snapshots.is_empty() {
            return Err(EngineError::HasSnapshots {
                volume: name.to_owned(),
                names: snapshots.into_iter().map(|one| one.name).collect(),
            });
        }
        let removed = volume::remove_unused(self.images.database(), &self.paths, name, None)?;
        match removed {
            RemovalOutcome::Removed => Ok(()),
            RemovalOutcome::Missing => Err(self.no_such_volume(name)?),
            RemovalOutcome::InUse(users) => Err(EngineError::VolumeInUse {
                operation: "remove",
                name: name.to_owned(),
                users,
            }),
        }
    }

    /// Takes away the volumes that no instance mounts, that have no snapshots, and that `fits` picks: of
    /// those without a name all, of those with one only when `all` says so.
    ///
    /// # Errors
    /// When the state file cannot be read, or files not be removed.
    pub fn prune_volumes(
        &self,
        all: bool,
        fits: impl Fn(&Volume) -> bool,
    ) -> Result<PrunedVolumes, EngineError> {
        let database = self.images.database();
        volume::finish_all(database, &self.paths)?;
        self.images.collect()?;
        let kept: std::collections::BTreeSet<String> =
            volume::list_snapshots(database.connection(), None)?
                .into_iter()
                .map(|snapshot| snapshot.volume)
                .collect();
        let users = self.volume_users()?;
        let mut pruned = PrunedVolumes::default();
        for volume in self.volumes()? {
            let is_wanted = all || volume.is_anonymous;
            let is_needed = users.contains_key(&volume.name) || kept.contains(&volume.name);
            if !is_wanted || is_needed || !fits(&volume) {
                continue;
            }
            let bytes = self.volume_bytes(&volume);
            let removed = volume::remove_unused(database, &self.paths, &volume.name, None)?;
            if removed == RemovalOutcome::Removed {
                pruned.bytes += bytes;
                pruned.names.push(volume.name);
            }
        }
        Ok(pruned)
    }
}

fn spelled(options: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = options
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    words.join(", ")
}

/// What cannot be read counts nothing.
pub(super) fn disk_bytes(folder: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(stat) = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
                rustix::fs::FileType::Directory => folders.push(path),
                _ if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) => continue,
                _ => {}
            }
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    }
    bytes
}
