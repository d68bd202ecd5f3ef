//! `isle network prune`.

use std::process::ExitCode;

use crate::context::Context;
use crate::failure::{Result, report};
use crate::flags::filter::Filters;
use crate::flags::time;
use crate::output;

pub const ABOUT: &str = "Remove networks that no instance uses";
pub const EXAMPLES: &str = "  isle network prune
  isle network prune --force --filter until=24h";

/// Flags of `network prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    let until = {
        let now = jiff::Timestamp::now();
        filters.each("until", |text| time::moment(text, now))?
    };
    let question = "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !output::confirm(question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let engine = context.engine()?;
    let used = engine.used_networks()?;
    let mut removed = Vec::new();
    let mut code = 0;
    for network in engine.networks()? {
        let labels = &network.spec.labels;
        let fits = until.iter().all(|moment| network.created_at < *moment)
            && filters.labels_fit(labels)
            && filters.no_label_fits("label!", labels);
        if !fits || used.contains(&network.id) {
            continue;
        }
        match engine.remove_network(&network) {
            Ok(()) => removed.push(network.name),
            Err(error) => code = code.max(report(&error.into(), 1)),
        }
    }
    if !removed.is_empty() {
        output::print(&format!("Deleted Networks:\n{}\n\n", removed.join("\n")))?;
    }
    Ok(ExitCode::from(code))
}
