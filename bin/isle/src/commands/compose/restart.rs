//! `isle compose restart`.

use std::process::ExitCode;
use std::time::Duration;

use super::execute::container;
use super::report::Report;
use super::session::{ProjectFlags, service_of};
use super::stop::groups;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::time::seconds;

pub const EXAMPLES: &str = "  isle compose restart web";

/// Flags of `compose restart`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Not those that depend on them
    #[arg(long)]
    no_deps: bool,
    /// Seconds that instances get to end
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("restart")?;
    let known = flags.known(context, &args.services)?;
    let mut services = args.services.clone();
    // `depends_on` with `restart: true`: they are restarted with what they depend on.
    if let Some(project) = known
        .project
        .as_ref()
        .filter(|_| !services.is_empty() && !args.no_deps)
    {
        let mut index = 0;
        while index < services.len() {
            let of = services[index].clone();
            let follows = |name: &&String| {
                project
                    .services
                    .get(*name)
                    .and_then(|service| service.depends_on.get(&of))
                    .is_some_and(|dependency| dependency.restart)
            };
            let more: Vec<String> = project
                .services
                .keys()
                .filter(follows)
                .filter(|name| !services.contains(name))
                .cloned()
                .collect();
            services.extend(more);
            index += 1;
        }
    }
    let instances = known.instances(&services, false);
    let report = Report::new(flags.progress);
    let engine = context.engine()?;
    for instance in groups(&instances).into_iter().rev().flatten() {
        let what = container(instance.name.as_str());
        report.begins(&what, "Restarting");
        engine.restart(&instance.id, None, args.timeout)?;
        report.done(&what, "Started");
    }
    debug_assert!(
        instances.iter().all(|instance| services.is_empty()
            || services.iter().any(|name| name == service_of(instance)))
    );
    Ok(ExitCode::SUCCESS)
}
