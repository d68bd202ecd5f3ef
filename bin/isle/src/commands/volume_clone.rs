//! `isle volume clone`.

use std::process::ExitCode;

use isle_engine::VolumeSource;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::pause::PauseFlag;
use crate::output;

pub const ABOUT: &str = "Make a new volume that has the files of another one, or of a snapshot";
pub const EXAMPLES: &str = "  isle volume clone data data-for-tests
  isle volume clone data@before-upgrade old-data";

/// Flags of `volume clone`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pause: PauseFlag,
    /// What is copied
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    source: String,
    /// Name of the new volume
    #[arg(value_name = "NAME")]
    name: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let Ok(source) = args.source.parse::<VolumeSource>();
    let engine = context.engine()?;
    let volume = engine.clone_volume(&source, &args.name, args.pause.pause)?;
    output::line(&volume.name)?;
    Ok(ExitCode::SUCCESS)
}
