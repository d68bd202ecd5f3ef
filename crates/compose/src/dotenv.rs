//! Environment files: `.env`, `--env-file`, and `env_file` of a service.
//!
//! The format is that of Docker Compose: `KEY=value`, `export KEY=value`, quotes, comments, `${…}` in values without
//! quotes and in double quotes.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::LoadError;
use crate::interpolate::{self, Lookup};

/// Variables in the order of the file. A key without `=` has no value: it is passed on.
pub type Variables = Vec<(String, Option<String>)>;

/// Reads a file. `${…}` finds what comes before it in the file, after what `outer` has.
///
/// # Errors
/// [`LoadError::Environment`].
pub fn parse(text: &str, file: &Path, outer: Lookup<'_>) -> Result<Variables, LoadError> {
    let mut variables: Variables = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut line = 0;
    let complain = |line, reason: String| LoadError::Environment {
        file: file.to_owned(),
        line,
        reason,
    };
    while !rest.is_empty() {
        line += 1;
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let trimmed = trimmed
            .strip_prefix("export ")
            .map_or(trimmed, str::trim_start);
        let split = trimmed.find(['=', ':']);
        let (key, value) = match split {
            Some(at) => (
                trimmed[..at].trim_end(),
                Some(trimmed[at + 1..].trim_start()),
            ),
            None => (trimmed, None),
        };
        let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        if key.is_empty() || !key.chars().all(is_key) {
            return Err(complain(line, format!("{key:?} is no name of a variable")));
        }
        let Some(value) = value else {
            variables.push((key.to_owned(), None));
            rest = after;
            continue;
        };
        let lookup = |name: &str| outer(name).or_else(|| known.get(name).cloned());
        let started = line;
        let (value, expands) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                // A quoted value can go over several lines.
                let offset = value.as_ptr() as usize - rest.as_ptr() as usize + 1;
                let body = &rest[offset..];
                let Some(end) = closing(body, quote) else {
                    return Err(complain(line, format!("a quote {quote} is not closed")));
                };
                line += body[..end].matches('\n').count();
                let tail = &body[end + 1..];
                let (junk, next) = tail.split_once('\n').unwrap_or((tail, ""));
                let junk = junk.trim();
                if !junk.is_empty() && !junk.starts_with('#') {
                    return Err(complain(line, format!("{junk:?} behind the closing quote")));
                }
                rest = next;
                match quote {
                    '"' => (unescape(&body[..end]), true),
                    _ => (body[..end].replace("\\'", "'"), false),
                }
            }
            _ => {
                rest = after;
                let value = match value.starts_with('#') {
                    true => "",
                    false => value.find(" #").map_or(value, |at| &value[..at]),
                };
                (value.trim_end().to_owned(), true)
            }
        };
        let value = match expands {
            true => {
                interpolate::text(&value, &lookup)
                    .map_err(|error| complain(started, error.reason))?
                    .text
            }
            false => value,
        };
        known.insert(key.to_owned(), value.clone());
        variables.push((key.to_owned(), Some(value)));
    }
    Ok(variables)
}

fn closing(body: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            // As Docker Compose: a dollar that stands for itself.
            Some('$') => out.push_str("$$"),
            Some(c @ ('"' | '\\' | '\'')) => out.push(c),
            Some(c) => {
                out.push('\\');
                out.push(c);
            }
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let outer = |name: &str| (name == "OUTER").then(|| "out".to_owned());
        let variables = parse(text, Path::new(".env"), &outer).unwrap();
        variables
            .into_iter()
            .map(|(key, value)| (key, value.unwrap_or_else(|| "<none>".into())))
            .collect()
    }

    #[test]
    fn the_forms_that_compose_knows() {
        let text = "# comment\n\nA=1\nexport B = two words # comment\nC='single $A'\nD=\"double ${A} \\n\\$x\"\nE\nF=\nG=${OUTER}-${A:-x}-${NO:-no}\nH: yaml\nI=\"two\nlines\" # c\nJ=a#b\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "single $A"),
            ("D", "double 1 \n$x"),
            ("E", "<none>"),
            ("F", ""),
            ("G", "out-1-no"),
            ("H", "yaml"),
            ("I", "two\nlines"),
            ("J", "a#b"),
        ];
        let found = read(text);
        let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_complaint_names_the_line() {
        let outer = |_: &str| None;
        for (text, place) in [
            ("A=1\nB C=2\n", ".env:2"),
            ("A='x\n", ".env:1"),
            ("A=\"x\" y", ".env:1"),
            ("A=${", ".env:1"),
        ] {
            let error = parse(text, Path::new(".env"), &outer).unwrap_err();
            assert!(error.to_string().starts_with(place), "{error}");
        }
    }
}
