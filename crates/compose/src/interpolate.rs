//! `$NAME` and `${NAME…}` in the values of a Compose file.
//!
//! All forms of the [specification](https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md): `${X:-default}`, `${X-default}`,
//! `${X:?message}`, `${X?message}`, `${X:+other}`, `${X+other}`, within each other; `$$` is a dollar.

use std::collections::BTreeSet;

use crate::error::LoadError;
use crate::yaml::{Node, Value, plain};

/// Where variables are found.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How deep `${…}` can be in each other.
const MAX_DEPTH: usize = 32;
/// The longest text that variables can make of one value, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// A text with its variables filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// The text.
    pub text: String,
    /// Variables that are not set and have no default: nothing stands in their place.
    pub unset: Vec<String>,
}

/// Why a text cannot be filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl Unfilled {
    fn form(text: &str) -> Unfilled {
        Unfilled {
            reason: format!("{text:?} is not a variable"),
            hint: "write ${NAME} or ${NAME:-default}; a dollar alone is $$".into(),
        }
    }
}

/// Fills in one text.
///
/// # Errors
/// A form that is none, or a variable that has to be there.
pub fn text(text: &str, lookup: Lookup<'_>) -> Result<Filled, Unfilled> {
    let mut filled = Filled::default();
    fill(text, lookup, 0, &mut filled)?;
    Ok(filled)
}

fn fill(text: &str, lookup: Lookup<'_>, depth: usize, filled: &mut Filled) -> Result<(), Unfilled> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.chars().next() {
            Some('$') => {
                filled.text.push('$');
                &after[1..]
            }
            Some('{') => {
                let end = matching(after).ok_or_else(|| Unfilled::form(&rest[at..]))?;
                braced(&after[1..end], lookup, depth, filled)?;
                &after[end + 1..]
            }
            Some(c) if is_first(c) => {
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                put(&after[..end], lookup, filled);
                &after[end..]
            }
            _ => return Err(Unfilled::form(&rest[at..])),
        };
        if filled.text.len() > MAX_BYTES {
            return Err(Unfilled {
                reason: format!("variables make more than {MAX_BYTES} bytes of it"),
                hint: "put long texts into a file".into(),
            });
        }
    }
    filled.text.push_str(rest);
    Ok(())
}

fn is_first(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// The brace that closes the one at the start.
fn matching(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'{' if at == 0 => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn put(name: &str, lookup: Lookup<'_>, filled: &mut Filled) {
    match lookup(name) {
        Some(value) => filled.text.push_str(&value),
        None => filled.unset.push(name.to_owned()),
    }
}

fn braced(
    body: &str,
    lookup: Lookup<'_>,
    depth: usize,
    filled: &mut Filled,
) -> Result<(), Unfilled> {
    let whole = || Unfilled::form(&format!("${{{body}}}"));
    let end = body.find(|c| !is_name(c)).unwrap_or(body.len());
    let (name, form) = body.split_at(end);
    if !name.starts_with(is_first) || depth >= MAX_DEPTH {
        return Err(whole());
    }
    let value = lookup(name);
    // With a colon, an empty value counts as none.
    let (value, form) = match form.strip_prefix(':') {
        Some(form) => (value.filter(|value| !value.is_empty()), form),
        None => (value, form),
    };
    let mut letters = form.chars();
    let kind = letters.next();
    let word = letters.as_str();
    match kind {
        None if body.len() > name.len() => Err(whole()),
        None => {
            put(name, lookup, filled);
            Ok(())
        }
        Some('-') => match value {
            Some(value) => {
                filled.text.push_str(&value);
                Ok(())
            }
            None => fill(word, lookup, depth + 1, filled),
        },
        Some('+') => match value {
            Some(_) => fill(word, lookup, depth + 1, filled),
            None => Ok(()),
        },
        Some('?') => match value {
            Some(value) => {
                filled.text.push_str(&value);
                Ok(())
            }
            None => {
                let mut message = Filled::default();
                fill(word, lookup, depth + 1, &mut message)?;
                let message = match message.text.is_empty() {
                    true => String::new(),
                    false => format!(": {}", message.text),
                };
                Err(Unfilled {
                    reason: format!("the variable {name} is missing{message}"),
                    hint: format!("set {name} in the environment, in .env or in an --env-file"),
                })
            }
        },
        Some(_) => Err(whole()),
    }
}

/// Fills in every value of a tree. Names of variables that are not set are added to `unset`.
///
/// # Errors
/// [`LoadError::Variable`].
pub fn tree(
    node: &mut Node,
    path: &str,
    lookup: Lookup<'_>,
    unset: &mut BTreeSet<String>,
) -> Result<(), LoadError> {
    match &mut node.value {
        Value::Text(value) if value.contains('$') => {
            let filled = text(value, lookup).map_err(|error| LoadError::Variable {
                at: node.at.clone(),
                path: path.to_owned(),
                reason: error.reason,
                hint: error.hint,
            })?;
            unset.extend(filled.unset);
            *value = filled.text;
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                tree(item, &format!("{path}[{index}]"), lookup, unset)?;
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let below = match path {
                    "" => entry.key.clone(),
                    path => format!("{path}.{}", entry.key),
                };
                tree(&mut entry.node, &below, lookup, unset)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// A text where a number or a truth value is expected: `${REPLICAS}` is a text until it is filled in.
#[must_use]
pub fn as_word(text: &str) -> Value {
    plain(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn fill(value: &str) -> String {
        text(value, &lookup).unwrap().text
    }

    #[test]
    fn all_forms() {
        for (value, expected) in [
            ("x", "x"),
            ("$A-$A", "a-a"),
            ("${A}b", "ab"),
            ("$$A", "$A"),
            ("$${A}", "${A}"),
            ("${NO:-d}", "d"),
            ("${NO-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${NO+x}", ""),
            ("${A:?m}", "a"),
            ("${NO:-${A}}", "a"),
            ("${NO:-${NO2:-${A}z}}", "az"),
            ("${NO:-a:b-c?d}", "a:b-c?d"),
            ("${NO}", ""),
            ("a{b}", "a{b}"),
            ("${NO:-{}}", "{}"),
        ] {
            assert_eq!(fill(value), expected, "{value}");
        }
        assert_eq!(text("$NO ${A}", &lookup).unwrap().unset, ["NO"]);
    }

    #[test]
    fn what_is_missing_or_no_form_is_told() {
        for value in [
            "$", "${", "${}", "${1}", "${A", "$-", "${A:}", "${A b}", "${A*}",
        ] {
            text(value, &lookup).expect_err(value);
        }
        let error = text("${NO:?set it to ${A}}", &lookup).unwrap_err();
        assert_eq!(error.reason, "the variable NO is missing: set it to a");
        let deep = "${N:-".repeat(100) + &"}".repeat(100);
        text(&deep, &lookup).unwrap_err();
    }
}
