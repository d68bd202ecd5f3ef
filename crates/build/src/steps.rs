//! What each instruction does to a stage.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use isle_engine::EngineError;
use isle_engine::config::NetworkMode;
use isle_image::{
    FindError, Image, Platform, PullOptions, PullPolicy, Reference, Silent as SilentImages,
};
use isle_registry::{Client, Config};
use serde_json::json;

use crate::config::ImageConfig;
use crate::error::BuildError;
use crate::language::{
    Command, Instruction, Item, Lexer, RunInstruction, Variables, parse_trigger,
};
use crate::plan::Base;
use crate::records::KeyMaker;
use crate::request::NamedContext;
use crate::run::{Program, key_parts};
use crate::solve::{Build, Stage, Worker, chain_of};

/// Variables that a build may be given without an `ARG`, and that no cache looks at.
pub(crate) const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Variables for Stage {
    fn get(&self, name: &str) -> Option<String> {
        self.config
            .env(name)
            .or_else(|| self.args.get(name).cloned())
    }
}

impl Build<'_> {
    /// Builds one stage.
    pub(crate) fn build_stage(&self, worker: &Worker, index: usize) -> Result<Stage, BuildError> {
        let mut stage = self.begin(worker, index)?;
        let triggers = stage.config.take_triggers();
        let from = &self.file.stages[index];
        for trigger in triggers {
            let items = parse_trigger(&trigger).map_err(|error| {
                BuildError::request(
                    format!(
                        "the base image has the trigger {trigger:?}: {}",
                        error.problem
                    ),
                    error.fix,
                )
            })?;
            for item in items {
                // It has no place of its own: that of the FROM.
                let item = Item {
                    place: from.place,
                    last_line: from.place.line,
                    ..item
                };
                self.item(worker, &mut stage, &item)?;
            }
        }
        for item in &from.items {
            self.item(worker, &mut stage, item)?;
        }
        Ok(stage)
    }

    fn begin(&self, worker: &Worker, index: usize) -> Result<Stage, BuildError> {
        self.check()?;
        let planned = &self.plan.stages[index];
        let from = &self.file.stages[index];
        let may_use_cache = !self.request.no_cache
            && !self.request.no_cache_filter.iter().any(|name| {
                Some(name.to_ascii_lowercase()) == from.name || *name == index.to_string()
            });
        let empty = Stage {
            index,
            image: None,
            chain: String::new(),
            config: ImageConfig::scratch(&planned.platform),
            created: self.epoch.unwrap_or(0),
            args: BTreeMap::new(),
            at: 1,
            may_use_cache,
        };
        let of_image = |image: &Image| Stage {
            image: Some(image.id.clone()),
            chain: chain_of(image),
            config: ImageConfig::of(&image.config_bytes),
            created: image.created.map_or(0, |time| time.as_second()),
            ..empty.clone()
        };
        match &planned.base {
            Base::Scratch => Ok(empty),
            Base::Stage(other) => {
                let other = self.stage(*other)?;
                Ok(Stage {
                    index,
                    args: BTreeMap::new(),
                    at: 1,
                    may_use_cache,
                    ..Stage::clone(&other)
                })
            }
            Base::Named(name) => match self.request.contexts.get(name) {
                Some(NamedContext::Image(image)) => {
                    let image = self.image(
                        worker,
                        image,
                        &planned.platform,
                        &self.step_name(&empty, &from.source),
                    )?;
                    Ok(of_image(&image))
                }
                _ => {
                    let mut stage = empty;
                    let item = Item {
                        place: from.place,
                        last_line: from.place.line,
                        source: from.source.clone(),
                        instruction: Instruction::Copy(crate::language::CopyInstruction {
                            from: Some(name.clone()),
                            sources: vec![crate::language::CopySource::Path(".".to_owned())],
                            destination: "/".to_owned(),
                            ..Default::default()
                        }),
                    };
                    stage.at = 0;
                    self.item(worker, &mut stage, &item)?;
                    Ok(stage)
                }
            },
            Base::Image(name) => {
                let image = self
                    .image(
                        worker,
                        name,
                        &planned.platform,
                        &self.step_name(&empty, &from.source),
                    )
                    .map_err(|error| match error {
                        BuildError::Cancelled => BuildError::Cancelled,
                        error => BuildError::Step {
                            file: self.file_name.clone(),
                            place: from.place,
                            step: from.source.clone(),
                            source: Box::new(error),
                        },
                    })?;
                Ok(of_image(&image))
            }
        }
    }

    /// An image of the store, or of its registry.
    pub(crate) fn image(
        &self,
        worker: &Worker,
        name: &str,
        platform: &Platform,
        step: &str,
    ) -> Result<Image, BuildError> {
        let image = self.told(step, |_| {
            if !self.request.pull {
                match worker.images().find(name) {
                    Ok(image) if platform.fit(&image.platform).is_some() => {
                        return Ok((image, true));
                    }
                    Ok(_) | Err(FindError::NotFound { .. }) => {}
                    Err(error) => return Err(EngineError::from(error).into()),
                }
            }
            let reference: Reference =
                name.parse().map_err(|error: isle_image::ReferenceError| {
                    let hint = error.hint().to_owned();
                    BuildError::request(error.to_string(), hint)
                })?;
            let config =
                Config::of_host().map_err(|error| BuildError::request(error.to_string(), ""))?;
            let options = PullOptions {
                platform: Some(platform.clone()),
                policy: PullPolicy::Always,
            };
            let silent: Arc<dyn isle_image::Progress> = Arc::new(SilentImages);
            let image =
                worker
                    .images()
                    .pull(&Client::new(config), &reference, &options, &silent)?;
            Ok((image, false))
        })?;
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.insert(name.to_owned(), image.manifest.clone());
        Ok(image)
    }

    fn lexer(&self) -> Lexer {
        Lexer {
            escape: self.file.escape(),
            keeps_quotes: false,
        }
    }

    /// A text as one word, its variables replaced.
    pub(crate) fn word(
        &self,
        stage: &Stage,
        item: &Item,
        text: &str,
    ) -> Result<String, BuildError> {
        self.lexer()
            .word(text, stage)
            .map_err(|problem| self.at(item, problem, "a $ that means itself is written \\$"))
    }

    fn words(&self, stage: &Stage, item: &Item, text: &str) -> Result<Vec<String>, BuildError> {
        let expansion = self.lexer().expand(text, stage);
        let expansion = expansion
            .map_err(|problem| self.at(item, problem, "a $ that means itself is written \\$"))?;
        Ok(expansion.words)
    }

    fn item(&self, worker: &Worker, stage: &mut Stage, item: &Item) -> Result<(), BuildError> {
        self.check()?;
        let word = item.instruction.word();
        match &item.instruction {
            Instruction::Copy(copy) => return self.copy(worker, stage, item, copy, false),
            Instruction::Add(copy) => return self.copy(worker, stage, item, copy, true),
            Instruction::Run(run) => return self.run_step(worker, stage, item, run),
            Instruction::Workdir(path) => return self.workdir(worker, stage, item, path),
            Instruction::Arg(definitions) => {
                for definition in definitions {
                    let value = match self.request.args.get(&definition.name) {
                        Some(given) => Some(given.clone()),
                        None => match &definition.default {
                            Some(default) => Some(self.word(stage, item, default)?),
                            None => {
                                let global = self.plan.globals.get(&definition.name);
                                global
                                    .or_else(|| self.platform_variable(stage, &definition.name))
                                    .cloned()
                            }
                        },
                    };
                    match value {
                        Some(value) => stage.args.insert(definition.name.clone(), value),
                        None => stage.args.remove(&definition.name),
                    };
                }
            }
            Instruction::Env(pairs) => {
                let mut set = Vec::new();
                for pair in pairs {
                    set.push((
                        self.word(stage, item, &pair.key)?,
                        self.word(stage, item, &pair.value)?,
                    ));
                }
                for (key, value) in set {
                    stage.config.set_env(&key, &value);
                }
            }
            Instruction::Label(pairs) => {
                for pair in pairs {
                    let (key, value) = (
                        self.word(stage, item, &pair.key)?,
                        self.word(stage, item, &pair.value)?,
                    );
                    stage.config.set_label(&key, &value);
                }
            }
            Instruction::Cmd(command) => stage.config.set_cmd(command),
            Instruction::Entrypoint(command) => stage.config.set_entrypoint(command),
            Instruction::Shell(words) => stage.config.set("Shell", json!(words)),
            Instruction::User(user) => {
                let user = self.word(stage, item, user)?;
                stage.config.set("User", json!(user));
            }
            Instruction::Volume(command) => {
                let paths = match command {
                    Command::Exec(paths) => {
                        let paths = paths.iter().map(|path| self.word(stage, item, path));
                        paths.collect::<Result<Vec<_>, _>>()?
                    }
                    Command::Shell(text) => self.words(stage, item, text)?,
                };
                for path in paths {
                    if path.trim().is_empty() {
                        return Err(self.at(item, "a volume has no path", "write VOLUME /path"));
                    }
                    stage.config.set_add("Volumes", &path, json!({}));
                }
            }
            Instruction::Maintainer(who) => stage.config.set_author(who),
            Instruction::Onbuild(trigger) => {
                let mut triggers = stage.config.take_triggers();
                triggers.push(trigger.clone());
                stage.config.set("OnBuild", json!(triggers));
            }
            Instruction::Expose(text) => {
                let ports = self.words(stage, item, text)?;
                let change = format!("EXPOSE {}", ports.join(" "));
                self.change(stage, item, change)?;
            }
            Instruction::Stopsignal(text) => {
                let signal = self.word(stage, item, text)?;
                self.change(stage, item, format!("STOPSIGNAL {signal}"))?;
            }
            Instruction::Healthcheck(text) => {
                self.change(stage, item, format!("HEALTHCHECK {text}"))?
            }
        }
        if word == "ARG" {
            // As BuildKit: it is told, and changes nothing.
            stage.config.note(stage.created, &item.source, false);
            return Ok(());
        }
        stage.config.note(stage.created, &item.source, false);
        Ok(())
    }

    fn platform_variable<'s>(&'s self, stage: &Stage, name: &str) -> Option<&'s String> {
        // Of a stage for another platform than the target's nothing differs: TARGET… is what was asked for.
        let _ = stage;
        self.plan.platforms.get(name)
    }

    fn change(&self, stage: &mut Stage, item: &Item, change: String) -> Result<(), BuildError> {
        stage.config.change(change).map_err(|error| {
            let hint = error.hint();
            self.at(item, error.to_string(), hint)
        })
    }

    /// Variables of a program: the image's, then the stage's `ARG`s, then proxies. The first so many count for the cache.
    fn environment(&self, stage: &Stage) -> (Vec<String>, usize) {
        let mut env = stage.config.all_env();
        for (name, value) in &stage.args {
            if stage.config.env(name).is_none() && !PROXIES.contains(&name.as_str()) {
                env.push(format!("{name}={value}"));
            }
        }
        let counted = env.len();
        for name in PROXIES {
            let given = stage.args.get(name).or_else(|| self.request.args.get(name));
            if let Some(value) = given
                && stage.config.env(name).is_none()
            {
                env.push(format!("{name}={value}"));
            }
        }
        (env, counted)
    }

    fn run_step(
        &self,
        worker: &Worker,
        stage: &mut Stage,
        item: &Item,
        run: &RunInstruction,
    ) -> Result<(), BuildError> {
        let (env, counted) = self.environment(stage);
        let mut script = None;
        let words = match (&run.command, &*run.heredocs) {
            (Command::Shell(text), [only]) if text.trim() == only.word => {
                let content = only.text();
                match content.starts_with("#!") {
                    true => {
                        script = Some((format!("/dev/pipes/{}", only.name), content));
                        vec![format!("/dev/pipes/{}", only.name)]
                    }
                    false => stage.config.words(&Command::Shell(content)),
                }
            }
            (Command::Shell(text), heredocs) => {
                let mut text = text.clone();
                for heredoc in heredocs {
                    text.push('\n');
                    text.push_str(&heredoc.content);
                    text.push_str(&heredoc.name);
                }
                stage.config.words(&Command::Shell(text))
            }
            (Command::Exec(words), _) => words.clone(),
        };
        if words.is_empty() {
            return Err(self.at(item, "RUN has nothing to run", "write RUN command"));
        }
        let network = match run.network.as_deref() {
            None | Some("default") => self.request.network.clone(),
            Some("none") => NetworkMode::None,
            Some("host") => match self.request.allows_host_network {
                true => NetworkMode::Host,
                false => {
                    return Err(self.at(
                        item,
                        "RUN --network=host is not allowed",
                        "allow it with --allow network.host",
                    ));
                }
            },
            Some(other) => {
                return Err(self.at(
                    item,
                    format!("RUN --network={other} is not known"),
                    "there are default, none and host",
                ));
            }
        };
        let is_privileged = match run.security.as_deref() {
            None | Some("sandbox") => false,
            Some("insecure") if self.request.allows_insecure => true,
            Some("insecure") => {
                return Err(self.at(
                    item,
                    "RUN --security=insecure is not allowed",
                    "allow it with --allow security.insecure",
                ));
            }
            Some(other) => {
                return Err(self.at(
                    item,
                    format!("RUN --security={other} is not known"),
                    "there are sandbox and insecure",
                ));
            }
        };
        if !run.devices.is_empty() {
            return Err(self.at(
                item,
                "RUN --device is not supported",
                "run the step without it; devices are given to instances with isle run --device",
            ));
        }
        let mut program = Program {
            words,
            env,
            network,
            is_privileged,
            ..Program::default()
        };
        let mut key = KeyMaker::new("run");
        key.part(&stage.chain);
        for part in key_parts(stage, &program, self) {
            key.part(part);
        }
        let mut counted: Vec<&String> = program.env[..counted].iter().collect();
        counted.sort();
        for entry in counted {
            key.part(entry);
        }
        if let Some((path, content)) = &script {
            key.part(path).part(content);
        }
        let mounts = self.plan_mounts(worker, stage, item, run, &mut key)?;
        let created_by = created_by(stage, &program.words);
        self.step(
            worker,
            stage,
            item,
            &created_by,
            key.finish(),
            |stage, step| {
                let held =
                    self.make_mounts(worker, stage, &mounts, script.as_ref(), &mut program)?;
                let image = self.run_program(worker, stage, &program, step)?;
                drop(held);
                Ok(Some(image))
            },
        )
    }

    fn workdir(
        &self,
        worker: &Worker,
        stage: &mut Stage,
        item: &Item,
        path: &str,
    ) -> Result<(), BuildError> {
        let path = self.word(stage, item, path)?;
        if path.is_empty() {
            return Err(self.at(item, "WORKDIR has no path", "write WORKDIR /path"));
        }
        let joined = std::path::Path::new(stage.config.working_dir()).join(&path);
        let path = isle_archive::lexical(&joined)
            .to_string_lossy()
            .into_owned();
        stage.config.set("WorkingDir", json!(path));
        let mut key = KeyMaker::new("workdir");
        key.part(&stage.chain).part(&path);
        key.part(stage.config.user().unwrap_or_default());
        key.part(
            self.epoch
                .map(|epoch| epoch.to_string())
                .unwrap_or_default(),
        );
        let created_by = format!("WORKDIR {path}");
        self.step(
            worker,
            stage,
            item,
            &created_by,
            key.finish(),
            |stage, _| self.make_folder(worker, stage, &path),
        )
    }
}

/// As BuildKit writes a `RUN` into the history.
fn created_by(stage: &Stage, words: &[String]) -> String {
    let args: Vec<String> = stage
        .args
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let words = words.join(" ");
    match args.is_empty() {
        true => format!("RUN {words} # buildkit"),
        false => format!("RUN |{} {} {words} # buildkit", args.len(), args.join(" ")),
    }
}
