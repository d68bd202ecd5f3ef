//! What a template is of.

use std::fmt;
use std::io;
use std::path::Path;

use isle_types::Accelerator;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::file_identity;
use crate::machine::{Architecture, Devices, Machine, Profile};
use crate::program::Program;

/// Everything that decides whether a copy of a template is the machine that is wanted, as a digest: QEMU
/// (version and file), architecture, machine, accelerator, processor, number of processors, memory,
/// devices, the content of the kernel and of each archive (the agent is in one), and the kernel's command
/// line, on which the frequency of the host's clock is when it is software that executes the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    text: String,
    /// The same without what changes when something is updated.
    pub(super) family: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What has happened in a machine beyond its boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// What it is about, for who lists templates. A new template of the same machine and name replaces older ones.
    pub name: String,
    /// Whatever else a copy depends on: contents of disks.
    pub content: String,
}

/// The order of the fields is part of the format.
#[derive(Serialize)]
struct Family<'a> {
    format: u32,
    architecture: Architecture,
    profile: Profile,
    accelerator: Accelerator,
    cpu_model: &'a str,
    vcpus: u32,
    memory_bytes: u64,
    devices: &'a Devices,
}

#[derive(Serialize)]
struct Whole<'a> {
    family: Family<'a>,
    qemu: &'a Program,
    kernel: String,
    initramfs: Vec<String>,
    command_line: &'a str,
}

/// Templates with another one were made by another version of this code.
const FORMAT: u32 = 1;

impl Key {
    /// That of a template which is there.
    pub(super) fn restored(text: &str, family: String) -> Key {
        Key {
            text: text.to_owned(),
            family,
        }
    }

    /// That of a copy of a template that was kept when something more had happened in it.
    pub(super) fn of_heir(base: &Key, subject: &Subject) -> io::Result<Key> {
        Ok(Key {
            text: short(&("heir", &base.text, subject))?,
            family: short(&("heir", &base.family, &subject.name))?,
        })
    }

    /// Reads the kernel and the archives, unless `cache` knows their digests.
    ///
    /// # Errors
    /// When one of them cannot be read; the error names it.
    pub(super) fn of(program: &Program, machine: &Machine, cache: &Path) -> io::Result<Key> {
        let digest = |path: &Path| {
            file_identity::digest(path, cache).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        let boot = &machine.boot;
        let family = || Family {
            format: FORMAT,
            architecture: machine.architecture,
            profile: machine.profile,
            accelerator: machine.accelerator,
            cpu_model: &machine.cpu_model,
            vcpus: machine.vcpus,
            memory_bytes: machine.memory_bytes,
            devices: &machine.devices,
        };
        let whole = Whole {
            family: family(),
            qemu: program,
            kernel: digest(&boot.kernel)?,
            initramfs: boot
                .initramfs
                .iter()
                .map(|path| digest(path))
                .collect::<io::Result<_>>()?,
            command_line: &boot.command_line,
        };
        Ok(Key {
            text: short(&whole)?,
            family: short(&family())?,
        })
    }
}

/// The first 128 bits of a digest.
fn short(value: &impl Serialize) -> io::Result<String> {
    let bytes = serde_json::to_vec(value)?;
    let digest = Sha256::digest(bytes);
    Ok(digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::machine::DiskSlot;
    use crate::machine::tests::machine;
    use crate::program::Version;

    #[test]
    fn whatever_a_copy_depends_on_makes_another_template() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let cache = folder.path().join("cache");
        let mut base = machine();
        base.boot.kernel = file("kernel", "k");
        base.boot.initramfs = vec![file("agent", "a")];
        let program = Program {
            path: "/usr/bin/qemu-system-x86_64".into(),
            version: Version {
                major: 7,
                minor: 2,
                micro: 22,
            },
            identity: "1-2-3".to_owned(),
            has_sandbox: true,
        };
        let key = |machine: &Machine| Key::of(&program, machine, &cache).unwrap();
        let first = key(&base);
        assert_eq!(first, key(&base));
        assert_eq!(first.to_string().len(), 32);
        let changes: [&dyn Fn(&mut Machine); 10] = [
            &|m| m.profile = Profile::Microvm { acpi: true },
            &|m| m.accelerator = Accelerator::Kvm,
            &|m| m.cpu_model = "max".to_owned(),
            &|m| m.vcpus = 2,
            &|m| m.memory_bytes *= 2,
            &|m| m.devices.balloon = false,
            &|m| m.devices.disks = vec![DiskSlot::Writable, DiskSlot::ReadOnly],
            &|m| m.boot.command_line.push_str(" tsc_early_khz=1"),
            &|m| m.boot.kernel = file("kernel2", "K"),
            &|m| m.boot.initramfs.push(file("modules", "m")),
        ];
        let mut seen = vec![first.clone()];
        for change in changes {
            let mut machine = base.clone();
            change(&mut machine);
            let key = key(&machine);
            assert!(!seen.contains(&key), "{machine:?}");
            seen.push(key);
        }
        // The content counts, not the name; and a new kernel is of the same family.
        let mut renamed = base.clone();
        renamed.boot.kernel = file("another", "k");
        assert_eq!(key(&renamed), first);
        file("kernel", "changed");
        assert_ne!(key(&base), first);
        assert_eq!(key(&base).family, first.family);
        let newer = Program {
            identity: "1-2-4".to_owned(),
            ..program
        };
        assert_ne!(Key::of(&newer, &renamed, &cache).unwrap(), first);
    }
}
