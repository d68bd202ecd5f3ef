//! `isle compose start`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use super::execute::container;
use super::observe::is_up;
use super::report::Report;
use super::session::{ProjectFlags, service_of};
use super::signals::Interrupts;
use super::stop::groups;
use super::up;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::time::seconds;

pub const EXAMPLES: &str = "  isle compose start web";

/// Flags of `compose start`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Wait until all run or are healthy
    #[arg(long)]
    wait: bool,
    /// The longest that --wait waits, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait_timeout: Option<Duration>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("start")?;
    let known = flags.known(context, &args.services)?;
    let instances = known.instances(&args.services, false);
    if instances.is_empty() {
        return Err(
            Failure::new(format!("project {} has no instances to start", known.name))
                .hint("`isle compose up` makes them")
                .into(),
        );
    }
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    // Who is depended upon begins first.
    for instance in groups(&instances)
        .into_iter()
        .rev()
        .flatten()
        .filter(|instance| !is_up(instance))
    {
        let what = container(instance.name.as_str());
        report.begins(&what, "Starting");
        engine.start_with(&instance.id, None, None, &mut crate::progress::preparation)?;
        report.done(&what, "Started");
    }
    if args.wait
        && let Some(project) = &known.project
    {
        let names: BTreeSet<String> = instances
            .iter()
            .map(|instance| service_of(instance).to_owned())
            .collect();
        up::wait(
            context,
            flags,
            project,
            &names,
            args.wait_timeout,
            &Interrupts::of_work()?,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
