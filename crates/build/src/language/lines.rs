//! From bytes to logical lines: continuations joined, comments left out, heredocs collected.

use std::fmt;

/// Where something is in the Dockerfile, counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character of the line.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a text is not a Dockerfile, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SyntaxError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl SyntaxError {
    pub(crate) fn new(place: Place, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        SyntaxError {
            place,
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// `# syntax=…`, `# escape=…`, `# check=…` at the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Which frontend was asked for; read, and not fetched.
    pub syntax: Option<String>,
    /// The character that continues a line: `\`, or a backtick.
    pub escape: Option<char>,
    /// `skip=…;error=…`.
    pub check: Option<String>,
}

/// `<<NAME … NAME` behind `RUN`, `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// Its name, without quotes.
    pub name: String,
    /// The lines, each with its end.
    pub content: String,
    /// Variables are replaced: the name was not in quotes.
    pub expands: bool,
    /// `<<-`: tabs at the beginning of lines are taken away.
    pub chomps: bool,
    /// Its word as it was written, like `<<-"EOF"`.
    pub word: String,
}

impl Heredoc {
    /// The content that it stands for.
    #[must_use]
    pub fn text(&self) -> String {
        match self.chomps {
            false => self.content.clone(),
            true => self
                .content
                .split_inclusive('\n')
                .map(|line| line.trim_start_matches('\t'))
                .collect(),
        }
    }
}

/// One instruction, not understood yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Continuations joined.
    pub(crate) text: String,
    /// From which byte of `text` on which place is meant.
    places: Vec<(usize, Place)>,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) last_line: usize,
    /// A line that only continues, without anything on it.
    pub(crate) has_empty_continuation: bool,
}

impl Line {
    /// Where a byte of the text came from.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let index = self.places.partition_point(|(start, _)| *start <= offset);
        let Some((start, place)) = index.checked_sub(1).map(|index| self.places[index]) else {
            return Place { line: 1, column: 1 };
        };
        let end = (start..=offset.min(self.text.len()))
            .rev()
            .find(|at| self.text.is_char_boundary(*at))
            .unwrap_or(start);
        Place {
            line: place.line,
            column: place.column + self.text[start..end].chars().count(),
        }
    }
}

/// More than this nobody writes by hand.
pub(crate) const MAX_BYTES: usize = 4 << 20;

/// Splits a text. Comments and empty lines are gone.
pub(crate) fn lines(text: &str) -> Result<(Directives, Vec<Line>), SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        return Err(SyntaxError::new(
            Place { line: 1, column: 1 },
            format!(
                "the Dockerfile has {} bytes, the most is {MAX_BYTES}",
                text.len()
            ),
            "is it the right file?",
        ));
    }
    let physical: Vec<&str> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let (directives, first) = directives(&physical)?;
    let escape = directives.escape.unwrap_or('\\');
    let mut result = Vec::new();
    let mut at = first;
    while at < physical.len() {
        let start = physical[at].trim_start_matches([' ', '\t']);
        if start.is_empty() || start.trim().is_empty() || start.starts_with('#') {
            at += 1;
            continue;
        }
        let (line, next) = logical(&physical, at, escape)?;
        result.push(line);
        at = next;
    }
    Ok((directives, result))
}

fn directives(physical: &[&str]) -> Result<(Directives, usize), SyntaxError> {
    let mut found = Directives::default();
    for (index, line) in physical.iter().enumerate() {
        // A shebang may come first.
        if index == 0 && line.starts_with("#!") {
            continue;
        }
        let Some((key, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            return Ok((found, index));
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        let place = Place {
            line: index + 1,
            column: 1,
        };
        let is_twice = match &*key {
            "syntax" => found.syntax.replace(value.to_owned()).is_some(),
            "check" => found.check.replace(value.to_owned()).is_some(),
            "escape" => {
                let escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        return Err(SyntaxError::new(
                            place,
                            format!("{value:?} cannot be the escape character"),
                            "write # escape=\\ or # escape=`",
                        ));
                    }
                };
                found.escape.replace(escape).is_some()
            }
            _ => return Ok((found, index)),
        };
        if is_twice {
            return Err(SyntaxError::new(
                place,
                format!("the directive {key} is given twice"),
                "leave one of them out",
            ));
        }
    }
    Ok((found, physical.len()))
}

/// The part before an escape character at the end of a line.
fn continued(line: &str, escape: char) -> Option<&str> {
    line.trim_end_matches([' ', '\t']).strip_suffix(escape)
}

