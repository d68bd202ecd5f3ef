//! `isle compose unpause`.

use isle_engine::Engine;
use isle_engine::state::Status;

use super::pause::Change;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose unpause web";

/// Flags of `compose unpause`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("unpause")?;
    let change = Change {
        from: Status::Paused,
        begins: "Unpausing",
        done: "Unpaused",
        act: Engine::resume,
    };
    change.of(&args.services, flags, context)
}
