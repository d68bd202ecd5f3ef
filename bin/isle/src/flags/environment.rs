//! `-e`, `--env-file`.

use std::path::Path;

use super::FlagError;

/// One `-e`: `KEY=value`, or `KEY` alone for the value that the command line itself has. `None`
/// when it has none: as in Docker, nothing is set then.
pub fn variable(
    text: &str,
    own: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, FlagError> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() {
        return Err(FlagError::new(
            format!("environment variable {text:?} has no name"),
            "write KEY=value, or KEY to pass on your own",
        ));
    }
    if text.contains('\0') {
        return Err(FlagError::new(
            format!("environment variable {name:?} has a zero byte"),
            "leave it out: no program could read it",
        ));
    }
    Ok(match text.contains('=') {
        true => Some(text.to_owned()),
        false => own(name).map(|value| format!("{name}={value}")),
    })
}

/// The lines of an `--env-file`: `KEY=value` or `KEY`; empty lines and those that start with `#`
/// are left out. Nothing is unquoted or expanded, as in Docker.
pub fn file(
    text: &str,
    path: &Path,
    own: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, FlagError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(FlagError::new(
                format!(
                    "line {} of {}: variable {name:?} has no name or one with white space",
                    index + 1,
                    path.display()
                ),
                "write KEY=value, without spaces around the =",
            ));
        }
        variables.extend(variable(line, &own)?);
    }
    Ok(variables)
}

/// Reads an `--env-file` or `--label-file`.
pub fn read(path: &Path) -> Result<String, FlagError> {
    let bytes = std::fs::read(path).map_err(|error| {
        FlagError::new(
            format!("cannot read {}: {error}", path.display()),
            "name a file that exists and that you may read",
        )
    })?;
    String::from_utf8(bytes).map_err(|_| {
        FlagError::new(
            format!("{} is not UTF-8 text", path.display()),
            "save it as UTF-8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    #[test]
    fn a_name_alone_passes_on_ones_own_value() {
        assert_eq!(variable("A=b=c", own), Ok(Some("A=b=c".into())));
        assert_eq!(variable("A=", own), Ok(Some("A=".into())));
        assert_eq!(variable("HOME", own), Ok(Some("HOME=/root".into())));
        assert_eq!(variable("NOT_SET", own), Ok(None));
        variable("=x", own).unwrap_err();
        variable("", own).unwrap_err();
    }

    #[test]
    fn a_file_has_a_variable_a_line() {
        let text = "\u{feff}# note\n\nA=1\n  B=two words \nHOME\nC=\"quoted\"\n";
        assert_eq!(
            file(text, Path::new("x"), own).unwrap(),
            ["A=1", "B=two words ", "HOME=/root", "C=\"quoted\""]
        );
        let error = file("A=1\nB C=2\n", Path::new("env"), own).unwrap_err();
        assert!(error.reason.contains("line 2 of env"), "{error}");
        file("=1", Path::new("x"), own).unwrap_err();
    }
}
