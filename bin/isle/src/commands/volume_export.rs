//! `isle volume export`.

use std::path::PathBuf;
use std::process::ExitCode;

use isle_engine::VolumeSource;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::pause::PauseFlag;
use crate::output::Archive;
use crate::progress::{Meter, ProgressFlags};

pub const ABOUT: &str = "Write the files of a volume, or of a snapshot, as a tar archive";
pub const EXAMPLES: &str = "  isle volume export -o data.tar data
  isle volume export data@before-upgrade | zstd > data.tar.zst";

/// Flags of `volume export`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pause: PauseFlag,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    progress: ProgressFlags,
    /// What is written
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    source: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let Ok(source) = args.source.parse::<VolumeSource>();
    let engine = context.engine()?;
    engine.find_volume(&source.volume)?;
    let mut archive = Archive::create(args.output.as_deref())?;
    let mut meter = Meter::new(args.progress, "exported", &mut archive);
    let written = engine.export_volume(&source, args.pause.pause, &mut meter);
    meter.finish();
    written.map_err(|error| archive.failed(error))?;
    archive.finish()?;
    Ok(ExitCode::SUCCESS)
}
