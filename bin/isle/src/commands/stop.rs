//! `isle stop`: the stop signal, a wait, then SIGKILL.

use std::time::Duration;

use isle_types::Signal;

use crate::ahead::Ahead;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::time;
use crate::output;

pub const ABOUT: &str = "Stop instances";
pub const EXAMPLES: &str = "  isle stop web
  isle stop -t 60 db";

/// Flags of `stop`.
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
    let mut ahead = Ahead::new(&args.instances);
    output::each(&args.instances, |_| {
        let stopping = ahead.next(|name| {
            let instance = engine.find(name)?;
            Ok(engine.begin_stop(&instance.id, args.signal, args.timeout)?)
        })?;
        Ok(engine.finish_stop(stopping)?)
    })
}
