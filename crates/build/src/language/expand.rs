//! `$NAME`, `${NAME:-word}` and the other forms, quotes and escapes: what BuildKit calls its shell lexer.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::pattern;

/// Where values come from.
pub trait Variables {
    /// The value of a variable; `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// What became of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// Words at white space that is not quoted; white space that a variable brought counts.
    pub words: Vec<String>,
    /// The same as one word.
    pub text: String,
    /// Variables that were asked for and not set.
    pub unset: BTreeSet<String>,
}

/// Replaces variables and takes quotes away.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    /// The escape character of the file.
    pub escape: char,
    /// Quotes stay where they are: for the content of heredocs.
    pub keeps_quotes: bool,
}

/// Nesting of `${a:-${b:-…}}` that nobody needs.
const MAX_DEPTH: usize = 50;
/// `${a//x/…}` can make much of little.
const MAX_RESULT: usize = 4 << 20;

impl Lexer {
    /// Expands a text.
    ///
    /// # Errors
    /// What is wrong with it, in words: a quote or brace that is not closed, `${NAME:?message}`.
    pub fn expand(self, text: &str, variables: &dyn Variables) -> Result<Expansion, String> {
        let mut run = Run {
            lexer: self,
            variables,
            rest: text.chars().peekable(),
            words: Vec::new(),
            word: None,
            text: String::new(),
            unset: BTreeSet::new(),
            depth: 0,
        };
        run.all()?;
        run.words.extend(run.word.take());
        Ok(Expansion {
            words: run.words,
            text: run.text,
            unset: run.unset,
        })
    }

    /// Expands a text to one word.
    ///
    /// # Errors
    /// As [`Lexer::expand`].
    pub fn word(self, text: &str, variables: &dyn Variables) -> Result<String, String> {
        self.expand(text, variables).map(|expansion| expansion.text)
    }
}

struct Run<'a> {
    lexer: Lexer,
    variables: &'a dyn Variables,
    rest: Peekable<Chars<'a>>,
    words: Vec<String>,
    word: Option<String>,
    text: String,
    unset: BTreeSet<String>,
    depth: usize,
}

impl Run<'_> {
    fn put(&mut self, text: &str) {
        self.word.get_or_insert_default().push_str(text);
        self.text.push_str(text);
    }

    /// A variable outside of quotes: its white space separates words.
    fn put_split(&mut self, value: &str) {
        self.text.push_str(value);
        for c in value.chars() {
            match c.is_whitespace() {
                true => self.words.extend(self.word.take()),
                false => self.word.get_or_insert_default().push(c),
            }
        }
    }

    fn all(&mut self) -> Result<(), String> {
        while let Some(c) = self.rest.next() {
            if self.text.len() > MAX_RESULT {
                return Err("it becomes too long".to_owned());
            }
            match c {
                '\'' if !self.lexer.keeps_quotes => self.single()?,
                '"' if !self.lexer.keeps_quotes => self.double()?,
                '$' => {
                    let value = self.dollar()?;
                    self.put_split(&value);
                }
                c if c == self.lexer.escape => match self.rest.next() {
                    // In a heredoc only a variable can be escaped.
                    Some(next) if self.lexer.keeps_quotes && next != '$' && next != c => {
                        self.put(&format!("{c}{next}"));
                    }
                    Some(next) => self.put(&next.to_string()),
                    None if self.lexer.keeps_quotes => self.put(&c.to_string()),
                    None => {}
                },
                c if c.is_whitespace() => {
                    self.words.extend(self.word.take());
                    self.text.push(c);
                }
                c => self.put(c.encode_utf8(&mut [0; 4])),
            }
        }
        Ok(())
    }

    fn single(&mut self) -> Result<(), String> {
        let mut inner = String::new();
        loop {
            match self.rest.next() {
                Some('\'') => break,
                Some(c) => inner.push(c),
                None => return Err("a single quote is not closed".to_owned()),
            }
        }
        self.put(&inner);
        Ok(())
    }

    fn double(&mut self) -> Result<(), String> {
        self.put("");
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar()?;
                    self.put(&value);
                }
                Some(c) if c == self.lexer.escape => match self.rest.next() {
                    Some(next @ ('"' | '$')) => self.put(&next.to_string()),
                    Some(next) if next == c => self.put(&next.to_string()),
                    Some(next) => self.put(&format!("{c}{next}")),
                    None => return Err("a double quote is not closed".to_owned()),
                },
                Some(c) => self.put(c.encode_utf8(&mut [0; 4])),
                None => return Err("a double quote is not closed".to_owned()),
            }
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name);
        if value.is_none() {
            self.unset.insert(name.to_owned());
        }
        value
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self
            .rest
            .next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '!') || c.is_ascii_digit())
        {
            name.push(special);
            while special.is_ascii_digit()
                && let Some(digit) = self.rest.next_if(char::is_ascii_digit)
            {
                name.push(digit);
            }
            return name;
        }
        while let Some(c) = self
            .rest
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
        }
        name
    }

    fn dollar(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = match self.rest.peek() {
                Some(c) if c.is_ascii_alphanumeric() || *c == '_' => self.name(),
                _ => return Ok("$".to_owned()),
            };
            return Ok(self.value(&name).unwrap_or_default());
        }
        let name = self.name();
        if name.is_empty() {
            return Err("${ is not followed by the name of a variable".to_owned());
        }
        let unclosed = || format!("${{{name} is not closed with a brace");
        match self.rest.next() {
            Some('}') => Ok(self.value(&name).unwrap_or_default()),
            Some(':') => {
                let form = self.rest.next().ok_or_else(unclosed)?;
                self.with_word(&name, form, true)
            }
            Some(form @ ('+' | '-' | '?')) => self.with_word(&name, form, false),
            Some(form @ ('#' | '%')) => {
                let is_greedy = self.rest.next_if_eq(&form).is_some();
                let pattern = self.inner()?;
                let value = self.value(&name).unwrap_or_default();
                Ok(match form {
                    '#' => pattern::without_start(&value, &pattern, is_greedy).to_owned(),
                    _ => pattern::without_end(&value, &pattern, is_greedy).to_owned(),
                })
            }
            Some('/') => {
                let is_all = self.rest.next_if_eq(&'/').is_some();
                let inner = self.inner()?;
                let (pattern, replacement) = split_replacement(&inner);
                let value = self.value(&name).unwrap_or_default();
                let limit = MAX_RESULT;
                Ok(pattern::replaced(
                    &value,
                    &pattern,
                    replacement,
                    is_all,
                    limit,
                ))
            }
            Some(c) => Err(format!(
                "${{{name}{c}…}} is not a form of variable: there are :- - :+ + :? ? # ## % %% / and //"
            )),
            None => Err(unclosed()),
        }
    }

    fn with_word(
        &mut self,
        name: &str,
        form: char,
        empty_is_unset: bool,
    ) -> Result<String, String> {
        let word = self.inner()?;
        // A default is no sign of a slip: such a variable is not reported as unset.
        let value = self.variables.get(name);
        let usable = value
            .clone()
            .filter(|value| !(empty_is_unset && value.is_empty()));
        match form {
            '-' => Ok(usable.unwrap_or(word)),
            '+' => Ok(usable.map(|_| word).unwrap_or_default()),
            '?' => usable.ok_or_else(|| match word.is_empty() {
                true => format!("the variable {name} is not set, and it is required"),
                false => format!("{name}: {word}"),
            }),
            other => Err(format!(
                "${{{name}:{other}…}} is not a form of variable: there are :- :+ and :?"
            )),
        }
    }

    /// What stands before the closing brace, expanded.
    fn inner(&mut self) -> Result<String, String> {
        let mut raw = String::new();
        let mut open = 1_usize;
        let mut quote: Option<char> = None;
        loop {
            let Some(c) = self.rest.next() else {
                return Err("a ${ is not closed with a brace".to_owned());
            };
            match c {
                '{' if raw.ends_with('$') && quote != Some('\'') => open += 1,
                '}' if quote != Some('\'') => {
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                }
                '\'' | '"' if quote.is_none() => quote = Some(c),
                c if quote == Some(c) => quote = None,
                c if c == self.lexer.escape && quote != Some('\'') => {
                    raw.push(c);
                    raw.extend(self.rest.next());
                    continue;
                }
                _ => {}
            }
            raw.push(c);
        }
        if self.depth >= MAX_DEPTH {
            return Err("variables are nested too deeply".to_owned());
        }
        let mut run = Run {
            lexer: self.lexer,
            variables: self.variables,
            rest: raw.chars().peekable(),
            words: Vec::new(),
            word: None,
            text: String::new(),
            unset: BTreeSet::new(),
            depth: self.depth + 1,
        };
        run.all()?;
        let text = std::mem::take(&mut run.text);
        let unset = std::mem::take(&mut run.unset);
        drop(run);
        self.unset.extend(unset);
        Ok(text)
    }
}

