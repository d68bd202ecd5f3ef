//! Formatting, clippy, and the licences and sources of dependencies.

use std::process::Command;

use anyhow::Result;

use crate::{command, place, setup};

pub fn run() -> Result<()> {
    components()?;
    let cargo = || {
        let mut cargo = Command::new(place::cargo());
        cargo.current_dir(place::checkout());
        cargo
    };
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(
        cargo()
            .args([
                "clippy",
                "--quiet",
                "--locked",
                "--workspace",
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    )?;
    // Advisories are left out: their database is a git repository that a machine without a way
    // to it cannot fetch. `cargo deny check advisories` by hand checks them.
    command::run(
        Command::new(setup::cargo_deny()?)
            .current_dir(place::checkout())
            .args(["--log-level", "warn", "--locked", "check"])
            .args(["licenses", "bans", "sources"]),
    )
}

/// Clippy and rustfmt come with Rust's default profile, not with the minimal one.
fn components() -> Result<()> {
    let missing: Vec<&str> = [("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")]
        .iter()
        .filter(|(_, program)| command::find(program).is_none())
        .map(|(component, _)| *component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Rust components: {}", missing.join(" "));
    command::run(
        Command::new("rustup")
            .args(["component", "add"])
            .args(missing),
    )
}
