//! `isle compose kill`.

use std::process::ExitCode;

use isle_types::Signal;

use super::execute::container;
use super::observe::is_up;
use super::report::Report;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose kill -s SIGHUP web";

/// Flags of `compose kill`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: Signal,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("kill")?;
    let known = flags.known(context, &args.services)?;
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    let instances = known.instances(&args.services, false);
    for instance in instances.into_iter().filter(|instance| is_up(instance)) {
        let what = container(instance.name.as_str());
        report.begins(&what, "Killing");
        engine.kill(&instance.id, args.signal)?;
        report.done(&what, "Killed");
    }
    Ok(ExitCode::SUCCESS)
}
