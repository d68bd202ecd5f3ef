//! `isle exec`: a further process in a running instance.

use std::path::PathBuf;
use std::process::ExitCode;

use isle_engine::ExecRequest;

use crate::context::Context;
use crate::failure::{Failure, OutputClosed, Result};
use crate::flags::detach_keys::{DetachKeys, detach_keys};
use crate::flags::environment;
use crate::terminal::{Outcome, Relay, check_tty, window_size};

pub const ABOUT: &str = "Run a further program in a running instance";
pub const EXAMPLES: &str = "  isle exec -it web bash
  isle exec -u www-data -w /srv web ls -l
  echo 'select 1' | isle exec -i db psql";

/// Flags of `exec`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run it in the background
    #[arg(short, long)]
    detach: bool,
    /// Keys that detach, like ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", value_parser = detach_keys)]
    detach_keys: Option<DetachKeys>,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, and perhaps group: names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Instance, then the command and its arguments
    #[arg(required = true, value_names = ["CONTAINER", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let [name, command @ ..] = args.words.as_slice() else {
        return Err(Failure::new("no instance given").into());
    };
    if command.is_empty() {
        return Err(Failure::new("exec needs a command")
            .hint(format!("isle exec -it {name} sh"))
            .code(crate::failure::ENGINE)
            .into());
    }
    let attaches_stdin = args.interactive && !args.detach;
    check_tty(attaches_stdin, args.tty)?;
    let own = |name: &str| std::env::var(name).ok();
    let mut env = Vec::new();
    for path in &args.env_file {
        env.extend(environment::file(&environment::read(path)?, path, own)?);
    }
    for text in &args.env {
        env.extend(environment::variable(text, own)?);
    }
    let keys = match args.tty && attaches_stdin {
        true => context.detach_keys(args.detach_keys.as_ref())?,
        false => DetachKeys::default(),
    };
    let engine = context.engine()?;
    let instance = engine.find(name)?;
    let request = ExecRequest {
        args: command.to_vec(),
        env,
        user: args.user.clone(),
        working_dir: args.workdir.clone(),
        tty: args.tty,
        open_stdin: attaches_stdin,
        detach: args.detach,
        privileged: args.privileged,
    };
    let mut session = engine.exec(&instance.id, &request, window_size().filter(|_| args.tty))?;
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let relay = Relay {
        stdin: attaches_stdin,
        tty: args.tty,
        // As in Docker, an exec does not get our signals; a terminal's keys reach it as keys.
        sig_proxy: false,
        detach_keys: keys,
        leaves_with_stdin: false,
    };
    match relay.exec(&mut session)? {
        Outcome::Exited(exit) => Ok(super::create::exit_code(&exit)),
        Outcome::Detached => Ok(ExitCode::SUCCESS),
        Outcome::OutputClosed => Err(OutputClosed.into()),
        Outcome::Interrupted(signal) => Ok(ExitCode::from(128 + signal.number() as u8)),
        Outcome::Lost => Err(Failure::new("the supervisor has gone").into()),
    }
}
