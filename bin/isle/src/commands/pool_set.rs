//! `isle pool set`.

use std::process::ExitCode;

use isle_engine::config::Resources;
use isle_engine::machines;
use isle_types::ByteSize;

use crate::context::Context;
use crate::failure::Result;
use crate::flags::resources;
use crate::{output, progress};

pub const ABOUT: &str = "Keep machines waiting, for instances of level vm with these limits";
pub const EXAMPLES: &str = "  isle pool set 2
  isle pool set -m 512m --cpus 2 4
  isle pool set 0";

/// Flags of `pool set`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The limit of memory of these instances, as they will give it
    #[arg(short, long, value_name = "BYTES", value_parser = resources::memory)]
    memory: Option<ByteSize>,
    /// Their number of CPUs, likewise
    #[arg(long, value_name = "NUMBER", value_parser = resources::cpus)]
    cpus: Option<u64>,
    /// How many are to wait; 0: none
    #[arg(value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=1000))]
    size: u32,
}

pub fn run(args: &Args, context: &Context) -> Result {
    let resources = Resources {
        memory: args.memory,
        nano_cpus: args.cpus,
        ..Resources::default()
    };
    let mut told = |what| progress::preparation(what);
    let name = machines::set_pool(&context.paths(), &resources, args.size, &mut told)?;
    output::line(&name)?;
    Ok(ExitCode::SUCCESS)
}
