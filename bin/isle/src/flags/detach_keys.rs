//! `--detach-keys ctrl-p,ctrl-q`: the keys that leave a terminal without ending what runs in it.

use super::FlagError;

/// The bytes that a terminal sends for the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys(pub Vec<u8>);

impl Default for DetachKeys {
    fn default() -> DetachKeys {
        // ctrl-p, ctrl-q
        DetachKeys(vec![0x10, 0x11])
    }
}

/// Keys with commas between: one character, `ctrl-` with one of `a` to `z`, `@ ^ [ \ ] _`, or `DEL`. Empty for none.
pub fn detach_keys(text: &str) -> Result<DetachKeys, FlagError> {
    if text.is_empty() {
        return Ok(DetachKeys(Vec::new()));
    }
    text.split(',')
        .map(key)
        .collect::<Result<_, _>>()
        .map(DetachKeys)
}

fn key(text: &str) -> Result<u8, FlagError> {
    let lower = text.to_ascii_lowercase();
    if lower == "del" {
        return Ok(0x7f);
    }
    let byte = match (lower.strip_prefix("ctrl-"), text.as_bytes()) {
        (Some(rest), _) => match rest.as_bytes() {
            [b @ b'a'..=b'z'] => Some(b - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        },
        (None, [byte]) if byte.is_ascii() => Some(*byte),
        _ => None,
    };
    byte.ok_or_else(|| {
        FlagError::new(
            format!("{text:?} is not a key"),
            "write keys like ctrl-p,ctrl-q or a single character",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_the_bytes_that_a_terminal_sends() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q"), Ok(DetachKeys::default()));
        assert_eq!(detach_keys("ctrl-a,d"), Ok(DetachKeys(vec![1, b'd'])));
        assert_eq!(detach_keys("ctrl-],DEL"), Ok(DetachKeys(vec![29, 127])));
        assert_eq!(detach_keys(""), Ok(DetachKeys(Vec::new())));
        for text in ["ctrl-", "ctrl-1", "ab", ",", "alt-x", "ü"] {
            detach_keys(text).expect_err(text);
        }
    }
}
