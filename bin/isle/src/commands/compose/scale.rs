//! `isle compose scale`.

use std::process::ExitCode;

use super::converge::{ConvergeFlags, Convergence, scale};
use super::session::ProjectFlags;
use super::signals::Interrupts;
use crate::context::Context;
use crate::failure::Result;

pub const EXAMPLES: &str = "  isle compose scale worker=3";

/// Flags of `compose scale`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Without what they depend on
    #[arg(long)]
    no_deps: bool,
    /// How many of which
    #[arg(required = true, value_name = "SERVICE=NUMBER", value_parser = scale)]
    counts: Vec<(String, u32)>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let mut project = flags.load()?;
    let services: Vec<String> = args.counts.iter().map(|(name, _)| name.clone()).collect();
    project.enable(&services)?;
    let converge = ConvergeFlags {
        scale: args.counts.clone(),
        ..ConvergeFlags::default()
    };
    let mut options = converge.options(&project, &services)?;
    options.without_dependencies = args.no_deps;
    let interrupts = Interrupts::of_work()?;
    Convergence {
        context,
        flags,
        project: &project,
        options: &options,
        converge: &converge,
        renews_volumes: false,
        timeout: None,
        interrupts: &interrupts,
    }
    .run()?;
    Ok(ExitCode::SUCCESS)
}
