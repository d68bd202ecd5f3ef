//! `isle rmi`.

use isle_image::{FindError, RemoveError, Removed};

use crate::context::Context;
use crate::failure::Result;
use crate::output;

pub const ABOUT: &str = "Remove images";
pub const EXAMPLES: &str = "  isle rmi web:old
  isle rmi $(isle images -q --filter dangling=true)";

/// Flags of `rmi`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Take names away even when instances need the image, and be silent when it is not there
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    output::each_silent(&args.images, |name| {
        let removed = match engine.images().remove(name, args.force) {
            Ok(removed) => removed,
            Err(RemoveError::Find(error @ FindError::NotFound { .. })) if args.force => {
                eprintln!("isle: {error}");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for step in removed {
            match &step {
                Removed::Untagged(name) => engine.record_image_event("untag", name, name)?,
                Removed::Deleted(id) => {
                    engine.record_image_event("delete", id.as_str(), id.as_str())?;
                }
            }
            output::line(&words(&step))?;
        }
        Ok(())
    })
}

/// As Docker tells it.
pub fn words(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(name) => format!("Untagged: {name}"),
        Removed::Deleted(id) => format!("Deleted: {id}"),
    }
}
