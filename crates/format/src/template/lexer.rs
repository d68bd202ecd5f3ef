//! From text to tokens: text outside `{{…}}`, words inside.

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bytes from the start of the template.
    pub offset: usize,
    /// What was expected or found.
    pub reason: String,
}

impl Fault {
    pub fn new(offset: usize, reason: impl Into<String>) -> Fault {
        Fault {
            offset,
            reason: reason.into(),
        }
    }
}

/// A word inside an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// `if`, `json`, `true`, …
    Name(String),
    /// `.Field`
    Field(String),
    /// `.` alone
    Dot,
    /// `$name`; `$` alone has an empty name
    Variable(String),
    /// A number.
    Integer(i64),
    /// A number with a fraction or exponent.
    Float(f64),
    /// A quoted text.
    Text(String),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// A word and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub word: Word,
    pub offset: usize,
    /// White space, or the start of the action, comes before it: `.A .B` are two values, `.A.B` one.
    pub is_apart: bool,
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Copied to the output.
    Text(String),
    /// Carried out.
    Action { offset: usize, tokens: Vec<Token> },
}

/// Cuts a template into pieces, trim markers applied, comments dropped.
pub fn lex(template: &str) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let rest = &template[at..];
        let start = rest.find("{{");
        let mut text = &rest[..start.unwrap_or(rest.len())];
        if trim_next {
            text = text.trim_start();
        }
        let Some(start) = start else {
            push_text(&mut pieces, text);
            return Ok(pieces);
        };
        let offset = at + start;
        let mut inside = offset + 2;
        let body = &template[inside..];
        if body.starts_with('-') && body[1..].starts_with(char::is_whitespace) {
            text = text.trim_end();
            inside += 1;
        }
        push_text(&mut pieces, text);
        let body = &template[inside..];
        let end = match body.trim_start().starts_with("/*") {
            true => comment_end(body).ok_or_else(|| Fault::new(offset, "unclosed comment"))?,
            false => {
                let (tokens, end) = words(template, inside, offset)?;
                pieces.push(Piece::Action { offset, tokens });
                end - inside
            }
        };
        let tail = &body[end..];
        let trimmed = tail.trim_start();
        trim_next = trimmed.starts_with("-}}") && tail.len() > trimmed.len();
        let marker = match trim_next {
            true => "-}}",
            false => "}}",
        };
        let skipped = tail.len() - trimmed.len();
        if !trimmed.starts_with(marker) {
            return Err(Fault::new(offset, "unclosed action"));
        }
        at = inside + end + skipped + marker.len();
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn comment_end(body: &str) -> Option<usize> {
    let start = body.find("/*")? + 2;
    Some(start + body[start..].find("*/")? + 2)
}

