//! Text of strangers, made harmless for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with escapes in place of control characters, but for line ends and tabs. What images,
/// archives, registries and instances say may hold sequences that a terminal obeys.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let mut output = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match is_command(c) {
            // Writing to a string cannot fail.
            true => drop(write!(output, "\\x{:02x}", u32::from(c))),
            false => output.push(c),
        }
    }
    Cow::Owned(output)
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(printable("plain ü\tand\n"), "plain ü\tand\n");
        assert_eq!(
            printable("a\x1b]0;title\x07b\r"),
            "a\\x1b]0;title\\x07b\\x0d"
        );
    }
}
