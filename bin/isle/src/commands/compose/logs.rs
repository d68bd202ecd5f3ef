//! `isle compose logs`.

use std::process::ExitCode;
use std::sync::mpsc;

use isle_engine::LogRequest;
use jiff::Timestamp;

use super::names::short;
use super::session::{ProjectFlags, number_of};
use super::stream::{self, Printer, Told};
use crate::commands::logs::{Tail, tail};
use crate::context::Context;
use crate::failure::Result;
use crate::flags::time::past_moment;

pub const EXAMPLES: &str = "  isle compose logs -f web
  isle compose logs --tail 20 --since 10m";

/// Flags of `compose logs`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the instance of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Without colours
    #[arg(long)]
    no_color: bool,
    /// Without names before lines
    #[arg(long)]
    no_log_prefix: bool,
    /// Only the last lines of each: a number, or all
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = tail, default_value = "all", allow_hyphen_values = true)]
    tail: Tail,
    /// Not before: a time, or 10m for the last ten minutes
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    since: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = past_moment)]
    until: Option<Timestamp>,
    /// The time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("logs")?;
    let known = flags.known(context, &args.services)?;
    let mut instances = known.instances(&args.services, false);
    instances.retain(|instance| args.index.is_none_or(|index| number_of(instance) == index));
    let names: Vec<String> = instances
        .iter()
        .map(|instance| short(instance.name.as_str(), &known.name).to_owned())
        .collect();
    let printer = Printer::new(
        &names,
        flags.ansi,
        args.no_color,
        args.no_log_prefix,
        args.timestamps,
    );
    let (sender, receiver) = mpsc::channel();
    for (instance, name) in instances.iter().zip(&names) {
        let request = LogRequest {
            follow: args.follow,
            tail: args.tail.0,
            since: args.since,
            until: args.until,
            stdout: true,
            stderr: true,
        };
        stream::read(
            context.paths(),
            instance,
            name.clone(),
            request,
            sender.clone(),
        );
    }
    drop(sender);
    // What is there already comes in the order of time, as far as it is known; what follows as it comes.
    let mut lines = Vec::new();
    for told in receiver {
        match told {
            Told::Line {
                name, time, bytes, ..
            } if args.follow => printer.line(&name, time, &bytes)?,
            Told::Line {
                name, time, bytes, ..
            } => lines.push((time, name, bytes)),
            Told::Ended { name, code, .. } if args.follow => printer.ended(&name, code)?,
            Told::Failed { name, error } => {
                eprintln!("warning: the log of {name} cannot be read: {error:#}")
            }
            Told::Ended { .. } | Told::Interrupted(_) => {}
        }
    }
    lines.sort_by_key(|(time, ..)| *time);
    for (time, name, bytes) in lines {
        printer.line(&name, time, &bytes)?;
    }
    Ok(ExitCode::SUCCESS)
}
