//! What a virtual machine is started from: kernel, agent, QEMU, accelerator, template, the image's block image.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isle_cgroup::Cgroup;
use isle_guest::Connection;
use isle_kernel::{Hold, Kernels};
use isle_qemu::template::{Making, Template};
use isle_qemu::{
    Architecture, Boot, Devices, Identity, Launch, Machine, Pool, Profile, Program, Starting,
};
use isle_types::Accelerator;
use rustix::event::{PollFd, PollFlags, poll};

use super::record::Record;
use super::rehearsal::First;
use super::{pool, size};
use crate::backend::host::HostUsage;
use crate::backend::{Preparation, StartError, chain, failed};
use crate::config::Resources;
use crate::state::Instance;
use crate::{Paths, programs};

/// How long QEMU may take for each step of a start.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a machine may take from power on until its agent answers.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long a guest of a few instructions may take to find out whether KVM works.
const KVM_PATIENCE: Duration = Duration::from_secs(2);
/// The program in the guest.
const AGENT: &str = "isle-guest";
/// The port of the machine that the agent speaks through.
pub(super) const PORT: &str = "isle";

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

/// What all machines of one size have in common.
pub(crate) struct Base {
    pub(crate) template: Template,
    pub(super) accelerator: Accelerator,
    /// The template was just made.
    is_new: bool,
    /// The kernel stays while this lives.
    kernel: Arc<Hold>,
    kernel_name: String,
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

impl Base {
    /// The template for an instance with these limits, made when it is not there.
    ///
    /// # Errors
    /// [`StartError`], with the remedy.
    pub(crate) fn prepare(
        resources: &Resources,
        require_kvm: bool,
        paths: &Paths,
        progress: &mut (dyn FnMut(Preparation) + Send),
    ) -> Result<Base, StartError> {
        let accelerator = accelerator(require_kvm, paths)?;
        let program = Program::find(
            Architecture::of_host(),
            accelerator,
            &paths.run.join("qemu"),
        )
        .map_err(missing(
            "cannot run a virtual machine",
            |e: &isle_qemu::ProgramError| Some(e.hint()),
        ))?;
        let kernels = Kernels::new(&paths.root);
        let without_kernel = || {
            missing(
                "cannot run a virtual machine",
                |e: &isle_kernel::KernelError| e.hint(),
            )
        };
        let kernel = kernels.current().map_err(without_kernel())?;
        let hold = kernels
            .hold(&kernel.description.name)
            .map_err(without_kernel())?;
        // Held first: what was looked at is what is booted.
        kernel
            .verify_once(&paths.run.join("kernels"))
            .map_err(without_kernel())?;
        let agent = programs::find(AGENT).ok_or_else(|| StartError {
            message: format!("cannot find the program {AGENT}: put it beside isle-shim"),
            exit_code: 125,
        })?;
        let initramfs = kernels
            .initramfs(&kernel, &agent)
            .map_err(without_kernel())?;
        let machine = machine(resources, paths, &kernel, initramfs.path, accelerator)?;
        let making = Making {
            cgroup: None,
            patience: BOOT_PATIENCE,
        };
        let mut is_told = false;
        let template = pool::templates(paths)
            .ensure(&program, &machine, &making, &mut is_ready, &mut |_| {
                if !std::mem::replace(&mut is_told, true) {
                    progress(Preparation::Template);
                }
            })
            .map_err(failed("cannot make a template of the virtual machine"))?;
        Ok(Base {
            template,
            accelerator,
            is_new: is_told,
            kernel: Arc::new(hold),
            kernel_name: kernel.description.name,
        })
    }
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
        let base = Base::prepare(
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

/// KVM where it really works, else emulation.
fn accelerator(require_kvm: bool, paths: &Paths) -> Result<Accelerator, StartError> {
    let found = match kvm_works(paths) {
        true => Accelerator::Kvm,
        false => Accelerator::Tcg,
    };
    match (found, require_kvm) {
        (Accelerator::Tcg, true) => Err(StartError {
            message: "KVM is required, and this host has none that can run an ordinary kernel\n\
                      hint: `isle doctor` says what is missing; without --require-kvm the machine is emulated, \
                      which is no security boundary"
                .to_owned(),
            exit_code: 125,
        }),
        _ => Ok(found),
    }
}

/// Asked once in each life of the run directory, which a boot of the host ends.
fn kvm_works(paths: &Paths) -> bool {
    let path = paths.run.join("kvm");
    match fs::read_to_string(&path).as_deref() {
        Ok("works") => return true,
        Ok("does not work") => return false,
        _ => {}
    }
    let works = matches!(
        isle_sys::kvm::probe(KVM_PATIENCE),
        Ok(isle_sys::kvm::Outcome::Works)
    );
    let text = if works { "works" } else { "does not work" };
    let _ = fs::create_dir_all(&paths.run);
    let _ = fs::write(path, text);
    works
}

fn machine(
    resources: &Resources,
    paths: &Paths,
    kernel: &isle_kernel::Kernel,
    initramfs: PathBuf,
    accelerator: Accelerator,
) -> Result<Machine, StartError> {
    let host = HostUsage::read().map_err(failed("cannot find out what the host has"))?;
    let size = size::of(resources, host.memory_bytes, host.online_cpus);
    let architecture = Architecture::of_host();
    let profile = match architecture {
        Architecture::X86_64 => Profile::Microvm {
            acpi: kernel.description.machine.acpi,
        },
        Architecture::Aarch64 => Profile::Virt,
    };
    let mut command_line = kernel.command_line(accelerator == Accelerator::Tcg);
    if let (Architecture::X86_64, Accelerator::Tcg) = (architecture, accelerator) {
        // Emulated, it cannot calibrate the counter by itself, and would count in jiffies.
        let khz = counter_khz(paths);
        command_line.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
    }
    Ok(Machine {
        architecture,
        profile,
        accelerator,
        cpu_model: architecture.default_cpu_model(accelerator).to_owned(),
        vcpus: size.vcpus,
        memory_bytes: size.memory_bytes,
        boot: Boot {
            kernel: kernel.image(),
            initramfs: vec![initramfs],
            command_line,
        },
        devices: Devices::of_instance(),
    })
}

/// The frequency of the processor's time stamp counter, which an emulated one has too. The same for all templates of
/// one boot.
fn counter_khz(paths: &Paths) -> u64 {
    let path = paths.run.join("tsc-khz");
    if let Some(khz) = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return khz;
    }
    // Rounded, so that the templates of one boot serve the next one: at most 50 kHz of some GHz, which is less than
    // the quartz of a host is off.
    let khz = (isle_sys::time::counter_khz() + 50) / 100 * 100;
    let _ = fs::create_dir_all(&paths.run);
    let _ = fs::write(path, khz.to_string());
    khz
}

/// Waits until the agent of a machine that boots can be copied: it has answered, and has nothing to do.
pub(super) fn is_ready(
    port: &UnixStream,
    deadline: Instant,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut guest = Connection::open(port.try_clone()?.into())?;
    guest.set_patience(deadline.saturating_duration_since(Instant::now()));
    guest.welcome()?;
    is_silent(port)
}

/// Waits a moment: everything that the agent wanted to say has been said.
pub(super) fn is_silent(port: &UnixStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut fds = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
    let short = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    match poll(&mut fds, Some(&short)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => Err(Box::new(io::Error::other(
            "the agent says more than it was asked",
        ))),
        Err(errno) => Err(Box::new(io::Error::from(errno))),
    }
}
