//! [`Engine`]: what every front door uses.

mod commit;
mod error;
mod files;
mod holds;
mod inside;
mod instances;
mod lifecycle;
mod logs;
mod networks;
mod processes;
mod removal;
mod requests;
mod volume_archives;
mod volume_copies;
#[cfg(test)]
mod volume_crash_tests;
mod volumes;

use std::cell::RefCell;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use isle_database::Database;

pub use error::*;
pub use lifecycle::Stopping;
pub use networks::{Member, Unpublish};
pub use removal::Removal;
pub(crate) use removal::volume_names;
pub use requests::*;
pub use volume_copies::*;
pub use volumes::*;

use crate::Paths;
use crate::state::Instance;
use crate::store::{SCHEMA, Store, StoreError};

/// The engine, open on one root. Not shared between threads: open one a thread.
#[derive(Debug)]
pub struct Engine {
    pub(crate) paths: Paths,
    images: isle_image::Store,
    /// The instance that was just made here: nothing about it can have changed.
    fresh: RefCell<Option<Instance>>,
}

impl Engine {
    /// Opens the engine; makes its folders when they are not there; reconciles what the store says
    /// with what lives (instances whose supervisor or host has died).
    ///
    /// # Errors
    /// When the folders or the state file cannot be used.
    pub fn open(paths: Paths) -> Result<Engine, EngineError> {
        check_owner(&paths.root)?;
        let path = paths.database();
        let open = || Database::open(&path, &[isle_image::SCHEMA, isle_network::SCHEMA, SCHEMA]);
        let database = match open() {
            Ok(database) => database,
            // The first time ever: asked for only then, to save the system calls.
            Err(_) if !path.exists() => {
                make_folder(&paths.root, 0o711)?;
                open().map_err(StoreError::Open)?
            }
            Err(error) => return Err(StoreError::Open(error).into()),
        };
        let images = isle_image::Store::open(&paths.root, database)?;
        let engine = Engine {
            paths,
            images,
            fresh: RefCell::new(None),
        };
        engine.reconcile_boot()?;
        Ok(engine)
    }

    /// The image store on the same root.
    #[must_use]
    pub fn images(&self) -> &isle_image::Store {
        &self.images
    }

    /// The rows of instances, on the state file that the image store has open.
    pub(crate) fn store(&self) -> Store<&Database> {
        Store::on(self.images.database())
    }

    /// Where it keeps its things.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// A root belongs to one user: what root has made is not to be read by others, and files that an ordinary user's engine made
/// have the ids of that user's user namespace, which mean others outside.
fn check_owner(root: &Path) -> Result<(), EngineError> {
    let Ok(found) = rustix::fs::stat(root) else {
        // It is made soon, or who makes it or opens what is in it tells why not.
        return Ok(());
    };
    let owner = found.st_uid;
    let own = rustix::process::geteuid().as_raw();
    match owner == own {
        true => Ok(()),
        false => Err(EngineError::NotOurRoot {
            root: root.to_owned(),
            owner: match (isle_rootless::house(), owner) {
                // What has no id here.
                (Some(_), _) => "another user".to_owned(),
                (None, owner) => format!("the user with id {owner}"),
            },
        }),
    }
}

/// Makes a folder and those above it; one that is there stays as it is.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), EngineError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(EngineError::io("make the folder", path))
}
