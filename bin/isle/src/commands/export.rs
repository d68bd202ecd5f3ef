//! `isle export`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::context::Context;
use crate::failure::Result;
use crate::output::Archive;

pub const ABOUT: &str = "Write the files of an instance as a tar archive";
pub const EXAMPLES: &str = "  isle export -o web.tar web
  isle export web | tar t";

/// Flags of `export`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let mut archive = Archive::create(args.output.as_deref())?;
    engine
        .export(&instance.id, &mut archive)
        .map_err(|error| archive.failed(error))?;
    archive.finish()?;
    Ok(ExitCode::SUCCESS)
}
