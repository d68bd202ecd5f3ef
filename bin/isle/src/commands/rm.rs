//! `isle rm`.

use isle_engine::EngineError;

use crate::ahead::Ahead;
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
    let mut ahead = Ahead::new(&args.instances);
    output::each_silent(&args.instances, |name| {
        let removal = ahead.next(|name| match engine.find(name) {
            Ok(instance) => Ok(Some(engine.begin_removal(&instance.id, args.force)?)),
            // As in Docker, `rm -f` of what is not there is no failure.
            Err(error @ EngineError::NoSuchInstance { .. }) if args.force => {
                eprintln!("isle: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        })?;
        if let Some(removal) = removal {
            engine.finish_removal(removal, args.volumes)?;
            output::line(name)?;
        }
        Ok(())
    })
}