fn logical(physical: &[&str], at: usize, escape: char) -> Result<(Line, usize), SyntaxError> {
    let mut line = Line {
        text: String::new(),
        places: Vec::new(),
        heredocs: Vec::new(),
        last_line: at + 1,
        has_empty_continuation: false,
    };
    let mut next = at;
    while let Some(raw) = physical.get(next) {
        let is_first = next == at;
        let trimmed = raw.trim_start_matches([' ', '\t']);
        next += 1;
        if !is_first && trimmed.starts_with('#') {
            continue;
        }
        if !is_first && trimmed.trim().is_empty() {
            if next < physical.len() {
                line.has_empty_continuation = true;
                continue;
            }
            break;
        }
        let (piece, column) = match is_first {
            true => (trimmed, raw.chars().count() - trimmed.chars().count() + 1),
            false => (*raw, 1),
        };
        let place = Place { line: next, column };
        line.places.push((line.text.len(), place));
        line.last_line = next;
        match continued(piece, escape) {
            Some(part) => line.text.push_str(part),
            None => {
                line.text.push_str(piece);
                break;
            }
        }
    }
    let word = line.text.split([' ', '\t']).next().unwrap_or_default();
    // An ONBUILD trigger has its heredocs on the lines that follow too.
    let words: Vec<&str> = line.text.split_ascii_whitespace().take(2).collect();
    let takes_heredocs = |word: &str| ["ADD", "COPY", "RUN"].contains(&&*word.to_ascii_uppercase());
    let is_trigger = word.eq_ignore_ascii_case("ONBUILD");
    if takes_heredocs(word) || (is_trigger && words.get(1).is_some_and(|word| takes_heredocs(word)))
    {
        for (mut heredoc, offset) in heredocs_of(&line.text, escape) {
            let place = line.place(offset);
            loop {
                let Some(raw) = physical.get(next) else {
                    return Err(SyntaxError::new(
                        place,
                        format!("the heredoc {} does not end", heredoc.word),
                        format!("write {} alone on a line behind its last one", heredoc.name),
                    ));
                };
                next += 1;
                let candidate = match heredoc.chomps {
                    true => raw.trim_start_matches('\t'),
                    false => raw,
                };
                if candidate == heredoc.name {
                    break;
                }
                heredoc.content.push_str(raw);
                heredoc.content.push('\n');
            }
            line.last_line = next;
            line.heredocs.push(heredoc);
        }
    }
    Ok((line, next))
}

/// `[fd]<<[-]NAME` among the words of a line.
fn heredocs_of(text: &str, escape: char) -> Vec<(Heredoc, usize)> {
    let mut found = Vec::new();
    for (offset, word) in super::split::words(text, escape) {
        if let Some(heredoc) = heredoc(word) {
            found.push((heredoc, offset));
        }
    }
    found
}

/// The heredoc that a word begins, without content.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomps, quoted) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if quoted.is_empty() || quoted.contains('<') {
        return None;
    }
    let name: String = quoted
        .chars()
        .filter(|c| !matches!(c, '"' | '\''))
        .collect();
    let opening = quoted.chars().filter(|c| matches!(c, '"' | '\'')).count();
    (!name.is_empty() && opening % 2 == 0).then(|| Heredoc {
        expands: name == quoted,
        name,
        content: String::new(),
        chomps,
        word: word.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuations_are_joined_and_places_kept() {
        let (_, lines) = lines("# note\n\nRUN a \\\n  # inside\n\n  b \\ \n c\nCMD x\n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text, "RUN a   b  c");
        assert!(lines[0].has_empty_continuation);
        assert_eq!(lines[0].place(0), Place { line: 3, column: 1 });
        let b = lines[0].text.find('b').unwrap();
        assert_eq!(lines[0].place(b), Place { line: 6, column: 3 });
        assert_eq!(lines[1].place(4), Place { line: 8, column: 5 });
    }

    #[test]
    fn directives_come_first_or_not_at_all() {
        let (found, lines) =
            lines("# syntax = docker/dockerfile:1\n# escape=`\nRUN a `\n b\n").unwrap();
        assert_eq!(found.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(lines[0].text, "RUN a  b");
        let (found, _) = super::lines("# a comment\n# escape=`\nRUN a\n").unwrap();
        assert_eq!(found.escape, None);
        assert!(super::lines("# escape=x\n").is_err());
    }

    #[test]
    fn heredocs_are_collected() {
        let text = "RUN <<A cat <<-'B'\n one\nA\n\ttwo\n\tB\nCMD x";
        let (_, lines) = lines(text).unwrap();
        assert_eq!(lines[0].heredocs.len(), 2);
        assert_eq!(lines[0].heredocs[0].content, " one\n");
        assert!(lines[0].heredocs[0].expands);
        assert_eq!(lines[0].heredocs[1].text(), "two\n");
        assert!(!lines[0].heredocs[1].expands);
        assert_eq!(lines[1].text, "CMD x");
        let error = super::lines("FROM a\nRUN x <<EOF\nb\n").unwrap_err();
        assert_eq!(error.place, Place { line: 2, column: 7 });
    }
}
