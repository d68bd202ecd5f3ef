//! A file of Isle's own in `crio.conf.d` of CRI-O.

use crate::wish::{Runtimes, text};

/// CRI-O reads every file of that folder.
pub(crate) const FILE: &str = "crio/crio.conf.d/50-isle.conf";

/// The file.
pub(crate) fn file(runtimes: &Runtimes, default: Option<&str>) -> String {
    let mut file = String::from(crate::plan::OURS);
    if let Some(name) = default {
        file.push_str(&format!("[crio.runtime]\ndefault_runtime = {name:?}\n\n"));
    }
    for runtime in runtimes.iter() {
        let program = toml_edit::Value::from(text(&runtime.program));
        file.push_str(&format!(
            "[crio.runtime.runtimes.{name}]\nruntime_path = {program}\nruntime_type = \"oci\"\nruntime_root = \"/run/{name}\"\n\n",
            name = runtime.name,
        ));
    }
    file.truncate(file.trim_end().len());
    file.push('\n');
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_a_handler() {
        let runtimes = Runtimes::container("/usr/bin/isle-oci").and_vm("/usr/bin/isle-oci-vm");
        let table: toml::Table = file(&runtimes, None).parse().unwrap();
        let handlers = &table["crio"]["runtime"]["runtimes"];
        for (name, program) in [
            ("isle", "/usr/bin/isle-oci"),
            ("isle-vm", "/usr/bin/isle-oci-vm"),
        ] {
            assert_eq!(handlers[name]["runtime_path"].as_str(), Some(program));
            assert_eq!(handlers[name]["runtime_type"].as_str(), Some("oci"));
        }
    }
}
