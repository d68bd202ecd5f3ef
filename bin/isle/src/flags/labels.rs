//! `--label`, `--label-file`.

use std::collections::BTreeMap;
use std::path::Path;

use super::FlagError;

/// One `--label`: `key=value`, or `key` for an empty value.
pub fn label(text: &str) -> Result<(String, String), FlagError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    match key.trim().is_empty() {
        true => Err(FlagError::new(
            format!("label {text:?} has no key"),
            "write key=value",
        )),
        false => Ok((key.to_owned(), value.to_owned())),
    }
}

/// The lines of a `--label-file`.
pub fn file(text: &str, path: &Path) -> Result<BTreeMap<String, String>, FlagError> {
    let mut labels = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = label(line).map_err(|error| {
            FlagError::new(
                format!("line {} of {}: {error}", index + 1, path.display()),
                error.remedy,
            )
        })?;
        labels.insert(key, value);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_key_and_perhaps_a_value() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        label("=b").unwrap_err();
        label("").unwrap_err();
        let labels = file("# x\na=1\n\nb\n", Path::new("f")).unwrap();
        assert_eq!(labels.len(), 2);
        file("a=1\n=2", Path::new("f")).unwrap_err();
    }
}
