//! What has to be done so that what is wanted is there: the difference, as data.
//!
//! [`plan`] looks at nothing by itself. It is given the project, what exists of it, and what the command line said, and
//! answers with steps in their order; an executor carries them out, `--dry-run` prints them. Asked again about what the steps
//! have made, it answers with none.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Project, Service};
use crate::normal::order;

/// What exists of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Existing {
    /// Its instances, those of `compose run` left out.
    pub instances: Vec<ExistingInstance>,
    /// Networks by their names, with the hash that they were made from, where one is noted.
    pub networks: BTreeMap<String, Option<String>>,
    /// Volumes, likewise.
    pub volumes: BTreeMap<String, Option<String>>,
}

/// An instance of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExistingInstance {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its number.
    pub number: u32,
    /// What it was made from.
    pub hash: String,
    /// The id of its image.
    pub image_id: String,
    /// It runs (or is paused).
    pub is_running: bool,
    /// It has ended, and was started before.
    pub has_run: bool,
    /// It was made to take another one's place, and that did not come to pass.
    pub is_unfinished: bool,
}

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The services that are meant; all when empty.
    pub services: Vec<String>,
    /// `--no-deps`
    pub without_dependencies: bool,
    /// `compose run`: of the services that are meant nothing but their networks and volumes is made.
    pub only_dependencies: bool,
    /// `--force-recreate`
    pub recreates_all: bool,
    /// `--no-recreate`
    pub recreates_none: bool,
    /// `--always-recreate-deps`
    pub recreates_dependencies: bool,
    /// `--remove-orphans`
    pub removes_orphans: bool,
    /// `--no-start`, and `compose create`
    pub starts_none: bool,
    /// `--scale`
    pub scale: BTreeMap<String, u32>,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the network of this key.
    CreateNetwork(String),
    /// Make the volume of this key.
    CreateVolume(String),
    /// Take away an instance of a service that the project has no more.
    RemoveOrphan(Target),
    /// Take away an instance that is one too many.
    RemoveSurplus(Target),
    /// Make an instance.
    Create(Target),
    /// Make an instance again.
    Recreate(Target, Reason),
    /// Start one that is there.
    Start(Target),
    /// Leave one as it is.
    Keep(Target),
}

/// An instance that a step is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its service.
    pub service: String,
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its id, of one that is there.
    pub id: Option<String>,
}

/// Why an instance is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The files say something else than when it was made.
    Configuration,
    /// The image's name leads to another image.
    Image,
    /// `--force-recreate`
    Asked,
    /// What it depends on, and shares namespaces or volumes with, is made again.
    Dependency,
}

impl Reason {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Reason::Configuration => "its configuration has changed",
            Reason::Image => "its image has changed",
            Reason::Asked => "--force-recreate",
            Reason::Dependency => "what it depends on is made again",
        }
    }
}

/// A difference that no step can mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A network is there with other settings.
    #[error("the network {name} was made with other settings")]
    NetworkDiffers {
        /// Its name.
        name: String,
    },
    /// An external network or volume is not there.
    #[error("the external {kind} {name} is not there")]
    NoExternal {
        /// `network`, `volume`
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// `--scale` of more than one of a service with a name.
    #[error(
        "the service {service} has one name (container_name), and cannot have {count} instances"
    )]
    OneName {
        /// The service.
        service: String,
        /// How many are wanted.
        count: u32,
    },
}

impl PlanError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            PlanError::NetworkDiffers { .. } => {
                "`isle compose down` takes it away; the next `up` makes it anew".into()
            }
            PlanError::NoExternal { kind, name } => format!("isle {kind} create {name}"),
            PlanError::OneName { .. } => "leave container_name out of the file".into(),
        }
    }
}

/// The services that are meant, and what they need, in an order in which they can be started.
#[must_use]
pub fn selected<'p>(project: &'p Project, options: &Options) -> Vec<&'p Service> {
    let mut wanted: BTreeSet<&str> = match options.services.is_empty() {
        true => project.services.keys().map(String::as_str).collect(),
        false => options.services.iter().map(String::as_str).collect(),
    };
    if !options.without_dependencies {
        let mut open: Vec<&str> = wanted.iter().copied().collect();
        while let Some(name) = open.pop() {
            for other in project
                .services
                .get(name)
                .into_iter()
                .flat_map(|service| service.depends_on.keys())
            {
                if wanted.insert(other) {
                    open.push(other);
                }
            }
        }
    }
    order(&project.services)
        .into_iter()
        .filter(|service| wanted.contains(service.name.as_str()))
        .collect()
}

