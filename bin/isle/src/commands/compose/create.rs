//! `isle compose create`.

use std::process::ExitCode;
use std::time::Duration;

use super::converge::{ConvergeFlags, Convergence};
use super::session::ProjectFlags;
use super::signals::Interrupts;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::time::seconds;

pub const EXAMPLES: &str = "  isle compose create
  isle compose create --build";

/// Flags of `compose create`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    converge: ConvergeFlags,
    /// Seconds that instances get to end which are made again
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    let mut options = args.converge.options(&project, &args.services)?;
    options.starts_none = true;
    let interrupts = Interrupts::of_work()?;
    Convergence {
        context,
        flags,
        project: &project,
        options: &options,
        converge: &args.converge,
        renews_volumes: false,
        timeout: args.timeout,
        interrupts: &interrupts,
    }
    .run()?;
    Ok(ExitCode::SUCCESS)
}