/// The words of one action, and where its closing braces (or trim marker) begin.
fn words(template: &str, start: usize, action: usize) -> Result<(Vec<Token>, usize), Fault> {
    let mut tokens = Vec::new();
    let mut at = start;
    let mut is_apart = true;
    loop {
        let rest = &template[at..];
        let Some(first) = rest.chars().next() else {
            return Err(Fault::new(action, "unclosed action"));
        };
        if rest.starts_with("}}") {
            return Ok((tokens, at));
        }
        if first.is_whitespace() {
            if rest.trim_start().starts_with("-}}") {
                return Ok((tokens, at));
            }
            at += first.len_utf8();
            is_apart = true;
            continue;
        }
        let (word, length) = word(rest).map_err(|reason| Fault::new(at, reason))?;
        tokens.push(Token {
            word,
            offset: at,
            is_apart,
        });
        at += length;
        is_apart = false;
    }
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

fn word(rest: &str) -> Result<(Word, usize), String> {
    let first = rest.chars().next().unwrap_or(' ');
    let second = rest[first.len_utf8()..].chars().next().unwrap_or(' ');
    match first {
        '|' => Ok((Word::Pipe, 1)),
        '(' => Ok((Word::Open, 1)),
        ')' => Ok((Word::Close, 1)),
        ',' => Ok((Word::Comma, 1)),
        '=' => Ok((Word::Assign, 1)),
        ':' if second == '=' => Ok((Word::Declare, 2)),
        '$' => {
            let length = name_length(&rest[1..]);
            Ok((Word::Variable(rest[1..=length].to_owned()), 1 + length))
        }
        '.' if second.is_ascii_digit() => number(rest),
        '.' => match name_length(&rest[1..]) {
            0 => Ok((Word::Dot, 1)),
            length => Ok((Word::Field(rest[1..=length].to_owned()), 1 + length)),
        },
        '"' => quoted(rest),
        '`' => match rest[1..].find('`') {
            Some(end) => Ok((Word::Text(rest[1..=end].to_owned()), end + 2)),
            None => Err("unterminated raw quoted text".to_owned()),
        },
        '\'' => character(rest),
        '+' | '-' if second.is_ascii_digit() || second == '.' => number(rest),
        c if c.is_ascii_digit() => number(rest),
        c if c.is_alphabetic() || c == '_' => {
            let length = name_length(rest);
            Ok((Word::Name(rest[..length].to_owned()), length))
        }
        c => Err(format!("unexpected {c:?} in action")),
    }
}

fn number(rest: &str) -> Result<(Word, usize), String> {
    let mut length = 0;
    for (index, c) in rest.char_indices() {
        let is_exponent_sign = matches!(c, '+' | '-')
            && (index == 0 || matches!(rest.as_bytes()[index - 1], b'e' | b'E'));
        if !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || is_exponent_sign) {
            break;
        }
        length = index + c.len_utf8();
    }
    let text = &rest[..length];
    let digits = text.replace('_', "");
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let in_base = |prefix: &str, base| {
        let lower = unsigned.to_ascii_lowercase();
        let digits = lower.strip_prefix(prefix)?;
        i64::from_str_radix(digits, base).ok()
    };
    let integer = in_base("0x", 16)
        .or_else(|| in_base("0o", 8))
        .or_else(|| in_base("0b", 2))
        .or_else(|| unsigned.parse().ok());
    if let Some(value) = integer {
        return Ok((Word::Integer(if negative { -value } else { value }), length));
    }
    match unsigned.parse::<f64>() {
        Ok(value) => Ok((Word::Float(if negative { -value } else { value }), length)),
        Err(_) => Err(format!("bad number {text:?}")),
    }
}

fn quoted(rest: &str) -> Result<(Word, usize), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Ok((Word::Text(text), index + 1)),
            '\n' => break,
            '\\' => text.push(escape(&mut chars)?),
            c => text.push(c),
        }
    }
    Err("unterminated quoted text".to_owned())
}

fn character(rest: &str) -> Result<(Word, usize), String> {
    let mut chars = rest.char_indices().skip(1);
    let value = match chars.next() {
        Some((_, '\\')) => escape(&mut chars)?,
        Some((_, c)) if c != '\'' => c,
        _ => return Err("unterminated character constant".to_owned()),
    };
    match chars.next() {
        Some((end, '\'')) => Ok((Word::Integer(i64::from(u32::from(value))), end + 1)),
        _ => Err("unterminated character constant".to_owned()),
    }
}

fn escape(chars: &mut impl Iterator<Item = (usize, char)>) -> Result<char, String> {
    let unterminated = || "unterminated quoted text".to_owned();
    let (_, c) = chars.next().ok_or_else(unterminated)?;
    let digits = match c {
        'n' => return Ok('\n'),
        't' => return Ok('\t'),
        'r' => return Ok('\r'),
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        'f' => return Ok('\u{c}'),
        'v' => return Ok('\u{b}'),
        '\\' | '"' | '\'' => return Ok(c),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other => return Err(format!("unknown escape \\{other}")),
    };
    let hex: String = chars.take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&hex, 16)
        .ok()
        .filter(|_| hex.len() == digits)
        .and_then(char::from_u32)
        .ok_or_else(|| format!("bad escape \\{c}{hex}"))
}
