//! `Mounts` of `inspect`, and `Binds` and `Tmpfs` of its `HostConfig`.

use std::path::Path;

use isle_engine::config::{InstanceConfig, Mount, MountSource};
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

pub fn binds(config: &InstanceConfig) -> Value {
    let binds: Vec<String> = config
        .mounts
        .iter()
        .filter_map(|mount| {
            let source = match &mount.source {
                MountSource::Bind { path, .. } => path.display().to_string(),
                MountSource::Volume(volume) => volume.name.clone()?,
                MountSource::Tmpfs { .. } => return None,
            };
            let suffix = if mount.read_only { ":ro" } else { "" };
            Some(format!("{source}:{}{suffix}", mount.target))
        })
        .collect();
    match binds.is_empty() {
        true => Value::Null,
        false => json!(binds),
    }
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
