//! `isle save`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use isle_image::{Progress, SaveFormat, Silent};

use crate::context::Context;
use crate::failure::Result;
use crate::output::Archive;

pub const ABOUT: &str = "Write images to an archive";
pub const EXAMPLES: &str = "  isle save -o images.tar debian nginx
  isle save web | docker load
  isle save --format oci -o web.oci.tar web";

/// What is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// What `docker load` reads; an OCI layout as well.
    Docker,
    /// An OCI layout.
    Oci,
}

/// Flags of `save`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// docker (an OCI layout as well) or oci
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "docker",
        hide_possible_values = true
    )]
    format: Format,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let store = context.engine()?.images();
    // A name that is not there is said before a file is made.
    for name in &args.images {
        store.find(name)?;
    }
    let mut archive = Archive::create(args.output.as_deref())?;
    let format = match args.format {
        Format::Docker => SaveFormat::Docker,
        Format::Oci => SaveFormat::Oci,
    };
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    store
        .save(&args.images, format, &mut archive, &silent)
        .map_err(|error| archive.failed(error))?;
    archive.finish()?;
    Ok(ExitCode::SUCCESS)
}
