//! `isle container prune`.

use std::path::Path;
use std::process::ExitCode;

use isle_engine::state::Status;
use isle_format::human;
use jiff::Timestamp;

use crate::context::Context;
use crate::failure::{Result, report};
use crate::flags::filter::Filters;
use crate::flags::time::moment;
use crate::output;

pub const ABOUT: &str = "Remove all instances that do not run";
pub const EXAMPLES: &str = "  isle container prune
  isle container prune -f --filter until=24h --filter label=job";

/// Flags of `container prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: until=24h, label=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["until", "label"])?;
    let now = Timestamp::now();
    let until = filters.each("until", |text| moment(text, now))?;
    if !args.force && !output::confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let engine = context.engine()?;
    let paths = context.paths();
    let mut removed = Vec::new();
    let mut reclaimed = 0;
    let mut code = 0;
    for instance in engine.list()? {
        let is_stopped = matches!(instance.state.status, Status::Created | Status::Exited);
        let is_old = until.iter().all(|moment| instance.created_at < *moment);
        if !is_stopped || !is_old || !filters.labels_fit(&instance.config.labels) {
            continue;
        }
        let size = bytes_below(&paths.instance(&instance.id).join("upper"));
        match engine.remove(&instance.id, false, false) {
            Ok(()) => {
                reclaimed += size;
                removed.push(instance.id.to_string());
            }
            Err(error) => code = code.max(report(&error.into(), 1)),
        }
    }
    engine.collect_leftovers()?;
    let mut text = String::new();
    if !removed.is_empty() {
        text.push_str(&format!("Deleted Containers:\n{}\n\n", removed.join("\n")));
    }
    text.push_str(&format!(
        "Total reclaimed space: {}\n",
        human::size(reclaimed, 4)
    ));
    output::print(&text)?;
    Ok(ExitCode::from(code))
}

/// Bytes of the files below a directory; what cannot be read counts nothing.
pub fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        })
        .sum()
}
