//! `isle compose wait`.

use std::process::ExitCode;
use std::sync::mpsc;

use isle_engine::{Engine, WaitCondition};

use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const EXAMPLES: &str = "  isle compose wait worker";

/// Flags of `compose wait`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Take the project away once the first of them has ended
    #[arg(long)]
    down_project: bool,
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("wait")?;
    let known = flags.known(context, &args.services)?;
    let (sender, receiver) = mpsc::channel();
    let instances = known.instances(&args.services, false);
    for instance in &instances {
        let (paths, id, sender, name) = (
            context.paths(),
            instance.id,
            sender.clone(),
            instance.name.clone(),
        );
        std::thread::spawn(move || {
            let waited =
                Engine::open(paths).and_then(|engine| engine.wait(&id, WaitCondition::NotRunning));
            drop(sender.send((name, waited)));
        });
    }
    drop(sender);
    let mut code = 0;
    for (_, waited) in receiver {
        let exit = waited?;
        output::line(&exit.code.to_string())?;
        code = exit.code;
        if args.down_project {
            let down = super::words::parse(&[])?;
            super::down::run(&down, flags, context)?;
            break;
        }
    }
    Ok(ExitCode::from((code & 0xff) as u8))
}
