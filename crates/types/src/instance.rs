//! What an instance is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of an instance: 32 random bytes, written as 64 lower-case hexadecimal digits.
///
/// Lists show the first twelve digits ([`InstanceId::short`]); every command takes any prefix
/// that fits only one instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId([u8; 32]);

/// Why a text is not an instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid instance id {text:?}: expected 64 hexadecimal digits")]
pub struct InstanceIdError {
    text: String,
}

impl InstanceId {
    /// An id of the given random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        InstanceId(bytes)
    }

    /// The first twelve digits, as `docker ps` shows them.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({})", self.short())
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || InstanceIdError {
            text: text.to_owned(),
        };
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(fail());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| fail())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| fail())?;
        }
        Ok(InstanceId(bytes))
    }
}

impl Serialize for InstanceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of an instance, unique on a host: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as Docker's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

/// Why a text is not an instance name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid instance name {text:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at most 255 of them"
)]
pub struct InstanceNameError {
    text: String,
}

impl InstanceName {
    /// The name as text, without Docker's leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceName {
    type Err = InstanceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let goes_on_well = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        match starts_well && goes_on_well && name.len() <= 255 {
            true => Ok(InstanceName(name.to_owned())),
            false => Err(InstanceNameError {
                text: text.to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for InstanceName {
    type Error = InstanceNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> String {
        name.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_both_ways() {
        let id = InstanceId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababababab");
    }

    #[test]
    fn ids_and_names_that_could_be_paths_are_refused() {
        for text in [
            "",
            "..",
            "a/b",
            ".hidden",
            "-flag",
            "ü",
            "a b",
            &"x".repeat(256),
        ] {
            text.parse::<InstanceName>().expect_err(text);
            text.parse::<InstanceId>().expect_err(text);
        }
        assert_eq!(
            "/web-1.a_b".parse::<InstanceName>().unwrap().as_str(),
            "web-1.a_b"
        );
    }
}
