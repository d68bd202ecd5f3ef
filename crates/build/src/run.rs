//! `RUN`: an instance of what there is so far; what it changes becomes a layer.

use std::collections::BTreeSet;
use std::path::PathBuf;

use isle_engine::config::{
    HealthCheck, HealthTest, InstanceConfig, LogConfig, LogDriver, Mount as InstanceMount,
    NetworkMode, OnUnhealthy, ProcessConfig, Security,
};
use isle_engine::state::ExitReason;
use isle_engine::{AttachRequest, CreateRequest, Engine, EngineError, Output};
use isle_image::{Assembly, Digest, Image};
use isle_types::InstanceId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::BuildError;
use crate::filter::LayerFilter;
use crate::progress::Event;
use crate::solve::{Build, Stage, Worker};

/// What runs, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) words: Vec<String>,
    /// `KEY=value`
    pub(crate) env: Vec<String>,
    pub(crate) mounts: Vec<InstanceMount>,
    /// Paths, relative, that mounts make in the image below and that go again.
    pub(crate) stubs: BTreeSet<PathBuf>,
    pub(crate) network: NetworkMode,
    pub(crate) is_privileged: bool,
}

/// The label of instances that belong to a build; its value is the name of the build's workspace.
pub(crate) const LABEL: &str = "dev.isle.build";

/// Where secrets are while a `RUN` has them, below the run folder; each folder's name begins with its build's.
pub(crate) const SECRETS: &str = "build";

/// So many lines of a program that failed are told again at the end.
const LAST_LINES: usize = 12;

/// Removes the instance, whatever happens.
struct Guard<'e> {
    engine: &'e Engine,
    id: InstanceId,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build.
        let _ = self.engine.remove(&self.id, true, true);
    }
}

