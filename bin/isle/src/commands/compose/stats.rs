//! `isle compose stats`.

use std::process::ExitCode;

use super::observe::is_up;
use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose stats --no-stream";

/// Flags of `compose stats`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// A template, table TEMPLATE, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// One reading, then end
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
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
        .filter(|instance| args.all || is_up(instance))
        .map(|instance| instance.name.to_string())
        .collect();
    if names.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = Vec::new();
    words.extend(args.all.then(|| "--all".to_owned()));
    words.extend(args.no_stream.then(|| "--no-stream".to_owned()));
    words.extend(args.no_trunc.then(|| "--no-trunc".to_owned()));
    words.extend(
        args.format
            .iter()
            .map(|format| format!("--format={format}")),
    );
    words.extend(names);
    crate::commands::stats::run(&parse(&words)?, context)
}
