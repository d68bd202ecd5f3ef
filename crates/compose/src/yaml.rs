//! YAML to a tree that knows where everything was written.
//!
//! The parser's events become [`Node`]s here rather than values of serde, so that every later complaint
//! has a line and a column. What a stranger's file can do is limited: its size, how deep it goes, and how
//! many nodes its aliases make of it. Numbers and truth values are read as Docker Compose reads them
//! (YAML 1.2's core schema, and octal numbers with a leading zero).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::error::{At, LoadError};

/// The most bytes of one file.
pub const MAX_BYTES: usize = 4 << 20;
/// The most nodes of one file, aliases written out.
const MAX_NODES: usize = 100_000;
/// How deep lists and mappings can be in each other.
const MAX_DEPTH: usize = 64;

/// What a tag asks of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merging {
    /// As the key has it.
    #[default]
    Usual,
    /// `!reset`: taken out.
    Reset,
    /// `!override`: instead of what was there.
    Override,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts.
    pub at: At,
    /// What becomes of it in a merge.
    pub merging: Merging,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Anything else.
    Text(String),
    /// In order.
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key is.
    pub at: At,
    /// The value.
    pub node: Node,
}

/// Equal in value, wherever they were written.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value && self.merging == other.merging
    }
}

impl Node {
    /// A value written where another one is.
    #[must_use]
    pub fn new(value: Value, at: &At) -> Node {
        Node {
            value,
            at: at.clone(),
            merging: Merging::Usual,
        }
    }

    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>, at: &At) -> Node {
        Node::new(Value::Text(text.into()), at)
    }

    /// A mapping of these, without those that are `None`.
    #[must_use]
    pub fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Option<Value>)>, at: &At) -> Node {
        let entries = entries.into_iter().filter_map(|(key, value)| {
            Some(Entry {
                key: key.to_owned(),
                at: at.clone(),
                node: Node::new(value?, at),
            })
        });
        Node::new(Value::Map(entries.collect()), at)
    }

    /// The value of a key, of a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        Some(&entries.iter().find(|entry| entry.key == key)?.node)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        Some(
            &mut self
                .entries_mut()?
                .iter_mut()
                .find(|entry| entry.key == key)?
                .node,
        )
    }

    /// The entries of a mapping; none of anything else.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match &mut self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list; none of anything else.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Sets a key of a mapping; anything else becomes one.
    pub fn set(&mut self, key: &str, node: Node) {
        let at = node.at.clone();
        if self.entries_mut().is_none() {
            self.value = Value::Map(Vec::new());
        }
        let Some(entries) = self.entries_mut() else {
            return;
        };
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.node = node,
            None => entries.push(Entry {
                key: key.to_owned(),
                at,
                node,
            }),
        }
    }

    /// Takes a key out of a mapping.
    pub fn take(&mut self, key: &str) -> Option<Node> {
        let entries = self.entries_mut()?;
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).node)
    }

    /// The text of a text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of anything that is written as one word.
    #[must_use]
    pub fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What it is, for a complaint.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Without places.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => {
                let pairs = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.node.to_json()));
                Json::Object(pairs.collect())
            }
        }
    }
}

