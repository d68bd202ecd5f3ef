//! Words at white space, their quotes kept.

/// Words with the byte at which each begins. Quotes and escape characters keep white space together and stay.
pub(crate) fn words(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push((start, &text[start..at]));
            }
            continue;
        }
        start.get_or_insert(at);
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // Nothing is escaped in single quotes.
            Some('\'') => {}
            _ if c == escape => {
                characters.next();
            }
            _ => {}
        }
    }
    if let Some(start) = start {
        words.push((start, &text[start..]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        let split = |text| -> Vec<String> {
            let words = words(text, '\\').into_iter();
            words.map(|(_, word)| word.to_owned()).collect()
        };
        assert_eq!(
            split(r#"a="b c" d\ e 'f \' g"#),
            [r#"a="b c""#, r"d\ e", r"'f \'", "g"]
        );
        assert_eq!(split("  "), Vec::<String>::new());
    }
}
