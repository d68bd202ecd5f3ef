//! `isle load`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use isle_image::{LoadInput, Platform};

use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::output;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Load images from an archive or a directory";
pub const EXAMPLES: &str = "  isle load -i images.tar
  docker save debian | isle load
  isle load -i ./oci-layout";

/// Flags of `load`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Archive (of docker save, podman, skopeo, …; compressed or not) or OCI layout directory
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Platform to take of several, like linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    progress: ProgressFlags,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let engine = context.engine()?;
    let progress = args.progress.open();
    let load = |input| engine.images().load(input, args.platform.as_ref(), &progress);
    let loaded = match args.input.as_deref() {
        Some(path) if path.is_dir() => load(LoadInput::Directory(path))?,
        Some(path) if path != Path::new("-") => load(LoadInput::File(open(path)?))?,
        _ => {
            let stdin = io::stdin();
            if rustix::termios::isatty(&stdin) {
                return Err(Failure::new("requested load from stdin, but stdin is a terminal")
                    .hint("use -i FILE, or redirect standard input")
                    .code(ENGINE)
                    .into());
            }
            // A file behind `<` is read where it lies.
            let own = File::from(stdin.as_fd().try_clone_to_owned()?);
            match own.metadata()?.is_file() {
                true => load(LoadInput::File(own))?,
                false => load(LoadInput::Stream(&mut stdin.lock()))?,
            }
        }
    };
    for loaded in &loaded {
        let id = loaded.image.id.to_string();
        match loaded.names.as_slice() {
            [] => {
                engine.record_image_event("load", &id, &id)?;
                output::line(&format!("Loaded image ID: {id}"))?;
            }
            names => {
                for name in names {
                    engine.record_image_event("load", &id, name)?;
                    output::line(&format!("Loaded image: {name}"))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a file to read.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Failure::new(format!("cannot read {}", path.display()))
            .hint("name a file that exists and that you may read")
            .because(error)
            .into()
    })
}
