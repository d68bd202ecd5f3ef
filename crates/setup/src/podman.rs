//! A file of Isle's own in `containers.conf.d` of Podman (and of Buildah, which reads the same).

use crate::wish::{Runtimes, text};

/// Podman reads every `*.conf` of that folder, in `/etc` or in the user's configuration folder.
pub(crate) const FILE: &str = "containers/containers.conf.d/isle.conf";

/// The file.
pub(crate) fn file(runtimes: &Runtimes, default: Option<&str>) -> String {
    let mut file = String::from(crate::plan::OURS);
    if let Some(name) = default {
        file.push_str(&format!("[engine]\nruntime = {name:?}\n\n"));
    }
    file.push_str("[engine.runtimes]\n");
    for runtime in runtimes.iter() {
        let program = toml_edit::Value::from(text(&runtime.program));
        file.push_str(&format!("{} = [{program}]\n", runtime.name));
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_the_runtimes_and_the_default() {
        let runtimes = Runtimes::container("/usr/bin/isle-oci").and_vm("/opt/an \"odd\" place");
        let table: toml::Table = file(&runtimes, Some("isle-vm")).parse().unwrap();
        let engine = &table["engine"];
        assert_eq!(engine["runtime"].as_str(), Some("isle-vm"));
        let program = |name: &str| engine["runtimes"][name][0].as_str().unwrap().to_owned();
        assert_eq!(program("isle"), "/usr/bin/isle-oci");
        assert_eq!(program("isle-vm"), "/opt/an \"odd\" place");
        assert!(!file(&runtimes, None).contains("[engine]"));
    }
}