/// Reads a file of one document.
///
/// # Errors
/// [`LoadError::Syntax`], [`LoadError::Limit`].
pub fn parse(text: &str, file: &Path) -> Result<Node, LoadError> {
    let file: Arc<Path> = Arc::from(file);
    let start = At {
        file: file.clone(),
        line: 1,
        column: 1,
    };
    if text.len() > MAX_BYTES {
        return Err(LoadError::Limit {
            at: start,
            what: "bytes",
            limit: MAX_BYTES,
        });
    }
    let mut builder = Builder {
        parser: Parser::new_from_str(text.trim_start_matches('\u{feff}')),
        file,
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut document = None;
    loop {
        let (event, at) = builder.event()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if document.is_some() => {
                return Err(LoadError::Syntax {
                    at,
                    reason: "a second document".into(),
                    hint: Some(
                        "put each document into a file of its own, and name each with --file"
                            .into(),
                    ),
                });
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            event => document = Some(builder.node(event, at, 0)?),
        }
    }
    Ok(document.unwrap_or_else(|| Node::new(Value::Null, &start)))
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    file: Arc<Path>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'t> Builder<'t> {
    fn at(&self, marker: &Marker) -> At {
        At {
            file: self.file.clone(),
            line: marker.line(),
            column: marker.col() + 1,
        }
    }

    fn event(&mut self) -> Result<(Event<'t>, At), LoadError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.at(&span.start))),
            None => Ok((Event::StreamEnd, self.at(&Marker::new(0, 1, 0)))),
            Some(Err(error)) => Err(LoadError::Syntax {
                at: self.at(error.marker()),
                hint: remedy(error.info()),
                reason: error.info().to_owned(),
            }),
        }
    }

    fn count(&mut self, nodes: usize, at: &At) -> Result<(), LoadError> {
        self.nodes += nodes;
        match self.nodes > MAX_NODES {
            true => Err(LoadError::Limit {
                at: at.clone(),
                what: "values (aliases written out)",
                limit: MAX_NODES,
            }),
            false => Ok(()),
        }
    }

    fn node(&mut self, event: Event<'t>, at: At, depth: usize) -> Result<Node, LoadError> {
        self.count(1, &at)?;
        if depth > MAX_DEPTH {
            return Err(LoadError::Limit {
                at,
                what: "levels of lists and mappings in each other",
                limit: MAX_DEPTH,
            });
        }
        let before = self.nodes;
        let (value, anchor, tag) = match event {
            Event::Alias(anchor) => {
                let Some((mut node, nodes)) = self.anchors.get(&anchor).cloned() else {
                    return Err(LoadError::Syntax {
                        at,
                        reason: "an alias of what it is a part of".into(),
                        hint: Some("write the value out".into()),
                    });
                };
                self.count(nodes, &at)?;
                // Complaints about the value point to where it was written.
                node.merging = Merging::Usual;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = match (style, tag.as_deref()) {
                    (_, Some(tag)) if is_core(tag, "str") => Value::Text(text.into_owned()),
                    (ScalarStyle::Plain, _) => plain(&text),
                    _ => Value::Text(text.into_owned()),
                };
                (value, anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    let (event, at) = self.event()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, at, depth + 1)?);
                }
                (Value::List(items), anchor, tag)
            }
            Event::MappingStart(anchor, tag) => (self.mapping(depth)?, anchor, tag),
            _ => (Value::Null, 0, None),
        };
        let node = Node {
            value,
            merging: merging(tag.as_deref(), &at)?,
            at,
        };
        if anchor != 0 {
            self.anchors
                .insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, LoadError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut below: Vec<Node> = Vec::new();
        loop {
            let (event, at) = self.event()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let key = match self.node(event, at.clone(), depth + 1)? {
                Node {
                    value: Value::Null, ..
                } => "null".to_owned(),
                node => node.scalar().ok_or_else(|| LoadError::Syntax {
                    at: at.clone(),
                    reason: format!("a key is {}", node.kind()),
                    hint: Some("a key is a word; quote what has { } or [ ] in it".into()),
                })?,
            };
            let (event, value_at) = self.event()?;
            let node = self.node(event, value_at, depth + 1)?;
            if key == "<<" && is_plain {
                match node.value {
                    Value::List(nodes) => below.extend(nodes),
                    _ => below.push(node),
                }
                continue;
            }
            if entries.iter().any(|entry| entry.key == key) {
                return Err(LoadError::Syntax {
                    at,
                    reason: format!("the key {key:?} is there twice"),
                    hint: Some("leave one of them out".into()),
                });
            }
            entries.push(Entry { key, at, node });
        }
        // `<<`: what is not said here is taken over; the first one counts.
        for node in below {
            let Value::Map(others) = node.value else {
                return Err(LoadError::Syntax {
                    reason: format!("<< is given {}", node.kind()),
                    at: node.at,
                    hint: Some("<< takes over a mapping, like <<: *defaults".into()),
                });
            };
            for other in others {
                if !entries.iter().any(|entry| entry.key == other.key) {
                    entries.push(other);
                }
            }
        }
        Ok(Value::Map(entries))
    }
}

fn is_core(tag: &Tag, name: &str) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == name
}

fn merging(tag: Option<&Tag>, at: &At) -> Result<Merging, LoadError> {
    match tag {
        None => Ok(Merging::Usual),
        Some(tag) if tag.is_yaml_core_schema() => Ok(Merging::Usual),
        Some(tag) if tag.handle == "!" && tag.suffix == "reset" => Ok(Merging::Reset),
        Some(tag) if tag.handle == "!" && tag.suffix == "override" => Ok(Merging::Override),
        Some(tag) => Err(LoadError::Syntax {
            at: at.clone(),
            reason: format!("the tag {}{} is not known", tag.handle, tag.suffix),
            hint: Some("Compose has !reset and !override".into()),
        }),
    }
}

