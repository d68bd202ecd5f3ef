//! Steps carried out.
//!
//! First, one after the other: networks, volumes, what is one too many taken away, and every new instance made. What is wrong with
//! a file is found here, before anything that runs is touched; an instance that takes another one's place is made beside it.
//! Then, each service in a thread of its own as soon as what it depends on is far enough: instances change places and start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use isle_compose::words::{self, Wanted, label};
use isle_compose::{Condition, Dependency, Project, Service, Step, Target};
use isle_engine::Engine;
use isle_engine::state::{HealthStatus, Instance, Status};
use isle_image::Image;
use isle_types::InstanceId;

use super::observe::{Observed, REPLACES, is_up};
use super::report::Report;
use super::signals::Interrupts;
use super::{make, names};
use crate::commands::{network_create, volume_create};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// What carries out a plan.
pub struct Executor<'a> {
    pub context: &'a Context,
    pub project: &'a Project,
    pub report: &'a Report,
    pub images: BTreeMap<String, Image>,
    /// `--renew-anon-volumes`
    pub renews_volumes: bool,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// Whether anything is started.
    pub starts: bool,
    /// The most services that are started at a time.
    pub parallel: i64,
    pub interrupts: &'a Interrupts,
}

/// An instance that is to be started.
#[derive(Clone, Debug)]
struct Pending {
    name: String,
    id: InstanceId,
    /// The one whose place it takes.
    replaces: Option<InstanceId>,
}

