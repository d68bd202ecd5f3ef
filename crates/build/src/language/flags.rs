//! `--flag=value` between an instruction's word and its arguments.

use isle_types::nearest;

use super::lines::{Line, Place, SyntaxError};
use super::split::words;

/// The flags of one instruction that were not taken yet.
pub(crate) struct Flags {
    instruction: &'static str,
    given: Vec<Flag>,
    known: Vec<&'static str>,
}

struct Flag {
    name: String,
    value: Option<String>,
    place: Place,
}

/// Reads the flags from a byte of the line on; returns them and the byte at which the arguments begin.
pub(crate) fn read(
    instruction: &'static str,
    line: &Line,
    from: usize,
    escape: char,
) -> (Flags, usize) {
    let mut given = Vec::new();
    let mut end = line.text.len();
    for (offset, word) in words(&line.text[from..], escape) {
        let offset = from + offset;
        if word == "--" {
            end = offset + 2;
            break;
        }
        let Some(flag) = word.strip_prefix("--") else {
            end = offset;
            break;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value))),
            None => (flag, None),
        };
        given.push(Flag {
            name: name.to_owned(),
            value,
            place: line.place(offset),
        });
    }
    let flags = Flags {
        instruction,
        given,
        known: Vec::new(),
    };
    (flags, end)
}

/// A value that is in quotes as a whole.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|value| value.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner.to_owned();
        }
    }
    value.to_owned()
}

impl Flags {
    /// All values of a flag that may be given more than once.
    pub(crate) fn many(&mut self, name: &'static str) -> Result<Vec<String>, SyntaxError> {
        self.known.push(name);
        let mut values = Vec::new();
        let mut others = Vec::new();
        for flag in self.given.drain(..) {
            match flag {
                Flag {
                    name: given,
                    value: Some(value),
                    ..
                } if given == name => values.push(value),
                Flag {
                    name: given, place, ..
                } if given == name => {
                    return Err(SyntaxError::new(
                        place,
                        format!("--{name} has no value"),
                        format!("write --{name}=VALUE"),
                    ));
                }
                other => others.push(other),
            }
        }
        self.given = others;
        Ok(values)
    }

    /// The value of a flag that may be given once.
    pub(crate) fn one(&mut self, name: &'static str) -> Result<Option<String>, SyntaxError> {
        let place = self.place(name);
        let mut values = self.many(name)?;
        match (values.len(), place) {
            (0 | 1, _) | (_, None) => Ok(values.pop()),
            (_, Some(place)) => Err(SyntaxError::new(
                place,
                format!("--{name} is given twice"),
                "leave one of them out",
            )),
        }
    }

    /// A switch: `--link`, `--link=false`.
    pub(crate) fn switch(&mut self, name: &'static str) -> Result<Option<bool>, SyntaxError> {
        self.known.push(name);
        let mut found = None;
        let mut others = Vec::new();
        for flag in self.given.drain(..) {
            if flag.name != name {
                others.push(flag);
                continue;
            }
            found = Some(match flag.value.as_deref() {
                None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => true,
                Some("false" | "0" | "f" | "F" | "FALSE" | "False") => false,
                Some(other) => {
                    return Err(SyntaxError::new(
                        flag.place,
                        format!("--{name} is on or off, and {other:?} is neither"),
                        format!("write --{name} or --{name}=false"),
                    ));
                }
            });
        }
        self.given = others;
        Ok(found)
    }

    fn place(&self, name: &str) -> Option<Place> {
        let found = self.given.iter().find(|flag| flag.name == name);
        found.map(|flag| flag.place)
    }

    /// Refuses what nobody has taken.
    pub(crate) fn finish(self) -> Result<(), SyntaxError> {
        let Some(flag) = self.given.first() else {
            return Ok(());
        };
        let fix = match nearest(&flag.name, self.known.iter().copied()) {
            Some(name) => format!("did you mean --{name}?"),
            None if self.known.is_empty() => format!("{} has no flags", self.instruction),
            None => format!("{} has --{}", self.instruction, self.known.join(", --")),
        };
        Err(SyntaxError::new(
            flag.place,
            format!("{} has no flag --{}", self.instruction, flag.name),
            fix,
        ))
    }
}
