//! The configuration that an image will have, and what instructions do to it.

use isle_image::{Platform, apply_changes};
use serde_json::{Map, Value, json};

use crate::language::Command;

/// What BuildKit gives an image that begins with nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The document of an image on its way.
#[derive(Clone, Debug)]
pub(crate) struct ImageConfig {
    document: Map<String, Value>,
    /// `CMD` was said in this stage: an `ENTRYPOINT` does not take it away.
    has_cmd: bool,
}

impl ImageConfig {
    /// Of an image without layers.
    pub(crate) fn scratch(platform: &Platform) -> ImageConfig {
        let mut document = platform_of(platform);
        document.insert(
            "config".to_owned(),
            json!({ "Env": [PATH], "WorkingDir": "/" }),
        );
        document.insert("history".to_owned(), json!([]));
        ImageConfig {
            document,
            has_cmd: false,
        }
    }

    /// Of a base image's configuration.
    pub(crate) fn of(bytes: &[u8]) -> ImageConfig {
        let mut document: Map<String, Value> = serde_json::from_slice(bytes).unwrap_or_default();
        for (key, empty) in [("config", json!({})), ("history", json!([]))] {
            if document.get(key).is_none_or(Value::is_null) {
                document.insert(key.to_owned(), empty);
            }
        }
        // What the image was committed from says nothing about the new one.
        for key in [
            "container",
            "container_config",
            "docker_version",
            "rootfs",
            "created",
        ] {
            document.remove(key);
        }
        let mut config = ImageConfig {
            document,
            has_cmd: false,
        };
        if config.env("PATH").is_none() {
            config.set_env("PATH", PATH.trim_start_matches("PATH="));
        }
        config
    }

    pub(crate) fn map(&mut self) -> &mut Map<String, Value> {
        self.document
            .entry("config")
            .or_insert_with(|| json!({}))
            .as_object_mut()
            .expect("the configuration was made an object")
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.document
            .get("config")?
            .get(key)
            .filter(|value| !value.is_null())
    }

    fn list(&self, key: &str) -> Option<Vec<String>> {
        let list = self.get(key)?.as_array()?.iter();
        Some(
            list.filter_map(|word| Some(word.as_str()?.to_owned()))
                .collect(),
        )
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// `KEY=value`
    pub(crate) fn all_env(&self) -> Vec<String> {
        self.list("Env").unwrap_or_default()
    }

    pub(crate) fn env(&self, name: &str) -> Option<String> {
        let all = self.all_env();
        let found = all.iter().filter_map(|entry| entry.split_once('='));
        let mut found = found.filter(|(key, _)| *key == name);
        found.next_back().map(|(_, value)| value.to_owned())
    }

    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let mut all = self.all_env();
        let entry = format!("{name}={value}");
        let is_same = |old: &&mut String| old.split_once('=').is_some_and(|(old, _)| old == name);
        match all.iter_mut().find(is_same) {
            Some(old) => *old = entry,
            None => all.push(entry),
        }
        self.map().insert("Env".to_owned(), json!(all));
    }

    pub(crate) fn set_label(&mut self, key: &str, value: &str) {
        self.set_add("Labels", key, json!(value));
    }

    /// Adds to an object of the configuration.
    pub(crate) fn set_add(&mut self, object: &str, key: &str, value: Value) {
        let entry = self.map().entry(object).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        if let Some(map) = entry.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.map().insert(key.to_owned(), value);
    }

    pub(crate) fn set_author(&mut self, author: &str) {
        self.document.insert("author".to_owned(), author.into());
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.text("User")
    }

    pub(crate) fn working_dir(&self) -> &str {
        self.text("WorkingDir").unwrap_or("/")
    }

    pub(crate) fn shell(&self) -> Vec<String> {
        self.list("Shell")
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }

    /// Program and arguments.
    pub(crate) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) if text.is_empty() => Vec::new(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    pub(crate) fn set_cmd(&mut self, command: &Command) {
        self.has_cmd = true;
        let words = self.words(command);
        self.set("Cmd", json!(words));
    }

    pub(crate) fn set_entrypoint(&mut self, command: &Command) {
        let words = self.words(command);
        self.set("Entrypoint", json!(words));
        if !self.has_cmd {
            self.map().remove("Cmd");
        }
    }

    /// One of the instructions that `commit --change` knows too, its variables replaced.
    pub(crate) fn change(&mut self, instruction: String) -> Result<(), isle_image::ChangeError> {
        apply_changes(self.map(), &[instruction])
    }

    /// Takes the triggers of the base image.
    pub(crate) fn take_triggers(&mut self) -> Vec<String> {
        let triggers = self.list("OnBuild").unwrap_or_default();
        self.map().remove("OnBuild");
        triggers
    }

    /// Notes a step.
    pub(crate) fn note(&mut self, created: i64, created_by: &str, has_layer: bool) {
        let mut step = json!({
            "created": rfc3339(created),
            "created_by": created_by,
            "comment": "buildkit.dockerfile.v0",
        });
        if !has_layer {
            step["empty_layer"] = true.into();
        }
        if let Some(history) = self
            .document
            .get_mut("history")
            .and_then(Value::as_array_mut)
        {
            history.push(step);
        }
    }

    /// The whole document, but for its layers.
    pub(crate) fn document(&self, created: i64) -> Value {
        let mut document = self.document.clone();
        document.insert("created".to_owned(), rfc3339(created).into());
        if let Some(Value::Object(config)) = document.get_mut("config") {
            config.retain(|_, value| !value.is_null());
        }
        Value::Object(document)
    }

    /// Of an intermediate image: what it runs on, and nothing else.
    pub(crate) fn bare(&self) -> Value {
        let keys = ["architecture", "os", "variant"];
        let pairs = keys
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), self.document.get(*key)?.clone())));
        Value::Object(pairs.collect())
    }
}

fn platform_of(platform: &Platform) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert(
        "architecture".to_owned(),
        platform.architecture.to_string().into(),
    );
    map.insert("os".to_owned(), platform.os.to_string().into());
    if let Some(variant) = &platform.variant {
        map.insert("variant".to_owned(), variant.clone().into());
    }
    map
}

pub(crate) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}
