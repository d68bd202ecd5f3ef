//! `isle unpause`: thaws what `pause` froze.

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Thaw instances that are paused";
pub const EXAMPLES: &str = "  isle unpause web";

/// Flags of `unpause`.
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
        engine.resume(&instance.id)?;
        Ok(())
    })
}
