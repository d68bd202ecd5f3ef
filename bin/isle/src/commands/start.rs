//! `isle start`.

use std::process::ExitCode;

use isle_engine::AttachRequest;

use super::create;
use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::detach_keys::{DetachKeys, detach_keys};
use crate::{output, progress};
use crate::terminal::{Relay, check_tty, window_size};

pub const ABOUT: &str = "Start instances that do not run";
pub const EXAMPLES: &str = "  isle start web db
  isle start -ai job";

/// Flags of `start`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Attach to its output, and end with its exit code
    #[arg(short, long)]
    attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach, like ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = detach_keys)]
    detach_keys: Option<DetachKeys>,
    /// Pass signals on (=false to keep them)
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    sig_proxy: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    instances: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    if !args.attach && !args.interactive {
        return output::each(&args.instances, |name| {
            let instance = engine.find(name)?;
            engine.start_with(&instance.id, None, None, &mut progress::preparation)?;
            Ok(())
        });
    }
    let [name] = args.instances.as_slice() else {
        return Err(Failure::new("you cannot start and attach multiple instances at once")
            .hint("start them one by one, or without -a and -i")
            .code(ENGINE)
            .into());
    };
    let instance = engine.find(name)?;
    let process = &instance.config.process;
    let attaches_stdin = args.interactive && process.open_stdin;
    check_tty(attaches_stdin, process.tty)?;
    let request = AttachRequest {
        stdin: attaches_stdin,
        stdout: true,
        stderr: true,
        replay_log: false,
    };
    let keys = context.detach_keys(args.detach_keys.as_ref())?;
    let size = window_size().filter(|_| process.tty);
    let session = engine.start_with(&instance.id, Some(request), size, &mut progress::preparation)?;
    if session.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let relay = Relay {
        stdin: attaches_stdin,
        tty: process.tty,
        sig_proxy: args.sig_proxy && !process.tty,
        detach_keys: keys,
        leaves_with_stdin: false,
    };
    create::follow(engine, &instance, session, relay)
}
