//! What every verb of a project begins with: its flags, its files, what exists of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use isle_compose::{Project, Request, words::label};
use isle_engine::state::Instance;

use super::observe::{self, Observed};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// The flags before the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct ProjectFlags {
    /// A Compose file; several are merged in their order
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The project's name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Where relative paths start (default: the folder of the first file)
    #[arg(long, value_name = "DIR", alias = "workdir")]
    pub project_directory: Option<PathBuf>,
    /// A file of variables, instead of .env
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Also services of this profile; "*" for all
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
    /// How progress is shown: auto, tty, plain, json or quiet
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub progress: Form,
    /// When colours are used: never, always or auto
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub ansi: Ansi,
    /// The most things that are done at a time; -1 for no limit
    #[arg(long, value_name = "NUMBER", env = "COMPOSE_PARALLEL_LIMIT", hide_env = true, default_value_t = -1, hide_default_value = true, allow_hyphen_values = true)]
    pub parallel: i64,
    /// Change nothing: print what would be done
    #[arg(long, global = true)]
    pub dry_run: bool,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Live on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Live.
    Tty,
    /// A line for each step.
    Plain,
    /// A JSON object for each step.
    Json,
    /// Nothing.
    Quiet,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Ansi {
    /// Never.
    Never,
    /// Always.
    Always,
    /// On a terminal.
    #[default]
    Auto,
}

impl ProjectFlags {
    /// What the files are read with.
    pub fn request(&self) -> Result<Request> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Request {
            files: self.files.clone(),
            project_directory: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            env_files: self.env_file.clone(),
            profiles: self.profile.clone(),
            environment,
            working_directory: std::env::current_dir()?,
            ..Request::default()
        })
    }

    /// Reads the project, and says what is to be said about it.
    pub fn load(&self) -> Result<Project> {
        let project = Project::load(self.request()?)?;
        say_warnings(&project);
        Ok(project)
    }

    /// The project with the services that are named, for verbs about what is there already: without files, the
    /// name alone (`-p`) is enough.
    pub fn known(&self, context: &Context, services: &[String]) -> Result<Known> {
        let name = std::env::var("COMPOSE_PROJECT_NAME")
            .ok()
            .filter(|name| !name.is_empty());
        let name = self.project_name.clone().or(name);
        let loaded = match (Project::load(self.request()?), &name) {
            (Ok(project), _) => Some(project),
            (Err(isle_compose::LoadError::NoFile { .. }), Some(_)) => None,
            (Err(error), _) => return Err(error.into()),
        };
        let name = match &loaded {
            Some(project) => project.name.clone(),
            None => name.unwrap_or_default(),
        };
        let observed = observe::project(context, &name)?;
        let known = Known {
            name,
            project: loaded,
            observed,
        };
        for service in services {
            known.check(service)?;
        }
        Ok(known)
    }

    /// For verbs that have no plan to print.
    pub fn no_dry_run(&self, verb: &str) -> Result<()> {
        match self.dry_run {
            false => Ok(()),
            true => Err(Failure::new(format!("compose {verb} has no --dry-run"))
                .hint("it is for up, create, down, stop and rm")
                .into()),
        }
    }
}

/// Says what was found while a project was read.
pub fn say_warnings(project: &Project) {
    for warning in &project.warnings {
        match &warning.at {
            Some(at) => eprintln!("warning: {at}: {}", warning.text),
            None => eprintln!("warning: {}", warning.text),
        }
    }
}

/// A project as it exists.
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its files, where there are some.
    pub project: Option<Project>,
    /// What exists of it.
    pub observed: Observed,
}

impl Known {
    fn check(&self, service: &str) -> Result<()> {
        let is_there = self
            .observed
            .instances
            .iter()
            .any(|instance| service_of(instance) == service);
        match &self.project {
            _ if is_there => Ok(()),
            Some(project)
                if project.services.contains_key(service)
                    || project.disabled.contains_key(service) =>
            {
                Ok(())
            }
            Some(project) => Err(project.no_such_service(service).into()),
            None => Err(Failure::new(format!("no such service: {service}"))
                .hint(format!(
                    "`isle compose -p {} ps` lists what there is",
                    self.name
                ))
                .into()),
        }
    }

    /// Instances of these services, or of all; in the order of services and numbers.
    pub fn instances(&self, services: &[String], with_one_off: bool) -> Vec<&Instance> {
        let mut found: Vec<&Instance> = self
            .observed
            .instances
            .iter()
            .filter(|instance| with_one_off || !is_one_off(instance))
            .filter(|instance| {
                services.is_empty() || services.iter().any(|name| name == service_of(instance))
            })
            .collect();
        found.sort_by_key(|instance| (service_of(instance).to_owned(), number_of(instance)));
        found
    }

    /// The instance of a service, that of a number or the first.
    pub fn instance(&self, service: &str, index: Option<u32>) -> Result<&Instance> {
        self.check(service)?;
        let name = [service.to_owned()];
        let found = self.instances(&name, false);
        let chosen = found
            .iter()
            .find(|instance| index.is_none_or(|index| number_of(instance) == index));
        chosen.copied().ok_or_else(|| {
            Failure::new(match index {
                Some(index) => format!("service {service} has no instance {index}"),
                None => format!("service {service} is not running"),
            })
            .hint("`isle compose up -d` makes and starts it")
            .into()
        })
    }
}

fn label_of<'i>(instance: &'i Instance, key: &str) -> &'i str {
    instance.config.labels.get(key).map_or("", String::as_str)
}

/// The service of an instance.
pub fn service_of(instance: &Instance) -> &str {
    label_of(instance, label::SERVICE)
}

/// Which instance of its service it is.
pub fn number_of(instance: &Instance) -> u32 {
    label_of(instance, label::NUMBER).parse().unwrap_or(0)
}

/// Made by `compose run`.
pub fn is_one_off(instance: &Instance) -> bool {
    label_of(instance, label::ONE_OFF).eq_ignore_ascii_case("true")
}
