//! `isle compose events`.

use isle_compose::words::label;
use jiff::Timestamp;

use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::time::past_moment;

pub const EXAMPLES: &str = "  isle compose events --json
  isle compose events --since 10m web api";

/// Flags of `compose events`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A JSON object a line
    #[arg(long)]
    json: bool,
    /// From then on: a time, or 10m for the last ten minutes
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    since: Option<Timestamp>,
    /// Until then, then end
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    until: Option<Timestamp>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("events")?;
    let known = flags.known(context, &args.services)?;
    let mut words = vec![
        "--filter=type=container".to_owned(),
        format!("--filter=label={}={}", label::PROJECT, known.name),
    ];
    words.extend(args.since.map(|time| format!("--since={time}")));
    words.extend(args.until.map(|time| format!("--until={time}")));
    words.extend(args.json.then(|| "--format=json".to_owned()));
    let services = &args.services;
    crate::commands::events::follow(&parse(&words)?, context, |event| {
        let service = event.attributes.get(label::SERVICE);
        services.is_empty() || service.is_some_and(|service| services.contains(service))
    })
}
