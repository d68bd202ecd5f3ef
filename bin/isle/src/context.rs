//! What every verb is given: where Isle keeps its things, and the engine on them.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use isle_engine::{Engine, Paths};
use isle_kernel::Kernels;
use isle_rootless::Visit;
use serde_json::Value;

use crate::failure::Result;
use crate::flags::detach_keys::{DetachKeys, detach_keys};

/// Opens things on first use, so that a verb pays only for what it needs.
#[derive(Debug)]
pub struct Context {
    paths: Paths,
    engine: OnceCell<Engine>,
}

impl Context {
    /// On the given root (`--root`), or the default one of the calling user.
    pub fn new(root: Option<&Path>) -> Context {
        Context {
            paths: Paths::from_environment(root),
            engine: OnceCell::new(),
        }
    }

    /// Where Isle keeps its things.
    pub fn paths(&self) -> Paths {
        self.paths.clone()
    }

    /// An ordinary user works as root of a user namespace: enters it. Root has no need to. To be called before anything else,
    /// while there is one thread.
    pub fn enter_house(&self) -> Result<Option<Visit>> {
        if rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let visit = isle_rootless::enter(&Paths::house(), || {
            isle_machine::programs::find(isle_rootless::PROGRAM)
        })?;
        if let Some(note) = visit.note {
            eprintln!("isle: note: {note}");
        }
        Ok(Some(visit))
    }

    /// The engine.
    pub fn engine(&self) -> Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::open(self.paths())?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// The guest kernels.
    pub fn kernels(&self) -> Kernels {
        Kernels::new(&self.paths().root)
    }

    /// The keys that detach: the flag's, else Docker's configuration file's, else its default.
    pub fn detach_keys(&self, flag: Option<&DetachKeys>) -> Result<DetachKeys> {
        if let Some(keys) = flag {
            return Ok(keys.clone());
        }
        let configured = docker_config_file()
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|config| Some(config.get("detachKeys")?.as_str()?.to_owned()));
        match configured {
            Some(text) => Ok(detach_keys(&text)?),
            None => Ok(DetachKeys::default()),
        }
    }
}

/// `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
pub fn docker_config_file() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}
