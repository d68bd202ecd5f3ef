//! Finding, making and naming instances.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_image::{Healthcheck, Image};
use isle_types::{InstanceId, InstanceName, nearest};
use jiff::Timestamp;

use super::{CreateRequest, Engine, EngineError};
use crate::config::{
    ConfigError, HealthCheck, HealthTest, InstanceConfig, MountSource, NamespaceMode, NetworkMode,
    OnUnhealthy,
};
use crate::merge::{merge, normal_path};
use crate::state::{Instance, InstanceState};
use crate::store::NewEvent;
use crate::validate::{Host, validate};
use crate::volume::{self, Volume};
use crate::{backend, names};

/// So many random names are tried before one gets a number behind it.
const RANDOM_NAMES_TRIED: usize = 6;

/// Is there where SELinux is.
const SELINUX: &str = "/sys/fs/selinux/enforce";

impl Engine {
    /// Finds an instance by name, id, or unique prefix of an id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchInstance`] (its hint holds the nearest name), [`EngineError::AmbiguousId`].
    pub fn find(&self, name_or_id: &str) -> Result<Instance, EngineError> {
        let instance = self.look_up(name_or_id)?;
        let id = instance.id;
        self.put_right(instance)?
            .ok_or_else(|| EngineError::gone(&id))
    }

    fn look_up(&self, name_or_id: &str) -> Result<Instance, EngineError> {
        let wanted = name_or_id.strip_prefix('/').unwrap_or(name_or_id);
        if let Ok(id) = wanted.parse::<InstanceId>() {
            return match self.store().get(&id)? {
                Some(instance) => Ok(instance),
                None => Err(self.nothing_like(wanted)?),
            };
        }
        if let Some(instance) = self.store().by_name(wanted)? {
            return Ok(instance);
        }
        let is_prefix = !wanted.is_empty()
            && wanted.len() < 64
            && wanted
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut found = match is_prefix {
            true => self.store().by_id_prefix(wanted)?,
            false => Vec::new(),
        };
        match found.len() {
            0 => Err(self.nothing_like(wanted)?),
            1 => Ok(found.remove(0)),
            _ => Err(EngineError::AmbiguousId {
                prefix: wanted.to_owned(),
                candidates: found.iter().map(|instance| instance.id.short()).collect(),
            }),
        }
    }

