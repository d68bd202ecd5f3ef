//! `isle volume prune`.

use std::process::ExitCode;

use isle_format::human;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::Filters;
use crate::output;

pub const ABOUT: &str = "Remove volumes that no instance mounts";
pub const EXAMPLES: &str = "  isle volume prune
  isle volume prune --all --force --filter label!=keep";

/// Flags of `volume prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also those with a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: label=KEY[=VALUE], label!=KEY[=VALUE], all=true
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["label", "label!", "all"])?;
    // Docker's older spelling of --all.
    let all = args.all || filters.each("all", crate::flags::switch)?.contains(&true);
    let question = match all {
        true => "WARNING! This will remove all volumes not used by at least one container.",
        false => "WARNING! This will remove anonymous volumes not used by at least one container.",
    };
    if !args.force && !output::confirm(question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = context.engine()?.prune_volumes(all, |volume| {
        filters.labels_fit(&volume.labels) && filters.no_label_fits("label!", &volume.labels)
    })?;
    let mut text = String::new();
    if !pruned.names.is_empty() {
        text.push_str(&format!("Deleted Volumes:\n{}\n\n", pruned.names.join("\n")));
    }
    text.push_str(&format!(
        "Total reclaimed space: {}\n",
        human::size(pruned.bytes, 4)
    ));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
