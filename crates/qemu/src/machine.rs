//! What a virtual machine is, as data.

use std::path::PathBuf;

use isle_types::Accelerator;
use serde::{Deserialize, Serialize};

/// Whose instructions the guest executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Architecture {
    /// That of this program.
    #[must_use]
    pub const fn of_host() -> Architecture {
        match cfg!(target_arch = "aarch64") {
            true => Architecture::Aarch64,
            false => Architecture::X86_64,
        }
    }

    /// As QEMU's programs are named after it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        }
    }

    /// The processor that a guest sees by default: all that this one, or the software, can do, but
    /// for virtualization of its own.
    #[must_use]
    pub const fn default_cpu_model(self, accelerator: Accelerator) -> &'static str {
        match (self, accelerator) {
            (Architecture::X86_64, Accelerator::Kvm) => "host,vmx=off,svm=off",
            // The emulator moves what `rep movsb` moves byte by byte, and translates a block of code once more for
            // each of two places in it where supervisor mode may look at the user's memory.
            (Architecture::X86_64, Accelerator::Tcg) => "max,svm=off,erms=off,fsrm=off,smap=off",
            (Architecture::Aarch64, Accelerator::Kvm) => "host",
            (Architecture::Aarch64, Accelerator::Tcg) => "max",
        }
    }
}

/// Which of QEMU's machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// x86 with virtio on memory-mapped slots and no PCI.
    /// <https://www.qemu.org/docs/master/system/i386/microvm.html>
    Microvm {
        /// Whether its devices are described by ACPI, as a distribution's kernel needs it. Without
        /// it QEMU writes them on the kernel's command line (`virtio_mmio.device=`).
        acpi: bool,
    },
    /// Arm's generic machine.
    /// <https://www.qemu.org/docs/master/system/arm/virt.html>
    Virt,
}

/// What the guest boots from. A clone does not boot: its template did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// An ELF file with a PVH note, or a compressed image.
    pub kernel: PathBuf,
    /// Archives of the first file system (cpio, compressed or not), in the order in which the
    /// kernel unpacks them.
    pub initramfs: Vec<PathBuf>,
    /// The kernel's command line. QEMU adds the devices of a machine without ACPI.
    pub command_line: String,
}

/// The devices, in the order in which the guest finds them. The same for a template and its clones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// Names of serial ports (virtserialport); the guest finds them as `/dev/virtio-ports/<name>`
    /// and as `/dev/vport0p1`, `p2`, … Each is a socket `port-<name>.sock` in the run directory.
    pub ports: Vec<String>,
    /// Block devices (virtio-blk): `/dev/vda`, … `true`: read-only.
    pub disks: Vec<DiskSlot>,
    /// A SCSI controller, for disks that are added while the guest runs.
    pub scsi: bool,
    /// How many network cards. They are connected to nothing unless the start says otherwise.
    pub network_cards: u8,
    /// A source of random numbers.
    pub random: bool,
    /// A balloon, by which memory is taken from the guest, and by which the guest tells which pages
    /// are free.
    pub balloon: bool,
}

/// A place for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSlot {
    /// Several machines may have the same file.
    ReadOnly,
    /// QEMU locks the file: it is this machine's alone.
    Writable,
}

impl Devices {
    /// What an instance has: a port for its agent, one for folders of the host, a read-only root, a writable layer, and the rest.
    /// On a microvm it fills all of eight slots.
    #[must_use]
    pub fn of_instance() -> Devices {
        Devices {
            ports: ["isle", "share0"].map(str::to_owned).to_vec(),
            disks: vec![DiskSlot::ReadOnly, DiskSlot::Writable],
            scsi: true,
            network_cards: 2,
            random: true,
            balloon: true,
        }
    }

    /// How many of a machine's virtio slots it takes.
    #[must_use]
    pub fn slots(&self) -> usize {
        usize::from(!self.ports.is_empty())
            + self.disks.len()
            + usize::from(self.network_cards)
            + [self.scsi, self.random, self.balloon]
                .into_iter()
                .filter(|is_there| *is_there)
                .count()
    }
}

/// A virtual machine. Everything that a template's clones have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The guest's.
    pub architecture: Architecture,
    /// The machine.
    pub profile: Profile,
    /// Asked for, not tried: who wants [`Accelerator::Kvm`] has made sure that it works, and it is
    /// an error when it does not.
    pub accelerator: Accelerator,
    /// With its flags, as `-cpu` takes it: see [`Accelerator::default_cpu_model`].
    pub cpu_model: String,
    /// Virtual processors, at least 1.
    pub vcpus: u32,
    /// Memory in bytes, a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// What it boots from.
    pub boot: Boot,
    /// Its devices.
    pub devices: Devices,
}

