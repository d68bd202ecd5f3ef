//! `config.toml` of containerd: a handler of the CRI plug-in for each runtime.
//!
//! containerd's own shim for runc runs any program with runc's command line: `BinaryName` names it. `ctr` and
//! `nerdctl` need no configuration for that; Kubernetes names a handler, so the CRI plug-in has to know it.

use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use crate::SetupError;
use crate::wish::{NAMES, Runtimes, text};

/// Where the daemon looks for it, in `/etc`.
pub(crate) const FILE: &str = "containerd/config.toml";

/// The shim that runs programs with runc's command line.
const SHIM: &str = "io.containerd.runc.v2";

/// The handler that containerd has when its file names none, and takes when it is told none.
const BUILT_IN: &str = "runc";

/// The file with our handlers in it.
pub(crate) fn add(
    path: &Path,
    before: Option<&str>,
    runtimes: &Runtimes,
    default: Option<&str>,
) -> Result<String, SetupError> {
    let mut document = parse(path, before.unwrap_or_default())?;
    if document.is_empty() {
        document["version"] = value(2);
    }
    let plugin = plugin(path, &document)?;
    let mut containerd: &mut dyn TableLike = document.as_table_mut();
    let mut key = String::new();
    for name in ["plugins", plugin, "containerd"] {
        containerd = below(path, containerd, name, &mut key)?;
    }
    if let Some(name) = default {
        containerd.insert("default_runtime_name", value(name));
    }
    let is_missing = match containerd.get("default_runtime_name").map(Item::as_str) {
        None | Some(Some(BUILT_IN)) => true,
        Some(_) => false,
    };
    let handlers = below(path, containerd, "runtimes", &mut key)?;
    // The kubelet and every handler have to agree about who makes control groups.
    let systemd = handlers
        .get("runc")
        .and_then(|runc| runc.get("options")?.get("SystemdCgroup")?.as_bool());
    // With the first handler that the file names, the one that containerd has by itself is gone.
    if default.is_none() && is_missing && !handlers.contains_key(BUILT_IN) {
        let built_in = below(path, handlers, BUILT_IN, &mut key.clone())?;
        built_in.insert("runtime_type", value(SHIM));
    }
    for runtime in runtimes.iter() {
        let mut key = key.clone();
        let handler = below(path, handlers, runtime.name, &mut key)?;
        set(handler, "runtime_type", value(SHIM));
        // Kubernetes' volumes and devices of a privileged pod are the host's; it must not get more than it names.
        set(handler, "privileged_without_host_devices", value(true));
        let options = below(path, handler, "options", &mut key)?;
        set(options, "BinaryName", value(text(&runtime.program)));
        if let Some(is_systemd) = systemd {
            set(options, "SystemdCgroup", value(is_systemd));
        }
    }
    Ok(document.to_string())
}

/// The file without them, when somebody else has changed it since. The default is given back.
pub(crate) fn remove(path: &Path, now: &str, original: Option<&str>) -> Result<String, SetupError> {
    let mut document = parse(path, now)?;
    let original = parse(path, original.unwrap_or_default()).unwrap_or_default();
    let Ok(plugin) = plugin(path, &document) else {
        return Ok(now.to_owned());
    };
    let before = original
        .get("plugins")
        .and_then(|plugins| plugins.get(plugin)?.get("containerd"));
    let Some(containerd) = document
        .get_mut("plugins")
        .and_then(|plugins| plugins.get_mut(plugin)?.get_mut("containerd"))
        .and_then(Item::as_table_like_mut)
    else {
        return Ok(now.to_owned());
    };
    if let Some(handlers) = containerd
        .get_mut("runtimes")
        .and_then(Item::as_table_like_mut)
    {
        let is_only_made = handlers
            .get(BUILT_IN)
            .and_then(Item::as_table_like)
            .is_some_and(|runc| runc.len() == 1);
        let made = is_only_made.then_some(BUILT_IN);
        for name in NAMES.into_iter().chain(made) {
            let was_there = before.and_then(|before| before.get("runtimes")?.get(name));
            if was_there.is_none() {
                handlers.remove(name);
            }
        }
    }
    let default = containerd
        .get("default_runtime_name")
        .and_then(Item::as_str);
    if default.is_some_and(|name| NAMES.contains(&name)) {
        match before.and_then(|before| before.get("default_runtime_name")?.as_str()) {
            Some(name) => containerd.insert("default_runtime_name", value(name)),
            None => containerd.remove("default_runtime_name"),
        };
        // A value gave the table a heading; without one it may have had none.
        let was_implicit = before
            .and_then(Item::as_table)
            .is_none_or(Table::is_implicit);
        if let Some(table) = document["plugins"][plugin]["containerd"].as_table_mut() {
            table.set_implicit(was_implicit);
        }
    }
    Ok(document.to_string())
}

/// Warnings about what the file says otherwise.
pub(crate) fn remarks(path: &Path, text: &str) -> Vec<String> {
    let Ok(document) = parse(path, text) else {
        return Vec::new();
    };
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    let is_disabled = disabled.is_some_and(|list| {
        list.iter()
            .filter_map(toml_edit::Value::as_str)
            .any(|name| name == "cri" || name == "io.containerd.grpc.v1.cri")
    });
    match is_disabled {
        true => vec![format!(
            "{} disables the CRI plug-in (disabled_plugins): no kubelet can use this containerd before that is taken out",
            path.display()
        )],
        false => Vec::new(),
    }
}

