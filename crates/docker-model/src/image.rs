//! `GET /images/{name}/json`: what `image inspect` prints.

use isle_image::Image;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// An image as `docker image inspect` shows it. `Config.Healthcheck` is `null` when there is none, for
/// templates; [`crate::instance::for_print`] leaves it out.
#[must_use]
pub fn inspect(image: &Image) -> Value {
    let document: Value = serde_json::from_slice(&image.config_bytes).unwrap_or_default();
    let text = |key: &str| {
        document
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let comment = document
        .get("history")
        .and_then(Value::as_array)
        .and_then(|history| history.last()?.get("comment")?.as_str())
        .unwrap_or_default();
    let layers = document
        .get("rootfs")
        .and_then(|rootfs| rootfs.get("diff_ids"))
        .cloned()
        .unwrap_or_else(|| json!([]));
    let mut value = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": comment,
        "Created": image.created.map_or_else(String::new, |time: Timestamp| time.to_string()),
        "DockerVersion": "",
        "Author": text("author"),
        "Config": config(document.get("config")),
        "Architecture": image.platform.architecture,
    });
    if let Some(variant) = &image.platform.variant {
        value["Variant"] = json!(variant);
    }
    value["Os"] = json!(image.platform.os);
    value["Size"] = json!(image.size);
    value["GraphDriver"] = json!({ "Data": null, "Name": "overlayfs" });
    value["RootFS"] = json!({ "Type": "layers", "Layers": layers });
    value["Metadata"] = json!({ "LastTagTime": image.added.to_string() });
    value
}

/// What runs by default, with every key that Docker shows, in its order.
fn config(given: Option<&Value>) -> Value {
    let none = Map::new();
    let given = given.and_then(Value::as_object).unwrap_or(&none);
    let defaults = json!({
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "ExposedPorts": null,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": null,
        "Cmd": null,
        "Healthcheck": null,
        "Image": "",
        "Volumes": null,
        "WorkingDir": "",
        "Entrypoint": null,
        "OnBuild": null,
        "Labels": null,
    });
    let mut config = defaults;
    for (key, value) in given {
        config[key] = value.clone();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::config;
    use serde_json::json;

    #[test]
    fn every_key_is_there_in_dockers_order() {
        let value = config(Some(&json!({"Cmd": ["sh"], "StopSignal": "SIGQUIT"})));
        assert_eq!(value["Cmd"], json!(["sh"]));
        assert!(value["Entrypoint"].is_null());
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys.first().map(|key| key.as_str()), Some("Hostname"));
        assert_eq!(keys.last().map(|key| key.as_str()), Some("StopSignal"));
        assert_eq!(config(None)["Labels"], json!(null));
    }
}
