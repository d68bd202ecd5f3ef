//! What an image runs on: `linux/amd64`, `linux/arm/v7`.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Arch, ImageConfiguration, Os};

/// An operating system and a processor, in the words of Go (`GOOS`, `GOARCH`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`
    pub architecture: String,
    /// `v8`
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: expected os/architecture[/variant], like linux/arm64")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// The platform of this host.
    #[must_use]
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    pub(crate) fn of(config: &ImageConfiguration) -> Platform {
        Platform::from_parts(
            config.os(),
            config.architecture(),
            config.variant().as_deref(),
        )
    }

    /// From the fields of a configuration or of an index's descriptor.
    #[must_use]
    pub fn from_parts(os: &Os, architecture: &Arch, variant: Option<&str>) -> Platform {
        Platform {
            os: os.to_string(),
            architecture: architecture.to_string(),
            variant: variant.filter(|v| !v.is_empty()).map(str::to_owned),
        }
        .normalized()
    }

    fn normalized(mut self) -> Platform {
        match (&*self.architecture, self.variant.as_deref()) {
            ("x86_64" | "x86-64", _) => self.architecture = "amd64".to_owned(),
            ("aarch64", _) => self.architecture = "arm64".to_owned(),
            ("i386", _) => self.architecture = "386".to_owned(),
            ("armhf", _) => {
                self.architecture = "arm".to_owned();
                self.variant = Some("v7".to_owned());
            }
            ("armel", _) => {
                self.architecture = "arm".to_owned();
                self.variant = Some("v6".to_owned());
            }
            _ => {}
        }
        match (&*self.architecture, self.variant.as_deref()) {
            ("amd64", Some("v1")) => self.variant = None,
            ("arm64", None | Some("8")) => self.variant = Some("v8".to_owned()),
            ("arm", None | Some("7")) => self.variant = Some("v7".to_owned()),
            ("arm", Some("5" | "6" | "8")) => {
                self.variant = self.variant.map(|variant| format!("v{variant}"));
            }
            _ => {}
        }
        self
    }

    /// How well an image for `offered` fits where this platform is asked for: `None` not at all,
    /// otherwise the greater the better.
    #[must_use]
    pub fn fit(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == offered.architecture {
            let level = |variant: &Option<String>| {
                let number = variant.as_deref().and_then(|v| v.strip_prefix('v'));
                number.map_or(Some(0), |n| n.parse::<u32>().ok())
            };
            return match (level(&self.variant), level(&offered.variant)) {
                _ if self.variant == offered.variant => Some(1000),
                (Some(have), Some(need)) if need < have => Some(100 + need),
                _ => None,
            };
        }
        match (&*self.architecture, &*offered.architecture) {
            ("amd64", "386") => Some(10),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let host = Platform::host();
        let lower = |part: &str| part.to_ascii_lowercase();
        if !parts.iter().all(is_word) {
            return Err(PlatformError {
                text: text.to_owned(),
            });
        }
        let platform = match *parts {
            ["linux"] => host,
            [architecture] => Platform {
                os: host.os,
                architecture: lower(architecture),
                variant: None,
            },
            [os, architecture] => Platform {
                os: lower(os),
                architecture: lower(architecture),
                variant: None,
            },
            [os, architecture, variant] => Platform {
                os: lower(os),
                architecture: lower(architecture),
                variant: Some(lower(variant)),
            },
            _ => {
                return Err(PlatformError {
                    text: text.to_owned(),
                });
            }
        };
        Ok(platform.normalized())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !(self.architecture == "arm64" && variant == "v8") => {
                write!(f, "/{variant}")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn an_image_fits_its_own_and_newer_processors() {
        let v7 = platform("linux/arm/v7");
        assert_eq!(v7.fit(&platform("linux/arm")), Some(1000));
        assert!(v7.fit(&platform("linux/arm/v6")) > v7.fit(&platform("linux/arm/v5")));
        assert_eq!(platform("linux/arm/v6").fit(&v7), None);
        assert_eq!(
            platform("linux/amd64").fit(&platform("linux/amd64/v3")),
            None
        );
        assert_eq!(
            platform("linux/arm64").fit(&platform("linux/arm64/v8")),
            Some(1000)
        );
        assert_eq!(
            platform("linux/amd64").fit(&platform("windows/amd64")),
            None
        );
        assert_eq!(platform("aarch64").to_string(), "linux/arm64");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "/", "linux/", "linux//v7", "a/b/c/d", "linux/amd64 "] {
            text.parse::<Platform>().expect_err(text);
        }
    }
}
