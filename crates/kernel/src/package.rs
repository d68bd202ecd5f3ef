//! Packages of Debian and its relatives: what there is, getting it, unpacking it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::KernelError;
use crate::program::{command, output, require};

/// A package of the distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The newest version that the package manager knows; for a package that only depends on another of the
/// same kind (`linux-image-cloud-amd64`), that one.
pub(crate) fn newest(name: &str, prefix: &str) -> Result<Package, KernelError> {
    require("ask for packages", &[("apt-cache", "apt")])?;
    let shown = output(
        &format!("look up the package {name}"),
        command("apt-cache").args(["show", "--no-all-versions", "--", name]),
    )
    .map_err(|error| match error {
        KernelError::Program { .. } => KernelError::NoPackage {
            package: name.to_owned(),
        },
        other => other,
    })?;
    let version = field(&shown, "Version").ok_or_else(|| KernelError::NoPackage {
        package: name.to_owned(),
    })?;
    let depends = field(&shown, "Depends").unwrap_or_default();
    // `linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)`, or `linux-source-6.1 (= 6.1.192-2), …`
    let real = depends
        .split(", ")
        .filter_map(|one| one.split(' ').next())
        .find(|dependency| {
            let rest = dependency.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
    Ok(Package {
        name: real.unwrap_or(name).to_owned(),
        version: version.to_owned(),
    })
}

/// A field of a package's description.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .map(str::trim)
}

/// The version that is installed here.
pub(crate) fn installed_version(name: &str) -> Option<String> {
    let text = output(
        "look up an installed package",
        command("dpkg-query").args(["-W", "-f", "${db:Status-Status} ${Version}", name]),
    )
    .ok()?;
    text.trim().strip_prefix("installed ").map(str::to_owned)
}

/// Downloads a package into a folder; the package manager checks its signatures.
pub(crate) fn download(package: &Package, folder: &Path) -> Result<PathBuf, KernelError> {
    require("download packages", &[("apt-get", "apt")])?;
    output(
        &format!("download the package {}", package.name),
        command("apt-get")
            // Its own user could not write into our folder.
            .args(["download", "-q", "-o", "APT::Sandbox::User=root", "--"])
            .arg(format!("{}={}", package.name, package.version))
            .current_dir(folder),
    )?;
    let found = fs::read_dir(folder)
        .map_err(KernelError::io("read", folder))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    found.ok_or_else(|| KernelError::NoPackage {
        package: package.name.clone(),
    })
}

/// What a package file says that it is.
pub(crate) fn described(file: &Path) -> Result<Package, KernelError> {
    require("read packages", &[("dpkg-deb", "dpkg")])?;
    let text = output(
        &format!("read the package {}", file.display()),
        command("dpkg-deb")
            .arg("--field")
            .arg(file)
            .args(["Package", "Version"]),
    )
    .map_err(|error| match error {
        KernelError::Program { said, .. } => KernelError::Unsuitable {
            package: file.display().to_string(),
            what: said.trim().to_owned(),
        },
        other => other,
    })?;
    match (field(&text, "Package"), field(&text, "Version")) {
        (Some(name), Some(version)) => Ok(Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }),
        _ => Err(KernelError::Unsuitable {
            package: file.display().to_string(),
            what: "it has no name or no version".to_owned(),
        }),
    }
}

/// Unpacks a package's files into a folder, without installing it.
pub(crate) fn unpack(file: &Path, folder: &Path) -> Result<(), KernelError> {
    require("unpack packages", &[("dpkg-deb", "dpkg")])?;
    output(
        &format!("unpack the package {}", file.display()),
        command("dpkg-deb").arg("--extract").arg(file).arg(folder),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "Package: a\nPre-Depends: x\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6)\n";
        assert_eq!(
            field(text, "Depends"),
            Some("linux-image-6.1.0-56-cloud-amd64 (= 6)")
        );
        assert_eq!(field(text, "Version"), None);
    }
}
