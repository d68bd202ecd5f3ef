//! `isle kernel install`.

use std::path::PathBuf;
use std::process::ExitCode;

use isle_kernel::{InstallOptions, Kernel, Kernels};

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::progress::ProgressFlags;
use crate::{kernel_progress, output};

pub const ABOUT: &str = "Install the distribution's kernel for virtual machines";
pub const EXAMPLES: &str = "  isle kernel install
  isle kernel install linux-image-6.1.0-50-cloud-amd64
  isle kernel install --file linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb";

/// Flags of `kernel install`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A package file instead of one that apt downloads
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on with the kernel that is in use
    #[arg(long)]
    no_use: bool,
    #[command(flatten)]
    progress: ProgressFlags,
    /// A kernel package (default: Debian's kernel for clouds)
    #[arg(value_name = "PACKAGE")]
    package: Option<String>,
}

pub fn run(args: &Args, context: &Context) -> Result {
    if args.file.is_some() && args.package.is_some() {
        return Err(Failure::new("a package and --file exclude each other")
            .hint("leave one of them out")
            .into());
    }
    if let Some(package) = &args.package
        && !is_package_name(package)
    {
        return Err(
            Failure::new(format!("{package:?} is no name of a package"))
                .hint("`apt-cache search linux-image` lists some; give a file with --file")
                .into(),
        );
    }
    let kernels = context.kernels();
    let options = InstallOptions {
        package: args.package.clone(),
        file: args.file.clone(),
    };
    let kernel = kernels.install(&options, &*kernel_progress::open(args.progress))?;
    finish(&kernels, &kernel, args.no_use, args.progress)
}

/// Names of Debian packages, see deb-control(5).
fn is_package_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}

/// A kernel that has come is used from now on, unless it was asked otherwise.
pub fn finish(
    kernels: &Kernels,
    kernel: &Kernel,
    no_use: bool,
    progress: ProgressFlags,
) -> Result {
    let name = &kernel.description.name;
    if !no_use {
        kernels.choose(name)?;
        if !progress.quiet {
            eprintln!("new virtual machines use {name}; those that run keep theirs until they are restarted");
        }
    }
    output::line(name)?;
    Ok(ExitCode::SUCCESS)
}
