//! What is known of a kernel: `kernel.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest;

/// Version of the file's shape.
pub(crate) const FORMAT: u32 = 1;

/// What a kernel is, what it needs, and the digest of each of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// Version of this shape.
    pub format: u32,
    /// Its name, like `isle-6.1.192` or `debian-6.1.0-56-cloud-amd64`.
    pub name: String,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// What `uname -m` says in the guest.
    pub architecture: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The kernel itself: an ELF file (`vmlinux`), or a compressed one (`vmlinuz`).
    pub image: FileRecord,
    /// The archive of modules to be loaded at boot: `/modules/<nn>-<name>.ko`, in the order of the lines of
    /// `/modules/order`. A kernel that has everything built in has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub modules: Option<FileRecord>,
    /// What the machine must have.
    pub machine: Machine,
    /// Its command line, whatever accelerates the machine.
    pub command_line: String,
    /// What it can do beyond what every kernel here can: `9p`, `virtiofs`, `balloon`, `free-page-reporting`,
    /// `virtio-scsi`, `virtio-net`, `virtio-rng`, `tun`, `loop`. Sorted.
    pub features: Vec<String>,
    /// When it was installed or built.
    pub created: Timestamp,
}

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Origin {
    /// Built with the project's own configuration.
    #[serde(rename_all = "camelCase")]
    Tuned {
        /// The source package, like `linux-source-6.1`, or a file.
        source: String,
        /// Its version, like `6.1.192-2`, where it is known.
        version: String,
        /// [`configuration_digest`](crate::configuration_digest) at that time.
        configuration: String,
    },
    /// As the distribution ships it.
    #[serde(rename_all = "camelCase")]
    Distribution {
        /// The package, like `linux-image-6.1.0-56-cloud-amd64`.
        package: String,
        /// Its version.
        version: String,
    },
}

/// A file of a kernel's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileRecord {
    /// Its name in the folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// `sha256:…` of its content.
    pub digest: String,
}

/// What a kernel needs of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Finds its devices by ACPI. Without, by `virtio_mmio.device=` on its command line, which QEMU's
    /// `microvm,acpi=off` adds.
    pub acpi: bool,
}

impl Description {
    /// Changes when anything changes that a booted guest could tell: part of the key of templates.
    #[must_use]
    pub fn digest(&self) -> String {
        let modules = self.modules.as_ref().map(|modules| &modules.digest);
        let what = (
            &self.architecture,
            &self.image.digest,
            modules,
            &self.machine,
            &self.command_line,
        );
        let bytes = serde_json::to_vec(&what).expect("text and numbers");
        digest::of_bytes(&bytes)
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.image.bytes + self.modules.as_ref().map_or(0, |modules| modules.bytes)
    }
}

impl Origin {
    /// `tuned` or `distribution`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Tuned { .. } => "tuned",
            Origin::Distribution { .. } => "distribution",
        }
    }

    /// The package and its version.
    #[must_use]
    pub fn package(&self) -> (&str, &str) {
        match self {
            Origin::Tuned {
                source, version, ..
            } => (source, version),
            Origin::Distribution { package, version } => (package, version),
        }
    }
}
