//! Builds the programs as they are shipped: static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, place};

/// The programs of `bin/`.
pub const NAMES: [&str; 8] = [
    "isle",
    "isle-shim",
    "isle-init",
    "isle-oci",
    "isle-guest",
    "isle-share",
    "isle-netd",
    "isle-house",
];

/// How they are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: for tests.
    Debug,
    /// Quick to run: for everything else.
    Release,
}

/// What was built.
pub struct Programs {
    /// Where they are, side by side.
    pub folder: PathBuf,
}

impl Programs {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The triple that the compiler itself runs on.
pub fn host_target() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

/// Linked against nothing at run time, at a fixed address.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// `cargo <verb>` with the flags of a static build at a fixed address: without relocations to apply
/// the start of a program touches half the pages (298 page faults of `isle-oci --version`, which
/// executes itself twice, became 135), and those of a supervisor stay shared. `--target` is what keeps those flags away from
/// procedural macros, which have to stay dynamic.
pub fn cargo(verb: &str, profile: Profile) -> Result<Command> {
    let mut cargo = Command::new(place::cargo());
    cargo
        .current_dir(place::checkout())
        .env("RUSTFLAGS", STATIC)
        // Examples in the documentation are linked with the same objects.
        .env("RUSTDOCFLAGS", STATIC)
        .args([verb, "--locked", "--target", &host_target()?]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    Ok(cargo)
}

/// The program in the guest. It is always optimized: an emulated processor pays for each instruction and each page of
/// it, at every start.
const IN_GUEST: &str = "isle-guest";

/// The program whose containers are virtual machines, by its name alone.
const LINK: (&str, &str) = ("isle-oci-vm", "isle-oci");

/// Builds the programs. Optimized ones are copied to `target/isle/`, where they are easy to find.
pub fn build(profile: Profile) -> Result<Programs> {
    let in_target =
        |folder: &str| -> Result<PathBuf> { Ok(place::target().join(host_target()?).join(folder)) };
    if profile == Profile::Debug {
        compile(Profile::Release, &[IN_GUEST])?;
        let others: Vec<&str> = NAMES.into_iter().filter(|name| *name != IN_GUEST).collect();
        compile(profile, &others)?;
        let folder = in_target("debug")?;
        place_program(&in_target("release")?, &folder, IN_GUEST)?;
        place_link(&folder)?;
        return Ok(Programs { folder });
    }
    compile(profile, &NAMES)?;
    let folder = place::target().join("isle");
    fs::create_dir_all(&folder)?;
    for name in NAMES {
        place_program(&in_target("release")?, &folder, name)?;
    }
    place_link(&folder)?;
    Ok(Programs { folder })
}

fn place_link(folder: &Path) -> Result<()> {
    let (name, target) = LINK;
    let partial = folder.join(format!("{name}.partial"));
    let _ = fs::remove_file(&partial);
    std::os::unix::fs::symlink(target, &partial)?;
    fs::rename(&partial, folder.join(name))?;
    Ok(())
}

fn compile(profile: Profile, names: &[&str]) -> Result<()> {
    let mut cargo = cargo("build", profile)?;
    for name in names {
        cargo.args(["--bin", name]);
    }
    command::run(&mut cargo)
}

/// Copies a program. A running program's file cannot be written, only replaced.
fn place_program(from: &Path, to: &Path, name: &str) -> Result<()> {
    let partial = to.join(format!("{name}.partial"));
    fs::copy(from.join(name), &partial)?;
    fs::rename(&partial, to.join(name))?;
    Ok(())
}