/// How looks are spaced that wait for a dependency.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Executor<'_> {
    /// The instances that a service wants.
    pub fn wanted(&self, service: &Service, number: u32) -> Wanted {
        words::instance(self.project, service, number, &self.first_names())
    }

    /// An instance of each service, for those who share something of it.
    fn first_names(&self) -> BTreeMap<String, String> {
        let services = self.project.services.values();
        services
            .map(|service| {
                (
                    service.name.clone(),
                    service.instance_name(&self.project.name, 1),
                )
            })
            .collect()
    }

    /// Everything that can be found wrong before anything is done.
    pub fn check(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            if let Step::Create(target) | Step::Recreate(target, _) = step
                && let Some(service) = self.project.services.get(&target.service)
            {
                let wanted = self.wanted(service, target.number);
                make::configuration(&wanted, self.images.get(&target.service)).map_err(
                    |error| error.context(format!("service {} cannot be made", target.service)),
                )?;
            }
        }
        Ok(())
    }

    /// Carries out the steps.
    pub fn execute(&self, steps: &[Step], observed: &Observed) -> Result<()> {
        self.check(steps)?;
        let mut pending: BTreeMap<String, Vec<Pending>> = BTreeMap::new();
        for step in steps {
            if self.interrupts.count() > 0 {
                return Err(interrupted());
            }
            match step {
                Step::CreateNetwork(key) => self.network(key)?,
                Step::CreateVolume(key) => self.volume(key)?,
                Step::RemoveOrphan(target) | Step::RemoveSurplus(target) => self.remove(target)?,
                Step::Create(target) => {
                    let id = self.create(target, None)?;
                    pending
                        .entry(target.service.clone())
                        .or_default()
                        .push(Pending {
                            name: target.name.clone(),
                            id,
                            replaces: None,
                        });
                }
                Step::Recreate(target, _) => {
                    let old = observed.instances.iter().find(|one| {
                        target
                            .id
                            .as_ref()
                            .is_some_and(|id| *id == one.id.to_string())
                    });
                    let old =
                        old.ok_or_else(|| Failure::new(format!("{} has gone", target.name)))?;
                    let id = self.create(target, Some((old, observed)))?;
                    pending
                        .entry(target.service.clone())
                        .or_default()
                        .push(Pending {
                            name: target.name.clone(),
                            id,
                            replaces: Some(old.id),
                        });
                }
                Step::Start(target) => {
                    pending
                        .entry(target.service.clone())
                        .or_default()
                        .push(Pending {
                            name: target.name.clone(),
                            id: id_of(target)?,
                            replaces: None,
                        });
                }
                Step::Keep(target) => {
                    if self.starts {
                        self.report.done(&container(&target.name), "Running");
                    }
                    pending.entry(target.service.clone()).or_default();
                }
            }
        }
        self.start(&pending)
    }

    fn network(&self, key: &str) -> Result<()> {
        let Some(network) = self.project.networks.get(key) else {
            return Ok(());
        };
        let what = format!("Network {}", network.name);
        self.report.begins(&what, "Creating");
        let made = super::words::parse(&words::new_network(self.project, key, network))
            .and_then(|args| network_create::create(&args, self.context).map(drop))
            .map_err(|error| error.context(format!("network {key} cannot be made")));
        self.told(&what, "Created", made)
    }

    fn volume(&self, key: &str) -> Result<()> {
        let Some(volume) = self.project.volumes.get(key) else {
            return Ok(());
        };
        let what = format!("Volume {}", volume.name);
        self.report.begins(&what, "Creating");
        let made = super::words::parse(&words::new_volume(self.project, key, volume))
            .and_then(|args| volume_create::create(&args, self.context).map(drop))
            .map_err(|error| error.context(format!("volume {key} cannot be made")));
        self.told(&what, "Created", made)
    }

    fn told<T>(&self, what: &str, state: &str, done: Result<T>) -> Result<T> {
        match &done {
            Ok(_) => self.report.done(what, state),
            Err(error) => self.report.failed(what, &error.root_cause().to_string()),
        }
        done
    }

    fn remove(&self, target: &Target) -> Result<()> {
        let what = container(&target.name);
        let engine = self.context.engine()?;
        let id = id_of(target)?;
        self.report.begins(&what, "Stopping");
        engine.stop(&id, None, self.timeout)?;
        self.report.begins(&what, "Removing");
        let removed = engine.remove(&id, true, false).map_err(Into::into);
        self.told(&what, "Removed", removed)
    }

    /// Makes an instance; under a name of its own where another one has its name still.
    fn create(
        &self,
        target: &Target,
        replaces: Option<(&Instance, &Observed)>,
    ) -> Result<InstanceId> {
        let what = container(&target.name);
        let (doing, done) = match replaces {
            Some(_) => ("Recreate", "Recreated"),
            None => ("Creating", "Created"),
        };
        self.report.begins(&what, doing);
        let made = self.create_quietly(target, replaces);
        let made = made
            .map_err(|error| error.context(format!("service {} cannot be made", target.service)));
        self.told(&what, done, made)
    }

    fn create_quietly(
        &self,
        target: &Target,
        replaces: Option<(&Instance, &Observed)>,
    ) -> Result<InstanceId> {
        let (Some(service), Some(image)) = (
            self.project.services.get(&target.service),
            self.images.get(&target.service),
        ) else {
            return Err(Failure::new(format!("service {} has no image", target.service)).into());
        };
        let mut wanted = self.wanted(service, target.number);
        wanted
            .flags
            .push(format!("--label={}={}", label::IMAGE, image.id));
        if let Some((old, _)) = replaces {
            wanted.name = names::temporary(&old.id.to_string(), &target.name);
            wanted.flags.push(format!("--label={REPLACES}={}", old.id));
        }
        let engine = self.context.engine()?;
        let mut request = make::request(self.context, &self.project.name, &wanted, image)?;
        if let Some((old, observed)) = replaces
            && !self.renews_volumes
        {
            let anonymous = observed.volumes.iter().filter(|volume| volume.is_anonymous);
            let anonymous: Vec<String> = anonymous.map(|volume| volume.name.clone()).collect();
            make::keep_volumes(&mut request.config, old, image, &anonymous);
        }
        Ok(engine.create(request)?.id)
    }

    /// Starts what is pending, in the order of dependencies.
    fn start(&self, pending: &BTreeMap<String, Vec<Pending>>) -> Result<()> {
        let board = Board::new(pending.keys().cloned().collect());
        let gate = Gate::new(self.parallel);
        let failures: Mutex<Vec<anyhow::Error>> = Mutex::default();
        std::thread::scope(|scope| {
            for (name, instances) in pending {
                let (board, gate, failures) = (&board, &gate, &failures);
                let shared = Shared {
                    paths: self.context.paths(),
                    project: self.project,
                    report: self.report,
                    interrupts: self.interrupts,
                    starts: self.starts,
                    timeout: self.timeout,
                    renews_volumes: self.renews_volumes,
                };
                scope.spawn(move || {
                    let started = shared.service(name, instances, board, gate);
                    board.set(
                        name,
                        if started.is_ok() {
                            Progress::Started
                        } else {
                            Progress::Failed
                        },
                    );
                    if let (Err(error), Ok(mut failures)) = (started, failures.lock()) {
                        failures.push(error);
                    }
                });
            }
        });
        let mut failures = failures.into_inner().unwrap_or_default();
        // What others only suffered from is told once, by who caused it.
        let cause = failures
            .iter()
            .position(|error| error.downcast_ref::<Suffered>().is_none());
        match cause {
            Some(index) => Err(failures.swap_remove(index)),
            None => match failures.pop() {
                Some(error) => Err(error),
                None => Ok(()),
            },
        }
    }
}

