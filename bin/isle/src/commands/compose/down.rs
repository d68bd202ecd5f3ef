//! `isle compose down`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use isle_engine::EngineError;
use isle_engine::state::Instance;
use isle_network::NetworkError;

use super::execute::container;
use super::make;
use super::observe::is_up;
use super::report::Report;
use super::session::{Known, ProjectFlags, service_of};
use super::stop::groups;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::time::seconds;
use crate::output;

pub const EXAMPLES: &str = "  isle compose down
  isle compose down -v --rmi local";

/// Flags of `compose down`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Instances of services that the files have no more, too
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true)]
    remove_orphans: bool,
    /// Images too: local (those without a name of their own) or all
    #[arg(long, value_name = "WHICH", hide_possible_values = true)]
    rmi: Option<Images>,
    /// Seconds that instances get to end
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Volumes too: those that the files declare, and anonymous ones
    #[arg(short, long)]
    volumes: bool,
    /// Services; all when not given
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Which images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Images {
    /// Those that were built and have no name in the files.
    Local,
    /// All that services use.
    All,
}

pub fn run(args: &Args, flags: &ProjectFlags, context: &Context) -> Result {
    let known = flags.known(context, &args.services)?;
    let is_known = |instance: &&Instance| {
        args.remove_orphans
            || known.project.as_ref().is_none_or(|project| {
                let name = service_of(instance);
                project.services.contains_key(name) || project.disabled.contains_key(name)
            })
    };
    let instances: Vec<&Instance> = known
        .instances(&args.services, true)
        .into_iter()
        .filter(is_known)
        .collect();
    let down = Down {
        args,
        context,
        known: &known,
        report: Report::new(flags.progress),
    };
    let is_whole = args.services.is_empty();
    if flags.dry_run {
        return down.show(&instances, is_whole);
    }
    let mut failed = down.instances(&instances);
    if is_whole {
        failed = failed.or(down.networks().err());
        failed = failed.or(down.volumes().err());
        failed = failed.or(down.images().err());
        let folder = make::folder(context, &known.name);
        let has_left = known.observed.instances.len() > instances.len();
        if !has_left && folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| {
                anyhow::Error::from(error).context(format!("cannot remove {}", folder.display()))
            })?;
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

struct Down<'a> {
    args: &'a Args,
    context: &'a Context,
    known: &'a Known,
    report: Report,
}

impl Down<'_> {
    fn show(&self, instances: &[&Instance], is_whole: bool) -> Result {
        for instance in instances {
            let verb = if is_up(instance) {
                "stop and remove"
            } else {
                "remove"
            };
            output::line(&format!("{verb} {}", instance.name))?;
        }
        if is_whole {
            for network in self.known.observed.networks_of(&self.known.name) {
                output::line(&format!("remove network {}", network.name))?;
            }
            for volume in self
                .known
                .observed
                .volumes_of(&self.known.name)
                .iter()
                .filter(|_| self.args.volumes)
            {
                output::line(&format!("remove volume {}", volume.name))?;
            }
            for name in self.image_names() {
                output::line(&format!("remove image {name}"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Ends and takes away all; returns what failed first.
    fn instances(&self, instances: &[&Instance]) -> Option<anyhow::Error> {
        let engine = match self.context.engine() {
            Ok(engine) => engine,
            Err(error) => return Some(error),
        };
        let mut failed: Option<anyhow::Error> = None;
        for group in groups(instances) {
            let mut begun = Vec::new();
            for instance in group {
                let what = container(instance.name.as_str());
                if is_up(instance) {
                    self.report.begins(&what, "Stopping");
                }
                begun.push((
                    instance,
                    engine.begin_stop(&instance.id, None, self.args.timeout),
                ));
            }
            for (instance, stopping) in begun {
                let what = container(instance.name.as_str());
                let removed = stopping
                    .and_then(|stopping| engine.finish_stop(stopping))
                    .and_then(|()| {
                        self.report.begins(&what, "Removing");
                        engine.remove(&instance.id, true, self.args.volumes)
                    });
                match removed {
                    Ok(()) | Err(EngineError::NoSuchInstance { .. }) => {
                        self.report.done(&what, "Removed")
                    }
                    Err(error) => {
                        self.report.failed(&what, &error.to_string());
                        let failure =
                            Failure::new(format!("{} could not be taken away", instance.name))
                                .because(error);
                        failed.get_or_insert(failure.into());
                    }
                }
            }
        }
        failed
    }

    fn networks(&self) -> Result<()> {
        let engine = self.context.engine()?;
        for network in self.known.observed.networks_of(&self.known.name) {
            let what = format!("Network {}", network.name);
            self.report.begins(&what, "Removing");
            match engine.remove_network(network) {
                Ok(()) | Err(EngineError::Network(NetworkError::NoSuchNetwork { .. })) => {
                    self.report.done(&what, "Removed")
                }
                // As Docker Compose: what others use stays, and that is said.
                Err(error) => {
                    self.report.done(&what, "Resource is still in use");
                    eprintln!("warning: {error}");
                }
            }
        }
        Ok(())
    }

    fn volumes(&self) -> Result<()> {
        if !self.args.volumes {
            return Ok(());
        }
        let engine = self.context.engine()?;
        for volume in self.known.observed.volumes_of(&self.known.name) {
            let what = format!("Volume {}", volume.name);
            self.report.begins(&what, "Removing");
            match engine.remove_volume(&volume.name, false) {
                Ok(()) | Err(EngineError::NoSuchVolume { .. }) => {
                    self.report.done(&what, "Removed")
                }
                Err(error) => {
                    self.report.done(&what, "Resource is still in use");
                    eprintln!("warning: {error}");
                }
            }
        }
        Ok(())
    }

    fn image_names(&self) -> BTreeSet<String> {
        let (Some(which), Some(project)) = (self.args.rmi, &self.known.project) else {
            return BTreeSet::new();
        };
        let services = project.services.values();
        let services = services.filter(|service| which == Images::All || service.image.is_none());
        services
            .map(|service| service.image_name(&project.name))
            .collect()
    }

    fn images(&self) -> Result<()> {
        for name in self.image_names() {
            let what = format!("Image {name}");
            self.report.begins(&what, "Removing");
            match self.context.engine()?.images().remove(&name, false) {
                Ok(_) => self.report.done(&what, "Removed"),
                Err(error) => {
                    self.report.done(&what, "Resource is still in use");
                    eprintln!("warning: {error}");
                }
            }
        }
        Ok(())
    }
}
