//! `isle rm`.

use isle_engine::EngineError;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Remove instances";
pub const EXAMPLES: &str = "  isle rm web
  isle rm -fv web db
  isle rm $(isle ps -aq --filter status=exited)";

/// Flags of `rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Kill it first when it runs, and be silent when it is not there
    #[arg(short, long)]
    force: bool,
    /// Remove its anonymous volumes as well
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each_silent(&args.instances, |name| {
        let instance = match engine.find(name) {
            Ok(instance) => instance,
            // As in Docker, `rm -f` of what is not there is no failure.
            Err(error @ EngineError::NoSuchInstance { .. }) if args.force => {
                eprintln!("isle: {error}");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        engine.remove(&instance.id, args.force, args.volumes)?;
        output::line(name)
    })
}