    /// All instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Instance>, EngineError> {
        let rows = self.store().list()?;
        let mut instances = Vec::with_capacity(rows.len());
        for row in rows {
            instances.extend(self.put_right(row)?);
        }
        Ok(instances)
    }

    /// Names and ids of all instances, newest first, without the rest: for completions.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn names(&self) -> Result<Vec<(InstanceId, String)>, EngineError> {
        Ok(self.store().names()?)
    }

    fn nothing_like(&self, wanted: &str) -> Result<EngineError, EngineError> {
        let names = self.store().names()?;
        let meant = nearest(wanted, names.iter().map(|(_, name)| &**name));
        Ok(EngineError::NoSuchInstance {
            name: wanted.to_owned(),
            nearest: meant.map(str::to_owned),
        })
    }

    /// Makes an instance. Nothing runs yet.
    ///
    /// # Errors
    /// When the configuration is invalid, the name taken, the image missing.
    pub fn create(&self, request: CreateRequest) -> Result<Instance, EngineError> {
        let image = self.images.find(&request.image_id)?;
        let mut config = request.config;
        self.take_volumes(&mut config)?;
        if let Some(of_image) = image.config.config() {
            let health_check = image.docker.healthcheck.as_ref().and_then(health_check);
            merge(&mut config, of_image, health_check)?;
        }
        for mount in &mut config.mounts {
            mount.target = normal_path(&mount.target);
        }
        let host = Host::probe(config.isolation)
            .map_err(EngineError::io("read", "/sys/devices/system/cpu"))?;
        validate(&config, &host)?;
        self.pin_other_instances(&mut config)?;
        self.resolve_networks(&mut config)?;
        let volumes = self.choose_volumes(&mut config)?;
        let layers = self.layers_of(&image)?;
        let mut instance = Instance {
            id: names::random_id().map_err(no_randomness)?,
            name: match request.name {
                Some(ref name) => name.clone(),
                None => names::random_name(false).map_err(no_randomness)?,
            },
            created_at: Timestamp::now(),
            image_id: image.id.to_string(),
            config,
            state: InstanceState::created(),
        };
        backend::make_storage(&instance, &self.paths)?;
        let inserted = self.insert(&mut instance, &layers, &volumes, request.name.is_none());
        if inserted.is_err() && instance.config.storage_size.is_some() {
            // The error that counts is the first one.
            let _ = backend::remove_storage(&instance, &self.paths);
        }
        inserted?;
        self.fresh.replace(Some(instance.clone()));
        Ok(instance)
    }

    /// Writes the row of a new instance; one whose name was not given gets another if it must.
    fn insert(
        &self,
        instance: &mut Instance,
        layers: &[PathBuf],
        volumes: &[Volume],
        may_rename: bool,
    ) -> Result<(), EngineError> {
        let mut tries = 0;
        loop {
            let inserted = self.store().insert(instance, layers, |transaction| {
                let owner = instance.id.to_string();
                isle_image::Store::hold(transaction, &instance.image_id, &owner)?;
                volumes.iter().try_for_each(|volume| {
                    volume::declare(transaction, &self.paths, volume).map(drop)
                })
            });
            match inserted.map_err(EngineError::from) {
                Ok(()) => return Ok(()),
                Err(EngineError::NameInUse { .. }) if may_rename => {
                    tries += 1;
                    instance.name =
                        names::random_name(tries >= RANDOM_NAMES_TRIED).map_err(no_randomness)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The image's unpacked layers, topmost first, relative to the root where they are below it.
    pub(crate) fn layers_of(&self, image: &Image) -> Result<Vec<PathBuf>, EngineError> {
        let layers = self.images.layers(image)?;
        let root = &self.paths.root;
        let relative = |layer: &PathBuf| layer.strip_prefix(root).unwrap_or(layer).to_owned();
        Ok(layers.iter().rev().map(relative).collect())
    }

    /// `--volumes-from`: what other instances mount, but where this one mounts something itself.
    fn take_volumes(&self, config: &mut InstanceConfig) -> Result<(), EngineError> {
        for entry in config.volumes_from.clone() {
            let (name, mode) = entry.split_once(':').unwrap_or((&entry, "rw"));
            // Without SELinux there are no labels to set, as in Docker.
            let is_known = |word: &str| {
                matches!(word, "ro" | "rw")
                    || (matches!(word, "z" | "Z") && !Path::new(SELINUX).exists())
            };
            if !mode.split(',').all(is_known) {
                return Err(EngineError::InvalidConfig(ConfigError {
                    field: "--volumes-from",
                    value: entry.clone(),
                    reason: format!("{mode:?} is not a mode"),
                    hint: Some("write NAME, NAME:ro or NAME:rw"),
                }));
            }
            for mut mount in self.find(name)?.config.mounts {
                let is_own_memory = matches!(mount.source, MountSource::Tmpfs { .. });
                let target = normal_path(&mount.target);
                let is_taken = config
                    .mounts
                    .iter()
                    .any(|own| normal_path(&own.target) == target);
                if is_own_memory || is_taken {
                    continue;
                }
                mount.read_only |= mode.split(',').any(|word| word == "ro");
                config.mounts.push(mount);
            }
        }
        Ok(())
    }

    /// Whose namespaces are shared is decided now, by id: a name may come to mean another one.
    fn pin_other_instances(&self, config: &mut InstanceConfig) -> Result<(), EngineError> {
        let pin = |name: &mut String| -> Result<(), EngineError> {
            *name = self.find(name)?.id.to_string();
            Ok(())
        };
        if let NetworkMode::Instance(name) = &mut config.network {
            pin(name)?;
        }
        let namespaces = &mut config.namespaces;
        for mode in [
            &mut namespaces.pid,
            &mut namespaces.ipc,
            &mut namespaces.uts,
            &mut namespaces.cgroup,
        ] {
            if let NamespaceMode::Instance(name) = mode {
                pin(name)?;
            }
        }
        Ok(())
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn rename(&self, id: &InstanceId, name: &InstanceName) -> Result<(), EngineError> {
        let mut instance = self.get(id)?;
        let old = std::mem::replace(&mut instance.name, name.clone());
        let event = NewEvent::of_instance(&instance, "rename").with("oldName", &old);
        self.store().rename(id, name, &[event])?;
        self.rename_on_networks(&instance, old.as_str())
    }

    /// The row of an id that the caller has got from [`Engine::find`].
    pub(crate) fn get(&self, id: &InstanceId) -> Result<Instance, EngineError> {
        self.store().get(id)?.ok_or_else(|| EngineError::gone(id))
    }
}

fn no_randomness(error: std::io::Error) -> EngineError {
    EngineError::io("get random bytes from", "/dev/urandom")(error)
}

/// An image's health check with Docker's defaults; `None` for one that says nothing.
fn health_check(image: &Healthcheck) -> Option<HealthCheck> {
    let or = |duration: Duration, seconds| match duration.is_zero() {
        true => Duration::from_secs(seconds),
        false => duration,
    };
    let test = match image.test.split_first()? {
        (kind, _) if kind == "NONE" => HealthTest::Disabled,
        (kind, words) if kind == "CMD" => HealthTest::Command(words.to_vec()),
        (kind, words) if kind == "CMD-SHELL" => HealthTest::Shell(words.join(" ")),
        _ => return None,
    };
    Some(HealthCheck {
        test,
        interval: or(image.interval, 30),
        timeout: or(image.timeout, 30),
        start_period: image.start_period,
        start_interval: or(image.start_interval, 5),
        retries: match image.retries {
            0 => 3,
            retries => retries,
        },
        on_unhealthy: OnUnhealthy::None,
    })
}
