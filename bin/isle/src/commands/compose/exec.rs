//! `isle compose exec`.

use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::terminal::stdin_is_terminal;

pub const EXAMPLES: &str = "  isle compose exec db psql -U postgres
  isle compose exec -T web cat /etc/hostname";

/// Flags of `compose exec`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run it in the background
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// In the instance of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// Keep standard input open (=false to close it)
    #[arg(short, long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    interactive: bool,
    /// Without a terminal, which it gets where there is one
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY")]
    no_tty: bool,
    /// With a terminal, which it gets where there is one
    #[arg(short, long, hide = true)]
    tty: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// User, and perhaps group: names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Service, then the command and its arguments
    #[arg(required = true, value_names = ["SERVICE", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("exec")?;
    let Some((service, command)) = args
        .words
        .split_first()
        .filter(|(_, command)| !command.is_empty())
    else {
        return Err(Failure::new("exec needs a service and a command")
            .hint("isle compose exec web sh")
            .code(ENGINE)
            .into());
    };
    let known = flags.known(context, &[])?;
    let instance = known.instance(service, args.index)?;
    let mut words = Vec::new();
    let mut switch = |flag: &str, is_on: bool| {
        if is_on {
            words.push(flag.to_owned());
        }
    };
    switch("--detach", args.detach);
    switch("--privileged", args.privileged);
    switch("--interactive", args.interactive && !args.detach);
    switch("--tty", !args.no_tty && !args.detach && stdin_is_terminal());
    words.extend(args.env.iter().map(|text| format!("--env={text}")));
    words.extend(args.user.iter().map(|text| format!("--user={text}")));
    words.extend(args.workdir.iter().map(|text| format!("--workdir={text}")));
    words.push(instance.name.to_string());
    words.extend(command.iter().cloned());
    crate::commands::exec::run(&parse(&words)?, context)
}
