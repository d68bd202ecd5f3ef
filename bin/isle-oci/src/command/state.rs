//! `state`: what the runtime specification calls the state of a container.

use std::path::Path;

use serde_json::{Value, json};

use crate::container::{Container, Status};
use crate::log::print;

/// The JSON of `state` and `list`.
pub(super) fn describe(container: &Container) -> Value {
    let status = container.status();
    let config = container.directory.config().ok();
    let annotations = config.as_ref().and_then(|spec| spec.annotations().clone());
    let version = config.map_or_else(|| "1.0.0".to_owned(), |spec| spec.version().clone());
    let state = &container.state;
    let pid = if status == Status::Stopped {
        0
    } else {
        state.pid
    };
    let mut value = json!({
        "ociVersion": version,
        "id": state.id,
        "pid": pid,
        "status": status.to_string(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": if state.owner == 0 { String::new() } else { state.owner.to_string() },
    });
    if let Some(annotations) = annotations.filter(|annotations| !annotations.is_empty()) {
        value["annotations"] = json!(annotations);
    }
    value
}

pub(super) fn run(root: &Path, id: &str) -> anyhow::Result<u8> {
    let container = Container::open(root, id)?;
    print(&serde_json::to_string_pretty(&describe(&container))?)?;
    Ok(0)
}
