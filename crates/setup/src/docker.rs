//! `daemon.json` of Docker Engine.

use std::path::Path;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;

use crate::SetupError;
use crate::wish::{NAMES, Runtimes, text};

/// Where the daemon looks for it, in `/etc`.
pub(crate) const FILE: &str = "docker/daemon.json";

/// The file with our runtimes in it. Everything else keeps its place and its spaces.
pub(crate) fn add(
    path: &Path,
    before: Option<&str>,
    runtimes: &Runtimes,
    default: Option<&str>,
) -> Result<String, SetupError> {
    let before = before.filter(|text| !text.trim().is_empty());
    let tree = parse(path, before.unwrap_or("{}\n"))?;
    let top = top(path, &tree)?;
    let entries = top
        .object_value_or_create("runtimes")
        .ok_or_else(|| shape(path, "runtimes"))?;
    for runtime in runtimes.iter() {
        let program = CstInputValue::String(text(&runtime.program));
        // Whatever else the user has written there (runtimeArgs) stays.
        match entries.get(runtime.name) {
            Some(_) => {
                let entry = entries
                    .object_value(runtime.name)
                    .ok_or_else(|| shape(path, &format!("runtimes.{}", runtime.name)))?;
                put(&entry, "path", program);
            }
            None => {
                let entry = CstInputValue::Object(vec![("path".to_owned(), program)]);
                entries.append(runtime.name, entry);
            }
        }
    }
    if let Some(name) = default {
        put(
            &top,
            "default-runtime",
            CstInputValue::String(name.to_owned()),
        );
    }
    Ok(ending_in_newline(tree.to_string()))
}

/// The file without them, when somebody else has changed it since. The default is given back.
pub(crate) fn remove(path: &Path, now: &str, original: Option<&str>) -> Result<String, SetupError> {
    let tree = parse(path, now)?;
    let top = top(path, &tree)?;
    let original: Value = original
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    if let Some(entries) = top.object_value("runtimes") {
        for name in NAMES {
            if original["runtimes"].get(name).is_none()
                && let Some(entry) = entries.get(name)
            {
                entry.remove();
            }
        }
        if entries.properties().is_empty()
            && original.get("runtimes").is_none()
            && let Some(all) = top.get("runtimes")
        {
            all.remove();
        }
    }
    let now: Value = serde_json::from_str(now).unwrap_or_default();
    if let Some(name) = now["default-runtime"].as_str()
        && NAMES.contains(&name)
        && let Some(entry) = top.get("default-runtime")
    {
        match original["default-runtime"].as_str() {
            Some(name) => entry.set_value(CstInputValue::String(name.to_owned())),
            None => entry.remove(),
        }
    }
    Ok(ending_in_newline(tree.to_string()))
}

fn put(object: &CstObject, name: &str, value: CstInputValue) {
    match object.get(name) {
        Some(entry) => entry.set_value(value),
        None => {
            object.append(name, value);
        }
    }
}

/// The daemon reads strict JSON, so what it would refuse is refused here.
fn parse(path: &Path, text: &str) -> Result<CstRootNode, SetupError> {
    let syntax = |what: String| SetupError::Syntax {
        path: path.to_owned(),
        what,
    };
    serde_json::from_str::<Value>(text).map_err(|error| syntax(error.to_string()))?;
    CstRootNode::parse(text, &ParseOptions::default()).map_err(|error| syntax(error.to_string()))
}

fn top(path: &Path, tree: &CstRootNode) -> Result<CstObject, SetupError> {
    tree.object_value()
        .ok_or_else(|| shape(path, "the whole of it"))
}

fn shape(path: &Path, key: &str) -> SetupError {
    SetupError::Shape {
        path: path.to_owned(),
        key: key.to_owned(),
        expected: "object",
    }
}

