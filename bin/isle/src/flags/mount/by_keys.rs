//! `--mount`.

use std::collections::BTreeMap;

use isle_engine::config::{Mount, MountSource, VolumeMount};
use isle_types::ByteSize;

use super::super::{csv, switch};
use super::{
    FlagError, driver, host_path, propagation, target, tmpfs_mode, tmpfs_size, volume_name,
    volume_option,
};

const KNOWN: &str = "known are type, source, target, readonly, consistency, bind-propagation, \
                     bind-recursive, bind-nonrecursive, bind-create-src, volume-nocopy, \
                     volume-subpath, volume-label, volume-driver, volume-opt, tmpfs-size and \
                     tmpfs-mode";

/// What the keys have said.
#[derive(Default)]
struct Said {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    propagation: Option<String>,
    recursion: Recursion,
    create_source: bool,
    volume: VolumeMount,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    size: Option<ByteSize>,
    mode: Option<u32>,
    /// Keys that only one type has: the type, and the key.
    only_for: Vec<(&'static str, String)>,
}

/// What becomes of the mounts below the source of a bind.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Recursion {
    /// They come with it, and are read-only with it.
    #[default]
    Enabled,
    /// They do not come with it.
    Disabled,
    /// They come with it, and can be written where they could be.
    Writable,
    /// As by default, where Docker's is to try.
    ReadOnly,
}

/// `--mount type=bind,source=/a,target=/b,readonly`.
pub fn mount(text: &str) -> Result<Mount, FlagError> {
    let mut said = Said::default();
    for field in csv::fields(text)? {
        said.field(&field, text)?;
    }
    said.mount(text)
}

impl Said {
    fn field(&mut self, field: &str, text: &str) -> Result<(), FlagError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let needed = || {
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                FlagError::new(
                    format!("{key:?} has no value"),
                    format!("write {key}=VALUE"),
                )
            })
        };
        let flag = || value.map_or(Ok(true), switch);
        match key.as_str() {
            "type" => self.kind = Some(needed()?.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(needed()?.to_owned()),
            "target" | "destination" | "dst" => self.target = Some(target(needed()?)?),
            "readonly" | "ro" => self.read_only = flag()?,
            "rw" => self.read_only = !flag()?,
            // A hint for virtual machines of other systems: without meaning on Linux, as in Docker.
            "consistency" => consistency(needed()?)?,
            "bind-propagation" => self.propagation = Some(propagation(needed()?)?),
            "bind-nonrecursive" if flag()? => self.recursion = Recursion::Disabled,
            "bind-nonrecursive" => self.recursion = Recursion::Enabled,
            "bind-recursive" => self.recursion = recursion(needed()?)?,
            "bind-create-src" => self.create_source = flag()?,
            "volume-nocopy" => self.volume.no_copy = flag()?,
            "volume-subpath" | "subpath" => self.volume.subpath = Some(needed()?.to_owned()),
            "volume-driver" => {
                driver(needed()?)?;
            }
            "volume-opt" => self.options.extend([volume_option(needed()?)?]),
            "volume-label" => self
                .labels
                .extend([super::super::labels::label(needed()?)?]),
            "tmpfs-size" => self.size = Some(tmpfs_size(needed()?)?),
            "tmpfs-mode" => self.mode = Some(tmpfs_mode(needed()?)?),
            _ => {
                return Err(FlagError::new(
                    format!("unexpected key {key:?} in {text:?}"),
                    KNOWN,
                ));
            }
        }
        let owner = match key.split_once('-') {
            Some(("bind", _)) => "bind",
            Some(("volume", _)) => "volume",
            Some(("tmpfs", _)) => "tmpfs",
            _ if key == "subpath" => "volume",
            _ => return Ok(()),
        };
        self.only_for.push((owner, key));
        Ok(())
    }

    fn mount(self, text: &str) -> Result<Mount, FlagError> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        check_kind(kind)?;
        if let Some((owner, key)) = self.only_for.iter().find(|(owner, _)| *owner != kind) {
            return Err(FlagError::new(
                format!("{key} does not go with type={kind}"),
                format!("write type={owner}, or leave {key} out"),
            ));
        }
        let target = self.target.ok_or_else(|| {
            FlagError::new(
                format!("{text:?} has no target"),
                "add target=/path, the place inside the instance",
            )
        })?;
        let source = match (kind, self.source) {
            ("bind", Some(path)) => {
                if self.recursion == Recursion::ReadOnly && !self.read_only {
                    return Err(FlagError::new(
                        "bind-recursive=readonly does not go with a mount that can be written",
                        "add readonly",
                    ));
                }
                MountSource::Bind {
                    path: host_path(&path)?,
                    create_source: self.create_source,
                    propagation: self.propagation,
                    non_recursive: self.recursion == Recursion::Disabled,
                    writable_below: self.recursion == Recursion::Writable,
                }
            }
            ("bind", None) => {
                return Err(FlagError::new(
                    format!("{text:?} has no source"),
                    "add source=/path, the place on the host",
                ));
            }
            ("volume", name) => MountSource::Volume(VolumeMount {
                name: name.map(|name| volume_name(&name)).transpose()?,
                options: self.options,
                labels: self.labels,
                ..self.volume
            }),
            (_, Some(_)) => {
                return Err(FlagError::new(
                    "a tmpfs has no source",
                    "leave source out, or write type=bind",
                ));
            }
            (_, None) => MountSource::Tmpfs {
                size: self.size,
                mode: self.mode,
                options: Vec::new(),
            },
        };
        Ok(Mount {
            source,
            target,
            read_only: self.read_only,
        })
    }
}

fn check_kind(kind: &str) -> Result<(), FlagError> {
    match kind {
        "bind" | "volume" | "tmpfs" => Ok(()),
        "image" => Err(FlagError::new(
            "type=image is not supported in this version",
            "copy the files out of the image into a volume: isle run -v NAME:/place IMAGE",
        )),
        other => Err(FlagError::new(
            format!("mount type {other:?} is not known"),
            "use type=bind, type=volume or type=tmpfs",
        )),
    }
}

fn consistency(text: &str) -> Result<(), FlagError> {
    match text {
        "default" | "consistent" | "cached" | "delegated" => Ok(()),
        _ => Err(FlagError::new(
            format!("consistency {text:?} is not known"),
            "use default, consistent, cached or delegated: on Linux they mean the same",
        )),
    }
}

fn recursion(text: &str) -> Result<Recursion, FlagError> {
    match text {
        "enabled" => Ok(Recursion::Enabled),
        "disabled" => Ok(Recursion::Disabled),
        "writable" => Ok(Recursion::Writable),
        "readonly" => Ok(Recursion::ReadOnly),
        _ => Err(FlagError::new(
            format!("bind-recursive={text} is not known"),
            "use enabled, disabled, writable or readonly",
        )),
    }
}
