//! `isle template rm`.

use isle_engine::Paths;
use isle_engine::machines;

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

pub const ABOUT: &str = "Remove templates, and the machines that wait of them";
pub const EXAMPLES: &str = "  isle template rm 3f2a90c1
  isle template rm $(isle template ls -q)";

/// Flags of `template rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Their names, or how these begin
    #[arg(required = true, value_name = "TEMPLATE")]
    names: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let paths = context.paths();
    output::each(&args.names, |name| {
        machines::remove_template(&paths, &named(&paths, name)?)?;
        Ok(())
    })
}

/// The template whose name begins like this.
pub fn named(paths: &Paths, beginning: &str) -> Result<String> {
    let templates = machines::templates(paths)?.into_iter();
    only("template", templates.map(|template| template.name), beginning)
}

/// The one of several names of a kind that begins like this.
pub fn only(kind: &str, names: impl Iterator<Item = String>, beginning: &str) -> Result<String> {
    let mut fitting = names.filter(|name| name.starts_with(beginning));
    match (fitting.next(), fitting.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => Err(Failure::new(format!("no such {kind}: {beginning}"))
            .hint(format!("`isle {kind} ls` lists them"))
            .into()),
        (Some(_), Some(_)) => Err(Failure::new(format!("several {kind}s begin with {beginning}"))
            .hint("give more of the name")
            .into()),
    }
}
