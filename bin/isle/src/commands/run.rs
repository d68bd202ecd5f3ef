//! `isle run`: create, start, attach, and take the exit code of the workload.

use std::process::ExitCode;

use isle_engine::AttachRequest;

use super::create;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::detach_keys::{DetachKeys, detach_keys};
use crate::flags::instance::{InstanceFlags, Stream};
use crate::{output, progress};
use crate::terminal::{Relay, check_tty, window_size};

pub const ABOUT: &str = "Make an instance of an image and start it";
pub const EXAMPLES: &str = "  isle run -it --rm debian bash
  isle run -d --name web --network host --restart always nginx
  isle run --rm -v \"$PWD\":/src -w /src --memory 512m --cpus 2 python:3 python test.py";

/// Flags of `run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run in the background and print the id
    #[arg(short, long)]
    detach: bool,
    /// Keys that detach, like ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = detach_keys)]
    detach_keys: Option<DetachKeys>,
    /// Pass signals on (=false to keep them)
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    sig_proxy: bool,
    #[command(flatten)]
    instance: InstanceFlags,
    /// Image, then the command and its arguments
    #[arg(required = true, value_names = ["IMAGE", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let flags = &args.instance;
    if args.detach && !flags.attach.is_empty() {
        return Err(Failure::new("--attach and --detach do not go together")
            .hint("leave one of them out; isle attach attaches later")
            .into());
    }
    let has_output = flags.attach.is_empty()
        || [Stream::Stdout, Stream::Stderr]
            .iter()
            .any(|stream| flags.attach.contains(stream));
    let sends_stdin = flags.attach.is_empty() || flags.attach.contains(&Stream::Stdin);
    let attaches_stdin = flags.interactive && sends_stdin && !args.detach;
    check_tty(attaches_stdin, flags.tty)?;
    let keys = match flags.tty && attaches_stdin {
        true => context.detach_keys(args.detach_keys.as_ref())?,
        false => DetachKeys::default(),
    };
    let instance = create::create(flags, &args.words, context)?;
    let engine = context.engine()?;
    if args.detach {
        engine
            .start_with(&instance.id, None, None, &mut progress::preparation)
            .map_err(|error| create::forget(context, &instance, error))?;
        output::line(&instance.id.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !has_output {
        // As Docker: whoever only sends is told where to.
        output::line(&instance.id.to_string())?;
    }
    let attached = instance.config.process.attached();
    let request = AttachRequest {
        stdin: attaches_stdin,
        stdout: attached.stdout,
        stderr: attached.stderr,
        replay_log: false,
    };
    let size = window_size().filter(|_| flags.tty);
    let session = engine
        .start_with(&instance.id, Some(request), size, &mut progress::preparation)
        .map_err(|error| create::forget(context, &instance, error))?;
    let relay = Relay {
        stdin: attaches_stdin,
        tty: flags.tty,
        // With a terminal, keys reach it as keys.
        sig_proxy: args.sig_proxy && !flags.tty,
        detach_keys: keys,
        leaves_with_stdin: !has_output,
    };
    create::follow(engine, &instance, session, relay)
}
