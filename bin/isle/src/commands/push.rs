//! `isle push`.

use std::process::ExitCode;

use isle_engine::Engine;
use isle_image::Reference;
use isle_registry::{Client, Config};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::images;
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Send an image to a registry";
pub const EXAMPLES: &str = "  isle tag web registry.example.com/team/web:1.2
  isle push registry.example.com/team/web:1.2
  isle push --all-tags registry.example.com/team/web";

/// Flags of `push`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// All tags that are here of this name
    #[arg(short, long)]
    all_tags: bool,
    #[command(flatten)]
    progress: ProgressFlags,
    /// Name, with the registry before the first slash
    #[arg(value_name = "IMAGE")]
    image: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let images = match args.all_tags {
        false => vec![args.image.parse()?],
        true => local_tags(engine, &images::repository(&args.image)?)?,
    };
    let client = Client::new(Config::of_host()?);
    let progress = args.progress.open();
    for image in &images {
        let digest = engine.images().push(&client, image, &progress)?;
        let name = image.familiar();
        let id = engine.images().find(&image.to_string())?.id;
        engine.record_image_event("push", id.as_str(), &name)?;
        match args.progress.quiet {
            true => output::line(&image.to_string())?,
            false => output::line(&format!("{name}@{digest}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All names in the store that differ from this one by their tag only.
fn local_tags(engine: &Engine, repository: &Reference) -> Result<Vec<Reference>> {
    let images = engine.images().images()?;
    let mut tags: Vec<Reference> = images
        .iter()
        .flat_map(|image| &image.repo_tags)
        .filter_map(|name| name.parse().ok())
        .filter(|tag: &Reference| tag.name() == repository.name())
        .collect();
    tags.sort();
    match tags.is_empty() {
        false => Ok(tags),
        true => Err(Failure::new(format!(
            "an image does not exist locally with the name: {}",
            repository.familiar_name()
        ))
        .hint("`isle images` lists what is here")
        .into()),
    }
}
