//! `isle compose run`: one instance of a service for one command.

use std::process::ExitCode;

use isle_compose::words::{self, label};
use isle_engine::AttachRequest;

use super::converge::{ConvergeFlags, Convergence};
use super::make::{self, Pull, Supply};
use super::session::ProjectFlags;
use super::signals::Interrupts;
use crate::commands::create::follow;
use crate::context::Context;
use crate::failure::{ENGINE, Failure, Result};
use crate::flags::detach_keys::DetachKeys;
use crate::output;
use crate::terminal::{Relay, check_tty, stdin_is_terminal, window_size};

pub const EXAMPLES: &str = "  isle compose run --rm api python3 -m unittest";

/// Flags of `compose run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Build the image first
    #[arg(long)]
    build: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// In the background; prints the name
    #[arg(short, long)]
    detach: bool,
    /// Program to run instead of the service's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Set an environment variable; KEY alone passes on your own
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<String>,
    /// Keep standard input open (=false to close it)
    #[arg(short, long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", hide_default_value = true, value_parser = crate::flags::switch)]
    interactive: bool,
    /// Label
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Name of the instance
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Without a terminal, which it gets where there is one
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY")]
    no_tty: bool,
    /// Without what the service depends on
    #[arg(long)]
    no_deps: bool,
    /// Lead a port of the host to it
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Pull the image: always, missing, never, or policy, as the service says
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "policy",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pull: Pull,
    /// No progress of a pull
    #[arg(long)]
    quiet_pull: bool,
    /// Take away instances of services that the files have no more
    #[arg(long)]
    remove_orphans: bool,
    /// Remove it once it has exited
    #[arg(long)]
    rm: bool,
    /// With the service's ports
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// With the service's names on its networks
    #[arg(long)]
    use_aliases: bool,
    /// User, and perhaps group: names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Mount a directory of the host, or a volume
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]")]
    volume: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Service, then the command and its arguments
    #[arg(required = true, value_names = ["SERVICE", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    flags.no_dry_run("run")?;
    let (name, command) = args
        .words
        .split_first()
        .ok_or_else(|| Failure::new("no service given").code(ENGINE))?;
    let mut project = flags.load()?;
    project.enable(std::slice::from_ref(name))?;
    let interrupts = Interrupts::of_work()?;
    let converge = ConvergeFlags {
        build: args.build,
        remove_orphans: args.remove_orphans,
        quiet_pull: args.quiet_pull,
        ..ConvergeFlags::default()
    };
    // What it depends on is brought up; of itself nothing but its networks and volumes.
    let mut options = converge.options(&project, std::slice::from_ref(name))?;
    options.without_dependencies = args.no_deps;
    options.only_dependencies = true;
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
    let Some(mut service) = project.services.get(name).cloned() else {
        return Err(project.no_such_service(name).into());
    };
    if !args.no_deps {
        super::execute::wait_for_dependencies(context, &project, &service, &interrupts)?;
    }
    let supply = Supply {
        project: &project,
        pull: args.pull,
        builds: args.build,
        builds_none: false,
        quiet: args.quiet_pull,
        form: flags.progress,
    };
    let image = make::image(context, &service, &supply)?;
    let is_terminal = !args.no_tty && !args.detach && stdin_is_terminal();
    service.container_name = None;
    service.restart = None;
    service.tty = is_terminal;
    service.stdin_open = args.interactive && !args.detach;
    if !args.service_ports {
        service.ports.clear();
    }
    if !args.use_aliases {
        service
            .networks
            .values_mut()
            .flatten()
            .for_each(|attachment| attachment.aliases.clear());
    }
    // Addresses belong to the instances of `up`.
    for attachment in service.networks.values_mut().flatten() {
        attachment.ipv4_address = None;
        attachment.ipv6_address = None;
    }
    if let Some(entrypoint) = &args.entrypoint {
        service.entrypoint = Some(match entrypoint.as_str() {
            "" => Vec::new(),
            program => vec![program.to_owned()],
        });
        service.command = None;
    }
    if !command.is_empty() {
        service.command = Some(command.to_vec());
    }
    service
        .labels
        .insert("com.docker.compose.slug".into(), slug());
    let instances = project.services.keys().map(|other| {
        (
            other.clone(),
            project.services[other].instance_name(&project.name, 1),
        )
    });
    let mut wanted = words::instance(&project, &service, 1, &instances.collect());
    if !args.use_aliases {
        let own = format!(",alias={name}");
        for flag in wanted
            .flags
            .iter_mut()
            .filter(|flag| flag.starts_with("--network="))
        {
            *flag = flag.replacen(&own, "", 1);
        }
    }
    let mut more = |flag: &str, values: &[String]| {
        wanted
            .flags
            .extend(values.iter().map(|value| format!("--{flag}={value}")))
    };
    more("cap-add", &args.cap_add);
    more("cap-drop", &args.cap_drop);
    more("env-file", &args.env_from_file);
    more("env", &args.env);
    more("label", &args.label);
    more("label", &[format!("{}=True", label::ONE_OFF)]);
    more("publish", &args.publish);
    more("volume", &args.volume);
    more("user", args.user.as_slice());
    more("workdir", args.workdir.as_slice());
    if args.rm {
        wanted.flags.push("--rm".into());
    }
    wanted.name = args.name.clone().unwrap_or_else(|| {
        format!(
            "{}-{name}-run-{}",
            project.name, service.labels["com.docker.compose.slug"]
        )
    });
    check_tty(service.stdin_open, is_terminal)?;
    let engine = context.engine()?;
    let request = make::request(context, &project.name, &wanted, &image)
        .map_err(|error| error.context(format!("service {name} cannot be made")))?;
    let instance = engine.create(request)?;
    if args.detach {
        engine
            .start_with(&instance.id, None, None, &mut crate::progress::preparation)
            .map_err(|error| crate::commands::create::forget(context, &instance, error))?;
        output::line(instance.name.as_str())?;
        return Ok(ExitCode::SUCCESS);
    }
    let attach = AttachRequest {
        stdin: service.stdin_open,
        stdout: true,
        stderr: true,
        replay_log: false,
    };
    let session = engine
        .start_with(
            &instance.id,
            Some(attach),
            window_size().filter(|_| is_terminal),
            &mut crate::progress::preparation,
        )
        .map_err(|error| crate::commands::create::forget(context, &instance, error))?;
    let relay = Relay {
        stdin: service.stdin_open,
        tty: is_terminal,
        sig_proxy: !is_terminal,
        detach_keys: match is_terminal {
            true => context.detach_keys(None)?,
            false => DetachKeys::default(),
        },
        leaves_with_stdin: false,
    };
    follow(engine, &instance, session, relay)
}

/// Twelve digits that no other instance has: of the time, and of who we are.
fn slug() -> String {
    let now = jiff::Timestamp::now().as_nanosecond() as u64;
    let mixed =
        now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id()).rotate_left(40);
    format!("{mixed:016x}")[..12].to_owned()
}
