//! What all machines of one size have in common: kernel, agent, QEMU, accelerator, template.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use isle_kernel::{Hold, Kernels};
use isle_qemu::template::{Making, Template};
use isle_qemu::{Architecture, Boot, Devices, Machine, Profile, Program, Store};
use isle_types::{Accelerator, ByteSize};

use crate::host::HostUsage;
use crate::{programs, ready, size};

/// How long a machine may take from power on until its agent answers.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);
/// How long a guest of a few instructions may take to find out whether KVM works.
const KVM_PATIENCE: Duration = Duration::from_secs(2);
/// The program in the guest.
pub const AGENT: &str = "isle-guest";
/// The port of the machine that the agent speaks through.
pub const PORT: &str = "isle";

/// What a machine is asked to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// What the workload may use; `None`: nobody has said.
    pub memory: Option<ByteSize>,
    /// Time on processors, in billionths of one; `None`: nobody has said.
    pub nano_cpus: Option<u64>,
    /// Emulation is not good enough.
    pub require_kvm: bool,
}

/// What all machines of one size have in common.
#[derive(Debug)]
pub struct Base {
    /// The machine that is copied.
    pub template: Template,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The template was just made.
    pub is_new: bool,
    /// The kernel stays while this lives.
    pub kernel: Arc<Hold>,
    /// Its name.
    pub kernel_name: String,
}

/// Why no machine can be started.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// There is no QEMU that is good enough.
    #[error(transparent)]
    Program(#[from] isle_qemu::ProgramError),
    /// There is no kernel, or it was changed.
    #[error(transparent)]
    Kernel(#[from] isle_kernel::KernelError),
    /// The agent is not there.
    #[error("cannot find the program {AGENT}")]
    Agent,
    /// KVM was required.
    #[error("KVM is required, and this host has none that can run an ordinary kernel")]
    NoKvm,
    /// The host does not tell how large it is.
    #[error("cannot find out what the host has")]
    Host(#[source] io::Error),
    /// The machine that would be copied cannot be made.
    #[error("cannot make a template of the virtual machine")]
    Template(#[from] isle_qemu::TemplateError),
}

impl BaseError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            BaseError::Program(error) => Some(error.hint()),
            BaseError::Kernel(error) => error.hint(),
            BaseError::Agent => Some(format!(
                "put {AGENT} beside isle, isle-shim and isle-oci"
            )),
            BaseError::NoKvm => Some(
                "`isle doctor` says what is missing; without --require-kvm the machine is emulated, which is no \
                 security boundary"
                    .to_owned(),
            ),
            BaseError::Host(_) | BaseError::Template(_) => None,
        }
    }
}

/// Where templates are, for these places of what survives a boot and what does not.
#[must_use]
pub fn templates(root: &Path, run: &Path) -> Store {
    Store {
        directory: root.join("templates"),
        checked: run.join("templates"),
    }
}

impl Base {
    /// The template for such a machine, made when it is not there: then `begins` is called. `root` is where kernels and templates
    /// are, `run` what a boot of the host ends.
    ///
    /// # Errors
    /// [`BaseError`], with the remedy.
    pub fn prepare(
        wanted: &Wanted,
        root: &Path,
        run: &Path,
        begins: &mut dyn FnMut(),
    ) -> Result<Base, BaseError> {
        let accelerator = accelerator(wanted.require_kvm, run)?;
        let program = Program::find(Architecture::of_host(), accelerator, &run.join("qemu"))?;
        let kernels = Kernels::new(root);
        let kernel = kernels.current()?;
        let hold = kernels.hold(&kernel.description.name)?;
        // Held first: what was looked at is what is booted.
        kernel.verify_once(&run.join("kernels"))?;
        let agent = programs::find(AGENT).ok_or(BaseError::Agent)?;
        let initramfs = kernels.initramfs(&kernel, &agent)?;
        let machine = machine(wanted, run, &kernel, initramfs.path, accelerator)?;
        let making = Making {
            cgroup: None,
            patience: BOOT_PATIENCE,
        };
        let mut is_told = false;
        let template = templates(root, run).ensure(
            &program,
            &machine,
            &making,
            &mut ready::is_ready,
            &mut |_| {
                if !std::mem::replace(&mut is_told, true) {
                    begins();
                }
            },
        )?;
        Ok(Base {
            template,
            accelerator,
            is_new: is_told,
            kernel: Arc::new(hold),
            kernel_name: kernel.description.name,
        })
    }
}

/// KVM where it really works, else emulation.
fn accelerator(require_kvm: bool, run: &Path) -> Result<Accelerator, BaseError> {
    let found = match kvm_works(run) {
        true => Accelerator::Kvm,
        false => Accelerator::Tcg,
    };
    match (found, require_kvm) {
        (Accelerator::Tcg, true) => Err(BaseError::NoKvm),
        _ => Ok(found),
    }
}

/// Asked once in each life of the run directory, which a boot of the host ends.
fn kvm_works(run: &Path) -> bool {
    let path = run.join("kvm");
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
    let _ = fs::create_dir_all(run);
    let _ = fs::write(path, text);
    works
}

fn machine(
    wanted: &Wanted,
    run: &Path,
    kernel: &isle_kernel::Kernel,
    initramfs: PathBuf,
    accelerator: Accelerator,
) -> Result<Machine, BaseError> {
    let host = HostUsage::read().map_err(BaseError::Host)?;
    let size = size::of(wanted, host.memory_bytes, host.online_cpus);
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
        let khz = counter_khz(run);
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
fn counter_khz(run: &Path) -> u64 {
    let path = run.join("tsc-khz");
    if let Some(khz) = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return khz;
    }
    // Rounded, so that the templates of one boot serve the next one: at most 50 kHz of some GHz, which is less than
    // the quartz of a host is off.
    let khz = (isle_sys::time::counter_khz() + 50) / 100 * 100;
    let _ = fs::create_dir_all(run);
    let _ = fs::write(path, khz.to_string());
    khz
}