/// What the threads share.
struct Shared<'a> {
    paths: isle_engine::Paths,
    project: &'a Project,
    report: &'a Report,
    interrupts: &'a Interrupts,
    starts: bool,
    timeout: Option<Duration>,
    renews_volumes: bool,
}

impl Shared<'_> {
    fn service(&self, name: &str, instances: &[Pending], board: &Board, gate: &Gate) -> Result<()> {
        if instances.is_empty() {
            return Ok(());
        }
        let engine = Engine::open(self.paths.clone())?;
        if self.starts
            && let Some(service) = self.project.services.get(name)
        {
            for (other, dependency) in &service.depends_on {
                self.wait_for(&engine, name, other, *dependency, board)?;
            }
        }
        let _place = gate.enter();
        std::thread::scope(|scope| {
            let (first, rest) = instances
                .split_first()
                .map_or((None, &[][..]), |(first, rest)| (Some(first), rest));
            let others: Vec<_> = rest
                .iter()
                .map(|instance| {
                    scope.spawn(move || self.instance(&Engine::open(self.paths.clone())?, instance))
                })
                .collect();
            let mut done = first.map_or(Ok(()), |instance| self.instance(&engine, instance));
            for other in others {
                let ended = other
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new("a thread has ended early").into()));
                done = done.and(ended);
            }
            done
        })
    }

    fn instance(&self, engine: &Engine, pending: &Pending) -> Result<()> {
        let what = container(&pending.name);
        if self.interrupts.count() > 0 {
            return Err(interrupted());
        }
        if let Some(old) = &pending.replaces {
            self.report.begins(&what, "Stopping");
            engine.stop(old, None, self.timeout)?;
            engine.remove(old, true, self.renews_volumes)?;
            engine.rename(&pending.id, &pending.name.parse()?)?;
        }
        if !self.starts {
            return Ok(());
        }
        self.report.begins(&what, "Starting");
        let mut progress = |_| self.report.begins(&what, "Preparing a machine (once)");
        match engine.start_with(&pending.id, None, None, &mut progress) {
            Ok(_) => {
                self.report.done(&what, "Started");
                Ok(())
            }
            Err(error) => {
                self.report.failed(&what, &error.to_string());
                Err(anyhow::Error::from(error).context(format!("cannot start {}", pending.name)))
            }
        }
    }

    /// Waits until a service that another one needs is far enough.
    fn wait_for(
        &self,
        engine: &Engine,
        name: &str,
        other: &str,
        dependency: Dependency,
        board: &Board,
    ) -> Result<()> {
        let suffered = |why: String| -> Result<()> {
            match dependency.required {
                true => Err(Suffered(format!("{name} needs {other}, {why}")).into()),
                false => {
                    eprintln!("warning: {name} goes without {other}, {why}");
                    Ok(())
                }
            }
        };
        if board.wait(other, self.interrupts) == Progress::Failed {
            return suffered("which has not started".into());
        }
        if dependency.condition == Condition::ServiceStarted {
            return Ok(());
        }
        let instances = instances_of(engine, &self.project.name, other)?;
        if instances.is_empty() {
            return suffered("of which there is no instance".into());
        }
        for instance in instances {
            let what = container(instance.name.as_str());
            self.report.begins(&what, "Waiting");
            match until(
                engine,
                &instance.id,
                dependency.condition,
                self.interrupts,
                None,
            )? {
                Verdict::Reached => self.report.done(
                    &what,
                    match dependency.condition {
                        Condition::ServiceHealthy => "Healthy",
                        _ => "Exited",
                    },
                ),
                Verdict::Failed(why) => {
                    self.report.failed(&what, &why);
                    let error =
                        Failure::new(format!("dependency failed: {} {why}", instance.name)).hint(
                            format!("`isle logs {}` shows what it has written", instance.name),
                        );
                    return match dependency.required {
                        true => Err(error.into()),
                        false => suffered(why),
                    };
                }
            }
        }
        Ok(())
    }
}

/// Waits until what a service depends on is far enough, for an instance that no plan starts.
pub fn wait_for_dependencies(
    context: &Context,
    project: &Project,
    service: &Service,
    interrupts: &Interrupts,
) -> Result<()> {
    let engine = context.engine()?;
    for (other, dependency) in &service.depends_on {
        for instance in instances_of(engine, &project.name, other)? {
            if let Verdict::Failed(why) =
                until(engine, &instance.id, dependency.condition, interrupts, None)?
                && dependency.required
            {
                return Err(
                    Failure::new(format!("dependency failed: {} {why}", instance.name)).into(),
                );
            }
        }
    }
    Ok(())
}

