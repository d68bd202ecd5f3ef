//! `isle compose up`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use isle_compose::{Condition, Project, selected};
use isle_engine::state::Instance;
use isle_engine::{Engine, LogRequest};

use super::converge::{ConvergeFlags, Convergence};
use super::execute::{Verdict, container, instances_of, until};
use super::names::short;
use super::report::Report;
use super::session::ProjectFlags;
use super::signals::Interrupts;
use super::stop::stop_all;
use super::stream::{self, Printer, Told};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::time::seconds;

pub const EXAMPLES: &str = "  isle compose up -d --wait
  isle compose up --build web
  isle compose up -d --dry-run
  isle compose up -d --scale worker=3";

/// Flags of `compose up`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    converge: ConvergeFlags,
    /// In the background
    #[arg(short, long)]
    detach: bool,
    /// Stop all when one has ended
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_exit: bool,
    /// Stop all when one has ended with another code than 0
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_failure: bool,
    /// End with the code of this service; stops all when one has ended
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    exit_code_from: Option<String>,
    /// Make again what services depend on, even if nothing has changed
    #[arg(long)]
    always_recreate_deps: bool,
    /// Show only what these services write
    #[arg(long, value_name = "SERVICE")]
    attach: Vec<String>,
    /// Show what services write that others depend on, too
    #[arg(long)]
    attach_dependencies: bool,
    /// Do not show what these services write
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Without colours
    #[arg(long)]
    no_color: bool,
    /// Without what services depend on
    #[arg(long)]
    no_deps: bool,
    /// Without names before lines
    #[arg(long)]
    no_log_prefix: bool,
    /// Make everything, start nothing
    #[arg(long)]
    no_start: bool,
    /// New anonymous volumes for instances that are made again
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// Seconds that instances get to end
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// The time before each line
    #[arg(long)]
    timestamps: bool,
    /// Wait until all run or are healthy, then go to the background
    #[arg(long)]
    wait: bool,
    /// The longest that --wait waits, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait_timeout: Option<Duration>,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let mut project = flags.load()?;
    project.enable(&args.services)?;
    for name in args
        .exit_code_from
        .iter()
        .chain(&args.attach)
        .chain(&args.no_attach)
    {
        if !project.services.contains_key(name) {
            return Err(project.no_such_service(name).into());
        }
    }
    if project.services.is_empty() {
        return Err(isle_compose::LoadError::NothingSelected.into());
    }
    let mut options = args.converge.options(&project, &args.services)?;
    options.without_dependencies = args.no_deps;
    options.recreates_dependencies = args.always_recreate_deps;
    options.starts_none = args.no_start;
    let is_detached = args.detach || args.wait || args.no_start;
    let (sender, receiver) = mpsc::channel();
    let interrupts = match is_detached {
        true => Interrupts::of_work()?,
        false => {
            let sender = sender.clone();
            Interrupts::watch(move |count| drop(sender.send(Told::Interrupted(count))))?
        }
    };
    let is_done = Convergence {
        context,
        flags,
        project: &project,
        options: &options,
        converge: &args.converge,
        renews_volumes: args.renew_anon_volumes,
        timeout: args.timeout,
        interrupts: &interrupts,
    }
    .run()?;
    if !is_done || args.no_start {
        return Ok(ExitCode::SUCCESS);
    }
    let names: BTreeSet<String> = selected(&project, &options)
        .iter()
        .map(|service| service.name.clone())
        .collect();
    if args.wait {
        wait(
            context,
            flags,
            &project,
            &names,
            args.wait_timeout,
            &interrupts,
        )?;
    }
    if is_detached {
        return Ok(ExitCode::SUCCESS);
    }
    let is_shown = |name: &str| {
        let service = project.services.get(name);
        let is_named = args.services.is_empty()
            || args.attach_dependencies
            || args.services.iter().any(|other| other == name);
        match args.attach.is_empty() {
            false => args.attach.iter().any(|other| other == name),
            true => {
                is_named
                    && !args.no_attach.iter().any(|other| other == name)
                    && service.is_none_or(|service| service.attach != Some(false))
            }
        }
    };
    let engine = context.engine()?;
    let mut instances = Vec::new();
    for name in &names {
        instances.extend(instances_of(engine, &project.name, name)?);
    }
    instances.sort_by_key(|instance| instance.name.to_string());
    let shown: BTreeSet<String> = names
        .iter()
        .filter(|name| is_shown(name))
        .cloned()
        .collect();
    for instance in &instances {
        // What was written before this start is not shown again.
        let request = LogRequest {
            follow: true,
            since: instance.state.started_at,
            stdout: true,
            stderr: true,
            ..LogRequest::default()
        };
        stream::read(
            context.paths(),
            instance,
            short(instance.name.as_str(), &project.name).to_owned(),
            request,
            sender.clone(),
        );
    }
    Attached {
        args,
        flags,
        context,
        project: &project,
        instances: &instances,
        shown: &shown,
    }
    .follow(&receiver)
}

