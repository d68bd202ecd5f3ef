//! `isle compose unpause`.

use std::process::ExitCode;

use isle_engine::state::Status;

use super::execute::container;
use super::report::Report;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose unpause web";

/// Flags of `compose unpause`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("unpause")?;
    let known = flags.known(context, &args.services)?;
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    let instances = known.instances(&args.services, false);
    for instance in instances
        .into_iter()
        .filter(|instance| instance.state.status == Status::Paused)
    {
        let what = container(instance.name.as_str());
        report.begins(&what, "Unpausing");
        engine.resume(&instance.id)?;
        report.done(&what, "Unpaused");
    }
    Ok(ExitCode::SUCCESS)
}
