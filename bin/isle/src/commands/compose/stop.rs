//! `isle compose stop`, and the order in which services end.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use isle_compose::words::label;
use isle_engine::Engine;
use isle_engine::state::Instance;

use super::execute::container;
use super::observe::is_up;
use super::report::Report;
use super::session::{ProjectFlags, service_of};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::time::seconds;
use crate::output;

pub const EXAMPLES: &str = "  isle compose stop
  isle compose stop -t 30 db";

/// Flags of `compose stop`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Seconds that instances get to end
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let known = flags.known(context, &args.services)?;
    let instances = known.instances(&args.services, false);
    if flags.dry_run {
        for instance in instances.iter().filter(|instance| is_up(instance)) {
            output::line(&format!("stop {}", instance.name))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new(flags.progress);
    stop_all(context.engine()?, &instances, &report, args.timeout)?;
    Ok(ExitCode::SUCCESS)
}

/// Instances in groups: those of one can end at the same time, once those of the groups before have.
pub fn groups<'i>(instances: &[&'i Instance]) -> Vec<Vec<&'i Instance>> {
    let needed_by = |instance: &Instance| -> Vec<String> {
        let text = instance
            .config
            .labels
            .get(label::DEPENDS_ON)
            .map_or("", String::as_str);
        text.split(',')
            .filter_map(|one| one.split(':').next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut left: Vec<&Instance> = instances.to_vec();
    let mut groups = Vec::new();
    while !left.is_empty() {
        let needed: BTreeSet<String> = left
            .iter()
            .flat_map(|instance| needed_by(instance))
            .collect();
        let (waiting, mut free): (Vec<&Instance>, Vec<&Instance>) = left
            .iter()
            .partition(|instance| needed.contains(service_of(instance)));
        // Labels of different ages can go round in a circle.
        left = match free.is_empty() {
            true => {
                free = waiting;
                Vec::new()
            }
            false => waiting,
        };
        groups.push(free);
    }
    groups
}

/// Stops instances, those that depend on others first, and each group at the same time.
pub fn stop_all(
    engine: &Engine,
    instances: &[&Instance],
    report: &Report,
    timeout: Option<Duration>,
) -> Result<()> {
    let mut failed = None;
    for group in groups(instances) {
        let mut begun = Vec::new();
        for instance in group.into_iter().filter(|instance| is_up(instance)) {
            report.begins(&container(instance.name.as_str()), "Stopping");
            begun.push((instance, engine.begin_stop(&instance.id, None, timeout)));
        }
        for (instance, stopping) in begun {
            let what = container(instance.name.as_str());
            match stopping.and_then(|stopping| engine.finish_stop(stopping)) {
                Ok(()) => report.done(&what, "Stopped"),
                Err(isle_engine::EngineError::NoSuchInstance { .. }) => {
                    report.done(&what, "Removed")
                }
                Err(error) => {
                    report.failed(&what, &error.to_string());
                    failed = Some(
                        Failure::new(format!("{} could not be stopped", instance.name))
                            .because(error),
                    );
                }
            }
        }
    }
    match failed {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}