/// `--wait`: until all services run, or are healthy where they have a check.
pub fn wait(
    context: &Context,
    flags: &ProjectFlags,
    project: &Project,
    names: &BTreeSet<String>,
    limit: Option<Duration>,
    interrupts: &Interrupts,
) -> Result<()> {
    let engine = context.engine()?;
    let report = Report::new(flags.progress);
    let deadline = limit.map(|limit| Instant::now() + limit);
    for name in names {
        // As Docker Compose: what others wait for the end of has to end.
        let ends = project
            .services
            .values()
            .filter_map(|service| service.depends_on.get(name))
            .any(|dependency| dependency.condition == Condition::ServiceCompletedSuccessfully);
        for instance in instances_of(engine, &project.name, name)? {
            let condition = match instance.state.health {
                _ if ends => Condition::ServiceCompletedSuccessfully,
                Some(_) => Condition::ServiceHealthy,
                None => Condition::ServiceStarted,
            };
            let what = container(instance.name.as_str());
            report.begins(&what, "Waiting");
            match until(engine, &instance.id, condition, interrupts, deadline)? {
                Verdict::Reached => report.done(&what, if ends { "Exited" } else { "Healthy" }),
                Verdict::Failed(why) => {
                    report.failed(&what, &why);
                    return Err(Failure::new(format!("{} {why}", instance.name))
                        .hint(format!(
                            "`isle logs {}` shows what it has written",
                            instance.name
                        ))
                        .into());
                }
            }
        }
    }
    Ok(())
}

/// `up` in the foreground.
struct Attached<'a> {
    args: &'a Args,
    flags: &'a ProjectFlags,
    context: &'a Context,
    project: &'a Project,
    instances: &'a [Instance],
    shown: &'a BTreeSet<String>,
}

impl Attached<'_> {
    fn follow(&self, receiver: &Receiver<Told>) -> Result {
        let of_shown =
            |instance: &&Instance| self.shown.contains(super::session::service_of(instance));
        let names: Vec<String> = self
            .instances
            .iter()
            .filter(of_shown)
            .map(|instance| short(instance.name.as_str(), &self.project.name).to_owned())
            .collect();
        let args = self.args;
        let printer = Printer::new(
            &names,
            self.flags.ansi,
            args.no_color,
            args.no_log_prefix,
            args.timestamps,
        );
        crate::output::line(&format!("Attaching to {}", names.join(", ")))?;
        let mut left = self.instances.len();
        let mut stopping: Option<std::thread::JoinHandle<Result<()>>> = None;
        let mut code = 0;
        let mut is_interrupted = false;
        while left > 0 {
            let Ok(told) = receiver.recv() else {
                break;
            };
            match told {
                Told::Line {
                    name, time, bytes, ..
                } if names.contains(&name) => printer.line(&name, time, &bytes)?,
                Told::Line { .. } => {}
                Told::Failed { name, error } => {
                    left -= 1;
                    eprintln!("warning: the log of {name} cannot be read: {error:#}");
                }
                Told::Ended {
                    name,
                    service,
                    code: of_instance,
                } => {
                    left -= 1;
                    if names.contains(&name) {
                        printer.ended(&name, of_instance)?;
                    }
                    let is_meant = args.exit_code_from.as_ref() == Some(&service);
                    if is_meant {
                        code = of_instance;
                    }
                    let aborts = args.abort_on_container_exit
                        || args.exit_code_from.is_some()
                        || args.abort_on_container_failure && of_instance != 0;
                    if aborts && stopping.is_none() && left > 0 {
                        if args.exit_code_from.is_none() {
                            code = of_instance;
                        }
                        eprintln!("Aborting on container exit...");
                        stopping = Some(self.stop());
                    } else if aborts && args.exit_code_from.is_none() && stopping.is_none() {
                        code = of_instance;
                    }
                }
                Told::Interrupted(1) if stopping.is_none() => {
                    is_interrupted = true;
                    eprintln!("Gracefully stopping... (press Ctrl+C again to force)");
                    stopping = Some(self.stop());
                }
                Told::Interrupted(_) => {
                    is_interrupted = true;
                    let engine = self.context.engine()?;
                    for instance in self.instances {
                        // One that has ended meanwhile needs none.
                        let _ = engine.kill(&instance.id, isle_types::Signal::KILL);
                    }
                }
            }
        }
        if let Some(stopping) = stopping {
            stopping.join().unwrap_or(Ok(()))?;
        }
        Ok(match is_interrupted {
            true => ExitCode::from(130),
            false => ExitCode::from((code & 0xff) as u8),
        })
    }

    /// Stops everything in a thread of its own, so that what is written on the way out is seen.
    fn stop(&self) -> std::thread::JoinHandle<Result<()>> {
        let paths = self.context.paths();
        let instances = self.instances.to_vec();
        let (form, timeout) = (self.flags.progress, self.args.timeout);
        std::thread::spawn(move || {
            let engine = Engine::open(paths)?;
            let instances: Vec<&Instance> = instances.iter().collect();
            stop_all(&engine, &instances, &Report::new(form), timeout)
        })
    }
}
