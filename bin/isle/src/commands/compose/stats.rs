//! `isle compose stats`.

use std::process::ExitCode;

use super::observe::is_up;
use super::session::ProjectFlags;
use crate::commands::stats;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose stats --no-stream";

/// Flags of `compose stats`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    shown: stats::Shown,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("stats")?;
    let known = flags.known(context, &args.services)?;
    let instances = known.instances(&args.services, false);
    let names: Vec<String> = instances
        .iter()
        .filter(|instance| args.shown.all || is_up(instance))
        .map(|instance| instance.name.to_string())
        .collect();
    if names.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let args = stats::Args {
        shown: args.shown.clone(),
        instances: names,
    };
    stats::run(&args, context)
}
