//! The distribution's kernel.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::configuration::is_set;
use crate::description::{Description, FORMAT, Machine, Origin};
use crate::error::KernelError;
use crate::kernels::{Kernel, Kernels, record};
use crate::modules;
use crate::package::{self, Package};
use crate::progress::{Event, Progress};
use crate::staging::Staging;

/// Debian's kernel for virtual machines of clouds: few drivers, all of virtio.
const PACKAGE: &str = match std::env::consts::ARCH.as_bytes() {
    b"aarch64" => "linux-image-cloud-arm64",
    _ => "linux-image-cloud-amd64",
};

/// Names of real kernel packages begin so.
const PREFIX: &str = "linux-image-";

/// Four levels of page tables are enough for 128 TiB, and walked faster than five, twice over in a guest. With
/// five, and a processor that does not tell how wide its addresses are (QEMU's `max` without the leaf 0x80000008),
/// Linux takes its own pointers for wrong, and every path in `/proc` reads `xxx`.
const COMMAND_LINE: &str = "quiet panic=-1 reboot=t random.trust_cpu=on no5lvl";

/// What to install.
#[derive(Clone, Debug, Default)]
pub struct InstallOptions {
    /// A package; the distribution's kernel for clouds when there is none.
    pub package: Option<String>,
    /// A package file (`.deb`), instead.
    pub file: Option<PathBuf>,
}

impl Kernels {
    /// Installs a distribution's kernel: downloads its package with `apt-get`, which checks the signatures, takes
    /// the kernel and the modules that a guest needs, and nothing else. Nothing is installed on the host.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is changed then.
    pub fn install(
        &self,
        options: &InstallOptions,
        progress: &dyn Progress,
    ) -> Result<Kernel, KernelError> {
        let staging = Staging::new(&self.folder)?;
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(staging.path())
            .map_err(KernelError::io("make a folder in", staging.path()))?;
        let (package, file) = match &options.file {
            Some(file) => (package::described(file)?, file.clone()),
            None => {
                let name = options.package.as_deref().unwrap_or(PACKAGE);
                progress.event(&Event::Step(&format!("looking up {name}")));
                let package = package::newest(name, PREFIX)?;
                progress.event(&Event::Step(&format!(
                    "downloading {} {}",
                    package.name, package.version
                )));
                let file = package::download(&package, work.path())?;
                (package, file)
            }
        };
        progress.event(&Event::Step(&format!("unpacking {}", package.name)));
        let tree = work.path().join("tree");
        package::unpack(&file, &tree)?;
        progress.event(&Event::Step("choosing modules"));
        let description = take(&package, &tree, staging.path())?;
        drop(work);
        self.commit(staging, &description)
    }
}

/// Takes what is needed from an unpacked package into a folder.
fn take(package: &Package, tree: &Path, folder: &Path) -> Result<Description, KernelError> {
    let unsuitable = |what: &str| KernelError::Unsuitable {
        package: package.name.clone(),
        what: what.to_owned(),
    };
    let release = only_entry(&tree.join("lib/modules"))
        .or_else(|| only_entry(&tree.join("usr/lib/modules")))
        .ok_or_else(|| unsuitable("it has no modules"))?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|place| tree.join(place).join(&release))
        .into_iter()
        .find(|place| place.is_dir())
        .ok_or_else(|| unsuitable("it has no modules"))?;
    let image = [
        tree.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|path| path.is_file())
    .ok_or_else(|| unsuitable("it has no vmlinuz"))?;
    let mut chosen = modules::choose(&modules)?.map_err(|what| unsuitable(&what))?;
    let config = fs::read_to_string(tree.join(format!("boot/config-{release}")));
    if is_set(&config.unwrap_or_default(), "CONFIG_PAGE_REPORTING") {
        chosen.features.push("free-page-reporting".to_owned());
        chosen.features.sort();
    }
    let failed = |source| KernelError::io("write into", folder)(source);
    fs::copy(&image, folder.join("vmlinuz")).map_err(failed)?;
    let archive = modules::archive(&chosen).map_err(KernelError::io("read", &modules))?;
    fs::write(folder.join("modules.cpio"), archive).map_err(failed)?;
    let name = format!("{}-{release}", distribution());
    Ok(Description {
        format: FORMAT,
        name,
        release,
        architecture: std::env::consts::ARCH.to_owned(),
        origin: Origin::Distribution {
            package: package.name.clone(),
            version: package.version.clone(),
        },
        image: record(folder, "vmlinuz")?,
        modules: Some(record(folder, "modules.cpio")?),
        machine: Machine { acpi: true },
        command_line: COMMAND_LINE.to_owned(),
        features: chosen.features,
        created: Timestamp::now(),
    })
}

fn only_entry(folder: &Path) -> Option<String> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let name = entries.next()?.file_name().into_string().ok()?;
    entries.next().is_none().then_some(name)
}

/// `ID` of os-release(5).
fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    let id = id.map(|id| id.trim_matches('"').to_owned());
    id.filter(|id| !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric()))
        .unwrap_or_else(|| "linux".to_owned())
}
