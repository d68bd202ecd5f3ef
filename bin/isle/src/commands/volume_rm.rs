//! `isle volume rm`.

use isle_engine::EngineError;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Remove volumes, with their files";
pub const EXAMPLES: &str = "  isle volume rm data
  isle volume rm $(isle volume ls -q --filter dangling=true)";

/// Flags of `volume rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Its snapshots too; and a volume that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each(&args.volumes, |name| match engine.remove_volume(name, args.force) {
        Err(EngineError::NoSuchVolume { .. }) if args.force => Ok(()),
        removed => Ok(removed?),
    })
}
