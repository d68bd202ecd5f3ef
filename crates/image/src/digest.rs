//! Content addresses.
//!
//! A digest that came from outside is parsed into a [`Digest`] before anything is done with it.
//! Only registered algorithms in their one canonical spelling pass, so a digest can be made into
//! a file name without a further look.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// An algorithm that the OCI image specification has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what practically every image uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As it is written before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    const fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The content address of a blob: `sha256:` and 64 lower-case hexadecimal digits, or `sha512:`
/// and 128.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

/// Why a text is not a digest that this store takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm, or none at all.
    #[error("digest {0:?} has no known algorithm: expected sha256:… or sha512:…")]
    Algorithm(String),
    /// Wrong number of digits, upper case, or something that is no digit.
    #[error("digest {0:?} is malformed: expected {1} lower-case hexadecimal digits")]
    Digits(String, usize),
}

impl Digest {
    /// The SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest with its own algorithm of `bytes`, to be compared with it.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The first twelve digits, as `docker images` shows an id.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quoted = || text.chars().take(160).collect::<String>();
        let (algorithm, digits) = match text.split_once(':') {
            Some(("sha256", digits)) => (Algorithm::Sha256, digits),
            Some(("sha512", digits)) => (Algorithm::Sha512, digits),
            _ => return Err(DigestError::Algorithm(quoted())),
        };
        let is_hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != algorithm.hex_len() || !is_hex {
            return Err(DigestError::Digits(quoted(), algorithm.hex_len()));
        }
        Ok(Digest {
            text: text.to_owned(),
            algorithm,
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = DigestError;

    fn try_from(digest: &oci_spec::image::Digest) -> Result<Self, Self::Error> {
        digest.as_ref().parse()
    }
}

impl From<&Digest> for oci_spec::image::Digest {
    fn from(digest: &Digest) -> Self {
        digest
            .text
            .parse()
            .expect("what is a digest here is one there")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// Starts.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        })
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = match self.0 {
            State::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            State::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.as_str().len() + 1 + bytes.len() * 2);
        text.push_str(algorithm.as_str());
        text.push(':');
        for byte in bytes {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble"));
        }
        Digest { text, algorithm }
    }
}

/// Hashes what is read through it.
#[derive(Debug)]
pub(crate) struct HashingReader<R> {
    inner: R,
    /// `None` where nobody wants to know.
    pub(crate) hasher: Option<Hasher>,
    /// Bytes read so far.
    pub(crate) count: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) const fn new(inner: R, hasher: Option<Hasher>) -> Self {
        HashingReader {
            inner,
            hasher,
            count: 0,
        }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_goes_both_ways() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert!(digest.matches(b"") && !digest.matches(b"x"));
        let long = format!("sha512:{}", "0".repeat(128));
        assert_eq!(long.parse::<Digest>().unwrap().hex().len(), 128);
    }

    #[test]
    fn what_could_lead_out_of_the_store_is_no_digest() {
        let hex = &EMPTY[7..];
        for text in [
            "",
            ":",
            "sha256:",
            hex,
            &format!("md5:{}", &hex[..32]),
            &format!("sha384:{hex}{}", &hex[..32]),
            &format!("SHA256:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:../{}", &hex[3..]),
            &format!("sha256:{}/{}", &hex[..31], &hex[32..]),
            &format!("sha256+b64:{hex}"),
            &format!("../sha256:{hex}"),
        ] {
            text.parse::<Digest>().expect_err(text);
        }
    }
}
