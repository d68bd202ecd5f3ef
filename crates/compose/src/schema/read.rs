//! A tree checked against its shape, with every short form written out.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use isle_types::{ByteSize, format_duration, nearest, parse_duration};

use super::{Field, Shape, Support};
use crate::error::{At, LoadError};
use crate::interpolate::as_word;
use crate::yaml::{Entry, Merging, Node, Value};

/// Something that is said aloud and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub at: Option<At>,
    /// What.
    pub text: String,
}

/// What reading needs to know.
pub struct Reader<'a> {
    /// Where relative paths start.
    pub folder: &'a Path,
    /// The user's home, for `~`.
    pub home: Option<&'a Path>,
    /// What was said.
    pub warnings: &'a RefCell<Vec<Warning>>,
    /// Whether paths are left as they are.
    pub keeps_paths: bool,
    /// The key that is being read, with what it is in.
    path: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    /// For files in a folder.
    #[must_use]
    pub fn new(
        folder: &'a Path,
        home: Option<&'a Path>,
        warnings: &'a RefCell<Vec<Warning>>,
        keeps_paths: bool,
    ) -> Reader<'a> {
        Reader {
            folder,
            home,
            warnings,
            keeps_paths,
            path: RefCell::new(Vec::new()),
        }
    }

    /// The key that is being read.
    pub(super) fn path(&self) -> String {
        let path = self.path.borrow();
        match path.is_empty() {
            true => "the project".to_owned(),
            false => path.join("."),
        }
    }

    /// A value that makes no sense.
    pub(super) fn wrong(
        &self,
        node: &Node,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> LoadError {
        LoadError::Value {
            at: node.at.clone(),
            path: self.path(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    fn within<T>(
        &self,
        key: &str,
        act: impl FnOnce() -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        self.path.borrow_mut().push(key.to_owned());
        let done = act();
        self.path.borrow_mut().pop();
        done
    }

    fn warn(&self, at: &At, text: String) {
        let warning = Warning {
            at: Some(at.clone()),
            text,
        };
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// A path of the host made absolute. What names no path of this file system stays.
    pub(super) fn absolute(&self, text: &str) -> String {
        if self.keeps_paths || text.is_empty() {
            return text.to_owned();
        }
        let path = match (text.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => self.folder.join(text),
        };
        clean(&path).display().to_string()
    }
}

/// Without `.` and `..`, as written.
pub(crate) fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

/// Checks a tree and writes its short forms out.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(node: Node, shape: &Shape, reader: &Reader<'_>) -> Result<Node, LoadError> {
    if node.merging == Merging::Reset {
        return Ok(Node {
            value: Value::Null,
            ..node
        });
    }
    let merging = node.merging;
    let mut read = value(node, shape, reader)?;
    read.merging = merging;
    Ok(read)
}

fn value(node: Node, shape: &Shape, reader: &Reader<'_>) -> Result<Node, LoadError> {
    let at = node.at.clone();
    if node.value == Value::Null && !matches!(shape, Shape::Short(..)) {
        // Nothing said: as if the key were not there, but for names, which are there.
        return Ok(node);
    }
    let made = |value| Ok(Node::new(value, &at));
    match shape {
        Shape::Any => Ok(node),
        Shape::Text => match node.value {
            Value::Text(_) => Ok(node),
            _ => Err(reader.wrong(
                &node,
                format!("{} where a text is expected", node.kind()),
                "put quotes around it",
            )),
        },
        Shape::Word => match node.scalar() {
            Some(text) => made(Value::Text(text)),
            None => Err(expected(&node, reader, "a word")),
        },
        Shape::Int => match word(&node) {
            Value::Int(number) => made(Value::Int(number)),
            _ => Err(expected(&node, reader, "a whole number")),
        },
        Shape::Number => match word(&node) {
            number @ (Value::Int(_) | Value::Float(_)) => made(number),
            _ => Err(expected(&node, reader, "a number")),
        },
        Shape::Bool => match truth(&node) {
            Some(value) => made(Value::Bool(value)),
            None => Err(expected(&node, reader, "true or false")),
        },
        Shape::Bytes => match node.scalar().map(|text| bytes(&text)) {
            Some(Some(bytes)) => made(Value::Text(bytes.to_string())),
            _ => Err(expected(&node, reader, "a size like 512m")),
        },
        Shape::Duration => match node.scalar().map(|text| parse_duration(&text)) {
            // However it was spelled: 90s is 1m30s.
            Some(Ok(duration)) => made(Value::Text(format_duration(duration))),
            _ => Err(expected(&node, reader, "a time like 1m30s")),
        },
        Shape::OneOf(words) => match node.as_text() {
            Some(text) if words.contains(&text) => Ok(node),
            _ => Err(expected(&node, reader, &words.join(", "))),
        },
        Shape::Path => match node.as_text() {
            Some(text) => made(Value::Text(reader.absolute(text))),
            None => Err(expected(&node, reader, "a path")),
        },
        Shape::List(inner) | Shape::Keyed(inner, _) => match node.value {
            Value::List(items) => {
                let mut read_items = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    let item = reader.within(&index.to_string(), || match item.value {
                        Value::Null => Err(expected(&item, reader, "a value")),
                        _ => read(item, inner, reader),
                    })?;
                    read_items.push(item);
                }
                made(Value::List(unique(read_items, shape)))
            }
            _ => Err(expected(&node, reader, "a list")),
        },
        Shape::Words => match &node.value {
            Value::List(_) => value(node, &Shape::List(&Shape::Word), reader),
            _ => match node.scalar() {
                Some(text) => made(Value::List(vec![Node::text(text, &at)])),
                None => Err(expected(&node, reader, "a text or a list of texts")),
            },
        },
        Shape::Command => match node.value {
            Value::List(items) => {
                let words = items.into_iter().map(|item| match item.scalar() {
                    Some(text) => Ok(Node::text(text, &item.at)),
                    None => Err(expected(&item, reader, "a word")),
                });
                let words: Result<_, _> = words.collect();
                made(Value::List(words?))
            }
            Value::Text(ref text) => match shell_words(text) {
                Some(words) => {
                    let words = words.into_iter().map(|word| Node::text(word, &at));
                    made(Value::List(words.collect()))
                }
                None => Err(reader.wrong(
                    &node,
                    "a quote is not closed",
                    "close it, or write the command as a list",
                )),
            },
            _ => Err(expected(&node, reader, "a command, as a text or a list")),
        },
        Shape::Pairs => pairs(&node, reader, false),
        Shape::Labels => pairs(&node, reader, true),
        Shape::Named(inner) => match node.value {
            Value::Map(entries) => {
                let read_entries = entries.into_iter().map(|entry| {
                    if entry.key.starts_with("x-") {
                        return Ok(entry);
                    }
                    let is_name = !entry.key.is_empty()
                        && entry
                            .key
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
                    if !is_name {
                        return Err(LoadError::Value {
                            at: entry.at,
                            path: reader.path(),
                            reason: format!("{:?} is no name", entry.key),
                            hint: "names have letters, digits, _ . and -".into(),
                        });
                    }
                    let node = reader.within(&entry.key, || read(entry.node, inner, reader))?;
                    Ok(Entry { node, ..entry })
                });
                let read_entries: Result<_, _> = read_entries.collect();
                made(Value::Map(read_entries?))
            }
            _ => Err(expected(&node, reader, "a mapping of names")),
        },
        Shape::Fields(fields) => match node.value {
            Value::Map(entries) => {
                let mut kept = Vec::with_capacity(entries.len());
                for entry in entries {
                    kept.extend(field(entry, fields, reader)?);
                }
                made(Value::Map(kept))
            }
            _ => Err(reader.wrong(
                &node,
                format!("{} where a mapping is expected", node.kind()),
                format!("write one of its keys: {}", names(fields).join(", ")),
            )),
        },
        Shape::Short(expand, inner) => value(expand(node, reader)?, inner, reader),
    }
}

fn names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name).collect()
}

