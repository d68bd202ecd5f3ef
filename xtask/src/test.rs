//! Lints, unit tests, end-to-end tests; counts what passed, failed and was skipped.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::guest_kernel::{self, GuestKernel};
use crate::programs::{self, Profile, Programs};
use crate::{command, images, lint, place, setup};

/// What to test.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leave out the lints.
    #[arg(long)]
    no_lint: bool,
    /// Leave out the unit tests.
    #[arg(long)]
    no_unit: bool,
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

/// The sum of `test result:` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    /// Adds one line of output, if it is one that counts.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(word)) =
                (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install(&["build", "demo", "test"])?;
    if !arguments.no_lint {
        lint::run()?;
    }
    let programs = programs::build(Profile::Debug)?;
    let kernel = guest_kernel::make(&programs)?;
    let mut count = Count::default();
    let mut is_green = true;
    if !arguments.no_unit {
        let mut unit = programs::cargo("test", Profile::Debug)?;
        unit.args([
            "--quiet",
            "--workspace",
            "--exclude",
            "isle-tests",
            "--no-fail-fast",
        ]);
        boots(&mut unit, &kernel, &programs);
        is_green &= counted(&mut filtered(unit, &arguments.filters), &mut count)?;
    }
    images::make(&[])?;
    let skipped = place::target().join("skipped-tests.txt");
    let mut end_to_end = end_to_end(&programs.folder, &skipped)?;
    boots(&mut end_to_end, &kernel, &programs);
    is_green &= counted(&mut filtered(end_to_end, &arguments.filters), &mut count)?;
    print_skipped(&skipped)?;
    println!(
        "{} passed, {} failed, {} skipped",
        count.passed, count.failed, count.skipped
    );
    if !is_green {
        bail!("tests failed");
    }
    Ok(())
}

/// Tests that boot a guest are told what from.
fn boots(cargo: &mut Command, kernel: &GuestKernel, programs: &Programs) {
    cargo
        .env("ISLE_TEST_KERNEL", &kernel.image)
        .env("ISLE_TEST_KERNELS", &kernel.kernels)
        .env("ISLE_TEST_GUEST", programs.path("isle-guest"));
}

/// The tests that drive the real programs. They need root: through sudo when we are not.
fn end_to_end(programs: &Path, skipped: &Path) -> Result<Command> {
    if skipped.exists() {
        std::fs::remove_file(skipped)?;
    }
    let mut cargo = programs::cargo("test", Profile::Debug)?;
    cargo
        .args(["--quiet", "--package", "isle-tests", "--no-fail-fast"])
        .env("ISLE_BIN", programs.join("isle"))
        .env("ISLE_OCI_BIN", programs.join("isle-oci"))
        .env("ISLE_TEST_SKIPPED", skipped)
        .env("ISLE_EXAMPLES_CACHE", place::examples_cache())
        .env("PATH", setup::path_with_tools()?);
    if !command::is_root() {
        let target = programs::host_target()?.to_uppercase().replace('-', "_");
        cargo.env(
            format!("CARGO_TARGET_{target}_RUNNER"),
            "sudo --preserve-env",
        );
    }
    Ok(cargo)
}

fn filtered(mut cargo: Command, filters: &[String]) -> Command {
    if !filters.is_empty() {
        cargo.arg("--").args(filters);
    }
    cargo
}

/// Runs `cargo test`, passes its output on and adds up its results. False when a test failed.
fn counted(cargo: &mut Command, count: &mut Count) -> Result<bool> {
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", command::display(cargo)))?;
    let output = child.stdout.take().expect("standard output is a pipe");
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    let mut out = std::io::stdout();
    while lines.read_until(b'\n', &mut line)? > 0 {
        out.write_all(&line)?;
        out.flush()?;
        count.add(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(child.wait()?.success())
}

/// Each skipped test and its reason, as the test framework wrote them.
fn print_skipped(file: &Path) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(file)?;
    if text.trim().is_empty() {
        return Ok(());
    }
    println!("skipped, because this host lacks something:");
    for line in text.lines() {
        println!("  {line}");
    }
    println!();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up_and_others_are_not() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test a_story ... ok",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            count.add(line);
        }
        let expected = Count {
            passed: 7,
            failed: 3,
            skipped: 1,
        };
        assert_eq!(count, expected);
    }
}
