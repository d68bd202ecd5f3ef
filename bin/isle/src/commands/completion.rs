//! `isle completion`.

use std::process::ExitCode;

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;

pub const ABOUT: &str = "Print the script that completes words in a shell";
pub const EXAMPLES: &str = "  isle completion bash > /etc/bash_completion.d/isle
  isle completion zsh > \"${fpath[1]}/_isle\"
  isle completion fish > ~/.config/fish/completions/isle.fish";

/// Flags of `completion`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: String,
}

pub fn run(args: &Args, _context: &Context) -> Result {
    match crate::completion::script(&args.shell)? {
        Some(script) => output::print(&script).map(|()| ExitCode::SUCCESS),
        None => Err(Failure::new(format!("shell {:?} is not known", args.shell))
            .hint("use bash, zsh, fish, elvish or powershell")
            .code(ENGINE)
            .into()),
    }
}
