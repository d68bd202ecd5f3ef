//! `cargo xtask fuzz`: the targets of `fuzz/`, by libFuzzer, with the stable compiler.
//!
//! What cargo-fuzz does without a sanitizer: the compiler's own passes count what is executed, and
//! libFuzzer looks for input that executes something new. (There is nearly no `unsafe` to sanitize;
//! with a nightly compiler `cargo +nightly fuzz run TARGET` works too.)

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{command, place, setup};

/// Counters for each edge, and the operands of comparisons; see SanitizerCoverage of LLVM.
const COVERAGE: &str = "--cfg fuzzing -C passes=sancov-module \
     -C llvm-args=-sanitizer-coverage-level=4 \
     -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
     -C llvm-args=-sanitizer-coverage-pc-table \
     -C llvm-args=-sanitizer-coverage-trace-compares";

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Targets (files of fuzz/fuzz_targets/); all when none is given
    targets: Vec<String>,
}

/// Runs them one after the other; what one finds is in `target/fuzz/found/`.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install(&["build", "fuzz"])?;
    let known = targets()?;
    if let Some(unknown) = arguments.targets.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no target {unknown}: there are {}",
            known.join(", ")
        );
    }
    let wanted = match arguments.targets.is_empty() {
        true => &known,
        false => &arguments.targets,
    };
    let folder = place::target().join("fuzz");
    let mut build = Command::new(place::cargo());
    build
        .current_dir(place::checkout().join("fuzz"))
        // Not locked: its lock file follows the crates, which change without a look at it.
        .args(["build", "--release", "--target"])
        .arg(crate::programs::host_target()?)
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", COVERAGE);
    for name in wanted {
        build.args(["--bin", name]);
    }
    command::run(&mut build)?;
    let programs = folder.join(crate::programs::host_target()?).join("release");
    let mut broken = Vec::new();
    for name in wanted {
        println!("\n== {name}, {} s", arguments.seconds);
        let (corpus, found) = (folder.join("corpus").join(name), folder.join("found"));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&found)?;
        let mut fuzz = Command::new(programs.join(name));
        fuzz.arg(&corpus)
            .args(seeds(name))
            .arg(format!("-max_total_time={}", arguments.seconds))
            .arg(format!("-artifact_prefix={}/{name}-", found.display()))
            // A slow input is a finding; so is one that takes memory.
            .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
            .args(["-verbosity=0", "-close_fd_mask=1"]);
        if command::run(&mut fuzz).is_err() {
            broken.push(name.as_str());
        }
    }
    match broken.is_empty() {
        true => Ok(()),
        false => bail!(
            "{} found something: see {}",
            broken.join(", "),
            folder.join("found").display()
        ),
    }
}

fn targets() -> Result<Vec<String>> {
    let folder = place::checkout().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// Input to begin with, where there is some: `fuzz/seeds/<target>/`.
fn seeds(name: &str) -> Option<PathBuf> {
    let folder = place::checkout().join("fuzz/seeds").join(name);
    folder.is_dir().then_some(folder)
}
