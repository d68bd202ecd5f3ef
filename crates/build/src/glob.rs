//! Patterns of paths: of `COPY` (Go's `filepath.Match`) and of `.dockerignore` (the same with `**`).

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `**/` at the beginning or after a slash: any number of folders, or none.
    Folders,
    /// `**`: anything, slashes too.
    AnyPath,
    /// `*`
    Any,
    /// `?`
    One,
    /// `[a-z]`, `[^a]`
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
    Is(char),
}

/// A pattern of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Reads a pattern; `None` when a class is not closed. `with_stars`: `**` means folders.
    pub(crate) fn parse(text: &str, with_stars: bool) -> Option<Pattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' if with_stars && rest.next_if_eq(&'*').is_some() => {
                    while rest.next_if_eq(&'*').is_some() {}
                    let at_start = tokens.is_empty() || tokens.last() == Some(&Token::Is('/'));
                    match at_start && rest.next_if_eq(&'/').is_some() {
                        true => Token::Folders,
                        false => Token::AnyPath,
                    }
                }
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Is(rest.next()?),
                '[' => class(&mut rest)?,
                c => Token::Is(c),
            });
        }
        Some(Pattern { tokens })
    }

    /// Whether the whole path fits.
    pub(crate) fn fits(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        let mut state = vec![false; text.len() + 1];
        state[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; text.len() + 1];
            match token {
                Token::Any | Token::AnyPath => {
                    let mut is_on = false;
                    for at in 0..=text.len() {
                        let passes = at == 0 || *token == Token::AnyPath || text[at - 1] != '/';
                        is_on = state[at] || (is_on && passes);
                        next[at] = is_on;
                    }
                }
                Token::Folders => {
                    let mut is_on = false;
                    for at in 0..=text.len() {
                        is_on |= state[at];
                        next[at] = state[at] || (is_on && at > 0 && text[at - 1] == '/');
                    }
                }
                single => {
                    for at in 0..text.len() {
                        next[at + 1] = state[at] && single.takes(text[at]);
                    }
                }
            }
            state = next;
        }
        state[text.len()]
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Token::Is(own) => *own == c,
            Token::One => c != '/',
            Token::Class { is_negated, ranges } => {
                c != '/'
                    && ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *is_negated
            }
            Token::Any | Token::AnyPath | Token::Folders => false,
        }
    }
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let is_negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match rest.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { is_negated, ranges }),
            '\\' => rest.next()?,
            c => c,
        };
        let to = match rest.next_if_eq(&'-') {
            None => from,
            Some(_) => match rest.next()? {
                '\\' => rest.next()?,
                c => c,
            },
        };
        ranges.push((from, to));
    }
}

/// Whether a path of `COPY` is a pattern.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// What `.dockerignore` leaves out, or `--exclude`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignore {
    rules: Vec<(bool, Pattern)>,
    has_exceptions: bool,
}

impl Ignore {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// The number of the line that is no pattern.
    pub(crate) fn parse(text: &str) -> Result<Ignore, usize> {
        let mut ignore = Ignore::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            ignore.add(line).ok_or(index + 1)?;
        }
        Ok(ignore)
    }

    /// Adds a rule; `None` when it is no pattern.
    pub(crate) fn add(&mut self, line: &str) -> Option<()> {
        let line = line.trim();
        let (is_exception, pattern) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        // As Go's filepath.Clean, and relative to the root of the context.
        let parts: Vec<&str> = pattern
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let clean = parts.join("/");
        if clean.is_empty() {
            return Some(());
        }
        self.rules
            .push((is_exception, Pattern::parse(&clean, true)?));
        self.has_exceptions |= is_exception;
        Some(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether what is below an excluded folder may be wanted all the same.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether a path, relative and without `.`, is left out: the last rule that fits it or a folder that it is in
    /// decides.
    pub(crate) fn excludes(&self, path: &str) -> bool {
        let mut is_excluded = false;
        for (is_exception, pattern) in &self.rules {
            if *is_exception != is_excluded {
                continue;
            }
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if above.chain([path]).any(|path| pattern.fits(path)) {
                is_excluded = !is_exception;
            }
        }
        is_excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, path, fits) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("a?[x-z].c", "aby.c", true),
            ("a?[^x-z].c", "aby.c", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
        ] {
            assert_eq!(
                Pattern::parse(pattern, false).unwrap().fits(path),
                fits,
                "{pattern} {path}"
            );
        }
        assert!(Pattern::parse("[a", false).is_none());
    }

    #[test]
    fn the_last_rule_of_a_dockerignore_wins() {
        let ignore =
            Ignore::parse("# c\n**/*.md\n!README.md\n/build\nnode_modules/\n**/tmp/**\na/**/z\n")
                .unwrap();
        for (path, is_excluded) in [
            ("x.md", true),
            ("d/e/x.md", true),
            ("README.md", false),
            ("build", true),
            ("build/deep/file", true),
            ("src/build", false),
            ("node_modules/x", true),
            ("d/tmp/x", true),
            ("a/z", true),
            ("a/b/c/z", true),
            ("# c", false),
        ] {
            assert_eq!(ignore.excludes(path), is_excluded, "{path}");
        }
        assert!(Ignore::parse("ok\n[a\n").is_err());
    }
}
