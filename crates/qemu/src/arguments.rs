//! A machine as QEMU's command line. Pure.
//!
//! No path of the host is on it: what QEMU needs it finds as descriptors with known numbers, or at
//! fixed places of its own root (see [`crate::confinement`]).
//! <https://www.qemu.org/docs/master/system/invocation.html>

use std::os::fd::RawFd;

use crate::machine::{DiskSlot, Machine, Profile};

/// Where the memory of a template is asked for. There is no such file: whoever starts QEMU answers
/// the call, see [`crate::memory`].
pub(crate) const MEMORY: &str = "/memory";
/// The kernel, in QEMU's root.
pub(crate) const KERNEL: &str = "/kernel";
/// The first file system, in QEMU's root.
pub(crate) const INITRAMFS: &str = "/initramfs";
/// Id of the virtio-serial device, the bus of all ports.
const SERIAL: &str = "serial0";
/// Size of a disk that is not there yet. The guest of a clone goes on seeing it until the disk is
/// resized.
const PLACEHOLDER_BYTES: u64 = 1 << 40;

/// How the machine comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It boots, with memory of its own.
    Cold,
    /// It boots, and its memory is the template's file.
    Maker,
    /// Its memory is a private copy of the template's, page by page as they are written; its state
    /// is loaded by the monitor.
    Clone,
    /// Its memory is a copy of a template's in a file of its own, which is to become another template's; its state is
    /// loaded by the monitor.
    Heir,
}

impl Role {
    /// Whether it goes on where a template was saved.
    pub(crate) fn is_loaded(self) -> bool {
        matches!(self, Role::Clone | Role::Heir)
    }
}

/// What is connected to the machine, as numbers of descriptors that QEMU inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wiring {
    /// A listening socket for the monitor, with a first client that has connected already.
    pub monitor: RawFd,
    /// A listening socket for each port; `true`: with a first client that has connected already.
    pub ports: Vec<(RawFd, bool)>,
    /// What the kernel writes to its console.
    pub console: Option<RawFd>,
    /// A file for each disk; `None`: a placeholder.
    pub disks: Vec<Option<RawFd>>,
    /// A tap for each network card; `None`: it is connected to nothing.
    pub taps: Vec<Option<RawFd>>,
    /// An empty file, for a machine that has no file yet: QEMU finds out how files are locked when it
    /// opens the first one, and cannot do so any more once it has its memory (see [`crate::memory`]).
    pub first_file: Option<RawFd>,
    /// Whether this QEMU has a seccomp filter of its own.
    pub has_sandbox: bool,
    /// The machine does not run until it is told to.
    pub is_paused: bool,
}

struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    fn flag(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }
}

/// The arguments, without the program's name. The machine has been checked.
pub(crate) fn arguments(machine: &Machine, role: Role, wiring: &Wiring) -> Vec<String> {
    let mut to = Arguments(Vec::new());
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        to.flag(flag);
    }
    to.add("-display", "none");
    if wiring.has_sandbox {
        to.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
    }
    the_machine(&mut to, machine, role);
    boot(&mut to, machine, role);
    wires(&mut to, machine, wiring);
    disks(&mut to, machine, wiring);
    cards(&mut to, machine, wiring);
    rest(&mut to, machine);
    if wiring.is_paused {
        to.flag("-S");
    }
    if role.is_loaded() {
        to.add("-incoming", "defer");
    }
    to.0
}

fn the_machine(to: &mut Arguments, machine: &Machine, role: Role) {
    let profile = match machine.profile {
        Profile::Microvm { acpi: true } => "microvm,acpi=on",
        Profile::Microvm { acpi: false } => "microvm,acpi=off",
        Profile::Virt => "virt",
    };
    to.add("-machine", format!("{profile},memory-backend=memory"));
    to.add("-accel", machine.accelerator.name());
    to.add("-cpu", machine.cpu_model.clone());
    to.add("-smp", machine.vcpus.to_string());
    let bytes = machine.memory_bytes;
    to.add("-m", format!("size={}M", bytes >> 20));
    let object = match role {
        Role::Cold => format!("memory-backend-ram,id=memory,size={bytes}"),
        Role::Maker | Role::Heir => {
            format!("memory-backend-file,id=memory,size={bytes},mem-path={MEMORY},share=on")
        }
        Role::Clone => {
            format!("memory-backend-file,id=memory,size={bytes},mem-path={MEMORY},share=off")
        }
    };
    to.add("-object", object);
}

