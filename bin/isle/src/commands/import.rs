//! `isle import`.

use std::io;
use std::process::ExitCode;

use isle_image::{ImportOptions, Platform, Reference};

use super::load::open;
use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Make an image of a root file system archive";
pub const EXAMPLES: &str = "  isle import rootfs.tar.gz base:1
  mmdebstrap bookworm - | isle import -c 'CMD [\"bash\"]' - debian:12";

/// Flags of `import`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Instruction of a Dockerfile to apply: CMD, ENV, LABEL, …
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Message
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform that it is for, like linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    progress: ProgressFlags,
    /// Archive (tar, also gzip or zstd), or - for standard input
    #[arg(value_name = "FILE", allow_hyphen_values = true)]
    file: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    if args.file.starts_with("http://") || args.file.starts_with("https://") {
        return Err(Failure::new(format!("cannot import {}: addresses are not fetched", args.file))
            .hint(format!("curl -L {} | isle import - NAME", args.file))
            .code(ENGINE)
            .into());
    }
    let engine = context.engine()?;
    let options = ImportOptions {
        changes: args.change.clone(),
        message: args.message.clone(),
        reference: args.name.clone(),
        platform: args.platform.clone(),
    };
    let progress = args.progress.open();
    let image = match args.file.as_str() {
        "-" => engine
            .images()
            .import(&mut io::stdin().lock(), &options, &progress)?,
        path => engine
            .images()
            .import(&mut open(path.as_ref())?, &options, &progress)?,
    };
    let id = image.id.to_string();
    let name = args.name.as_ref().map_or(id.clone(), Reference::familiar);
    engine.record_image_event("import", &id, &name)?;
    output::line(&id)?;
    Ok(ExitCode::SUCCESS)
}
