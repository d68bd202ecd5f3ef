//! `isle network disconnect`.

use std::process::ExitCode;

use crate::context::Context;
use crate::failure::Result;

pub const ABOUT: &str = "Take an instance off a network";
pub const EXAMPLES: &str = "  isle network disconnect back web";

/// Flags of `network disconnect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name or id of the network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or id of the instance
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let network = engine.find_network(&args.network)?;
    let instance = engine.find(&args.instance)?;
    engine.disconnect_network(&instance.id, &network)?;
    Ok(ExitCode::SUCCESS)
}
