//! From files to what is there: what `up`, `create` and others have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use isle_compose::words::shell_line;
use isle_compose::{Options, Project, Step, Target, orphans, plan, selected};
use isle_image::Image;

use super::execute::Executor;
use super::make::{self, Pull, Supply};
use super::observe;
use super::report::Report;
use super::session::ProjectFlags;
use super::signals::Interrupts;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;

/// The flags that `up`, `create` and `run` share.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ConvergeFlags {
    /// Build images first
    #[arg(long)]
    pub build: bool,
    /// Do not build images, even if they are missing
    #[arg(long, conflicts_with = "build")]
    pub no_build: bool,
    /// Make instances again, even if nothing has changed
    #[arg(long)]
    pub force_recreate: bool,
    /// Leave instances that are there as they are
    #[arg(long, conflicts_with = "force_recreate")]
    pub no_recreate: bool,
    /// Pull images: always, missing, never, or policy, as each service says
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "policy",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub pull: Pull,
    /// No progress of pulls
    #[arg(long)]
    pub quiet_pull: bool,
    /// Take away instances of services that the files have no more
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true)]
    pub remove_orphans: bool,
    /// So many instances of a service
    #[arg(long, value_name = "SERVICE=NUMBER", value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Agree to every question (there are none)
    #[arg(short, long)]
    pub yes: bool,
}

/// `SERVICE=NUMBER`
pub fn scale(text: &str) -> std::result::Result<(String, u32), crate::flags::FlagError> {
    let parsed = text
        .split_once('=')
        .and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    parsed.ok_or_else(|| {
        crate::flags::FlagError::new(
            format!("{text:?} has no SERVICE=NUMBER form"),
            "write for example web=3",
        )
    })
}

/// How it is done.
pub struct Convergence<'a> {
    pub context: &'a Context,
    pub flags: &'a ProjectFlags,
    pub project: &'a Project,
    pub options: &'a Options,
    pub converge: &'a ConvergeFlags,
    pub renews_volumes: bool,
    pub timeout: Option<Duration>,
    pub interrupts: &'a Interrupts,
}

impl ConvergeFlags {
    /// What they say of a plan.
    pub fn options(&self, project: &Project, services: &[String]) -> Result<Options> {
        for (name, _) in &self.scale {
            if !project.services.contains_key(name) {
                return Err(project.no_such_service(name).into());
            }
        }
        Ok(Options {
            services: services.to_vec(),
            recreates_all: self.force_recreate,
            recreates_none: self.no_recreate,
            removes_orphans: self.remove_orphans,
            scale: self.scale.iter().cloned().collect(),
            ..Options::default()
        })
    }
}

impl Convergence<'_> {
    /// Does it; `false` when it was only to be shown (`--dry-run`).
    pub fn run(&self) -> Result<bool> {
        let images = self.images()?;
        let observed = observe::project(self.context, &self.project.name)?;
        let ids: BTreeMap<String, String> = images
            .iter()
            .map(|(name, image)| (name.clone(), image.id.to_string()))
            .collect();
        let existing = observed.existing();
        let steps = plan(self.project, &existing, self.options, &ids).map_err(|error| {
            let hint = error.hint();
            Failure::new(error.to_string()).hint(hint)
        })?;
        self.warn_of_orphans(&existing);
        let report = Report::new(self.flags.progress);
        let executor = Executor {
            context: self.context,
            project: self.project,
            report: &report,
            images,
            renews_volumes: self.renews_volumes,
            timeout: self.timeout,
            starts: !self.options.starts_none,
            parallel: self.flags.parallel,
            interrupts: self.interrupts,
        };
        if self.flags.dry_run {
            executor.check(&steps)?;
            print(&steps, self.project, &executor)?;
            return Ok(false);
        }
        executor.execute(&steps, &observed)?;
        Ok(true)
    }

    /// The images of the services that are meant. With `--dry-run` those that are here.
    fn images(&self) -> Result<BTreeMap<String, Image>> {
        let supply = Supply {
            project: self.project,
            pull: self.converge.pull,
            builds: self.converge.build,
            builds_none: self.converge.no_build,
            quiet: self.converge.quiet_pull,
            form: self.flags.progress,
        };
        let mut found = BTreeMap::new();
        for service in selected(self.project, self.options) {
            if self.options.only_dependencies && self.options.services.contains(&service.name) {
                continue;
            }
            if self.flags.dry_run {
                let images = self.context.engine()?.images();
                found.extend(
                    images
                        .find(&service.image_name(&self.project.name))
                        .ok()
                        .map(|image| (service.name.clone(), image)),
                );
                continue;
            }
            if self.interrupts.count() > 0 {
                return Err(super::execute::interrupted());
            }
            let image = make::image(self.context, service, &supply)?;
            found.insert(service.name.clone(), image);
        }
        Ok(found)
    }

    fn warn_of_orphans(&self, existing: &isle_compose::Existing) {
        let names: Vec<&str> = orphans(self.project, existing)
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        if !names.is_empty() && !self.converge.remove_orphans {
            eprintln!(
                "warning: found instances of services that the files have no more: {}\nhint: --remove-orphans takes them away",
                names.join(", ")
            );
        }
    }
}

/// The plan, a line a step; for what would be made, the words that would make it.
fn print(steps: &[Step], project: &Project, executor: &Executor<'_>) -> Result<()> {
    let made_by = |target: &Target| -> Result<()> {
        if let Some(service) = project.services.get(&target.service) {
            if !executor.images.contains_key(&target.service) {
                output::line(&format!(
                    "    the image {} is not here yet",
                    service.image_name(&project.name)
                ))?;
            }
            let wanted = executor.wanted(service, target.number);
            output::line(&format!("    {}", shell_line(&wanted.command_line())))?;
            for file in &wanted.files {
                output::line(&format!("    with {} at {}", file.title, file.target))?;
            }
        }
        Ok(())
    };
    for step in steps {
        match step {
            Step::CreateNetwork(key) => {
                let name = project
                    .networks
                    .get(key)
                    .map_or(key, |network| &network.name);
                output::line(&format!("create network {name}"))?;
            }
            Step::CreateVolume(key) => {
                let name = project.volumes.get(key).map_or(key, |volume| &volume.name);
                output::line(&format!("create volume {name}"))?;
            }
            Step::RemoveOrphan(target) => {
                output::line(&format!("remove {} (an orphan)", target.name))?
            }
            Step::RemoveSurplus(target) => {
                output::line(&format!("remove {} (one too many)", target.name))?
            }
            Step::Create(target) => {
                output::line(&format!("create {}", target.name))?;
                made_by(target)?;
            }
            Step::Recreate(target, reason) => {
                output::line(&format!("recreate {} ({})", target.name, reason.words()))?;
                made_by(target)?;
            }
            Step::Start(target) => output::line(&format!("start {}", target.name))?,
            Step::Keep(target) => output::line(&format!("keep {}", target.name))?,
        }
    }
    Ok(())
}
