//! What the documents say about the code is checked against it.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::place;

    /// The text of all Rust files below a folder.
    fn source(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                source(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_test_that_the_threat_model_names_exists() {
        let checkout = place::checkout();
        let mut code = String::new();
        for folder in ["tests", "crates", "bin"] {
            source(&checkout.join(folder), &mut code);
        }
        let document = fs::read_to_string(checkout.join("threat-model.md")).unwrap();
        let (_, table) = document.split_once("## What is tried").unwrap();
        let is_name = |word: &&str| {
            word.contains('_')
                && word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        };
        let known = ["release_agent", "io_uring"];
        let mut count = 0;
        for name in table.split('`').filter(is_name) {
            if known.contains(&name) {
                continue;
            }
            assert!(
                code.contains(&format!("fn {name}(")),
                "no test is named {name}"
            );
            count += 1;
        }
        assert!(count > 30, "{count} names found");
    }

    #[test]
    fn every_crate_of_the_workspace_has_a_row_in_the_table_of_dependencies() {
        let checkout = place::checkout();
        let manifest = fs::read_to_string(checkout.join("Cargo.toml")).unwrap();
        let table =
            fs::read_to_string(checkout.join("docs/decisions/0002-dependencies.md")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let crates = manifest["workspace"]["dependencies"].as_table().unwrap();
        for name in crates.keys().filter(|name| !name.starts_with("isle-")) {
            assert!(table.contains(&format!("`{name}`")), "{name} has no row");
        }
    }

    #[test]
    fn every_crate_of_the_workspace_is_in_the_architecture() {
        let checkout = place::checkout();
        let document = fs::read_to_string(checkout.join("ARCHITECTURE.md")).unwrap();
        for folder in ["crates", "bin"] {
            for entry in fs::read_dir(checkout.join(folder)).unwrap().flatten() {
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                assert!(document.contains(&name), "{name} is not in ARCHITECTURE.md");
            }
        }
    }
}