fn boot(to: &mut Arguments, machine: &Machine, role: Role) {
    if role.is_loaded() {
        return;
    }
    to.add("-kernel", KERNEL);
    if !machine.boot.initramfs.is_empty() {
        to.add("-initrd", INITRAMFS);
    }
    to.add("-append", machine.boot.command_line.clone());
}

fn wires(to: &mut Arguments, machine: &Machine, wiring: &Wiring) {
    // The first client is there before QEMU is: it is taken at once, and nothing races.
    let monitor = wiring.monitor;
    to.add(
        "-chardev",
        format!("socket,id=monitor,fd={monitor},server=on,wait=on"),
    );
    to.add("-mon", "chardev=monitor,mode=control");
    match wiring.console {
        Some(fd) => {
            to.add("-add-fd", format!("fd={fd},set={fd}"));
            to.add("-chardev", format!("file,id=console,path=/dev/fdset/{fd}"));
        }
        None => to.add("-chardev", "null,id=console"),
    }
    to.add("-serial", "chardev:console");
    if machine.devices.ports.is_empty() {
        return;
    }
    // Port 0 is the one of a console, which nobody has.
    let most = machine.devices.ports.len() + 1;
    to.add(
        "-device",
        format!("virtio-serial-device,id={SERIAL},max_ports={most}"),
    );
    for (index, (name, (fd, is_connected))) in
        machine.devices.ports.iter().zip(&wiring.ports).enumerate()
    {
        let wait = if *is_connected { "on" } else { "off" };
        to.add(
            "-chardev",
            format!("socket,id=port-{name},fd={fd},server=on,wait={wait}"),
        );
        let number = index + 1;
        to.add(
            "-device",
            format!("virtserialport,bus={SERIAL}.0,nr={number},chardev=port-{name},name={name}"),
        );
    }
}

fn disks(to: &mut Arguments, machine: &Machine, wiring: &Wiring) {
    if let Some(fd) = wiring.first_file {
        to.add("-add-fd", format!("fd={fd},set={fd}"));
        to.add(
            "-blockdev",
            format!("driver=file,node-name=first,read-only=on,filename=/dev/fdset/{fd}"),
        );
    }
    for (index, slot) in machine.devices.disks.iter().enumerate() {
        let file = wiring.disks.get(index).copied().flatten();
        let read_only = match slot {
            DiskSlot::ReadOnly => "on",
            DiskSlot::Writable => "off",
        };
        match file {
            Some(fd) => {
                to.add("-add-fd", format!("fd={fd},set={fd}"));
                to.add(
                    "-blockdev",
                    format!(
                        "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,\
                         file.driver=file,file.filename=/dev/fdset/{fd},file.discard=unmap"
                    ),
                );
            }
            None => to.add(
                "-blockdev",
                format!(
                    "driver=null-co,node-name=disk{index},read-only={read_only},\
                     size={PLACEHOLDER_BYTES},read-zeroes=on"
                ),
            ),
        }
        let shared = match slot {
            DiskSlot::ReadOnly => ",share-rw=on",
            // Without it QEMU stops the machine when the host's disk is full, and says so to nobody.
            DiskSlot::Writable => ",werror=report",
        };
        to.add(
            "-device",
            format!("virtio-blk-device,id=vd{index},drive=disk{index}{shared}"),
        );
    }
}

