//! The tuned kernel, from the distribution's source.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::configuration::{configuration, configuration_digest, is_set, lost};
use crate::description::{Description, FORMAT, Machine, Origin};
use crate::error::KernelError;
use crate::kernels::{Kernel, Kernels, record};
use crate::package::{self, Package};
use crate::program::{command, lines, output, require};
use crate::progress::{Event, Progress};
use crate::staging::Staging;

/// Depends on the source of the distribution's own kernel: `linux-source-6.1`.
const PACKAGE: &str = "linux-source";
/// Names of real source packages begin so.
const PREFIX: &str = "linux-source-";

/// About so many files are compiled, assembled or linked.
const FILES: u64 = 1633;

/// What compiling takes, and the Debian packages that have it.
const TOOLS: [(&str, &str); 9] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("gelf.h", "libelf-dev"),
];

/// An emulated or virtual machine without ACPI ends by a triple fault, and QEMU with it.
const COMMAND_LINE: &str = "quiet panic=-1 reboot=t random.trust_cpu=on";

/// Features and what they are in the configuration.
const FEATURES: [(&str, &str); 10] = [
    ("9p", "CONFIG_NET_9P_VIRTIO"),
    ("9p-fd", "CONFIG_NET_9P_FD"),
    ("balloon", "CONFIG_VIRTIO_BALLOON"),
    ("free-page-reporting", "CONFIG_PAGE_REPORTING"),
    ("fuse", "CONFIG_FUSE_FS"),
    ("tun", "CONFIG_TUN"),
    ("virtio-net", "CONFIG_VIRTIO_NET"),
    ("virtio-rng", "CONFIG_HW_RANDOM_VIRTIO"),
    ("virtio-scsi", "CONFIG_SCSI_VIRTIO"),
    ("virtiofs", "CONFIG_VIRTIO_FS"),
];

/// What to build from, and how.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The source as an archive that `tar` unpacks; the distribution's newest when there is none.
    pub source: Option<PathBuf>,
    /// So many compilers at once; one a processor when there is no number.
    pub jobs: Option<usize>,
}

/// A source archive.
struct Source {
    archive: PathBuf,
    /// The package, or the file's name.
    name: String,
    version: String,
}

impl Kernels {
    /// Builds the tuned kernel. Takes about four minutes on two processors and 2 GB of disk meanwhile.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is changed then.
    pub fn build(
        &self,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Kernel, KernelError> {
        let asked = configuration()?;
        require("build a kernel", &TOOLS)?;
        let staging = Staging::new(&self.folder)?;
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(staging.path())
            .map_err(KernelError::io("make a folder in", staging.path()))?;
        let source = match &options.source {
            Some(file) => Source {
                archive: std::path::absolute(file).map_err(KernelError::io("find", file))?,
                name: file.display().to_string(),
                version: String::new(),
            },
            None => find_source(work.path(), progress)?,
        };
        progress.event(&Event::Step(&format!("unpacking {}", source.name)));
        let tree = unpack(&source.archive, work.path())?;
        progress.event(&Event::Step("configuring"));
        let build = Build {
            made: work.path().join("made"),
            stamp: stamp(&tree)?,
            tree,
        };
        let config = build.configure(&asked)?;
        let jobs = options.jobs.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        progress.event(&Event::Step("compiling"));
        build.compile(jobs, progress)?;
        let release = fs::read_to_string(build.made.join("include/config/kernel.release"))
            .map_err(KernelError::io("read", &build.made))?;
        let release = release.trim().to_owned();
        strip(&build.made.join("vmlinux"), &staging.path().join("vmlinux"))?;
        let version = release.strip_suffix("-isle").unwrap_or(&release);
        let mut features: Vec<String> = FEATURES
            .iter()
            .filter(|(_, key)| is_set(&config, key))
            .map(|(feature, _)| (*feature).to_owned())
            .collect();
        features.sort();
        let description = Description {
            format: FORMAT,
            name: format!("isle-{version}"),
            architecture: std::env::consts::ARCH.to_owned(),
            origin: Origin::Tuned {
                source: source.name,
                version: source.version,
                configuration: configuration_digest()?,
            },
            image: record(staging.path(), "vmlinux")?,
            modules: None,
            machine: Machine {
                acpi: is_set(&config, "CONFIG_ACPI"),
            },
            command_line: COMMAND_LINE.to_owned(),
            features,
            created: Timestamp::now(),
            release,
        };
        drop(work);
        self.commit(staging, &description)
    }
}

/// The newest source that the package manager knows, or the one that is installed.
fn find_source(work: &Path, progress: &dyn Progress) -> Result<Source, KernelError> {
    let newest = package::newest(PACKAGE, PREFIX);
    let name = match &newest {
        Ok(package) => package.name.clone(),
        Err(_) => installed_source().ok_or_else(|| KernelError::NoPackage {
            package: PACKAGE.to_owned(),
        })?,
    };
    let installed = package::installed_version(&name);
    let place = Path::new("/usr/src").join(format!("{name}.tar.xz"));
    if let (Ok(package), false) = (&newest, installed_is_newest(&newest, installed.as_deref())) {
        progress.event(&Event::Step(&format!(
            "downloading {} {}",
            package.name, package.version
        )));
        match download(package, work) {
            Ok(archive) => {
                return Ok(Source {
                    archive,
                    name,
                    version: package.version.clone(),
                });
            }
            Err(error) if !place.is_file() => return Err(error),
            Err(error) => progress.event(&Event::Message(&format!(
                "the newest source cannot be had, the installed one is taken: {error}"
            ))),
        }
    }
    match place.is_file() {
        true => Ok(Source {
            archive: place,
            name,
            version: installed.unwrap_or_default(),
        }),
        false => Err(KernelError::NoPackage { package: name }),
    }
}

fn installed_is_newest(newest: &Result<Package, KernelError>, installed: Option<&str>) -> bool {
    let newest = newest.as_ref().map(|package| package.version.as_str());
    matches!((newest, installed), (Ok(newest), Some(installed)) if newest == installed)
}

/// The name of a source package whose archive is in `/usr/src`.
fn installed_source() -> Option<String> {
    let mut names: Vec<String> = fs::read_dir("/usr/src")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".tar.xz").map(str::to_owned))
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    names.sort();
    names.pop()
}