/// `pattern/replacement`; `\/` is a slash of the pattern.
fn split_replacement(inner: &str) -> (String, &str) {
    let mut pattern = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '/' => return (pattern, &inner[at + 1..]),
            '\\' if inner[at + 1..].starts_with('/') => {
                pattern.push('/');
                characters.next();
            }
            c => pattern.push(c),
        }
    }
    (pattern, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Result<String, String> {
        let lexer = Lexer {
            escape: '\\',
            keeps_quotes: false,
        };
        lexer.word(text, &|name: &str| match name {
            "a" => Some("one".to_owned()),
            "empty" => Some(String::new()),
            "path" => Some("/usr/lib/x.tar.gz".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn every_form_of_variable() {
        for (text, expected) in [
            ("$a-${a}", "one-one"),
            ("'$a' \"$a\" \\$a", "$a one $a"),
            (
                "${b:-two} ${b-two} ${empty:-two} ${empty-two}.",
                "two two two .",
            ),
            ("${a:+x}${empty:+y}${empty+z}", "xz"),
            ("${b:-${c:-deep}}", "deep"),
            ("${path#*/} ${path##*/}", "usr/lib/x.tar.gz x.tar.gz"),
            ("${path%.*} ${path%%.*}", "/usr/lib/x.tar /usr/lib/x"),
            (
                "${path/l/L} ${path//r/R}",
                "/usr/Lib/x.tar.gz /usR/lib/x.taR.gz",
            ),
            ("$", "$"),
            ("a$.b", "a$.b"),
            ("\"a b\"c", "a bc"),
        ] {
            assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(word("${a").unwrap_err().contains("not closed"));
        assert!(word("'a").unwrap_err().contains("quote"));
        assert!(word("${b:?give b}").unwrap_err().contains("give b"));
        assert!(word("${a:x}").is_err());
        assert!(word(&"${b:-".repeat(1000)).is_err());
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let lexer = Lexer {
            escape: '\\',
            keeps_quotes: false,
        };
        let found = lexer
            .expand("80 \"a b\" $p '' ${q}", &|name: &str| {
                (name == "p").then(|| "1 2".to_owned())
            })
            .unwrap();
        assert_eq!(found.words, ["80", "a b", "1", "2", ""]);
        assert!(found.unset.contains("q"));
    }
}
