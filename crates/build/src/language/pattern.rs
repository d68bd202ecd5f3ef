//! Patterns of `${NAME#pattern}`: `*` and `?`, `\` before a character that means itself.

#[derive(Clone, Copy)]
enum Token {
    Any,
    One,
    Is(char),
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut characters = pattern.chars();
    let mut tokens = Vec::new();
    while let Some(c) = characters.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Is(characters.next().unwrap_or('\\')),
            c => Token::Is(c),
        });
    }
    tokens
}

/// Which lengths of beginnings of `text` the tokens fit, as a set of positions in characters.
fn ends(tokens: &[Token], text: &[char]) -> Vec<bool> {
    let mut state = vec![false; text.len() + 1];
    state[0] = true;
    for token in tokens {
        let mut next = vec![false; text.len() + 1];
        match token {
            Token::Any => {
                let mut is_on = false;
                for (at, was) in state.iter().enumerate() {
                    is_on |= was;
                    next[at] = is_on;
                }
            }
            Token::One => next[1..].copy_from_slice(&state[..text.len()]),
            Token::Is(c) => {
                for at in 0..text.len() {
                    next[at + 1] = state[at] && text[at] == *c;
                }
            }
        }
        state = next;
    }
    state
}

fn cut(text: &str, characters: usize) -> usize {
    text.char_indices()
        .nth(characters)
        .map_or(text.len(), |(at, _)| at)
}

/// `${text#pattern}`, `##` with `is_greedy`.
pub(crate) fn without_start<'t>(text: &'t str, pattern: &str, is_greedy: bool) -> &'t str {
    let characters: Vec<char> = text.chars().collect();
    let ends = ends(&tokens(pattern), &characters);
    let found = match is_greedy {
        true => ends.iter().rposition(|fits| *fits),
        false => ends.iter().position(|fits| *fits),
    };
    found.map_or(text, |length| &text[cut(text, length)..])
}

/// `${text%pattern}`, `%%` with `is_greedy`.
pub(crate) fn without_end<'t>(text: &'t str, pattern: &str, is_greedy: bool) -> &'t str {
    let mut characters: Vec<char> = text.chars().collect();
    characters.reverse();
    let mut tokens = tokens(pattern);
    tokens.reverse();
    let ends = ends(&tokens, &characters);
    let found = match is_greedy {
        true => ends.iter().rposition(|fits| *fits),
        false => ends.iter().position(|fits| *fits),
    };
    found.map_or(text, |length| &text[..cut(text, characters.len() - length)])
}

/// `${text/pattern/replacement}`, `//` with `is_all`. Not more than `limit` bytes come out.
pub(crate) fn replaced(
    text: &str,
    pattern: &str,
    replacement: &str,
    is_all: bool,
    limit: usize,
) -> String {
    let tokens = tokens(pattern);
    let characters: Vec<char> = text.chars().collect();
    let mut result = String::new();
    let mut at = 0;
    // Patterns cost their length for each character: what is long enough to matter is left as it is.
    if tokens.is_empty() || characters.len().saturating_mul(characters.len()) > 16 << 20 {
        return text.to_owned();
    }
    while at < characters.len() && result.len() < limit {
        let longest = ends(&tokens, &characters[at..])
            .iter()
            .rposition(|fits| *fits);
        match longest {
            Some(length) if length > 0 => {
                result.push_str(replacement);
                at += length;
                if !is_all {
                    break;
                }
            }
            _ => {
                result.push(characters[at]);
                at += 1;
            }
        }
    }
    result.extend(&characters[at.min(characters.len())..]);
    result
}