fn download(package: &Package, work: &Path) -> Result<PathBuf, KernelError> {
    let file = package::download(package, work)?;
    let folder = work.join("package");
    package::unpack(&file, &folder)?;
    let archive = folder
        .join("usr/src")
        .join(format!("{}.tar.xz", package.name));
    match archive.is_file() {
        true => Ok(archive),
        false => Err(KernelError::Unsuitable {
            package: package.name.clone(),
            what: "it has no archive in usr/src".to_owned(),
        }),
    }
}

/// Unpacks an archive; returns the one folder that is in it.
fn unpack(archive: &Path, work: &Path) -> Result<PathBuf, KernelError> {
    let folder = work.join("source");
    fs::create_dir(&folder).map_err(KernelError::io("make", &folder))?;
    output(
        "unpack the source",
        command("tar")
            .arg("--extract")
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(&folder)
            .args(["--no-same-owner", "--no-same-permissions"]),
    )?;
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    let entries = read().map_err(KernelError::io("read", &folder))?;
    match entries.as_slice() {
        [tree] if tree.join("Kconfig").is_file() => Ok(tree.clone()),
        _ => Err(KernelError::Unsuitable {
            package: archive.display().to_string(),
            what: "it does not have the source of Linux in one folder".to_owned(),
        }),
    }
}

/// When the source was made: the kernel says so as the time when it was built, so that the same source
/// gives the same kernel.
fn stamp(tree: &Path) -> Result<String, KernelError> {
    let makefile = tree.join("Makefile");
    let metadata = fs::metadata(&makefile).map_err(KernelError::io("look at", &makefile))?;
    let time = Timestamp::from_second(metadata.mtime()).unwrap_or_default();
    Ok(time.to_string())
}

/// A source and where it is built.
struct Build {
    tree: PathBuf,
    made: PathBuf,
    stamp: String,
}

impl Build {
    fn make(&self) -> std::process::Command {
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            other => other,
        };
        let mut make = command("make");
        make.arg("-C")
            .arg(&self.tree)
            .arg(format!("O={}", self.made.display()))
            .arg(format!("ARCH={architecture}"))
            .env("KBUILD_BUILD_USER", "isle")
            .env("KBUILD_BUILD_HOST", "isle")
            .env("KBUILD_BUILD_TIMESTAMP", &self.stamp);
        make
    }

    /// Makes `.config`, and looks whether everything that was asked for is in it.
    fn configure(&self, asked: &str) -> Result<String, KernelError> {
        fs::create_dir(&self.made).map_err(KernelError::io("make", &self.made))?;
        let fragment = self.made.join("fragment");
        fs::write(&fragment, asked).map_err(KernelError::io("write", &fragment))?;
        output(
            "configure the kernel",
            self.make()
                .arg("allnoconfig")
                .env("KCONFIG_ALLCONFIG", &fragment),
        )?;
        let path = self.made.join(".config");
        let config = fs::read_to_string(&path).map_err(KernelError::io("read", &path))?;
        let lines = lost(asked, &config);
        match lines.is_empty() {
            true => Ok(config),
            false => Err(KernelError::Configuration { lines }),
        }
    }

    fn compile(&self, jobs: usize, progress: &dyn Progress) -> Result<(), KernelError> {
        let mut files = 0;
        lines(
            "compile the kernel",
            self.make().arg(format!("-j{}", jobs.max(1))).arg("vmlinux"),
            |line| {
                // `  CC      mm/slub.o`
                if line.starts_with("  ") {
                    files += 1;
                    progress.event(&Event::Compiled {
                        files,
                        about: FILES.max(files),
                    });
                }
            },
        )?;
        Ok(())
    }
}

/// Leaves out what only a debugger reads. The names of functions for panics are in the kernel's own table.
fn strip(from: &Path, to: &Path) -> Result<(), KernelError> {
    output(
        "strip the kernel",
        command("strip").arg("-o").arg(to).arg(from),
    )?;
    Ok(())
}