/// What waiting for an instance comes to.
pub enum Verdict {
    /// It is far enough.
    Reached,
    /// It will never be.
    Failed(String),
}

/// Waits until an instance is started, healthy, or has ended well.
pub fn until(
    engine: &Engine,
    id: &InstanceId,
    condition: Condition,
    interrupts: &Interrupts,
    deadline: Option<Instant>,
) -> Result<Verdict> {
    loop {
        if interrupts.count() > 0 {
            return Err(interrupted());
        }
        let instance = engine.find(&id.to_string())?;
        let state = &instance.state;
        let has_ended = state.status == Status::Exited;
        let code = state.exit.as_ref().map_or(0, |exit| exit.code);
        let reached = match condition {
            Condition::ServiceStarted => is_up(&instance),
            Condition::ServiceHealthy => state
                .health
                .as_ref()
                .is_some_and(|health| health.status == HealthStatus::Healthy),
            Condition::ServiceCompletedSuccessfully => has_ended && code == 0,
        };
        if reached {
            return Ok(Verdict::Reached);
        }
        if has_ended {
            return Ok(Verdict::Failed(format!("has exited with code {code}")));
        }
        if condition == Condition::ServiceHealthy {
            match &state.health {
                None if is_up(&instance) => {
                    return Ok(Verdict::Failed("has no health check".into()));
                }
                Some(health) if health.status == HealthStatus::Unhealthy => {
                    return Ok(Verdict::Failed("is unhealthy".into()));
                }
                _ => {}
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Verdict::Failed("is not ready in time".into()));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The instances of a service, without those of `compose run`.
pub fn instances_of(engine: &Engine, project: &str, service: &str) -> Result<Vec<Instance>> {
    let mut instances = engine.list()?;
    instances.retain(|instance| {
        instance
            .config
            .labels
            .get(label::PROJECT)
            .is_some_and(|of| of == project)
            && super::session::service_of(instance) == service
            && !super::session::is_one_off(instance)
    });
    Ok(instances)
}

/// How docker compose calls an instance in its progress.
pub fn container(name: &str) -> String {
    format!("Container {name}")
}

fn id_of(target: &Target) -> Result<InstanceId> {
    let id = target.id.as_deref().unwrap_or_default();
    id.parse()
        .map_err(|_| Failure::new(format!("{} has no id", target.name)).into())
}

/// The user wants no more of it.
pub fn interrupted() -> anyhow::Error {
    Failure::new("interrupted")
        .hint("`isle compose up` completes what is half up; `isle compose down` takes it away")
        .code(130)
        .into()
}

/// A service that did not come to start, for what another one has done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Suffered(String);

/// How far a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Pending,
    Started,
    Failed,
}

/// How far all services are.
struct Board {
    services: Mutex<BTreeMap<String, Progress>>,
    changed: Condvar,
}

impl Board {
    fn new(names: BTreeSet<String>) -> Board {
        Board {
            services: Mutex::new(
                names
                    .into_iter()
                    .map(|name| (name, Progress::Pending))
                    .collect(),
            ),
            changed: Condvar::new(),
        }
    }

    fn set(&self, name: &str, progress: Progress) {
        if let Ok(mut services) = self.services.lock() {
            services.insert(name.to_owned(), progress);
        }
        self.changed.notify_all();
    }

    /// Waits until a service has started or will not. One that nobody asked for is as it is.
    fn wait(&self, name: &str, interrupts: &Interrupts) -> Progress {
        let Ok(mut services) = self.services.lock() else {
            return Progress::Failed;
        };
        loop {
            match services.get(name).copied().unwrap_or(Progress::Started) {
                Progress::Pending if interrupts.count() > 0 => return Progress::Failed,
                Progress::Pending => {
                    let Ok((guard, _)) = self
                        .changed
                        .wait_timeout(services, Duration::from_millis(100))
                    else {
                        return Progress::Failed;
                    };
                    services = guard;
                }
                progress => return progress,
            }
        }
    }
}

/// So many at a time.
struct Gate {
    free: Mutex<i64>,
    changed: Condvar,
}

impl Gate {
    fn new(limit: i64) -> Gate {
        Gate {
            free: Mutex::new(if limit > 0 { limit } else { i64::MAX }),
            changed: Condvar::new(),
        }
    }

    fn enter(&self) -> Place<'_> {
        if let Ok(free) = self.free.lock()
            && let Ok(mut free) = self.changed.wait_while(free, |free| *free == 0)
        {
            *free -= 1;
        }
        Place(self)
    }
}

struct Place<'g>(&'g Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Ok(mut free) = self.0.free.lock() {
            *free += 1;
        }
        self.0.changed.notify_one();
    }
}
