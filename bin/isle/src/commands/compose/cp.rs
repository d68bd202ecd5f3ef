//! `isle compose cp`.

use std::process::ExitCode;

use super::session::{Known, ProjectFlags};
use super::words::parse;
use crate::context::Context;
use crate::failure::{Failure, Result};

pub const EXAMPLES: &str = "  isle compose cp web:/etc/nginx/nginx.conf .
  isle compose cp page.html web:/srv/";

/// Flags of `compose cp`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// To every instance of the service, those of `compose run` too
    #[arg(long, conflicts_with = "index")]
    all: bool,
    /// Keep user and group of the files
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link points to instead of the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// The instance of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// From: SERVICE:PATH, a path of the host, or -
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    source: String,
    /// To: SERVICE:PATH, a path of the host, or -
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
}

/// The service of `SERVICE:PATH`.
fn service(text: &str) -> Option<(&str, &str)> {
    text.split_once(':')
        .filter(|(name, _)| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("cp")?;
    let known = flags.known(context, &[])?;
    let (source, destination) = (service(&args.source), service(&args.destination));
    if source.is_some() == destination.is_some() {
        return Err(
            Failure::new("one of the two has to be of a service, and one of the host")
                .hint("isle compose cp web:/etc/hosts .")
                .into(),
        );
    }
    let named = |name: &str, known: &Known| -> Result<Vec<String>> {
        match args.all && destination.is_some() {
            true => Ok(known
                .instances(&[name.to_owned()], true)
                .iter()
                .map(|instance| instance.name.to_string())
                .collect()),
            false => Ok(vec![known.instance(name, args.index)?.name.to_string()]),
        }
    };
    let (name, path) = source.or(destination).unwrap_or_default();
    for instance in named(name, &known)? {
        let inside = format!("{instance}:{path}");
        let mut words = Vec::new();
        words.extend(args.archive.then(|| "--archive".to_owned()));
        words.extend(args.follow_link.then(|| "--follow-link".to_owned()));
        words.extend(match source {
            Some(_) => [inside, args.destination.clone()],
            None => [args.source.clone(), inside],
        });
        crate::commands::cp::run(&parse(&words)?, context)?;
    }
    Ok(ExitCode::SUCCESS)
}