fn field(
    entry: Entry,
    fields: &'static [Field],
    reader: &Reader<'_>,
) -> Result<Option<Entry>, LoadError> {
    let Some(known) = fields.iter().find(|field| field.name == entry.key) else {
        if entry.key.starts_with("x-") {
            return Ok(Some(entry));
        }
        return Err(LoadError::UnknownKey {
            at: entry.at,
            path: reader.path(),
            meant: nearest(&entry.key, names(fields)).map(str::to_owned),
            key: entry.key,
        });
    };
    reader.within(known.name, || match known.support {
        Support::Refused(reason) => match harmless(&entry.node) {
            true => Ok(None),
            false => Err(LoadError::Unsupported {
                at: entry.at.clone(),
                path: reader.path(),
                reason,
            }),
        },
        Support::Ignored(why) => {
            let node = read(entry.node.clone(), &known.shape, reader)?;
            if !harmless(&node) {
                reader.warn(&entry.at, format!("{} is ignored: {why}", reader.path()));
            }
            Ok(None)
        }
        Support::Full => {
            let node = read(entry.node.clone(), &known.shape, reader)?;
            Ok(Some(Entry {
                node,
                ..entry.clone()
            }))
        }
    })
}

/// Asks for nothing.
fn harmless(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        Value::Text(text) => text.is_empty(),
        _ => false,
    }
}

