//! Volumes as `GET /volumes/{name}` of the Docker Engine API shows them.

use std::path::Path;

use isle_engine::Volume;
use serde_json::{Value, json};

/// What a volume takes, and who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// How many instances mount it.
    pub users: usize,
}

/// One volume. `mountpoint` is where its files are on the host.
#[must_use]
pub fn inspect(volume: &Volume, mountpoint: &Path, usage: Option<Usage>) -> Value {
    let map = |map: &std::collections::BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    let mut value = json!({
        // Whole seconds, as Docker.
        "CreatedAt": volume.created_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "Driver": "local",
        "Labels": match volume.is_anonymous && volume.labels.is_empty() {
            true => json!({ "com.docker.volume.anonymous": "" }),
            false => map(&volume.labels),
        },
        "Mountpoint": mountpoint,
        "Name": volume.name,
        "Options": map(&volume.options),
        "Scope": "local",
    });
    if let Some(usage) = usage {
        value["UsageData"] = json!({ "Size": usage.bytes, "RefCount": usage.users });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_dockers_keys() {
        let mut volume = Volume {
            name: "data".into(),
            created_at: "2026-11-21T10:00:00.5Z".parse().unwrap(),
            is_anonymous: false,
            labels: [("a".to_owned(), "1".to_owned())].into(),
            options: std::collections::BTreeMap::new(),
        };
        let usage = Usage {
            bytes: 42,
            users: 1,
        };
        assert_eq!(
            inspect(&volume, Path::new("/v/data/_data"), Some(usage)),
            json!({
                "CreatedAt": "2026-11-21T10:00:00Z", "Driver": "local", "Labels": { "a": "1" },
                "Mountpoint": "/v/data/_data", "Name": "data", "Options": null, "Scope": "local",
                "UsageData": { "Size": 42, "RefCount": 1 },
            })
        );
        volume.is_anonymous = true;
        volume.labels.clear();
        let value = inspect(&volume, Path::new("/"), None);
        assert_eq!(
            value["Labels"],
            json!({ "com.docker.volume.anonymous": "" })
        );
        assert_eq!(value["UsageData"], Value::Null);
    }
}
