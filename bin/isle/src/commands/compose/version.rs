//! `isle compose version`.

use std::process::ExitCode;

use clap::ValueEnum;
use isle_compose::words::FOLLOWS;
use serde_json::json;

use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const EXAMPLES: &str = "  isle compose version --short";

/// Flags of `compose version`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// pretty or json
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "pretty",
        hide_possible_values = true
    )]
    format: Format,
    /// Only the number
    #[arg(long)]
    short: bool,
}

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Pretty,
    Json,
}

pub fn run(args: &Args, flags: &ProjectFlags, _: &Context) -> Result {
    flags.no_dry_run("version")?;
    let version = env!("CARGO_PKG_VERSION");
    output::line(&match (args.short, args.format) {
        (true, _) => version.to_owned(),
        (false, Format::Json) => json!({"version": version, "follows": FOLLOWS}).to_string(),
        (false, Format::Pretty) => {
            format!("Isle Compose version {version} (behaves as Docker Compose {FOLLOWS})")
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
