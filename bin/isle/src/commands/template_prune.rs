//! `isle template prune`.

use std::process::ExitCode;

use isle_engine::machines;
use isle_format::human;
use jiff::Timestamp;

use crate::context::Context;
use crate::failure::{Result, report};
use crate::flags::filter::Filters;
use crate::flags::time::moment;
use crate::output;

pub const ABOUT: &str = "Remove all templates that no pool is of; they are made again when they are needed";
pub const EXAMPLES: &str = "  isle template prune
  isle template prune -f --filter until=720h";

/// Flags of `template prune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that were not used since: until=24h
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let filters = Filters::parse(&args.filter, &["until"])?;
    let now = Timestamp::now();
    let until = filters.each("until", |text| moment(text, now))?;
    if !args.force && !output::confirm("WARNING! This will remove all templates that no pool is of.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let paths = context.paths();
    let pools = machines::pools(&paths)?;
    let mut reclaimed = 0;
    let mut code = 0;
    for template in machines::templates(&paths)? {
        let used = Timestamp::try_from(template.used)?;
        let is_old = until.iter().all(|moment| used < *moment);
        if !is_old || pools.iter().any(|pool| pool.template == template.name) {
            continue;
        }
        match machines::remove_template(&paths, &template.name) {
            Ok(_) => {
                reclaimed += template.bytes;
                output::line(&template.name)?;
            }
            Err(error) => code = code.max(report(&error.into(), 1)),
        }
    }
    output::print(&format!("Total reclaimed space: {}\n", human::size(reclaimed, 4)))?;
    Ok(ExitCode::from(code))
}
