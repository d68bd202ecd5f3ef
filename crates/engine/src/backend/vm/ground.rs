//! What a virtual machine is started from: kernel, agent, QEMU, accelerator, template, the image's block image.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use isle_cgroup::Cgroup;
use isle_kernel::Hold;
use isle_machine::{Base, PATIENCE, Wanted};
use isle_qemu::template::Template;
use isle_qemu::{Identity, Launch, Pool, Starting};

use super::pool;
use super::record::Record;
use super::rehearsal::First;
use crate::Paths;
use crate::backend::{Preparation, StartError, chain, failed};
use crate::config::Resources;
use crate::state::Instance;

/// What a machine of an instance is started from.
pub(crate) struct Ground {
    base: Base,
    /// That of the image, for an instance that starts for the first time.
    heir: Option<Template>,
    pool: Pool,
    /// The image's root.
    image: PathBuf,
    /// Nobody has said how much memory it gets.
    is_elastic: bool,
    identity: Identity,
}

/// An error of the ground, with its remedy.
fn missing<E: std::error::Error>(
    what: &str,
    hint: impl FnOnce(&E) -> Option<String>,
) -> impl FnOnce(E) -> StartError {
    move |error| {
        let remedy = hint(&error).map_or(String::new(), |hint| format!("\nhint: {hint}"));
        StartError {
            message: format!("{what}: {}{remedy}", chain(&error)),
            exit_code: 125,
        }
    }
}

/// The template for an instance with these limits, made when it is not there.
///
/// # Errors
/// [`StartError`], with the remedy.
pub(crate) fn base(
    resources: &Resources,
    require_kvm: bool,
    paths: &Paths,
    progress: &mut (dyn FnMut(Preparation) + Send),
) -> Result<Base, StartError> {
    let wanted = Wanted {
        memory: resources.memory,
        nano_cpus: resources.nano_cpus,
        require_kvm,
    };
    Base::prepare(&wanted, &paths.root, &paths.run, &mut || {
        progress(Preparation::Template);
    })
    .map_err(missing(
        "cannot run a virtual machine",
        |e: &isle_machine::BaseError| e.hint(),
    ))
}

impl Ground {
    /// Finds everything, and makes what is not there; the image's template only for who has time to wait for it.
    fn prepare(
        instance: &Instance,
        paths: &Paths,
        images: &isle_image::Store,
        has_time: bool,
        progress: &mut (dyn FnMut(Preparation) + Send),
    ) -> Result<Ground, StartError> {
        let image = images
            .find(&instance.image_id)
            .map_err(failed("cannot find the image"))?;
        let image = images
            .block_image(&image, &Observer::new(progress))
            .map_err(missing(
                "cannot run the image in a virtual machine",
                |e: &isle_image::BlockImageError| e.hint(),
            ))?;
        let base = base(
            &instance.config.resources,
            instance.config.require_kvm,
            paths,
            progress,
        )?;
        let first = First {
            instance,
            paths,
            images,
            image: &image,
        };
        let pool = pool::pools(paths);
        // Those who keep machines waiting want to have them.
        let has_pool = pool.size(&base.template.key().to_string()) > 0;
        let heir = match first.is_first() && !has_pool {
            false => None,
            // Whoever waits for the first machine of all waits long enough.
            true if has_time && !base.is_new => {
                first.ensure(&base.template, || progress(Preparation::Rehearsal))
            }
            true => first.find(&base.template),
        };
        Ok(Ground {
            base,
            heir,
            pool,
            image: image.path,
            is_elastic: instance.config.resources.memory.is_none(),
            identity: Identity::of_instance(&instance.id),
        })
    }

    /// What was made ready, in a supervisor, which shows no progress.
    ///
    /// # Errors
    /// [`StartError`], with the remedy.
    pub(crate) fn find(instance: &Instance, paths: &Paths) -> Result<Ground, StartError> {
        let database = isle_database::Database::open(&paths.database(), &[isle_image::SCHEMA])
            .map_err(failed("cannot open the state file"))?;
        let images = isle_image::Store::open(&paths.root, database)
            .map_err(failed("cannot open the image store"))?;
        Ground::prepare(instance, paths, &images, false, &mut |_| {})
    }

    /// What is to be known of a machine that was started from here.
    pub(super) fn record(&self) -> Record {
        Record {
            accelerator: self.base.accelerator,
            memory_bytes: self.memory_bytes(),
            guest_memory_bytes: self.memory_bytes(),
            is_elastic: self.is_elastic,
            vcpus: self.base.template.machine().vcpus,
            server: None,
            kernel: self.base.kernel_name.clone(),
        }
    }

    /// The kernel is not removed while somebody has this.
    pub(super) fn kernel(&self) -> Arc<Hold> {
        Arc::clone(&self.base.kernel)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.base.template.machine().memory_bytes
    }

    /// What the disk of an instance that starts for the first time has to hold; `None`: as it is formatted.
    pub(super) fn first_disk(&self) -> Option<&fs::File> {
        self.heir.as_ref()?.disk()
    }

    /// The name of the pool for machines of its size, when there is to be one: a start may have taken one.
    pub(super) fn pool(&self) -> Option<String> {
        let name = self.base.template.key().to_string();
        (self.pool.size(&name) > 0).then_some(name)
    }

    /// Starts a clone, or takes one that waits, with the image's root as its first disk and the instance's own as its second,
    /// and taps for its first network cards.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub(super) fn start(
        &self,
        run_directory: &Path,
        cgroup: Option<&Cgroup>,
        disk: OwnedFd,
        taps: Vec<OwnedFd>,
    ) -> Result<Starting, StartError> {
        let image = fs::File::open(&self.image).map_err(failed("cannot open the block image"))?;
        let launch = Launch {
            run_directory,
            identity: self.identity,
            cgroup,
            disks: vec![image.into(), disk],
            taps,
            patience: PATIENCE,
            dies_with_starter: false,
        };
        if let Some(starting) = self.pool.claim(&self.base.template, &launch) {
            return Ok(starting);
        }
        Starting::clone_of(self.heir.as_ref().unwrap_or(&self.base.template), launch)
            .map_err(failed("cannot start the virtual machine"))
    }
}

/// Makes everything that a start needs and that takes long, for who can show progress.
///
/// # Errors
/// [`StartError`], with the remedy.
pub(crate) fn make_ready(
    instance: &Instance,
    paths: &Paths,
    images: &isle_image::Store,
    progress: &mut (dyn FnMut(Preparation) + Send),
) -> Result<(), StartError> {
    Ground::prepare(instance, paths, images, true, progress).map(drop)
}

/// Passes on that a block image is made, once.
struct Observer<'a>(Mutex<&'a mut (dyn FnMut(Preparation) + Send)>);

impl<'a> Observer<'a> {
    fn new(progress: &'a mut (dyn FnMut(Preparation) + Send)) -> Observer<'a> {
        Observer(Mutex::new(progress))
    }
}

impl isle_image::Progress for Observer<'_> {
    fn event(&self, _event: &isle_image::Event<'_>) {
        if let Ok(mut progress) = self.0.lock() {
            progress(Preparation::BlockImage);
        }
    }
}