/// The steps from what exists to what is wanted. `images` has the id of each service's image, where it is known.
///
/// # Errors
/// A difference that no step can mend.
pub fn plan(
    project: &Project,
    existing: &Existing,
    options: &Options,
    images: &BTreeMap<String, String>,
) -> Result<Vec<Step>, PlanError> {
    let services = selected(project, options);
    let mut steps = things(project, existing, &services)?;
    if options.removes_orphans {
        for instance in orphans(project, existing) {
            steps.push(Step::RemoveOrphan(target_of(instance)));
        }
    }
    let named: BTreeSet<&str> = options.services.iter().map(String::as_str).collect();
    let mut made_again: BTreeSet<&str> = BTreeSet::new();
    for service in services {
        if options.only_dependencies && named.contains(service.name.as_str()) {
            continue;
        }
        let count = options
            .scale
            .get(&service.name)
            .copied()
            .unwrap_or_else(|| service.replicas());
        if service.container_name.is_some() && count > 1 {
            return Err(PlanError::OneName {
                service: service.name.clone(),
                count,
            });
        }
        let is_named = named.is_empty() || named.contains(service.name.as_str());
        let shares = shared_with(service).any(|other| made_again.contains(other));
        let mut own: Vec<&ExistingInstance> = existing
            .instances
            .iter()
            .filter(|one| one.service == service.name)
            .collect();
        // What an earlier `up` was stopped at.
        let unfinished = own.iter().filter(|one| one.is_unfinished);
        steps.extend(unfinished.map(|one| Step::RemoveSurplus(target_of(one))));
        own.retain(|one| !one.is_unfinished);
        own.sort_by_key(|instance| instance.number);
        // Those with the highest numbers go first, as under Docker Compose.
        let surplus = own.split_off(own.len().min(count as usize));
        steps.extend(
            surplus
                .into_iter()
                .rev()
                .map(|one| Step::RemoveSurplus(target_of(one))),
        );
        for instance in &own {
            let target = target_of(instance);
            let image = images.get(&service.name);
            let reason = if options.recreates_none {
                None
            } else if match is_named {
                true => options.recreates_all,
                false => options.recreates_dependencies,
            } {
                Some(Reason::Asked)
            } else if instance.hash != service.hash {
                Some(Reason::Configuration)
            } else if image.is_some_and(|image| *image != instance.image_id) {
                Some(Reason::Image)
            } else if shares {
                Some(Reason::Dependency)
            } else {
                None
            };
            match reason {
                Some(reason) => {
                    made_again.insert(&service.name);
                    steps.push(Step::Recreate(target, reason));
                }
                None if instance.is_running || options.starts_none => {
                    steps.push(Step::Keep(target))
                }
                None => steps.push(Step::Start(target)),
            }
        }
        let taken: BTreeSet<u32> = own.iter().map(|instance| instance.number).collect();
        let free = (1..).filter(|number| !taken.contains(number));
        for number in free.take((count as usize).saturating_sub(own.len())) {
            steps.push(Step::Create(Target {
                service: service.name.clone(),
                number,
                name: service.instance_name(&project.name, number),
                id: None,
            }));
        }
    }
    Ok(steps)
}

/// Services whose namespaces or volumes a service shares.
fn shared_with(service: &Service) -> impl Iterator<Item = &str> {
    let modes = [&service.network_mode, &service.pid, &service.ipc];
    let modes = modes
        .into_iter()
        .filter_map(|mode| mode.as_deref()?.strip_prefix("service:"));
    let volumes = service
        .volumes_from
        .iter()
        .filter(|from| !from.starts_with("container:"));
    modes.chain(volumes.filter_map(|from| from.split(':').next()))
}

/// Instances of services that the project has no more.
pub fn orphans<'e>(project: &Project, existing: &'e Existing) -> Vec<&'e ExistingInstance> {
    let is_known =
        |name: &str| project.services.contains_key(name) || project.disabled.contains_key(name);
    existing
        .instances
        .iter()
        .filter(|instance| !is_known(&instance.service))
        .collect()
}

fn target_of(instance: &ExistingInstance) -> Target {
    Target {
        service: instance.service.clone(),
        number: instance.number,
        name: instance.name.clone(),
        id: Some(instance.id.clone()),
    }
}

/// Networks and volumes that the services need.
fn things(
    project: &Project,
    existing: &Existing,
    services: &[&Service],
) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    let used: BTreeSet<&str> = services
        .iter()
        .flat_map(|service| service.networks.keys())
        .map(String::as_str)
        .collect();
    for (key, network) in project
        .networks
        .iter()
        .filter(|(key, _)| used.contains(key.as_str()))
    {
        match existing.networks.get(&network.name) {
            None if network.external => {
                return Err(PlanError::NoExternal {
                    kind: "network",
                    name: network.name.clone(),
                });
            }
            None => steps.push(Step::CreateNetwork(key.clone())),
            Some(Some(hash)) if !network.external && *hash != network.hash => {
                return Err(PlanError::NetworkDiffers {
                    name: network.name.clone(),
                });
            }
            Some(_) => {}
        }
    }
    let mounts = services
        .iter()
        .flat_map(|service| &service.volumes)
        .filter(|mount| mount.kind == "volume");
    let used: BTreeSet<&str> = mounts.filter_map(|mount| mount.source.as_deref()).collect();
    for (key, volume) in project
        .volumes
        .iter()
        .filter(|(key, _)| used.contains(key.as_str()))
    {
        if existing.volumes.contains_key(&volume.name) {
            continue;
        }
        match volume.external {
            true => {
                return Err(PlanError::NoExternal {
                    kind: "volume",
                    name: volume.name.clone(),
                });
            }
            false => steps.push(Step::CreateVolume(key.clone())),
        }
    }
    Ok(steps)
}
