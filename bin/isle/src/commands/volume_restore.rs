//! `isle volume restore`.

use crate::context::Context;
use crate::failure::Result;
use crate::output;

use super::volume_snapshot::parts;

pub const ABOUT: &str = "Make volumes what they were when a snapshot was kept";
pub const EXAMPLES: &str = "  isle volume restore data@before-upgrade";

/// Flags of `volume restore`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which snapshots
    #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
    snapshots: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    output::each(&args.snapshots, |text| {
        let (volume, name) = parts(text)?;
        Ok(context.engine()?.restore_volume(&volume, &name)?)
    })
}
