//! `isle builder prune`.

use std::process::ExitCode;

use isle_build::PruneOptions;
use isle_format::human;
use isle_types::ByteSize;
use jiff::Timestamp;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::filter::Filters;
use crate::flags::time::moment;
use crate::output;

pub const ABOUT: &str = "Remove what the cache of builds holds";
pub const EXAMPLES: &str = "  isle builder prune
  isle builder prune -af --filter until=240h
  isle builder prune -af --keep-storage 2g";

/// Flags of `builder prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also what images have too, and cache mounts
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that were not used since: until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Keep so much of what was used last
    #[arg(long, value_name = "SIZE")]
    keep_storage: Option<ByteSize>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["until"])?;
    let now = Timestamp::now();
    let until = filters.each("until", |text| moment(text, now))?;
    let question = match args.all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all build cache that no image has too.",
    };
    if !args.force && !output::confirm(question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let options = PruneOptions {
        all: args.all,
        until: until.into_iter().min(),
        keep_bytes: args.keep_storage.map(|size| size.0),
    };
    let pruned = isle_build::prune(context.engine()?, &options)?;
    let mut text = String::new();
    for id in &pruned.removed {
        text.push_str(&format!("{id}\n"));
    }
    text.push_str(&format!("Total reclaimed space: {}\n", human::size(pruned.reclaimed_bytes, 4)));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