pub(super) fn expected(node: &Node, reader: &Reader<'_>, what: &str) -> LoadError {
    let found = match node.scalar() {
        Some(text) => format!("{text:?}"),
        None => node.kind().to_owned(),
    };
    reader.wrong(
        node,
        format!("{found} is no value for it"),
        format!("write {what}"),
    )
}

/// A value; one that variables made is a text until it is looked at.
fn word(node: &Node) -> Value {
    match &node.value {
        Value::Text(text) => as_word(text),
        value => value.clone(),
    }
}

fn truth(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) => match text.to_lowercase().as_str() {
            "true" | "y" | "yes" | "on" | "1" => Some(true),
            "false" | "n" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn bytes(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(number);
    }
    let size: ByteSize = text.parse().ok()?;
    i64::try_from(size.bytes()).ok()
}

fn pairs(node: &Node, reader: &Reader<'_>, is_text: bool) -> Result<Node, LoadError> {
    let at = node.at.clone();
    let empty = |at: &At| match is_text {
        true => Node::text("", at),
        false => Node::new(Value::Null, at),
    };
    let mut map = Node::new(Value::Map(Vec::new()), &at);
    match &node.value {
        Value::List(items) => {
            for item in items {
                let Some(text) = item.scalar() else {
                    return Err(expected(item, reader, "KEY=value"));
                };
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Node::text(value, &item.at)),
                    None => (text.as_str(), empty(&item.at)),
                };
                if key.is_empty() {
                    return Err(expected(item, reader, "KEY=value"));
                }
                map.set(key, value);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let value = match (&entry.node.value, entry.node.scalar()) {
                    _ if entry.node.merging == Merging::Reset => entry.node.clone(),
                    (Value::Null, _) => empty(&entry.node.at),
                    (_, Some(text)) => Node::text(text, &entry.node.at),
                    (_, None) => {
                        return reader
                            .within(&entry.key, || Err(expected(&entry.node, reader, "a text")));
                    }
                };
                map.set(&entry.key, value);
            }
        }
        _ => return Err(expected(node, reader, "a mapping, or a list of KEY=value")),
    }
    Ok(map)
}

/// Of items that say the same, the last one, at the place of the first.
pub(crate) fn unique(items: Vec<Node>, shape: &Shape) -> Vec<Node> {
    let key = |node: &Node| match shape {
        Shape::Keyed(_, key) => Some(key(node)),
        _ => node.scalar(),
    };
    let mut kept: Vec<Node> = Vec::with_capacity(items.len());
    for item in items {
        let own = key(&item);
        let same = kept.iter().position(|other| match &own {
            Some(own) => key(other).as_ref() == Some(own),
            None => other.value == item.value,
        });
        match same {
            Some(index) => kept[index] = item,
            None => kept.push(item),
        }
    }
    kept
}

/// The words of a text, with the quotes of a shell and nothing else of it.
pub(crate) fn shell_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}
