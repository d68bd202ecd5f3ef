//! The control group of a new container: made here or by systemd, or left out where a user may make none.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isle_cgroup::{Cgroup, Layout};
use oci_spec::runtime::{LinuxResources, Spec};

use crate::arguments::{CgroupManager, Global, Rootless};
use crate::log;
use crate::systemd::{Place, Scope, Systemd};

/// A group that was made.
pub(crate) struct Group {
    pub(crate) cgroup: Cgroup,
    pub(crate) path: PathBuf,
    /// The unit of systemd that it belongs to.
    pub(crate) scope: Option<String>,
    /// Keeps the scope until the container's first process is in it.
    pub(crate) holder: Option<Scope>,
}

/// Is this process without the host's privileges, by its user or by its user namespace? See user_namespaces(7).
pub(crate) fn is_unprivileged() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// The path that `linux.cgroupsPath` asks for.
fn path_of(given: Option<&str>, id: &str) -> anyhow::Result<PathBuf> {
    let Some(text) = given else {
        return Ok(Path::new("/").join(id));
    };
    if text.contains(':') {
        bail!(
            "linux.cgroupsPath {text:?} is for control groups made by systemd: give --systemd-cgroup, or set the \
             cgroup driver of the engine to cgroupfs"
        );
    }
    if Path::new(text)
        .components()
        .any(|part| part.as_os_str() == "..")
    {
        bail!("linux.cgroupsPath {text:?} leads out of the control groups");
    }
    Ok(Path::new("/").join(text))
}

/// Makes it, as the flags say. `limits`: others than the specification's `linux.resources`.
pub(crate) fn make(
    global: &Global,
    spec: &Spec,
    id: &str,
    limits: Option<&LinuxResources>,
) -> anyhow::Result<Option<Group>> {
    let linux = spec.linux().as_ref();
    let given = linux
        .and_then(|linux| linux.cgroups_path().as_deref())
        .map(Path::to_string_lossy)
        .filter(|path| !path.is_empty());
    let none = LinuxResources::default();
    let limits = limits
        .or_else(|| linux?.resources().as_ref())
        .unwrap_or(&none);
    // looked for only when it matters: a start pays for each file that it reads
    let is_free = || match global.rootless {
        Rootless::True => true,
        Rootless::False => false,
        Rootless::Auto => is_unprivileged(),
    };
    let made = match (global.cgroup_manager, global.systemd_cgroup) {
        (CgroupManager::Disabled, _) => return Ok(None),
        (CgroupManager::Systemd, _) | (_, true) => {
            let is_users = is_free();
            let slice = if is_users {
                "user.slice"
            } else {
                "system.slice"
            };
            let place = Place::new(given.as_deref(), id, slice)?;
            by_systemd(&place, limits, is_users)
        }
        (CgroupManager::Cgroupfs, false) => by_hand(path_of(given.as_deref(), id)?, limits),
    };
    match made {
        Err(error) if is_refused(&error) && is_free() => {
            let mut asked = limits.clone();
            asked.set_devices(None);
            if asked != LinuxResources::default() {
                return Err(error.context(
                    "linux.resources asks for limits, and this user may make no control group: have the host delegate \
                     one (loginctl, `Delegate=yes`), or ask for no limits",
                ));
            }
            log::debug(|| format!("goes on without a control group: {error:#}"));
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Whether the kernel has refused it for lack of privileges.
fn is_refused(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            )
        }) || matches!(cause.downcast_ref(), Some(isle_cgroup::Error::NoHierarchy))
    })
}

fn detect() -> anyhow::Result<Layout> {
    Layout::detect().context("cannot find the control groups of the host")
}

fn by_hand(path: PathBuf, limits: &LinuxResources) -> anyhow::Result<Group> {
    let cgroup = Cgroup::create(&detect()?, &path, limits)
        .with_context(|| format!("cannot make the control group {}", path.display()))?;
    Ok(Group {
        cgroup,
        path,
        scope: None,
        holder: None,
    })
}

fn by_systemd(place: &Place, limits: &LinuxResources, is_users: bool) -> anyhow::Result<Group> {
    let layout = detect()?;
    let mut systemd = Systemd::connect(is_users)?;
    let scope = systemd.start(place, limits, layout.is_unified())?;
    let made = scope.path().and_then(|path| {
        Cgroup::adopt(&layout, path, limits)
            .with_context(|| format!("cannot use the control group {}", path.display()))
    });
    match made {
        Ok(cgroup) => Ok(Group {
            cgroup,
            path: scope.path.clone(),
            scope: Some(place.scope.clone()),
            holder: Some(scope),
        }),
        Err(error) => {
            let _ = systemd.stop(&place.scope);
            Err(error)
        }
    }
}

/// Takes a group away whose container has ended.
pub(crate) fn remove(cgroup: Option<&Cgroup>, scope: Option<&str>) -> anyhow::Result<()> {
    if let Some(scope) = scope {
        Systemd::connect(is_unprivileged())?.stop(scope)?;
    }
    match cgroup.map(|cgroup| (cgroup, cgroup.remove())) {
        None | Some((_, Ok(()))) => Ok(()),
        // without a pid namespace processes outlive the first one
        Some((cgroup, Err(_))) => Ok(cgroup.kill_all().and_then(|()| cgroup.remove())?),
    }
}
