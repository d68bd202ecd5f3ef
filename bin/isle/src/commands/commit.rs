//! `isle commit`.

use std::process::ExitCode;

use isle_engine::CommitRequest;

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Make an image of an instance's files";
pub const EXAMPLES: &str = "  isle commit web web:patched
  isle commit -m 'with tools' -c 'CMD [\"bash\"]' web tools";

/// Flags of `commit`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Author, like \"Ada <ada@example.com>\"
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// Instruction of a Dockerfile to apply: CMD, ENV, LABEL, …
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Message
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Freeze the instance meanwhile (=false to let it run)
    #[arg(short, long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    instance: String,
    /// Name of the image
    #[arg(value_name = "IMAGE[:TAG]")]
    reference: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let instance = engine.find(&args.instance)?;
    let id = engine.commit(
        &instance.id,
        &CommitRequest {
            reference: args.reference.clone(),
            author: args.author.clone(),
            message: args.message.clone(),
            changes: args.change.clone(),
            pause: args.pause,
        },
    )?;
    output::line(&id)?;
    Ok(ExitCode::SUCCESS)
}
