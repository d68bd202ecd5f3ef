//! `isle pause`: freezes all processes of instances.

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Freeze all processes of instances";
pub const EXAMPLES: &str = "  isle pause web";

/// Flags of `pause`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each(&args.instances, |name| {
        let instance = engine.find(name)?;
        engine.pause(&instance.id)?;
        Ok(())
    })
}
