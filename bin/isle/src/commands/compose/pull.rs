//! `isle compose pull`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::ValueEnum;
use isle_compose::{Options, selected};

use super::make::{self, Pull, Supply};
use super::report::Report;
use super::session::ProjectFlags;
use crate::context::Context;
use crate::failure::{Result, report as tell};

pub const EXAMPLES: &str = "  isle compose pull";

/// Flags of `compose pull`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on with the others when one cannot be pulled
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Not those that can be built
    #[arg(long)]
    ignore_buildable: bool,
    /// Also what the services depend on
    #[arg(long)]
    include_deps: bool,
    /// missing or always
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "always",
        hide_possible_values = true
    )]
    policy: Policy,
    /// Without progress
    #[arg(short, long)]
    quiet: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// When they are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    Missing,
    Always,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("pull")?;
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    let options = Options {
        services: args.services.clone(),
        without_dependencies: !args.include_deps,
        ..Options::default()
    };
    let report = Report::new(if args.quiet {
        super::session::Form::Quiet
    } else {
        flags.progress
    });
    let mut pulled: BTreeSet<String> = BTreeSet::new();
    let mut code = 0;
    for service in selected(&project, &options) {
        let what = format!("Image {}", service.image_name(&project.name));
        if service.build.is_some() && (args.ignore_buildable || service.image.is_none()) {
            report.done(&what, "Skipped: it is built");
            continue;
        }
        if !pulled.insert(service.image_name(&project.name)) {
            continue;
        }
        report.begins(&what, "Pulling");
        let mut service = service.clone();
        service.build = None;
        let policy = match args.policy {
            Policy::Always => Pull::Always,
            Policy::Missing => Pull::Missing,
        };
        let supply = Supply {
            project: &project,
            pull: policy,
            builds: false,
            builds_none: true,
            quiet: true,
            form: flags.progress,
        };
        match make::image(context, &service, &supply) {
            Ok(_) => report.done(&what, "Pulled"),
            Err(error) if args.ignore_pull_failures => {
                report.failed(&what, &error.root_cause().to_string());
                tell(&error, 1);
            }
            Err(error) => {
                report.failed(&what, &error.root_cause().to_string());
                code = tell(&error, 1);
            }
        }
    }
    Ok(ExitCode::from(code))
}
