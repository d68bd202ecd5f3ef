//! `isle compose attach`.

use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose attach web";

/// Flags of `compose attach`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Keys that detach, like ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// To the instance of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Only output
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on (=false to keep them)
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    sig_proxy: bool,
    /// Service
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("attach")?;
    let known = flags.known(context, &[])?;
    let mut words = vec![format!("--sig-proxy={}", args.sig_proxy)];
    words.extend(
        args.detach_keys
            .iter()
            .map(|keys| format!("--detach-keys={keys}")),
    );
    words.extend(args.no_stdin.then(|| "--no-stdin".to_owned()));
    words.push(known.instance(&args.service, args.index)?.name.to_string());
    crate::commands::attach::run(&parse(&words)?, context)
}
