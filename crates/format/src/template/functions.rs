//! The functions of Go's templates, and those that Docker adds.

use std::cmp::Ordering;

use serde_json::Value;

use super::print::{is_true, print_value, printf};

const NAMES: [&str; 25] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "json", "le", "len", "lower", "lt", "ne",
    "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

/// Whether there is such a function.
pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// In the title line of a table, functions on text leave the title as it is.
pub fn call_on_titles(name: &str, arguments: &[Value]) -> Value {
    let title = arguments.iter().rev().find(|value| value.is_string());
    match (name, arguments.first()) {
        ("truncate" | "pad" | "split" | "join" | "slice" | "index", Some(first)) => first.clone(),
        ("printf", _) | ("print", _) | ("println", _) => {
            call(name, arguments).unwrap_or(Value::Null)
        }
        _ => title.cloned().unwrap_or(Value::String(String::new())),
    }
}

/// Calls a function.
pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |value: String| Ok(Value::String(value));
    match (name, arguments) {
        ("json", [value]) => text(go_json(value)),
        ("lower", [Value::String(t)]) => text(t.to_lowercase()),
        ("upper", [Value::String(t)]) => text(t.to_uppercase()),
        ("title", [Value::String(t)]) => text(title(t)),
        ("join", [Value::Array(items), Value::String(separator)]) => {
            let items: Vec<String> = items.iter().map(printed).collect();
            text(items.join(separator))
        }
        ("join", [Value::Null, Value::String(_)]) => text(String::new()),
        ("split", [Value::String(t), Value::String(separator)]) => {
            Ok(Value::Array(split(t, separator)))
        }
        ("truncate", [Value::String(t), limit]) => {
            let limit = count(limit)?;
            text(t.chars().take(limit).collect())
        }
        ("pad", [Value::String(t), left, right]) => {
            let (left, right) = (count(left)?.min(1000), count(right)?.min(1000));
            text(format!("{}{t}{}", " ".repeat(left), " ".repeat(right)))
        }
        ("len", [value]) => match value {
            Value::String(t) => Ok(Value::from(t.len())),
            Value::Array(items) => Ok(Value::from(items.len())),
            Value::Object(map) => Ok(Value::from(map.len())),
            Value::Null => Ok(Value::from(0)),
            other => Err(format!("len of {other}, which has no length")),
        },
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("not", [value]) => Ok(Value::Bool(!is_true(value))),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            let mut equal = false;
            for other in others {
                equal |= is_equal(first, other)?;
            }
            Ok(Value::Bool(equal))
        }
        ("ne", [left, right]) => Ok(Value::Bool(!is_equal(left, right)?)),
        ("lt", [left, right]) => Ok(Value::Bool(order(left, right)?.is_lt())),
        ("le", [left, right]) => Ok(Value::Bool(order(left, right)?.is_le())),
        ("gt", [left, right]) => Ok(Value::Bool(order(left, right)?.is_gt())),
        ("ge", [left, right]) => Ok(Value::Bool(order(left, right)?.is_ge())),
        ("print", values) => text(print(values)),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(printed).collect();
            text(words.join(" ") + "\n")
        }
        ("printf", [Value::String(format), values @ ..]) => text(printf(format, values)),
        ("html", values) => text(html(&print(values))),
        ("urlquery", values) => text(url_query(&print(values))),
        _ => Err(format!(
            "function {name:?} does not take {}",
            match arguments.len() {
                0 => "no arguments".to_owned(),
                _ => Value::from(arguments).to_string(),
            }
        )),
    }
}

fn printed(value: &Value) -> String {
    let mut output = String::new();
    print_value(&mut output, value);
    output
}

/// As Go's encoder with HTML escapes off, which is what Docker's `json` function does.
fn go_json(value: &Value) -> String {
    value.to_string()
}

/// Go's `Sprint`: a space between two values when neither is text.
fn print(values: &[Value]) -> String {
    let mut output = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !value.is_string() && !values[index - 1].is_string() {
            output.push(' ');
        }
        print_value(&mut output, value);
    }
    output
}

fn title(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut at_start = true;
    for c in text.chars() {
        match at_start {
            true => output.extend(c.to_uppercase()),
            false => output.push(c),
        }
        at_start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    output
}

fn split(text: &str, separator: &str) -> Vec<Value> {
    match separator {
        "" => text.chars().map(|c| Value::String(c.into())).collect(),
        _ => text.split(separator).map(Value::from).collect(),
    }
}

fn count(value: &Value) -> Result<usize, String> {
    value
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| format!("{value} is not a count"))
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::Array(items), Value::Number(_)) => {
                let at = count(key)?;
                items.get(at).ok_or_else(|| {
                    format!("index {at} is out of range: there are {}", items.len())
                })?
            }
            // Go gives the zero value of a map's type; all maps that people index hold text.
            (Value::Object(map), Value::String(name)) => match map.get(name) {
                Some(value) => value,
                None => return Ok(Value::String(String::new())),
            },
            (Value::Null, Value::String(_)) => return Ok(Value::String(String::new())),
            (Value::String(text), Value::Number(_)) => {
                let at = count(key)?;
                let byte = text.as_bytes().get(at);
                return byte.map(|byte| Value::from(*byte)).ok_or_else(|| {
                    format!("index {at} is out of range: there are {}", text.len())
                });
            }
            _ => return Err(format!("{value} cannot be indexed by {key}")),
        };
    }
    Ok(value.clone())
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        _ => return Err(format!("{value} cannot be sliced")),
    };
    let bound = |at: usize, default: usize| bounds.get(at).map_or(Ok(default), count);
    let (start, end) = (bound(0, 0)?, bound(1, length)?);
    let fail = || format!("slice {start}:{end} is out of range: there are {length}");
    if bounds.len() > 2 || start > end || end > length {
        return Err(fail());
    }
    match value {
        Value::String(text) => text.get(start..end).map(Value::from).ok_or_else(fail),
        Value::Array(items) => Ok(Value::Array(items[start..end].to_vec())),
        _ => Err(fail()),
    }
}

fn is_equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => Ok(left == right),
        _ => order(left, right).map(Ordering::is_eq),
    }
}

fn order(left: &Value, right: &Value) -> Result<Ordering, String> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Ok(left.cmp(right)),
        (Value::Number(l), Value::Number(r)) => match (l.as_i64(), r.as_i64()) {
            (Some(left), Some(right)) => Ok(left.cmp(&right)),
            _ => Ok(l
                .as_f64()
                .partial_cmp(&r.as_f64())
                .unwrap_or(Ordering::Equal)),
        },
        _ => Err(format!("{left} and {right} cannot be compared")),
    }
}

fn html(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            '&' => output.push_str("&amp;"),
            '"' => output.push_str("&#34;"),
            '\'' => output.push_str("&#39;"),
            c => output.push(c),
        }
    }
    output
}

fn url_query(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                output.push(char::from(byte));
            }
            b' ' => output.push('+'),
            byte => output.push_str(&format!("%{byte:02X}")),
        }
    }
    output
}
