//! `isle restart`: stop, then start.

use std::time::Duration;

use isle_types::Signal;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::time;
use crate::output;

pub const ABOUT: &str = "Stop instances and start them again";
pub const EXAMPLES: &str = "  isle restart web
  isle restart -t 0 web db";

/// Flags of `restart`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Signal to send first
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<Signal>,
    /// Seconds to wait before it is killed (default 10)
    #[arg(short = 't', long = "timeout", visible_alias = "time", value_name = "SECONDS", value_parser = time::seconds, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each(&args.instances, |name| {
        let instance = engine.find(name)?;
        engine.restart(&instance.id, args.signal, args.timeout)?;
        Ok(())
    })
}