/// Why there is no such machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The numbers of processors that a machine can have.
    #[error("{vcpus} virtual processors: a {profile} has 1 to {most}")]
    Vcpus {
        /// Asked for.
        vcpus: u32,
        /// The machine.
        profile: &'static str,
        /// At most.
        most: u32,
    },
    /// Not a size of memory.
    #[error("{bytes} bytes of memory: a multiple of 1 MiB is needed, and at least {least_mib} MiB")]
    Memory {
        /// Asked for.
        bytes: u64,
        /// At least.
        least_mib: u64,
    },
    /// Too many devices.
    #[error("{devices} devices: a {profile} has {slots} slots")]
    Slots {
        /// Asked for.
        devices: usize,
        /// The machine.
        profile: &'static str,
        /// Slots.
        slots: usize,
    },
    /// The processor of another machine.
    #[error("a {profile} machine has no {} processor", .architecture.name())]
    Architecture {
        /// The machine.
        profile: &'static str,
        /// Asked for.
        architecture: Architecture,
    },
    /// A text that would be taken for something else on QEMU's command line.
    #[error("{what} {text:?} holds {character:?}, which QEMU would take for something else")]
    Text {
        /// What it is.
        what: &'static str,
        /// It.
        text: String,
        /// What it must not hold.
        character: char,
    },
}

impl Profile {
    /// As QEMU names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Microvm { .. } => "microvm",
            Profile::Virt => "virt",
        }
    }

    /// How many virtio devices on memory-mapped slots it can have. A microvm with ACPI has a second
    /// interrupt controller for 16 more.
    #[must_use]
    pub const fn slots(self) -> usize {
        match self {
            Profile::Microvm { acpi: false } => 8,
            Profile::Microvm { acpi: true } => 24,
            Profile::Virt => 32,
        }
    }

    const fn most_vcpus(self) -> u32 {
        match self {
            Profile::Microvm { .. } => 288,
            Profile::Virt => 512,
        }
    }

    const fn architecture(self) -> Architecture {
        match self {
            Profile::Microvm { .. } => Architecture::X86_64,
            Profile::Virt => Architecture::Aarch64,
        }
    }
}

const MIB: u64 = 1 << 20;
const LEAST_MEMORY_MIB: u64 = 16;

impl Machine {
    /// Is there such a machine? Asked before anything is started.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), MachineError> {
        let profile = self.profile.name();
        if self.profile.architecture() != self.architecture {
            return Err(MachineError::Architecture {
                profile,
                architecture: self.architecture,
            });
        }
        let most = self.profile.most_vcpus();
        if self.vcpus == 0 || self.vcpus > most {
            return Err(MachineError::Vcpus {
                vcpus: self.vcpus,
                profile,
                most,
            });
        }
        if !self.memory_bytes.is_multiple_of(MIB) || self.memory_bytes < LEAST_MEMORY_MIB * MIB {
            return Err(MachineError::Memory {
                bytes: self.memory_bytes,
                least_mib: LEAST_MEMORY_MIB,
            });
        }
        let devices = self.devices.slots();
        if devices > self.profile.slots() {
            return Err(MachineError::Slots {
                devices,
                profile,
                slots: self.profile.slots(),
            });
        }
        let bad =
            |what, text: &str, bad: &dyn Fn(char) -> bool| match text.chars().find(|c| bad(*c)) {
                None => Ok(()),
                Some(character) => Err(MachineError::Text {
                    what,
                    text: text.to_owned(),
                    character,
                }),
            };
        for port in &self.devices.ports {
            bad("the port", port, &|c| {
                !(c.is_ascii_alphanumeric() || "._-".contains(c))
            })?;
        }
        bad("the CPU model", &self.cpu_model, &|c| {
            !(c.is_ascii_alphanumeric() || "._-,=+".contains(c))
        })?;
        bad("the kernel's command line", &self.boot.command_line, &|c| {
            c == '\0'
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine() -> Machine {
        Machine {
            architecture: Architecture::X86_64,
            profile: Profile::Microvm { acpi: false },
            accelerator: Accelerator::Tcg,
            cpu_model: "max,svm=off".to_owned(),
            vcpus: 1,
            memory_bytes: 256 * MIB,
            boot: Boot {
                kernel: "/var/lib/isle/kernels/isle-6.1.1/vmlinux".into(),
                initramfs: vec!["/a.cpio".into(), "/b.cpio".into()],
                command_line: "quiet panic=-1 reboot=t".to_owned(),
            },
            devices: Devices::of_instance(),
        }
    }

    #[test]
    fn an_instance_fits_a_microvm() {
        assert_eq!(Devices::of_instance().slots(), 8);
        assert_eq!(machine().check(), Ok(()));
    }

    #[test]
    fn what_no_machine_can_be_is_said_before_it_is_started() {
        let check = |change: &dyn Fn(&mut Machine)| {
            let mut machine = machine();
            change(&mut machine);
            machine.check().unwrap_err().to_string()
        };
        let text = check(&|machine| machine.vcpus = 0);
        assert_eq!(text, "0 virtual processors: a microvm has 1 to 288");
        let text = check(&|machine| machine.memory_bytes = MIB + 1);
        assert!(text.starts_with("1048577 bytes of memory"), "{text}");
        let text = check(&|machine| machine.devices.disks = vec![DiskSlot::Writable; 4]);
        assert_eq!(text, "10 devices: a microvm has 8 slots");
        let text = check(&|machine| machine.architecture = Architecture::Aarch64);
        assert_eq!(text, "a microvm machine has no aarch64 processor");
        let text = check(&|machine| machine.devices.ports[0] = "a,b".to_owned());
        assert!(text.contains("the port \"a,b\" holds ','"), "{text}");
        let text = check(&|machine| machine.cpu_model = "max -S".to_owned());
        assert!(text.contains("CPU model"), "{text}");
    }
}
