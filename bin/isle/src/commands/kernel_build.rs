//! `isle kernel build`.

use std::num::NonZero;
use std::path::PathBuf;

use isle_kernel::BuildOptions;

use super::kernel_install::finish;
use crate::context::Context;
use crate::failure::Result;
use crate::kernel_progress;
use crate::progress::ProgressFlags;

pub const ABOUT: &str = "Build the tuned kernel for virtual machines from the distribution's source";
pub const EXAMPLES: &str = "  isle kernel build
  isle kernel build -j 4
  isle kernel build --source /usr/src/linux-source-6.1.tar.xz --no-use";

/// Flags of `kernel build`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// So many compilers at once (default: one a processor)
    #[arg(short, long, value_name = "COUNT")]
    jobs: Option<NonZero<usize>>,
    /// An archive of the source of Linux 6.1 (default: the newest package linux-source)
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Go on with the kernel that is in use
    #[arg(long)]
    no_use: bool,
    #[command(flatten)]
    progress: ProgressFlags,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let kernels = context.kernels();
    let options = BuildOptions {
        source: args.source.clone(),
        jobs: args.jobs.map(NonZero::get),
    };
    let kernel = kernels.build(&options, &*kernel_progress::open(args.progress))?;
    finish(&kernels, &kernel, args.no_use, args.progress)
}