fn ending_in_newline(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtimes() -> Runtimes {
        Runtimes::container("/usr/bin/isle-oci").and_vm("/usr/bin/isle-oci-vm")
    }

    fn added(before: Option<&str>, default: Option<&str>) -> Result<String, SetupError> {
        add(
            Path::new("/etc/docker/daemon.json"),
            before,
            &runtimes(),
            default,
        )
    }

    #[test]
    fn a_host_without_the_file_gets_it() {
        let expected = r#"{
  "runtimes": {
    "isle": {
      "path": "/usr/bin/isle-oci"
    },
    "isle-vm": {
      "path": "/usr/bin/isle-oci-vm"
    }
  },
  "default-runtime": "isle"
}
"#;
        assert_eq!(added(None, Some("isle")).unwrap(), expected);
        assert_eq!(added(Some("  \n"), Some("isle")).unwrap(), expected);
    }

    #[test]
    fn what_is_there_keeps_its_place_and_its_spaces() {
        let before = "{\n\t\"log-driver\":   \"local\",\n\n\t\"runtimes\": {\n\t\t\"runsc\": {\"path\": \"/usr/bin/runsc\"}\n\t},\n\t\"mtu\": 1400\n}\n";
        let after = added(Some(before), None).unwrap();
        assert!(after.starts_with(
            "{\n\t\"log-driver\":   \"local\",\n\n\t\"runtimes\": {\n\t\t\"runsc\": {\"path\": \"/usr/bin/runsc\"}"
        ));
        assert!(after.ends_with("\t},\n\t\"mtu\": 1400\n}\n"));
        let value: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(value["runtimes"]["isle-vm"]["path"], "/usr/bin/isle-oci-vm");
        assert_eq!(value["runtimes"]["runsc"]["path"], "/usr/bin/runsc");
        assert!(value.get("default-runtime").is_none());
    }

    #[test]
    fn a_second_time_changes_nothing_and_an_older_path_is_renewed() {
        let once = added(Some("{\"debug\": true}"), Some("isle-vm")).unwrap();
        assert_eq!(added(Some(&once), Some("isle-vm")).unwrap(), once);
        let older = once.replace(
            "/usr/bin/isle-oci\"",
            "/opt/isle-oci\", \"runtimeArgs\": []",
        );
        let value: Value = serde_json::from_str(&added(Some(&older), None).unwrap()).unwrap();
        assert_eq!(value["runtimes"]["isle"]["path"], "/usr/bin/isle-oci");
        assert_eq!(
            value["runtimes"]["isle"]["runtimeArgs"],
            serde_json::json!([])
        );
    }

    #[test]
    fn ours_is_taken_out_and_no_more() {
        let original = "{\n  \"default-runtime\": \"crun\",\n  \"debug\": true\n}\n";
        let set = added(Some(original), Some("isle")).unwrap();
        let path = Path::new("daemon.json");
        assert_eq!(remove(path, &set, Some(original)).unwrap(), original);
        let changed = set.replace("\"debug\": true", "\"debug\": false");
        let undone = remove(path, &changed, Some(original)).unwrap();
        assert_eq!(undone, original.replace("true", "false"));
        let kept = "{\"runtimes\": {\"isle\": {\"path\": \"/mine\"}}}";
        let set = added(Some(kept), None).unwrap();
        let value: Value = serde_json::from_str(&remove(path, &set, Some(kept)).unwrap()).unwrap();
        assert!(value["runtimes"].get("isle").is_some());
        assert!(value["runtimes"].get("isle-vm").is_none());
    }

    #[test]
    fn what_the_daemon_would_not_read_is_refused() {
        for text in [
            "{\"debug\": true,}",
            "{ // comment\n}",
            "{\"debug\": tru",
            "nonsense",
        ] {
            assert!(
                matches!(added(Some(text), None), Err(SetupError::Syntax { .. })),
                "{text}"
            );
        }
        for text in ["[]", "{\"runtimes\": []}", "{\"runtimes\": {\"isle\": 1}}"] {
            assert!(
                matches!(added(Some(text), None), Err(SetupError::Shape { .. })),
                "{text}"
            );
        }
    }
}