impl Build<'_> {
    /// Runs a program on the stage's files; returns an image with one layer more.
    pub(crate) fn run_program(
        &self,
        worker: &Worker,
        stage: &Stage,
        program: &Program,
        step: usize,
    ) -> Result<Image, BuildError> {
        let base = self.bare(worker, stage)?;
        let engine = &worker.engine;
        let config = InstanceConfig {
            isolation: self.request.isolation,
            image: base.id.to_string(),
            process: ProcessConfig {
                entrypoint: Some(Vec::new()),
                command: Some(program.words.clone()),
                env: program.env.clone(),
                working_dir: Some(stage.config.working_dir().to_owned()),
                user: stage.config.user().map(str::to_owned),
                ..ProcessConfig::default()
            },
            // As BuildKit's, so that what a program writes down of it is the same each time.
            hostname: Some("buildkitsandbox".to_owned()),
            labels: [(LABEL.to_owned(), self.marker())].into(),
            mounts: program.mounts.clone(),
            shm_size: self.request.shm_size,
            ulimits: self.request.ulimits.clone(),
            resources: isle_engine::config::Resources {
                memory: self.request.memory,
                ..isle_engine::config::Resources::default()
            },
            network: program.network.clone(),
            extra_hosts: self.request.extra_hosts.clone(),
            security: Security {
                privileged: program.is_privileged,
                ..Security::default()
            },
            health_check: Some(no_health_check()),
            log: LogConfig {
                driver: LogDriver::None,
                ..LogConfig::default()
            },
            ..InstanceConfig::default()
        };
        let instance = engine.create(CreateRequest {
            config,
            name: None,
            image_id: base.id.to_string(),
        })?;
        let guard = Guard {
            engine,
            id: instance.id,
        };
        let attach = AttachRequest {
            stdin: false,
            stdout: true,
            stderr: true,
            replay_log: false,
        };
        let attachment = engine.start(&instance.id, Some(attach), None)?;
        let mut attachment = attachment.ok_or(BuildError::Cancelled)?;
        let mut tail = Tail::default();
        let exit = loop {
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            let mut fds = [PollFd::from_borrowed_fd(attachment.fd(), PollFlags::IN)];
            let ready = match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => 0,
                ready => ready
                    .map_err(|errno| BuildError::io("wait for", "the program")(errno.into()))?,
            };
            // The guard ends it.
            self.check()?;
            if ready == 0 {
                continue;
            }
            let fail = BuildError::io("read the output of", "the program");
            let (is_stderr, bytes) = match attachment.receive().map_err(fail)? {
                Some(Output::Stdout(bytes)) => (false, bytes),
                Some(Output::Stderr(bytes)) => (true, bytes),
                Some(Output::Exit(exit)) => break exit,
                None => {
                    return Err(BuildError::request(
                        "the supervisor of the program was ended from outside",
                        "build again",
                    ));
                }
            };
            tail.push(&bytes);
            self.progress.event(&Event::Output {
                step,
                is_stderr,
                bytes: &bytes,
            });
        };
        drop(attachment);
        let message = match &exit.reason {
            ExitReason::CouldNotStart { message } | ExitReason::Crashed { message } => {
                Some(message.clone())
            }
            ExitReason::OutOfMemory { .. } => Some("memory ran out".to_owned()),
            _ => None,
        };
        if exit.code != 0 {
            let mut output = tail.text();
            if let Some(message) = message {
                output.push_str(&message);
            }
            return Err(BuildError::Run {
                code: exit.code,
                output,
            });
        }
        let layers = worker.images().layer_refs(&base.id)?;
        let latest = self.epoch;
        let document = stage.config.bare();
        let image = engine.with_layer(&instance.id, |reader| {
            let mut filtered = LayerFilter::new(reader, latest, program.stubs.clone());
            let assembly = Assembly {
                layers: &layers,
                document,
                names: &[],
                is_intermediate: true,
            };
            worker.images().assemble(assembly, Some(&mut filtered))
        })?;
        drop(guard);
        Ok(image)
    }

    /// The stage's files as an image that says nothing of volumes, health or programs.
    pub(crate) fn bare(&self, worker: &Worker, stage: &Stage) -> Result<Image, BuildError> {
        let store = worker.images();
        let layers = match &stage.image {
            Some(image) => {
                if store.is_intermediate(image)? == Some(true) {
                    return Ok(store.find(image.as_str()).map_err(EngineError::from)?);
                }
                store.layer_refs(image)?
            }
            None => Vec::new(),
        };
        let assembly = Assembly {
            layers: &layers,
            document: stage.config.bare(),
            names: &[],
            is_intermediate: true,
        };
        Ok(store.assemble(assembly, None)?)
    }

    /// The name of this build's workspace.
    pub(crate) fn marker(&self) -> String {
        let path = self.workspace.path();
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// Takes away what builds that were killed have left.
pub(crate) fn collect(engine: &Engine) -> Result<(), BuildError> {
    for instance in engine.list()? {
        let Some(marker) = instance.config.labels.get(LABEL) else {
            continue;
        };
        // The image store removes the folders of the dead.
        if !engine.paths().temporary().join(marker).exists() {
            engine.remove(&instance.id, true, true)?;
        }
    }
    let secrets = engine.paths().run.join(SECRETS);
    for entry in std::fs::read_dir(&secrets).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let marker = name.split('-').next().unwrap_or_default();
        if !engine.paths().temporary().join(marker).exists() {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(BuildError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn no_health_check() -> HealthCheck {
    let zero = std::time::Duration::from_secs(30);
    HealthCheck {
        test: HealthTest::Disabled,
        interval: zero,
        timeout: zero,
        start_period: zero,
        start_interval: zero,
        retries: 1,
        on_unhealthy: OnUnhealthy::None,
    }
}

/// The last lines of an output.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    const MOST: usize = 16 << 10;

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * Tail::MOST {
            let over = self.bytes.len() - Tail::MOST;
            self.bytes.drain(..over);
        }
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        let mut text = lines[from..].join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// What `RUN` reads, but for its mounts, as parts of a key.
pub(crate) fn key_parts(stage: &Stage, program: &Program, build: &Build<'_>) -> Vec<String> {
    let mut parts = vec![
        format!("{:?}", build.request.isolation),
        format!("{:?}", program.network),
        program.is_privileged.to_string(),
        format!("{:?}", build.request.extra_hosts),
        build
            .epoch
            .map(|epoch| epoch.to_string())
            .unwrap_or_default(),
        stage.config.working_dir().to_owned(),
        stage.config.user().unwrap_or_default().to_owned(),
    ];
    parts.push(program.words.len().to_string());
    parts.extend(program.words.iter().cloned());
    parts
}

/// A key's part for an image, none without.
pub(crate) fn image_part(image: Option<&Digest>) -> &str {
    image.map_or("", Digest::as_str)
}
