//! `isle compose pause`.

use std::process::ExitCode;

use isle_engine::state::Status;

use super::execute::container;
use super::report::Report;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose pause web";

/// Flags of `compose pause`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("pause")?;
    let known = flags.known(context, &args.services)?;
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    let instances = known.instances(&args.services, false);
    for instance in instances
        .into_iter()
        .filter(|instance| instance.state.status == Status::Running)
    {
        let what = container(instance.name.as_str());
        report.begins(&what, "Pausing");
        engine.pause(&instance.id)?;
        report.done(&what, "Paused");
    }
    Ok(ExitCode::SUCCESS)
}
