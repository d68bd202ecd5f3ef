//! What a test needs of the host, and whether it is there.

use std::path::{Path, PathBuf};

use crate::world::{Program, program};
use crate::{Level, user};

/// Something that not every host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Isle itself: the reference does this otherwise, or not at all.
    Isle,
    /// Limits of memory.
    CgroupMemory,
    /// Limits of the number of processes.
    CgroupPids,
    /// Shares and quotas of the CPU.
    CgroupCpu,
    /// Limits of block I/O, and a block device below `/var/tmp` to limit.
    CgroupBlockIo,
    /// An ext4 that limits what a project of files holds.
    ProjectQuotas,
    /// `podman` on the path.
    Podman,
    /// `skopeo` on the path.
    Skopeo,
    /// `buildah` on the path.
    Buildah,
    /// `dockerd`, `containerd` and `docker` on the path.
    Docker,
    /// `containerd` and its `ctr` on the path, and the CNI plug-ins of Debian.
    Containerd,
    /// The runtime of the level that the story is told at: `isle-oci`, or `isle-oci-vm` beside it.
    OciRuntime,
    /// The name server that an engine puts on the loopback address of a container's network namespace.
    EngineResolver,
    /// An interface that an engine puts into the network namespace of a container that runs.
    LateInterface,
    /// Several containers of a pod at the level.
    Pods,
    /// `docker-compose` on the path: it reads the same files.
    DockerCompose,
    /// `docker-registry` on the path.
    Registry,
    /// A C compiler, and the C library to link statically with.
    Compiler,
    /// `runc` on the path, as the reference of the OCI command line.
    Runc,
    /// `dpkg-deb` on the path: makes packages, and unpacks them.
    Dpkg,
    /// A kernel that virtual machines boot from.
    GuestKernel,
    /// It is told as an ordinary user: newuidmap(1), setpriv(1), pasta(1), and a checkout that everybody may read.
    OrdinaryUser,
    /// It is about what root alone can do.
    Root,
    /// It is about one level, or about none: it is told once, at this one.
    Only(Level),
}

impl Need {
    /// Why it is not there, or `None` when it is.
    #[must_use]
    pub fn missing(self, level: Level) -> Option<String> {
        match self {
            Need::EngineResolver => match level {
                Level::Container => None,
                Level::Vm => Some(
                    "Docker's name server on 127.0.0.11 is in the network namespace, whose loopback a guest has not".into(),
                ),
            },
            Need::LateInterface => match level {
                Level::Container => None,
                Level::Vm => Some(
                    "isle-oci-vm gives a guest the interfaces that there are when it is created".into(),
                ),
            },
            Need::Pods => match level {
                Level::Container => None,
                Level::Vm => Some("the containers of a pod cannot share a virtual machine yet".into()),
            },
            Need::OciRuntime => match level {
                Level::Container => None,
                Level::Vm => {
                    let runtime = program("isle-oci", "ISLE_OCI_BIN").with_file_name("isle-oci-vm");
                    let missing = || format!("there is no {}", runtime.display());
                    (!runtime.is_file()).then(missing)
                }
            },
            Need::Isle => match Program::from_environment() {
                Program::Isle(_) => None,
                Program::Podman => Some("the reference does this otherwise".into()),
            },
            Need::CgroupMemory | Need::CgroupPids | Need::CgroupCpu | Need::CgroupBlockIo
                if user::is_wanted() =>
            {
                Some("no control groups are delegated to the ordinary user of the tests".into())
            }
            Need::Root | Need::ProjectQuotas if user::is_wanted() => {
                Some("an ordinary user cannot do this".into())
            }
            Need::Root => None,
            Need::OrdinaryUser => ["newuidmap", "setpriv", "unshare", "pasta"]
                .into_iter()
                .find_map(missing_program)
                .or_else(missing_right_to_read),
            Need::CgroupMemory => missing_controller("memory"),
            Need::CgroupPids => missing_controller("pids"),
            Need::CgroupCpu => missing_controller("cpu"),
            Need::CgroupBlockIo => missing_controller("blkio")
                .and_then(|_| missing_controller("io"))
                .or_else(|| match crate::disk_below(Path::new("/var/tmp")) {
                    Some(_) => None,
                    None => Some("/var/tmp is on no block device of its own".into()),
                }),
            Need::ProjectQuotas => missing_project_quotas(),
            Need::Podman => missing_program("podman"),
            Need::Skopeo => missing_program("skopeo"),
            Need::Buildah => missing_program("buildah"),
            Need::Docker => ["docker", "dockerd", "containerd", "runc"]
                .into_iter()
                .find_map(missing_program),
            Need::Containerd => ["containerd", "ctr", "runc"]
                .into_iter()
                .find_map(missing_program)
                .or_else(|| match Path::new("/usr/lib/cni/bridge").is_file() {
                    true => None,
                    false => Some("containernetworking-plugins is not installed".into()),
                }),
            Need::DockerCompose => missing_program("docker-compose"),
            Need::Registry => missing_program("docker-registry"),
            Need::Compiler => missing_program("cc"),
            Need::Runc => missing_program("runc"),
            Need::Dpkg => missing_program("dpkg-deb"),
            Need::Only(_) => None,
            Need::GuestKernel => match crate::guest_kernels() {
                Some(_) => None,
                None => Some("there is no guest kernel: cargo xtask kernel makes one".into()),
            },
        }
    }
}

/// Where a program is on the path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn missing_program(name: &str) -> Option<String> {
    match find_program(name) {
        Some(_) => None,
        None => Some(format!("{name} is not installed")),
    }
}

/// Whether everybody may execute the program under test.
fn missing_right_to_read() -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let program = program("isle", "ISLE_BIN");
    let closed = program.ancestors().find(|path| {
        path.metadata()
            .is_ok_and(|found| found.permissions().mode() & 0o005 != 0o005)
    })?;
    Some(format!(
        "an ordinary user may not enter {}",
        closed.display()
    ))
}

/// Tries it, in a mount namespace that ends with the try.
fn missing_project_quotas() -> Option<String> {
    let Ok(folder) = tempfile::tempdir_in("/var/tmp") else {
        return Some("/var/tmp cannot be written".into());
    };
    let try_it = "truncate -s 16M image && mkfs.ext4 -q -O quota,project image && mkdir on && \
                  mount -o loop,prjquota image on";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", try_it])
        .current_dir(folder.path())
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        _ => Some("the kernel mounts no ext4 with project quotas (CONFIG_QFMT_V2, loop)".into()),
    }
}

fn missing_controller(name: &str) -> Option<String> {
    if Path::new("/sys/fs/cgroup").join(name).is_dir() {
        return None;
    }
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
    if controllers.split_whitespace().any(|found| found == name) {
        return None;
    }
    Some(format!("the host has no cgroup controller {name}"))
}
