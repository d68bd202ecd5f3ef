//! `isle attach`.

use isle_engine::AttachRequest;

use super::create;
use crate::context::Context;
use crate::failure::Result;
use crate::flags::detach_keys::{DetachKeys, detach_keys};
use crate::terminal::{Relay, check_tty};

pub const ABOUT: &str = "Attach to the streams of a running instance";
pub const EXAMPLES: &str = "  isle attach web
  isle attach --no-stdin --logs web";

/// Flags of `attach`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Keys that detach, like ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = detach_keys)]
    detach_keys: Option<DetachKeys>,
    /// Only output
    #[arg(long)]
    no_stdin: bool,
    /// First what is in the log already
    #[arg(long)]
    logs: bool,
    /// Pass signals on (=false to keep them)
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    sig_proxy: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let process = &instance.config.process;
    let attaches_stdin = process.open_stdin && !args.no_stdin;
    check_tty(attaches_stdin, process.tty)?;
    let keys = context.detach_keys(args.detach_keys.as_ref())?;
    let request = AttachRequest {
        stdin: attaches_stdin,
        stdout: true,
        stderr: true,
        replay_log: args.logs,
    };
    let session = engine.attach(&instance.id, request)?;
    let relay = Relay {
        stdin: attaches_stdin,
        tty: process.tty,
        sig_proxy: args.sig_proxy && !process.tty,
        detach_keys: keys,
        leaves_with_stdin: false,
    };
    create::follow(engine, &instance, Some(session), relay)
}
