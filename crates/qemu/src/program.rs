//! Which QEMU there is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isle_types::Accelerator;
use serde::{Deserialize, Serialize};

use crate::machine::Architecture;

/// The oldest that has what is used here: the one that the measurements and traps are from.
const OLDEST: Version = Version {
    major: 7,
    minor: 2,
    micro: 0,
};

/// A version as QEMU numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// A new one each year.
    pub major: u32,
    /// New features.
    pub minor: u32,
    /// Corrections.
    pub micro: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl Version {
    /// From what `--version` prints, or from its number alone.
    fn parse(text: &str) -> Option<Version> {
        let number = text
            .split_ascii_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let mut numbers = number.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit());
            part.get(..digits.unwrap_or(part.len()))?.parse().ok()
        });
        Some(Version {
            major: numbers.next()??,
            minor: numbers.next()??,
            micro: numbers.next().flatten().unwrap_or(0),
        })
    }
}

/// A QEMU that can be used. Cheap to find again: see [`Program::find`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
    /// Which file it is: device, inode, size, time of the last change in nanoseconds. Another build
    /// of the same version has another.
    pub identity: String,
    /// Whether it can install a seccomp filter of its own (`-sandbox`).
    pub has_sandbox: bool,
}

/// Why there is no QEMU that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not installed.
    #[error("there is no {name} in PATH")]
    Missing {
        /// The program.
        name: String,
        /// Whose machines are wanted.
        architecture: Architecture,
    },
    /// It cannot be executed, or says nothing that is understood.
    #[error("cannot ask {} for its version", .path.display())]
    Version {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It lacks what is needed.
    #[error("{} is QEMU {found}; {needed} or newer is needed", .path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest.
        needed: Version,
    },
}

impl ProgramError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            ProgramError::Missing { architecture, .. } => format!(
                "install QEMU: {} on Debian and Ubuntu (apt-get install --no-install-recommends {0}), \
                 {} on Fedora",
                debian_package(*architecture),
                match architecture {
                    Architecture::X86_64 => "qemu-system-x86-core",
                    Architecture::Aarch64 => "qemu-system-aarch64-core",
                }
            ),
            ProgramError::Version { path, .. } => format!(
                "run {} --version by hand; reinstall the package that it is from",
                path.display()
            ),
            ProgramError::TooOld { .. } => {
                "take a newer release of the distribution (Debian 12, Ubuntu 23.04), or its backports".to_owned()
            }
        }
    }
}

const fn debian_package(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "qemu-system-x86",
        Architecture::Aarch64 => "qemu-system-arm",
    }
}