/// An unquoted word.
#[must_use]
pub fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::Text(text.to_owned());
    }
    let radix = |prefixes: [&str; 2], radix| {
        let rest = prefixes
            .iter()
            .find_map(|prefix| digits.strip_prefix(prefix))?;
        let is_whole = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit());
        is_whole
            .then(|| i64::from_str_radix(rest, radix).ok())
            .flatten()
    };
    let found = radix(["0x", "0X"], 16)
        .or_else(|| radix(["0o", "0O"], 8))
        .or_else(|| radix(["0b", "0B"], 2))
        .or_else(|| match digits.len() > 1 && digits.starts_with('0') {
            true if digits.bytes().all(|b| b.is_ascii_digit()) => {
                i64::from_str_radix(digits, 8).ok()
            }
            _ => None,
        });
    if let Some(number) = found {
        return Value::Int(if text.starts_with('-') {
            -number
        } else {
            number
        });
    }
    if digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Value::Int(number);
    }
    let is_float = digits.bytes().any(|b| b.is_ascii_digit())
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(number) if is_float && number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

/// What the parser's words mean for who wrote the file.
fn remedy(reason: &str) -> Option<String> {
    let known = [
        ("tab", "indent with spaces"),
        ("unterminated", "close the quote or the bracket"),
        ("while scanning a quoted scalar", "close the quote"),
        ("simple key", "write a colon and a space behind the key"),
        (
            "mapping values are not allowed",
            "quote a value that has a colon and a space in it, and check the indentation",
        ),
        (
            "did not find expected key",
            "check the indentation: keys of one mapping start in one column",
        ),
        (
            "did not find expected '-'",
            "check the indentation: items of one list start in one column",
        ),
        (
            "unknown anchor",
            "an anchor (&name) has to come before its alias (*name)",
        ),
        (
            "flow",
            "close the bracket or the brace, or put a comma between items",
        ),
        ("indent", "check the indentation"),
    ];
    let lower = reason.to_lowercase();
    let known = known.iter().find(|(word, _)| lower.contains(word));
    known
        .map(|(_, remedy)| (*remedy).to_owned())
        .or_else(|| Some("check the indentation and the quotes at this place".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> serde_json::Value {
        parse(text, Path::new("c.yaml")).unwrap().to_json()
    }

    fn complaint(text: &str) -> String {
        parse(text, Path::new("c.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn words_are_read_as_compose_reads_them() {
        assert_eq!(
            read("a: [1, -2, 1.5, 0o17, 017, 0x1f, true, yes, ~, '1', 08:15, 1e3, '', 12ab, .5]"),
            serde_json::json!({"a": [1, -2, 1.5, 15, 15, 31, true, "yes", null, "1", "08:15", 1000.0, "", "12ab", 0.5]})
        );
    }

    #[test]
    fn mappings_take_over_others() {
        let text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}]}";
        assert_eq!(read(text)["y"], serde_json::json!({"b": 3, "a": 1}));
        assert_eq!(read(text)["z"], serde_json::json!({"a": 1, "b": 2, "c": 4}));
    }

    #[test]
    fn complaints_have_a_place() {
        assert!(complaint("a:\n  b: 1\n  b: 2\n").starts_with("c.yaml:3:3: "));
        assert!(complaint("a: [1, 2\n").starts_with("c.yaml:"));
        assert!(complaint("a: *b\n").starts_with("c.yaml:1:4"));
        assert!(complaint("a: 1\n---\nb: 1\n").contains("second document"));
        assert!(complaint("a: !other 1").contains("tag"));
        assert!(complaint("? {a: 1}\n: 2").contains("key"));
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let one = format!("*a{}", level - 1);
            let list = vec![one; 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(complaint(&text).contains("more than"));
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(complaint(&deep).contains("more than"));
        // The parser has a limit of its own.
        complaint(&"[".repeat(100_000));
        complaint(&"- ".repeat(100_000));
        let flat = format!("a: [{}]", "1,".repeat(200_000));
        assert!(complaint(&flat).contains("more than"));
        let self_made = "a: &a [*a]";
        complaint(self_made);
    }
}
