//! Random ids, and random names for instances that the user gave none: `clever_otter`.

use std::io;

use isle_types::{InstanceId, InstanceName};
use rustix::rand::{GetRandomFlags, getrandom};

/// A random id. Its first twelve digits, the default host name, never look like a number.
pub(crate) fn random_id() -> io::Result<InstanceId> {
    loop {
        let id = InstanceId::from_bytes(random()?);
        if id.short().bytes().any(|b| b.is_ascii_alphabetic()) {
            return Ok(id);
        }
    }
}

/// A random `adjective_noun`. After some tries that were all taken the caller asks for a suffix,
/// as Docker does.
pub(crate) fn random_name(with_suffix: bool) -> io::Result<InstanceName> {
    let words = petname::Petnames::small();
    let adjective = words.adjectives[pick(words.adjectives.len())?];
    let noun = words.nouns[pick(words.nouns.len())?];
    let suffix = match with_suffix {
        true => (u32::from_ne_bytes(random()?) % 10_000).to_string(),
        false => String::new(),
    };
    let name = format!("{adjective}_{noun}{suffix}");
    Ok(name
        .parse()
        .expect("the words are lower-case ASCII letters, see the test"))
}

fn pick(count: usize) -> io::Result<usize> {
    Ok(u32::from_ne_bytes(random()?) as usize % count)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // So few bytes come whole, see getrandom(2).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_word_makes_a_valid_name() {
        let words = petname::Petnames::small();
        for word in words.adjectives.iter().chain(words.nouns.iter()) {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
        assert!(words.adjectives.len() * words.nouns.len() > 100_000);
    }
}