fn cards(to: &mut Arguments, machine: &Machine, wiring: &Wiring) {
    for index in 0..usize::from(machine.devices.network_cards) {
        to.add(
            "-netdev",
            match wiring.taps.get(index).copied().flatten() {
                // What the kernel can leave to the receiver, it leaves to the receiver: the tap says what it can.
                Some(fd) => format!("tap,id=net{index},fd={fd}"),
                // A hub of its own: without state, so that a clone may bring a tap, and one can be plugged in later.
                None => format!("hubport,id=net{index},hubid={index}"),
            },
        );
        to.add(
            "-device",
            format!("virtio-net-device,id=nic{index},netdev=net{index}"),
        );
    }
}

fn rest(to: &mut Arguments, machine: &Machine) {
    let devices = &machine.devices;
    if devices.scsi {
        to.add("-device", "virtio-scsi-device,id=scsi0");
    }
    if devices.random {
        to.add("-device", "virtio-rng-device,id=random0");
    }
    if devices.balloon {
        // A page that is given back reads as the template's when it is used again, not as zero:
        // without `page-poison` a guest that relies on zero (init_on_free) reports no pages.
        to.add(
            "-device",
            "virtio-balloon-device,id=balloon0,deflate-on-oom=on,free-page-reporting=on,page-poison=off",
        );
    }
}

#[cfg(test)]
mod tests {
    use isle_types::Accelerator;

    use super::*;
    use crate::machine::Architecture;
    use crate::machine::tests::machine;

    fn wiring() -> Wiring {
        Wiring {
            monitor: 3,
            ports: vec![(4, true), (5, false)],
            console: None,
            disks: vec![Some(6), Some(7)],
            taps: vec![Some(8), None],
            first_file: None,
            has_sandbox: true,
            is_paused: false,
        }
    }

    /// One option a line.
    fn text(arguments: &[String]) -> String {
        let mut text = String::new();
        for argument in arguments {
            text.push_str(match (argument.starts_with('-'), text.is_empty()) {
                (true, false) => "\n",
                (true, true) => "",
                (false, _) => " ",
            });
            text.push_str(argument);
        }
        text + "\n"
    }

    #[test]
    fn a_clone_of_an_instance() {
        let arguments = arguments(&machine(), Role::Clone, &wiring());
        assert_eq!(text(&arguments), include_str!("golden/clone.txt"));
    }

    #[test]
    fn the_maker_of_a_template_has_placeholders_and_boots() {
        let wiring = Wiring {
            disks: vec![None, None],
            taps: vec![None, None],
            console: Some(6),
            first_file: Some(7),
            ..wiring()
        };
        let arguments = arguments(&machine(), Role::Maker, &wiring);
        assert_eq!(text(&arguments), include_str!("golden/maker.txt"));
    }

    #[test]
    fn an_arm_machine_that_boots_cold() {
        let machine = Machine {
            architecture: Architecture::Aarch64,
            profile: Profile::Virt,
            accelerator: Accelerator::Kvm,
            cpu_model: "host".to_owned(),
            vcpus: 4,
            ..machine()
        };
        assert_eq!(machine.check(), Ok(()));
        let arguments = arguments(&machine, Role::Cold, &wiring());
        assert_eq!(text(&arguments), include_str!("golden/arm.txt"));
    }

    #[test]
    fn a_clone_has_the_devices_of_its_template_in_the_same_order() {
        let devices = |role, wiring: &Wiring| -> Vec<String> {
            let arguments = arguments(&machine(), role, wiring);
            let values = arguments.iter().skip(1).zip(&arguments);
            let devices = values.filter(|(_, option)| *option == "-device");
            devices.map(|(value, _)| value.clone()).collect()
        };
        let placeholders = Wiring {
            disks: vec![None, None],
            taps: vec![None, None],
            ..wiring()
        };
        assert_eq!(
            devices(Role::Clone, &wiring()),
            devices(Role::Maker, &placeholders)
        );
    }

    #[test]
    fn a_pool_holds_machines_that_do_not_run() {
        let wiring = Wiring {
            is_paused: true,
            ..wiring()
        };
        let arguments = arguments(&machine(), Role::Clone, &wiring);
        assert!(arguments.contains(&"-S".to_owned()));
    }
}
