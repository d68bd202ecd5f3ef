//! How Go's fmt prints values: `%v` and `printf`.

use std::fmt::Write;

use serde_json::Value;

/// Go's idea of truth: not zero, not empty.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As `%v`.
pub fn print_value(output: &mut String, value: &Value) {
    match value {
        Value::Null => output.push_str("<nil>"),
        Value::Bool(value) => output.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => output.push_str(&print_number(number)),
        Value::String(text) => output.push_str(text),
        Value::Array(items) => {
            output.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    output.push(' ');
                }
                print_value(output, item);
            }
            output.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|left, right| left.0.cmp(right.0));
            output.push_str("map[");
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    output.push(' ');
                }
                output.push_str(key);
                output.push(':');
                print_value(output, item);
            }
            output.push(']');
        }
    }
}

fn print_number(number: &serde_json::Number) -> String {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(n), _, _) => n.to_string(),
        (_, Some(n), _) => n.to_string(),
        (_, _, Some(n)) => float_shortest(n),
        _ => number.to_string(),
    }
}

/// `%v` of a float: shortest, with an exponent from 1e21.
fn float_shortest(n: f64) -> String {
    match n != 0.0 && !(1e-4..1e21).contains(&n.abs()) {
        true => go_exponent(&format!("{n:e}")),
        false => n.to_string(),
    }
}

/// Rust writes `1e21` and `1e-5`, Go `1e+21` and `1e-05`.
fn go_exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The flags of one verb of a format: `%-05.2f`.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

/// Widths beyond this are an attack, not a layout.
const MAX_WIDTH: usize = 1000;

/// Go's `Sprintf`.
pub fn printf(format: &str, arguments: &[Value]) -> String {
    let mut output = String::new();
    let mut arguments_left = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            output.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                ' ' => spec.space = true,
                _ => break,
            }
            chars.next();
        }
        let mut digits = || {
            let mut number = None;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                number = Some((number.unwrap_or(0) * 10 + digit as usize).min(MAX_WIDTH));
                chars.next();
            }
            number
        };
        spec.width = digits().unwrap_or(0);
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut precision = 0;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                precision = (precision * 10 + digit as usize).min(MAX_WIDTH);
                chars.next();
            }
            spec.precision = Some(precision);
        }
        match chars.next() {
            None => output.push_str("%!(NOVERB)"),
            Some('%') => output.push('%'),
            Some(verb) => match arguments_left.next() {
                Some(value) => output.push_str(&verb_text(verb, value, &spec)),
                None => {
                    let _ = write!(output, "%!{verb}(MISSING)");
                }
            },
        }
    }
    output
}

fn verb_text(verb: char, value: &Value, spec: &Spec) -> String {
    let plain = || {
        let mut text = String::new();
        print_value(&mut text, value);
        text
    };
    let cut = |text: String| match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    let integer = value.as_i64();
    let float = value.as_f64();
    let precision = spec.precision.unwrap_or(6);
    let text = match (verb, value) {
        ('v', Value::String(_)) if spec.sharp => quote(&plain()),
        ('v', _) => plain(),
        ('s', Value::String(_) | Value::Array(_) | Value::Object(_)) => cut(plain()),
        ('q', Value::String(_)) => quote(&cut(plain())),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('t', Value::Bool(_)) => plain(),
        ('d', _) if value.is_u64() || value.is_i64() => signed(&plain(), spec),
        ('x' | 'X' | 'o' | 'b', _) if integer.is_some() => {
            let number = integer.unwrap_or_default();
            let digits = match verb {
                'x' => format!("{:x}", number.unsigned_abs()),
                'X' => format!("{:X}", number.unsigned_abs()),
                'o' => format!("{:o}", number.unsigned_abs()),
                _ => format!("{:b}", number.unsigned_abs()),
            };
            let prefix = if spec.sharp && verb != 'b' { "0x" } else { "" };
            format!("{}{prefix}{digits}", if number < 0 { "-" } else { "" })
        }
        ('c', _) if integer.is_some() => integer
            .and_then(|n| u32::try_from(n).ok())
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
            .to_string(),
        ('f' | 'F', _) if value.is_f64() => {
            signed(&format!("{:.precision$}", float.unwrap_or_default()), spec)
        }
        ('e', _) if value.is_f64() => {
            go_exponent(&format!("{:.precision$e}", float.unwrap_or_default()))
        }
        ('g', _) if value.is_f64() => float_shortest(float.unwrap_or_default()),
        _ => format!("%!{verb}({})", plain()),
    };
    pad(&text, spec)
}

fn signed(text: &str, spec: &Spec) -> String {
    let sign = match (text.starts_with('-'), spec.plus, spec.space) {
        (true, _, _) => "",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    format!("{sign}{text}")
}

fn pad(text: &str, spec: &Spec) -> String {
    let missing = spec.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text.to_owned();
    }
    if spec.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    if spec.zero {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => (&text[..1], digits),
            None => ("", text),
        };
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

/// Go's `strconv.Quote`: in quotes, with escapes for what a terminal would take as a command.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut output = String::from('"');
    for c in text.chars() {
        match c {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\n' => output.push_str("\\n"),
            '\t' => output.push_str("\\t"),
            '\r' => output.push_str("\\r"),
            '\u{7}' => output.push_str("\\a"),
            '\u{8}' => output.push_str("\\b"),
            '\u{c}' => output.push_str("\\f"),
            '\u{b}' => output.push_str("\\v"),
            c if c.is_control() && u32::from(c) < 0x80 => {
                let _ = write!(output, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(output, "\\u{:04x}", u32::from(c));
            }
            c => output.push(c),
        }
    }
    output.push('"');
    output
}
