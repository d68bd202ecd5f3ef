//! `--chmod`: octal digits, or what chmod(1) understands.

/// A change of mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// These bits.
    Set(u32),
    /// One after the other.
    Clauses(Vec<Clause>),
}

/// `ug+rX`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Which of the three groups of bits, as 0o700, 0o070, 0o007 together.
    who: u32,
    operator: char,
    letters: String,
}

impl ModeChange {
    /// Reads it; `None` when it is none.
    pub(crate) fn parse(text: &str) -> Option<ModeChange> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok()?;
            return (mode <= 0o7777).then_some(ModeChange::Set(mode));
        }
        let clauses = text.split(',').map(|clause| {
            let at = clause.find(['+', '-', '='])?;
            let (who, rest) = clause.split_at(at);
            let mut mask = 0;
            for c in who.chars() {
                mask |= match c {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return None,
                };
            }
            let letters = &rest[1..];
            let is_known = letters.chars().all(|c| "rwxXst".contains(c));
            is_known.then(|| Clause {
                who: if who.is_empty() { 0o777 } else { mask },
                operator: rest.chars().next().unwrap_or('='),
                letters: letters.to_owned(),
            })
        });
        clauses.collect::<Option<Vec<_>>>().map(ModeChange::Clauses)
    }

    /// The mode that comes out.
    pub(crate) fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let clauses = match self {
            ModeChange::Set(mode) => return *mode,
            ModeChange::Clauses(clauses) => clauses,
        };
        let mut mode = mode;
        for clause in clauses {
            let mut bits = 0;
            for letter in clause.letters.chars() {
                bits |= match letter {
                    'r' => 0o444 & clause.who,
                    'w' => 0o222 & clause.who,
                    'x' => 0o111 & clause.who,
                    'X' if is_folder || mode & 0o111 != 0 => 0o111 & clause.who,
                    's' => {
                        let user = if clause.who & 0o700 != 0 { 0o4000 } else { 0 };
                        user | if clause.who & 0o070 != 0 { 0o2000 } else { 0 }
                    }
                    't' => 0o1000,
                    _ => 0,
                };
            }
            mode = match clause.operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => (mode & !clause.who) | bits,
            };
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_changed_as_chmod_does() {
        for (text, mode, is_folder, expected) in [
            ("755", 0o600, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("+x", 0o644, false, 0o755),
            ("g-w,o=", 0o666, false, 0o640),
            ("u+s", 0o755, false, 0o4755),
        ] {
            assert_eq!(
                ModeChange::parse(text).unwrap().apply(mode, is_folder),
                expected,
                "{text}"
            );
        }
        assert_eq!(ModeChange::parse("rwx"), None);
        assert_eq!(ModeChange::parse("99"), None);
    }
}
