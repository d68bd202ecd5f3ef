//! `isle compose push`.

use std::process::ExitCode;

use isle_compose::{Options, selected};

use super::session::ProjectFlags;
use super::words::parse;
use crate::context::Context;
use crate::failure::{Result, report as tell};

pub const EXAMPLES: &str = "  isle compose push api";

/// Flags of `compose push`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Go on with the others when one cannot be pushed
    #[arg(long)]
    ignore_push_failures: bool,
    /// Also what the services depend on
    #[arg(long)]
    include_deps: bool,
    /// Without progress
    #[arg(short, long)]
    quiet: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("push")?;
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    let options = Options {
        services: args.services.clone(),
        without_dependencies: !args.include_deps,
        ..Options::default()
    };
    let mut code = 0;
    // As Docker Compose: what is built here and has a name.
    for service in selected(&project, &options)
        .into_iter()
        .filter(|service| service.build.is_some())
    {
        let Some(image) = &service.image else {
            eprintln!(
                "warning: service {} has no name for its image, and is not pushed",
                service.name
            );
            continue;
        };
        let mut words = Vec::new();
        words.extend(args.quiet.then(|| "--quiet".to_owned()));
        words.push(image.clone());
        if let Err(error) =
            parse(&words).and_then(|push| crate::commands::push::run(&push, context))
        {
            let failed = tell(&error, 1);
            if !args.ignore_push_failures {
                code = failed;
            }
        }
    }
    Ok(ExitCode::from(code))
}