impl Program {
    /// The first QEMU in `PATH`. For KVM on x86 Debian has a second build with little in it but what a
    /// microvm needs, which takes a third of the memory: it is preferred. What a program says of itself is
    /// asked for once for each file: `cache` is a folder (made when it is missing) that keeps the answer.
    ///
    /// # Errors
    /// [`ProgramError`]. A cache that cannot be read or written is no error.
    pub fn find(
        architecture: Architecture,
        accelerator: Accelerator,
        cache: &Path,
    ) -> Result<Program, ProgramError> {
        let general = format!("qemu-system-{}", architecture.name());
        let small = match (architecture, accelerator) {
            (Architecture::X86_64, Accelerator::Kvm) => Some(format!("{general}-microvm")),
            _ => None,
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Those of administrators, where they are missing in PATH.
        let usual = ["/usr/bin", "/usr/local/bin", "/usr/libexec"].map(PathBuf::from);
        let folders: Vec<PathBuf> = std::env::split_paths(&path)
            .chain(usual)
            .filter(|folder| folder.is_absolute())
            .collect();
        let names = small.iter().chain([&general]);
        let found = names
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
            .find(|path| path.is_file());
        match found {
            Some(path) => Program::at(&path, cache),
            None => Err(ProgramError::Missing {
                name: general,
                architecture,
            }),
        }
    }

    /// The QEMU at a path.
    ///
    /// # Errors
    /// As [`Program::find`].
    pub fn at(path: &Path, cache: &Path) -> Result<Program, ProgramError> {
        let fail = |source| ProgramError::Version {
            path: path.to_owned(),
            source,
        };
        let path = fs::canonicalize(path).map_err(fail)?;
        let fail = |source| ProgramError::Version {
            path: path.clone(),
            source,
        };
        let about = fs::metadata(&path).map_err(fail)?;
        let identity = format!(
            "{}-{}-{}-{}.{:09}",
            about.dev(),
            about.ino(),
            about.size(),
            about.ctime(),
            about.ctime_nsec()
        );
        let known = cache.join(format!("qemu-{identity}.json"));
        if let Some(program) = remembered(&known, &path, &identity) {
            return Ok(program);
        }
        // Without a sandbox it does not understand the option.
        let (version, has_sandbox) = match ask(&path, &["-sandbox", "on", "--version"]) {
            Ok(version) => (version, true),
            Err(_) => (ask(&path, &["--version"]).map_err(fail)?, false),
        };
        if version < OLDEST {
            return Err(ProgramError::TooOld {
                path,
                found: version,
                needed: OLDEST,
            });
        }
        let program = Program {
            path,
            version,
            identity,
            has_sandbox,
        };
        remember(&known, &program);
        Ok(program)
    }
}

fn remembered(file: &Path, path: &Path, identity: &str) -> Option<Program> {
    let program: Program = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let is_it = program.path == path && program.identity == identity && program.version >= OLDEST;
    is_it.then_some(program)
}

/// Best effort: what is not remembered is asked for again.
fn remember(file: &Path, program: &Program) {
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
    let Ok(text) = serde_json::to_vec(program) else {
        return;
    };
    if let Some(folder) = file.parent() {
        let _ = fs::create_dir_all(folder);
    }
    if fs::write(&temporary, text).is_ok() && fs::rename(&temporary, file).is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

fn ask(path: &Path, arguments: &[&str]) -> io::Result<Version> {
    let output = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = Version::parse(&said).filter(|_| output.status.success());
    version.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let words = format!("{}: {:.200}", output.status, errors.trim());
        io::Error::new(io::ErrorKind::InvalidData, words)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_is_found_in_what_distributions_write() {
        let version = |text| Version::parse(text).map(|version| version.to_string());
        let debian =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c)";
        assert_eq!(version(debian).unwrap(), "7.2.22");
        assert_eq!(version("QEMU emulator version 10.0-rc1").unwrap(), "10.0.0");
        assert_eq!(version("8.2.2").unwrap(), "8.2.2");
        assert_eq!(version("usage: qemu"), None);
    }

    fn program(folder: &Path, says: &str) -> PathBuf {
        let path = folder.join("qemu-system-x86_64");
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_old_one_is_refused_and_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "QEMU emulator version 6.2.0 (Debian 1:6.2)");
        let error = Program::at(&path, folder.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is QEMU 6.2.0; 7.2.0 or newer is needed"),
            "{error}"
        );
        assert!(error.hint().contains("backports"));
        let missing = ProgramError::Missing {
            name: "qemu-system-aarch64".to_owned(),
            architecture: Architecture::Aarch64,
        };
        assert!(missing.hint().contains("qemu-system-arm"));
    }

    #[test]
    fn the_version_is_asked_for_once_for_each_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = program(folder.path(), "QEMU emulator version 7.2.22");
        let first = Program::at(&path, &folder.path().join("cache")).unwrap();
        assert_eq!(
            fs::read_dir(folder.path().join("cache")).unwrap().count(),
            1
        );
        assert_eq!(
            Program::at(&path, &folder.path().join("cache")).unwrap(),
            first
        );
        assert!(first.has_sandbox);
        // Another file with the same name is another QEMU.
        fs::remove_file(&path).unwrap();
        let path = program(
            folder.path(),
            "QEMU emulator version 8.0.0'; [ \"$1\" != -sandbox ] || exit '1",
        );
        let second = Program::at(&path, &folder.path().join("cache")).unwrap();
        assert_eq!((second.version.major, second.has_sandbox), (8, false));
        assert_ne!(second.identity, first.identity);
    }
}
