//! `isle volume import`.

use std::io::{self, Read};
use std::process::ExitCode;

use super::load::open;
use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;
use crate::progress::{Meter, ProgressFlags};

pub const ABOUT: &str = "Unpack a tar archive into a new volume, or an empty one";
pub const EXAMPLES: &str = "  isle volume import data data.tar
  zstd -d < data.tar.zst | isle volume import data";

/// Flags of `volume import`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    progress: ProgressFlags,
    /// Name of the volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Archive (tar, also gzip or zstd), or - for standard input
    #[arg(value_name = "FILE", allow_hyphen_values = true, default_value = "-", hide_default_value = true)]
    file: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let mut input: Box<dyn Read> = match args.file.as_str() {
        "-" if rustix::termios::isatty(io::stdin()) => {
            return Err(Failure::new("cannot read an archive from a terminal")
                .hint("name a file, or redirect standard input")
                .code(ENGINE)
                .into());
        }
        "-" => Box::new(io::stdin().lock()),
        path => Box::new(open(path.as_ref())?),
    };
    let mut meter = Meter::new(args.progress, "imported", &mut input);
    let imported = context.engine()?.import_volume(&args.volume, &mut meter);
    meter.finish();
    output::line(&imported?.name)?;
    Ok(ExitCode::SUCCESS)
}
