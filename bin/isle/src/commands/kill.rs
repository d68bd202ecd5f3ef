//! `isle kill`: a signal to the first process.

use isle_types::Signal;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Send a signal to instances";
pub const EXAMPLES: &str = "  isle kill web
  isle kill -s HUP web";

/// Flags of `kill`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: Signal,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each(&args.instances, |name| {
        let instance = engine.find(name)?;
        engine.kill(&instance.id, args.signal)?;
        Ok(())
    })
}
