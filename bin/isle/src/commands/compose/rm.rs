//! `isle compose rm`.

use std::process::ExitCode;

use isle_engine::state::Instance;

use super::execute::container;
use super::observe::is_up;
use super::report::Report;
use super::session::ProjectFlags;
use super::stop::stop_all;
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const EXAMPLES: &str = "  isle compose rm -f
  isle compose rm -s -f web";

/// Flags of `compose rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Without asking
    #[arg(short, long)]
    force: bool,
    /// Stop those that run first
    #[arg(short, long)]
    stop: bool,
    /// Their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let known = flags.known(context, &args.services)?;
    let mut instances: Vec<&Instance> = known.instances(&args.services, true);
    if flags.dry_run {
        for instance in instances
            .iter()
            .filter(|instance| args.stop || !is_up(instance))
        {
            output::line(&format!("remove {}", instance.name))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    if args.stop {
        stop_all(engine, &instances, &report, None)?;
    } else {
        instances.retain(|instance| !is_up(instance));
    }
    if instances.is_empty() {
        eprintln!("No stopped containers");
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = instances
        .iter()
        .map(|instance| instance.name.as_str())
        .collect();
    if !args.force && !output::confirm(&format!("Going to remove {}", names.join(", ")))? {
        return Ok(ExitCode::SUCCESS);
    }
    for instance in instances {
        let what = container(instance.name.as_str());
        report.begins(&what, "Removing");
        engine.remove(&instance.id, false, args.volumes)?;
        report.done(&what, "Removed");
    }
    Ok(ExitCode::SUCCESS)
}
