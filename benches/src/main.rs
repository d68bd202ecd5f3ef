//! Side-by-side benchmarks: `cargo xtask bench`.
//!
//! Each benchmark has a column for Isle and one for each rival that runs on this host. The columns
//! are interleaved (A B C A B C …), so that what else the machine does falls on all of them. Raw
//! data goes to `target/bench/<id>.csv`, a table in Markdown to standard output. Each benchmark says what
//! its start and its end are. Ratios within one run count; absolute times depend on the machine.

#![forbid(unsafe_code)]

mod build;
mod density;
mod disks;
mod engines;
mod harness;
mod image;
mod machines;
mod networks;
mod oci_runtime;
mod rivals;
mod runtimes;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use harness::Settings;

/// Side-by-side benchmarks.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Measured runs of each column, after warm-up. The promises are held with at least 30.
    #[arg(long, default_value_t = 40)]
    runs: usize,
    /// Containers of P6 for Isle; rivals start a twentieth, and figures are per container.
    #[arg(long, default_value_t = 1000)]
    containers: usize,
    /// Size of P9's image in MiB.
    #[arg(long, default_value_t = 1024)]
    image_mib: u64,
    /// Leave out columns whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Take the version 2 hierarchy out of sight first, in a mount namespace unlike this one.
    #[arg(long, hide = true)]
    hide_cgroup2_unlike: Option<String>,
    /// Which: P1, P2, P2-bridge, P2-runtimes (and P5-runtimes), P3 (and P4), P5, P5-vm, P6, P6-bridge, P7, P8, P9, P9-pull, P10, P11, P12; all when not given.
    promises: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(caller) = &arguments.hide_cgroup2_unlike {
        oci_runtime::hide_cgroup2(caller)?;
    }
    let settings = Settings {
        runs: arguments.runs,
        output: std::env::var_os("ISLE_BENCH_OUTPUT")
            .map_or_else(|| PathBuf::from("target/bench"), PathBuf::from),
        without: arguments.without.clone(),
    };
    std::fs::create_dir_all(&settings.output)?;
    harness::adopt_orphans()?;
    let wants = |id: &str| {
        arguments.promises.is_empty()
            || arguments
                .promises
                .iter()
                .any(|promise| promise.eq_ignore_ascii_case(id))
    };
    if arguments.hide_cgroup2_unlike.is_none() {
        println!("{}", rivals::versions());
    }
    if wants("P1") {
        if arguments.hide_cgroup2_unlike.is_some() || !oci_runtime::crun_needs_cgroup2_hidden()? {
            oci_runtime::measure(&settings)?;
        } else {
            oci_runtime::measure_without_cgroup2(&settings)?;
        }
    }
    if wants("P11") {
        networks::paths(&settings)?;
        networks::changes(&settings)?;
    }
    if wants("P2-runtimes") {
        runtimes::run_and_exec(&settings)?;
    }
    if ![
        "P2",
        "P2-bridge",
        "P3",
        "P5",
        "P5-vm",
        "P6",
        "P6-bridge",
        "P7",
        "P8",
        "P9",
        "P9-pull",
        "P10",
        "P12",
    ]
    .iter()
    .any(|id| wants(id))
    {
        return Ok(());
    }
    let engines = engines::Engines::start(&settings)?;
    if wants("P2") {
        engines::run_and_remove(&engines, &settings)?;
    }
    if wants("P2-bridge") {
        engines::run_on_bridge(&engines, &settings)?;
    }
    if wants("P5") {
        engines::exec(&engines, &settings)?;
    }
    if wants("P3") {
        machines::first_words(&engines, &settings)?;
    }
    if wants("P5-vm") {
        machines::exec(&engines, &settings)?;
    }
    if wants("P7") {
        machines::clones(&engines, &settings)?;
    }
    if wants("P12") {
        disks::rates(&engines, &settings)?;
    }
    if wants("P8") {
        density::supervisor_memory(&engines, &settings)?;
    }
    if wants("P6") {
        density::up_and_down(&engines, &settings, arguments.containers)?;
    }
    if wants("P10") {
        build::rebuilds(&engines, &settings)?;
    }
    if wants("P6-bridge") {
        density::up_and_down_on_bridge(&engines, &settings, arguments.containers)?;
    }
    if wants("P9") {
        image::load(&engines, &settings, arguments.image_mib)?;
    }
    if wants("P9") || wants("P9-pull") {
        image::pull(&engines, &settings, arguments.image_mib)?;
    }
    Ok(())
}
