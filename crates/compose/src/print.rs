//! A document as YAML, as `docker compose config` prints it.

use serde_json::Value;

use crate::yaml::{Value as Read, plain};

/// The text of a document. With `escapes`, a dollar is written as two, so that the text reads as the same document.
#[must_use]
pub fn yaml(document: &Value, escapes: bool) -> String {
    let mut text = String::new();
    block(&sorted(document), 0, escapes, &mut text);
    text
}

/// The same with the keys of every mapping in order, the project's name first: however it was written.
#[must_use]
pub fn sorted(document: &Value) -> Value {
    match document {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, value)| (*key != "name" || value.is_object(), *key));
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(entries.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        value => value.clone(),
    }
}

fn block(value: &Value, indent: usize, escapes: bool, text: &mut String) {
    let spaces = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                text.push_str(&format!("{spaces}{}:", scalar(key, false)));
                below(value, indent, escapes, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        let mut inner = String::new();
                        block(item, indent + 2, escapes, &mut inner);
                        text.push_str(&format!("{spaces}- {}", inner.trim_start()));
                    }
                    _ => {
                        text.push_str(&format!("{spaces}-"));
                        below(item, indent, escapes, text);
                    }
                }
            }
        }
        _ => {}
    }
}

/// What stands behind a key or a dash.
fn below(value: &Value, indent: usize, escapes: bool, text: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => text.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Object(_) | Value::Array(_) => {
            text.push('\n');
            block(value, indent + 2, escapes, text);
        }
        Value::String(word) => {
            text.push(' ');
            text.push_str(&scalar(word, escapes));
            text.push('\n');
        }
        value => text.push_str(&format!(" {value}\n")),
    }
}

/// A text, quoted where it would be read as something else.
fn scalar(word: &str, escapes: bool) -> String {
    let word = match escapes {
        true => word.replace('$', "$$"),
        false => word.to_owned(),
    };
    let is_old_truth = matches!(
        word.to_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off"
    );
    let is_plain = matches!(plain(&word), Read::Text(_))
        && !word.is_empty()
        && !is_old_truth
        && !word.starts_with(|c: char| ":,[]{}#&*!|>'\"%@` =<".contains(c))
        && !["- ", "? "].iter().any(|mark| word.starts_with(mark) || word == mark.trim_end())
        && !word.ends_with([' ', ':'])
        && !word.contains(": ")
        && !word.contains(" #")
        && !word.contains(|c: char| c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}' || c == '\u{85}')
        && !word.starts_with("---")
        && !word.starts_with("...")
        // Times are numbers of base 60 to readers of YAML 1.1.
        && !(word.starts_with(|c: char| c.is_ascii_digit()) && word.contains([':', '_']));
    match is_plain {
        true => word,
        // JSON's quotes are YAML's.
        false => Value::String(word).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_reads_as_the_same() {
        let document = json!({
            "a": {"b": [1, "1", "true", "yes", "", "a: b", "- x", "x #y", "tab\there", "two\nlines", "08:15", "$x", null, {"k": [], "m": {}, "n": {"o": 1.5}}, ["z", ["y"]]]},
            "empty": {}, "true": "~", "1": "=", "x y": "ü€ \u{2028}",
        });
        let text = yaml(&document, false);
        let read = crate::yaml::parse(&text, std::path::Path::new("x"))
            .expect(&text)
            .to_json();
        assert_eq!(read, document, "{text}");
        assert_eq!(yaml(&json!({"a": "$x"}), true), "a: $$x\n");
        assert_eq!(
            yaml(
                &json!({"s": {"w": {"image": "nginx", "ports": [{"target": 80, "published": "8080"}]}}}),
                true
            ),
            "s:\n  w:\n    image: nginx\n    ports:\n      - published: \"8080\"\n        target: 80\n"
        );
    }
}
