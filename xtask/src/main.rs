//! Tasks of the project: `cargo xtask <task>`.

#![forbid(unsafe_code)]

mod bench;
mod command;
mod demo;
mod documents;
mod fuzz;
mod guest_kernel;
mod images;
mod lint;
mod place;
mod programs;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tasks need (xtask/debian-packages.txt).
    Setup,
    /// Build the programs, static and optimized, to target/isle/.
    Build,
    /// Lints, unit tests, end-to-end tests.
    Test(test::Arguments),
    /// Formatting, clippy, and cargo deny.
    Lint,
    /// Make a real image, run it, send it a request, show what happened.
    Demo,
    /// Benchmarks beside crun, runc, Podman and Docker.
    Bench {
        /// Handed to the benchmark program; `--help` shows what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the guest kernel that tests boot, to target/guest/.
    Kernel,
    /// Fuzz what reads a stranger's input, with libFuzzer.
    Fuzz(fuzz::Arguments),
    /// Make example images: root file systems and what `isle import` needs to know.
    Images {
        /// Folders of examples/; all when none is given.
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::install(&["build", "demo", "guest", "test", "bench"]),
        Task::Build => programs::build(programs::Profile::Release).map(|programs| {
            println!("{}", programs.folder.display());
        }),
        Task::Test(arguments) => test::run(&arguments),
        Task::Lint => {
            setup::install(&["build", "test"])?;
            lint::run()
        }
        Task::Demo => demo::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Kernel => {
            setup::install(&["build"])?;
            let programs = programs::build(programs::Profile::Debug)?;
            println!("{}", guest_kernel::make(&programs)?.image.display());
            Ok(())
        }
        Task::Images { names } => {
            setup::install(&["build", "demo"])?;
            for image in images::make(&names)? {
                println!("{}", image.display());
            }
            Ok(())
        }
    }
}
