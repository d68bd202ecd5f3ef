//! Carries a plan out: one thread a stage, each waiting for the stages that it needs where it needs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use isle_engine::{Engine, Paths};
use isle_image::{Digest, Image, Store, Workspace};
use jiff::Timestamp;

use crate::config::ImageConfig;
use crate::contexts::Files;
use crate::error::{BuildError, excerpt};
use crate::language::{Dockerfile, Item, Place};
use crate::lint::{Settings, Warning, lint};
use crate::plan::{Plan, stage_name};
use crate::progress::{End, Event, Progress};
use crate::records::{Record, Records};
use crate::request::{BuildRequest, Cancel, NamedContext};
use crate::transfer;

/// One build at work; shared by its threads.
pub(crate) struct Build<'b> {
    pub(crate) request: &'b BuildRequest,
    pub(crate) cancel: &'b Cancel,
    pub(crate) progress: &'b dyn Progress,
    pub(crate) paths: Paths,
    pub(crate) file: Dockerfile,
    pub(crate) file_name: String,
    pub(crate) text: String,
    pub(crate) plan: Plan,
    pub(crate) main: Files,
    pub(crate) contexts: BTreeMap<String, Files>,
    /// Ours while we live: instances that bear its name are this build's.
    pub(crate) workspace: Workspace,
    /// `SOURCE_DATE_EPOCH`
    pub(crate) epoch: Option<i64>,
    slots: Vec<Slot>,
    steps: AtomicUsize,
    has_failed: AtomicBool,
    first_error: Mutex<Option<BuildError>>,
    /// Keys of the steps that this build consists of.
    pub(crate) used: Mutex<Vec<Digest>>,
    /// Images that it is built upon, and the digests of their manifests.
    pub(crate) bases: Mutex<BTreeMap<String, Digest>>,
    pub(crate) begun: i64,
}

#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Default)]
enum SlotState {
    #[default]
    Working,
    Done(Arc<Stage>),
    Failed,
}

/// What a thread has for itself.
pub(crate) struct Worker {
    pub(crate) engine: Engine,
    pub(crate) records: Records,
}

impl Worker {
    pub(crate) fn open(paths: &Paths) -> Result<Worker, BuildError> {
        Ok(Worker {
            engine: Engine::open(paths.clone())?,
            records: Records::open(&paths.database())?,
        })
    }

    pub(crate) fn images(&self) -> &Store {
        self.engine.images()
    }
}

/// How far a stage has come.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) index: usize,
    /// The image whose files these are; none without files.
    pub(crate) image: Option<Digest>,
    /// A digest of its layers.
    pub(crate) chain: String,
    pub(crate) config: ImageConfig,
    /// When the last layer was made, in seconds since 1970.
    pub(crate) created: i64,
    /// `ARG`s that were declared.
    pub(crate) args: BTreeMap<String, String>,
    /// How many steps were begun.
    pub(crate) at: usize,
    pub(crate) may_use_cache: bool,
}

/// A digest of layers.
pub(crate) fn chain_of(image: &Image) -> String {
    let diff_ids = image.config.rootfs().diff_ids();
    Digest::of(diff_ids.join(" ").as_bytes()).to_string()
}

