//! `Mounts` of `inspect`, and `Binds`, `Mounts` and `Tmpfs` of its `HostConfig`.

use std::path::Path;

use isle_engine::config::{InstanceConfig, Mount, MountSource};
use isle_types::InstanceId;
use serde_json::{Map, Value, json};

/// Where a named volume's files are.
fn volume_path(volumes: &Path, name: &str) -> String {
    volumes.join(name).join("_data").display().to_string()
}

pub fn mounts(config: &InstanceConfig, volumes: &Path) -> Value {
    config
        .mounts
        .iter()
        .filter_map(|mount| mount_point(mount, volumes))
        .collect()
}

fn mount_point(mount: &Mount, volumes: &Path) -> Option<Value> {
    match &mount.source {
        MountSource::Bind {
            path, propagation, ..
        } => Some(json!({
            "Type": "bind",
            "Source": path,
            "Destination": mount.target,
            "Mode": if mount.read_only { "ro" } else { "" },
            "RW": !mount.read_only,
            "Propagation": propagation.as_deref().unwrap_or("rprivate"),
        })),
        MountSource::Volume(volume) => Some(json!({
            "Type": "volume",
            "Name": volume.name.clone().unwrap_or_default(),
            "Source": volume.name.as_deref().map(|name| volume_path(volumes, name)).unwrap_or_default(),
            "Destination": mount.target,
            "Driver": "local",
            "Mode": if mount.read_only { "ro" } else { "z" },
            "RW": !mount.read_only,
            "Propagation": "",
        })),
        // Docker has `--tmpfs` in `HostConfig.Tmpfs` only.
        MountSource::Tmpfs { .. } => None,
    }
}

/// What `-v` can say; the rest is in `HostConfig.Mounts`.
fn is_bind_of_volume_flag(mount: &Mount) -> bool {
    match &mount.source {
        MountSource::Bind {
            create_source,
            non_recursive,
            writable_below,
            ..
        } => *create_source && !non_recursive && !writable_below,
        MountSource::Volume(volume) => volume.subpath.is_none() && volume.labels.is_empty(),
        MountSource::Tmpfs { .. } => false,
    }
}

/// Volumes that nobody has named are in neither list, as in Docker.
fn is_anonymous(name: &str) -> bool {
    name.parse::<InstanceId>().is_ok()
}

pub fn binds(config: &InstanceConfig) -> Value {
    let binds: Vec<String> = config
        .mounts
        .iter()
        .filter(|mount| is_bind_of_volume_flag(mount))
        .filter_map(|mount| {
            let mut options: Vec<&str> = Vec::new();
            options.extend(mount.read_only.then_some("ro"));
            let source = match &mount.source {
                MountSource::Bind {
                    path, propagation, ..
                } => {
                    options.extend(propagation.as_deref());
                    path.display().to_string()
                }
                MountSource::Volume(volume) => {
                    options.extend(volume.no_copy.then_some("nocopy"));
                    volume.name.clone().filter(|name| !is_anonymous(name))?
                }
                MountSource::Tmpfs { .. } => return None,
            };
            let target = &mount.target;
            Some(match options.is_empty() {
                true => format!("{source}:{target}"),
                false => format!("{source}:{target}:{}", options.join(",")),
            })
        })
        .collect();
    match binds.is_empty() {
        true => Value::Null,
        false => json!(binds),
    }
}

/// `HostConfig.Mounts`: what only `--mount` can say.
pub fn by_name(config: &InstanceConfig) -> Option<Value> {
    let mounts = config.mounts.iter();
    let mounts = mounts.filter(|mount| !is_bind_of_volume_flag(mount));
    let values: Vec<Value> = mounts
        .filter_map(|mount| {
            let mut value = match &mount.source {
                MountSource::Bind {
                    path,
                    create_source,
                    propagation,
                    non_recursive,
                    writable_below,
                } => json!({
                    "Type": "bind",
                    "Source": path,
                    "BindOptions": {
                        "Propagation": propagation.as_deref().unwrap_or("rprivate"),
                        "NonRecursive": non_recursive,
                        "CreateMountpoint": create_source,
                        "ReadOnlyNonRecursive": writable_below,
                    },
                }),
                MountSource::Volume(volume) => json!({
                    "Type": "volume",
                    "Source": volume.name,
                    "VolumeOptions": {
                        "NoCopy": volume.no_copy,
                        "Labels": volume.labels,
                        "Subpath": volume.subpath.as_deref().unwrap_or_default(),
                        "DriverConfig": { "Name": "local", "Options": volume.options },
                    },
                }),
                MountSource::Tmpfs { .. } => return None,
            };
            value["Target"] = json!(mount.target);
            value["ReadOnly"] = json!(mount.read_only);
            Some(value)
        })
        .collect();
    (!values.is_empty()).then(|| json!(values))
}

pub fn tmpfs(config: &InstanceConfig) -> Option<Value> {
    let entries: Map<String, Value> = config
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Tmpfs {
                size,
                mode,
                options,
            } => {
                let mut words: Vec<String> = options.clone();
                words.extend(size.map(|size| format!("size={}", size.bytes())));
                words.extend(mode.map(|mode| format!("mode={mode:o}")));
                words.extend(mount.read_only.then(|| "ro".to_owned()));
                Some((mount.target.clone(), json!(words.join(","))))
            }
            _ => None,
        })
        .collect();
    (!entries.is_empty()).then_some(Value::Object(entries))
}