/// The key of the plug-in that has the handlers.
fn plugin(path: &Path, document: &DocumentMut) -> Result<&'static str, SetupError> {
    match document.get("version").and_then(Item::as_integer) {
        Some(2) => Ok("io.containerd.grpc.v1.cri"),
        Some(3) => Ok("io.containerd.cri.v1.runtime"),
        other => Err(SetupError::Version {
            path: path.to_owned(),
            // containerd takes a file that does not say as its first version
            found: other.unwrap_or(1),
        }),
    }
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut, SetupError> {
    text.parse::<DocumentMut>()
        .map_err(|error| SetupError::Syntax {
            path: path.to_owned(),
            what: error.to_string().trim_end().to_owned(),
        })
}

/// The table of that name, made when it is not there, without a heading of its own.
fn below<'a>(
    path: &Path,
    table: &'a mut dyn TableLike,
    name: &str,
    key: &mut String,
) -> Result<&'a mut dyn TableLike, SetupError> {
    if !key.is_empty() {
        key.push('.');
    }
    key.push_str(name);
    let item = table.entry(name).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    item.as_table_like_mut().ok_or_else(|| SetupError::Shape {
        path: path.to_owned(),
        key: key.clone(),
        expected: "table",
    })
}

/// Inserts a value, unless it is there: so that comments behind it stay.
fn set(table: &mut dyn TableLike, name: &str, new: Item) {
    let is_there = table
        .get(name)
        .is_some_and(|old| old.to_string().trim() == new.to_string().trim());
    if !is_there {
        table.insert(name, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtimes() -> Runtimes {
        Runtimes::container("/usr/bin/isle-oci").and_vm("/usr/bin/isle-oci-vm")
    }

    fn added(before: Option<&str>, default: Option<&str>) -> Result<String, SetupError> {
        add(Path::new("config.toml"), before, &runtimes(), default)
    }

    #[test]
    fn a_host_without_the_file_gets_it() {
        let expected = r#"version = 2

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.isle]
runtime_type = "io.containerd.runc.v2"
privileged_without_host_devices = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.isle.options]
BinaryName = "/usr/bin/isle-oci"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.isle-vm]
runtime_type = "io.containerd.runc.v2"
privileged_without_host_devices = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.isle-vm.options]
BinaryName = "/usr/bin/isle-oci-vm"
"#;
        assert_eq!(added(None, None).unwrap(), expected);
        assert_eq!(added(Some(expected), None).unwrap(), expected);
    }

    #[test]
    fn comments_stay_and_runcs_driver_of_control_groups_is_taken_over() {
        let before = r#"# ours, do not touch
version = 2 # really
root = "/srv/containerd"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true # as the kubelet
"#;
        let after = added(Some(before), Some("isle")).unwrap();
        assert!(after.starts_with(
            "# ours, do not touch\nversion = 2 # really\nroot = \"/srv/containerd\"\n"
        ));
        assert!(after.contains("SystemdCgroup = true # as the kubelet"));
        let table: toml::Table = after.parse().unwrap();
        let cri = &table["plugins"]["io.containerd.grpc.v1.cri"];
        assert_eq!(
            cri["sandbox_image"].as_str(),
            Some("registry.example/pause:3.9")
        );
        let containerd = &cri["containerd"];
        assert_eq!(containerd["default_runtime_name"].as_str(), Some("isle"));
        let options = &containerd["runtimes"]["isle-vm"]["options"];
        assert_eq!(options["SystemdCgroup"].as_bool(), Some(true));
        assert_eq!(added(Some(&after), Some("isle")).unwrap(), after);
        let undone = remove(Path::new("config.toml"), &after, Some(before)).unwrap();
        assert_eq!(undone, before);
    }

    #[test]
    fn version_3_has_another_key_and_version_1_is_refused() {
        let after = added(Some("version = 3\n"), None).unwrap();
        assert!(
            after.contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.isle]")
        );
        for (text, found) in [("root = \"/x\"\n", 1), ("version = 4\n", 4)] {
            let error = added(Some(text), None).unwrap_err();
            assert!(
                matches!(&error, SetupError::Version { found: is, .. } if *is == found),
                "{error}"
            );
        }
    }

    #[test]
    fn what_containerd_would_not_read_is_refused() {
        let error = added(Some("version = 2\n[plugins\n"), None).unwrap_err();
        assert!(
            matches!(&error, SetupError::Syntax { what, .. } if what.contains("line 2")),
            "{error}"
        );
        let error = added(Some("version = 2\nplugins = 5\n"), None).unwrap_err();
        assert!(
            matches!(&error, SetupError::Shape { key, .. } if key == "plugins"),
            "{error}"
        );
    }

    #[test]
    fn a_disabled_plug_in_is_told() {
        let path = Path::new("config.toml");
        assert_eq!(remarks(path, "disabled_plugins = [\"cri\"]\n").len(), 1);
        assert!(remarks(path, "disabled_plugins = [\"aufs\"]\n").is_empty());
    }
}