impl<'b> Build<'b> {
    pub(crate) fn new(
        engine: &Engine,
        request: &'b BuildRequest,
        cancel: &'b Cancel,
        progress: &'b dyn Progress,
    ) -> Result<Build<'b>, BuildError> {
        let store = engine.images();
        let mut main = Files::open(&request.context, store)?;
        let (file_name, text) = main.dockerfile(&request.dockerfile)?;
        let placed = |error: crate::language::SyntaxError| {
            place_error(
                &file_name,
                &text,
                error.place,
                error.place.line,
                error.problem,
                error.fix,
            )
        };
        let file = Dockerfile::parse(&text).map_err(placed)?;
        let plan = Plan::new(&file, request).map_err(placed)?;
        let mut contexts = BTreeMap::new();
        for (name, context) in &request.contexts {
            if let NamedContext::Files(context) = context {
                let mut files = Files::open(context, store)?;
                // A context of its own may have a list of its own.
                if let Ok(file) = files.root().open(Path::new("/.dockerignore"))
                    && let Ok(text) = std::io::read_to_string(std::fs::File::from(file))
                {
                    files.ignore = crate::glob::Ignore::parse(&text).map_err(|line| {
                        BuildError::request(
                            format!(".dockerignore:{line} of {name} is not a pattern"),
                            "",
                        )
                    })?;
                }
                contexts.insert(name.clone(), files);
            }
        }
        let epoch =
            match request
                .args
                .get("SOURCE_DATE_EPOCH")
                .filter(|text| !text.is_empty())
            {
                None => None,
                Some(text) => Some(text.parse().ok().filter(|epoch| *epoch >= 0).ok_or_else(
                    || {
                        BuildError::request(
                            format!("SOURCE_DATE_EPOCH is {text:?}, which is no time"),
                            "give the seconds since 1970",
                        )
                    },
                )?),
            };
        let slots = file.stages.iter().map(|_| Slot::default()).collect();
        Ok(Build {
            request,
            cancel,
            progress,
            paths: engine.paths().clone(),
            workspace: store.workspace()?,
            file,
            file_name,
            text,
            plan,
            main,
            contexts,
            epoch,
            slots,
            steps: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            first_error: Mutex::new(None),
            used: Mutex::new(Vec::new()),
            bases: Mutex::new(BTreeMap::new()),
            begun: Timestamp::now().as_second(),
        })
    }

    /// What is odd about the Dockerfile.
    pub(crate) fn warnings(&self, worker: &Worker) -> Vec<Warning> {
        let env_of = |name: &str| {
            let image = worker.images().find(name).ok()?;
            let env = ImageConfig::of(&image.config_bytes).all_env();
            let names = env.iter().filter_map(|entry| entry.split_once('='));
            Some(names.map(|(name, _)| name.to_owned()).collect())
        };
        lint(&self.file, &env_of)
    }

    /// Whether the Dockerfile wants warnings to be errors.
    pub(crate) fn is_strict(&self) -> bool {
        Settings::of(&self.file).is_strict
    }

    /// A warning where warnings are errors.
    pub(crate) fn strictly(&self, warning: &Warning) -> BuildError {
        let (place, text) = (warning.place, format!("{}: {}", warning.rule, warning.text));
        let fix = format!("mend it, or write # check=skip={}", warning.rule);
        place_error(&self.file_name, &self.text, place, place.line, text, fix)
    }

    pub(crate) fn import_caches(&self, worker: &Worker) -> Result<(), BuildError> {
        for folder in &self.request.cache_from {
            let name = format!("importing the cache from {}", folder.display());
            self.told(&name, |_| {
                let count = transfer::import(worker, folder)?;
                Ok(((), count == 0))
            })?;
        }
        Ok(())
    }

    pub(crate) fn export_caches(&self, worker: &Worker, used: &[Digest]) -> Result<(), BuildError> {
        for folder in &self.request.cache_to {
            let name = format!("exporting the cache to {}", folder.display());
            self.told(&name, |_| {
                transfer::export(worker, used, folder)?;
                Ok(((), false))
            })?;
        }
        Ok(())
    }

    /// Builds what is needed; returns the target.
    pub(crate) fn run(&self) -> Result<Arc<Stage>, BuildError> {
        let needed: Vec<usize> = self.plan.needed.iter().copied().collect();
        match &*needed {
            [only] => self.work(*only),
            several => std::thread::scope(|scope| {
                for index in several {
                    scope.spawn(move || self.work(*index));
                }
            }),
        }
        let error = self
            .first_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match error {
            Some(error) => Err(error),
            None => self.stage(self.plan.target),
        }
    }

    fn work(&self, index: usize) {
        let result = Worker::open(&self.paths).and_then(|worker| self.build_stage(&worker, index));
        let state = match result {
            Ok(stage) => SlotState::Done(Arc::new(stage)),
            Err(error) => {
                // Others stop at the next look; their own errors are consequences.
                if !self.has_failed.swap(true, Ordering::AcqRel) {
                    let mut first = self
                        .first_error
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
                SlotState::Failed
            }
        };
        let slot = &self.slots[index];
        *slot.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        slot.changed.notify_all();
    }

    /// Waits for a stage.
    pub(crate) fn stage(&self, index: usize) -> Result<Arc<Stage>, BuildError> {
        let slot = &self.slots[index];
        let mut state = slot.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                SlotState::Done(stage) => return Ok(Arc::clone(stage)),
                SlotState::Failed => return Err(BuildError::Cancelled),
                SlotState::Working => {
                    state = slot
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// # Errors
    /// When the build was stopped, or has failed elsewhere.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        match self.cancel.is_cancelled() || self.has_failed.load(Ordering::Acquire) {
            true => Err(BuildError::Cancelled),
            false => Ok(()),
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.epoch.unwrap_or_else(|| Timestamp::now().as_second())
    }

    /// An error at a place of the Dockerfile.
    pub(crate) fn at(
        &self,
        item: &Item,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> BuildError {
        let place = item.place;
        place_error(
            &self.file_name,
            &self.text,
            place,
            item.last_line,
            problem.into(),
            fix.into(),
        )
    }

    /// `[build 2/4] RUN make`
    pub(crate) fn step_name(&self, stage: &Stage, source: &str) -> String {
        let total = self.plan.stages[stage.index].steps.max(stage.at);
        let name = match (&self.file.stages[stage.index].name, self.file.stages.len()) {
            (None, 1) => String::new(),
            _ => format!("{} ", stage_name(&self.file, stage.index)),
        };
        let source: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("[{name}{}/{total}] {source}", stage.at)
    }

    /// Tells of a step while it works.
    pub(crate) fn told<T>(
        &self,
        name: &str,
        work: impl FnOnce(usize) -> Result<(T, bool), BuildError>,
    ) -> Result<T, BuildError> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let begin = Instant::now();
        self.progress.event(&Event::Started { step, name });
        let result = work(step);
        let text;
        let end = match &result {
            Ok((_, true)) => End::Cached,
            Ok((_, false)) => End::Done(begin.elapsed()),
            Err(BuildError::Cancelled) => End::Cancelled,
            Err(error) => {
                text = error.to_string();
                End::Failed(&text)
            }
        };
        self.progress.event(&Event::Ended { step, end });
        result.map(|(value, _)| value)
    }

    /// One step that changes files: from the cache, or made and put there. `make` returns `None` when nothing changed.
    pub(crate) fn step(
        &self,
        worker: &Worker,
        stage: &mut Stage,
        item: &Item,
        created_by: &str,
        key: Digest,
        make: impl FnOnce(&Stage, usize) -> Result<Option<Image>, BuildError>,
    ) -> Result<(), BuildError> {
        self.check()?;
        stage.at += 1;
        let name = self.step_name(stage, &item.source);
        let before = stage.chain.clone();
        let record = self.told(&name, |step| {
            let known = match stage.may_use_cache {
                true => worker.records.find(&key)?,
                false => None,
            };
            if let Some(record) = known {
                let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                used.push(key);
                return Ok((Some(record), true));
            }
            let made = make(stage, step).map_err(|error| match error {
                BuildError::Cancelled => BuildError::Cancelled,
                error @ BuildError::Dockerfile { .. } => error,
                error => BuildError::Step {
                    file: self.file_name.clone(),
                    place: item.place,
                    step: item.source.clone(),
                    source: Box::new(error),
                },
            })?;
            let record = match made {
                Some(image) => Record {
                    chain: chain_of(&image),
                    image: image.id,
                    created: self.now(),
                },
                None => match &stage.image {
                    Some(image) => Record {
                        image: image.clone(),
                        chain: stage.chain.clone(),
                        created: stage.created,
                    },
                    None => return Ok((None, false)),
                },
            };
            worker.records.insert(&key, &record, &name)?;
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.push(key);
            Ok((Some(record), false))
        })?;
        if let Some(record) = record {
            stage.image = Some(record.image);
            stage.chain = record.chain;
            stage.created = record.created;
        }
        let has_layer = stage.chain != before;
        stage.config.note(stage.created, created_by, has_layer);
        Ok(())
    }
}

pub(crate) fn place_error(
    file: &str,
    text: &str,
    place: Place,
    last_line: usize,
    problem: String,
    fix: String,
) -> BuildError {
    BuildError::Dockerfile {
        file: file.to_owned(),
        place,
        problem,
        fix,
        excerpt: excerpt(file, text, place.line, last_line.max(place.line)),
    }
}
