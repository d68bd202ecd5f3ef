//! `isle compose build`.

use std::process::ExitCode;

use isle_build::DockerfileSource;
use isle_compose::{Options, Project, Service, selected, words};

use super::session::{Form, ProjectFlags};
use super::words::parse;
use crate::commands::build;
use crate::context::Context;
use crate::failure::{Failure, Result};

pub const EXAMPLES: &str = "  isle compose build
  isle compose build --no-cache api";

/// Flags of `compose build`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Value of an ARG; that of the environment without =VALUE
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Most memory that one RUN may use
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Build every step anew
    #[arg(long)]
    no_cache: bool,
    /// Ask the registry for images that are here too
    #[arg(long)]
    pull: bool,
    /// Push the images to their registries
    #[arg(long)]
    push: bool,
    /// No progress; print the images' ids
    #[arg(short, long)]
    quiet: bool,
    /// SSH agent for RUN --mount=type=ssh: default, or NAME=SOCKET
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// Also what the services depend on
    #[arg(long)]
    with_dependencies: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("build")?;
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    let options = Options {
        services: args.services.clone(),
        without_dependencies: !args.with_dependencies,
        ..Options::default()
    };
    let mut more: Vec<String> = args
        .build_arg
        .iter()
        .map(|text| format!("--build-arg={text}"))
        .collect();
    more.extend(args.ssh.iter().map(|text| format!("--ssh={text}")));
    more.extend(args.memory.iter().map(|size| format!("--memory={size}")));
    for (flag, is_on) in [
        ("--no-cache", args.no_cache),
        ("--pull", args.pull),
        ("--push", args.push),
        ("--quiet", args.quiet),
    ] {
        more.extend(is_on.then(|| flag.to_owned()));
    }
    let mut built = 0;
    for service in selected(&project, &options)
        .into_iter()
        .filter(|service| service.build.is_some())
    {
        image(context, &project, service, flags.progress, &more)?;
        built += 1;
    }
    if built == 0 {
        eprintln!("No services to build");
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the image of a service.
pub fn image(
    context: &Context,
    project: &Project,
    service: &Service,
    form: Form,
    more: &[String],
) -> Result<()> {
    let Some(wanted) = &service.build else {
        return Ok(());
    };
    let mut flags = match form {
        Form::Quiet => vec!["--progress=quiet".to_owned()],
        Form::Plain => vec!["--progress=plain".to_owned()],
        Form::Json => vec!["--progress=rawjson".to_owned()],
        Form::Tty => vec!["--progress=tty".to_owned()],
        Form::Auto => Vec::new(),
    };
    flags.extend(more.iter().cloned());
    flags.extend(words::build(project, service, wanted));
    let failed = |error: anyhow::Error| {
        error.context(format!(
            "cannot build the image of service {}",
            service.name
        ))
    };
    let args: build::Args = parse(&flags).map_err(failed)?;
    let mut request = build::request(&args).map_err(failed)?;
    if let Some(text) = &wanted.dockerfile_inline {
        request.dockerfile = DockerfileSource::Text(text.clone());
    }
    let code = build::build(&args, &request, context).map_err(failed)?;
    match code == ExitCode::SUCCESS {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "cannot build the image of service {}",
            service.name
        ))
        .into()),
    }
}
