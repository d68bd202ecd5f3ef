//! `isle image prune`.

use std::process::ExitCode;

use isle_format::human;
use isle_image::{LabelFilter, PruneOptions};
use jiff::Timestamp;

use super::rmi::words;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::Filters;
use crate::flags::time::moment;
use crate::output;

pub const ABOUT: &str = "Remove images that have no name, or that nothing needs";
pub const EXAMPLES: &str = "  isle image prune
  isle image prune -af --filter until=240h --filter label!=keep";

/// Flags of `image prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also those with a name, when no instance needs them
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: until=24h, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    let now = Timestamp::now();
    let until = filters.each("until", |text| moment(text, now))?;
    let label = |text: &String, is_negated| {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        LabelFilter {
            key: key.to_owned(),
            value,
            is_negated,
        }
    };
    let wanted = filters.values("label").iter().map(|text| label(text, false));
    let unwanted = filters.values("label!").iter().map(|text| label(text, true));
    let options = PruneOptions {
        all: args.all,
        until: until.into_iter().min(),
        labels: wanted.chain(unwanted).collect(),
    };
    let question = match args.all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !args.force && !output::confirm(question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = context.engine()?.images().prune(&options)?;
    let mut text = String::new();
    if !pruned.removed.is_empty() {
        text.push_str("Deleted Images:\n");
        for step in &pruned.removed {
            text.push_str(&format!("{}\n", words(step).to_lowercase()));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "Total reclaimed space: {}\n",
        human::size(pruned.reclaimed_bytes, 4)
    ));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
