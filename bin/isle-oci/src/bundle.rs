//! The specification in a bundle, and what of it is passed over with a warning.

use std::path::Path;

use anyhow::Context;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, LinuxNamespaceType, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::log;

/// A file of JSON. Capabilities that this runtime does not know are left out with a warning, as config.md
/// ("Linux Process", `capabilities`) wants it; the text is without them then.
pub(crate) fn parse<T: DeserializeOwned>(
    text: &mut Vec<u8>,
    path: &Path,
    what: &str,
) -> anyhow::Result<T> {
    let fail = || format!("{} is not {what}", path.display());
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(error).with_context(fail);
    };
    let process = if value.get("process").is_some() {
        &mut value["process"]
    } else {
        &mut value
    };
    let mut unknown = Vec::new();
    if let Some(sets) = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| {
                let is_known =
                    serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
                if !is_known && name.is_string() && !unknown.contains(name) {
                    unknown.push(name.clone());
                }
                is_known || !name.is_string()
            });
        }
    }
    if unknown.is_empty() {
        return Err(error).with_context(fail);
    }
    *text = value.to_string().into_bytes();
    let parsed = serde_json::from_value(value).with_context(fail)?;
    for name in unknown {
        log::warning(&format!(
            "process.capabilities: {name} is unknown, and is left out"
        ));
    }
    Ok(parsed)
}

/// Leaves out, with a warning, the capabilities that this process cannot grant because it lacks them itself. In a
/// user namespace of its own a container can have all.
pub(crate) fn leave_out_ungrantable(spec: &Spec, process: &mut Process) -> anyhow::Result<()> {
    let namespaces = spec
        .linux()
        .iter()
        .filter_map(|linux| linux.namespaces().as_ref())
        .flatten();
    let Some(sets) = process.capabilities().clone() else {
        return Ok(());
    };
    for namespace in namespaces {
        if namespace.typ() == LinuxNamespaceType::User {
            return Ok(());
        }
    }
    let own = rustix::thread::capabilities(None)
        .context("cannot read the capabilities of this process")?
        .permitted
        .bits();
    let missing: Capabilities = isle_runtime::capabilities::all()
        .enumerate()
        .filter(|(number, _)| own & (1 << number) == 0)
        .map(|(_, capability)| capability)
        .collect();
    let mut refused: Vec<String> = Vec::new();
    let mut rest = |set: &Option<Capabilities>| {
        let set = set.as_ref()?;
        let (without, with): (Capabilities, Capabilities) = set
            .iter()
            .partition(|capability| missing.contains(capability));
        refused.extend(without.iter().map(|capability| format!("CAP_{capability}")));
        Some(with)
    };
    let mut granted = LinuxCapabilities::default();
    granted
        .set_bounding(rest(sets.bounding()))
        .set_effective(rest(sets.effective()))
        .set_permitted(rest(sets.permitted()))
        .set_inheritable(rest(sets.inheritable()))
        .set_ambient(rest(sets.ambient()));
    refused.sort();
    refused.dedup();
    if !refused.is_empty() {
        let names = refused.join(", ");
        log::warning(&format!(
            "process.capabilities: {names} cannot be granted, since this process does not have them"
        ));
        process.set_capabilities(Some(granted));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_are_left_out_and_other_damage_is_told() {
        let text = r#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_OF_TOMORROW"]}}}"#
            .to_owned();
        let spec: Spec = parse(
            &mut text.clone().into_bytes(),
            Path::new("c"),
            "a specification",
        )
        .unwrap();
        let process = spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().clone();
        assert_eq!(bounding.unwrap().len(), 1);
        let text = text.replace("\"cwd\": \"/\"", "\"cwd\": 7");
        let error =
            parse::<Spec>(&mut text.into_bytes(), Path::new("c"), "a specification").unwrap_err();
        assert!(
            format!("{error:#}").contains("c is not a specification"),
            "{error:#}"
        );
    }
}
