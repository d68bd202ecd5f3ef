//! Folders and files of the host in the guest: a confined server for them, which ends with the machine.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use isle_cgroup::Cgroup;
use isle_guest::Shares;
use isle_machine::shares;
use isle_share::{Server, Share};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Paths;
use crate::backend::container::view;
use crate::backend::oci::sources;
use crate::backend::{StartError, failed};
use crate::config::MountSource;
use crate::state::Instance;

/// What the guest is told: where they are served, when there are any.
pub(super) fn announcement(instance: &Instance) -> Option<Shares> {
    shared(instance).next().map(|_| shares::announcement())
}

/// What of an instance's mounts is the host's.
fn shared(instance: &Instance) -> impl Iterator<Item = &crate::config::Mount> {
    let mounts = instance.config.mounts.iter();
    mounts.filter(|mount| !matches!(mount.source, MountSource::Tmpfs { .. }))
}

/// Starts the server of an instance that has something of the host mounted. The machine's sockets must be there. The
/// layers of the image, topmost first, are what new volumes are filled from.
///
/// # Errors
/// When something that is to be mounted is not there.
pub(super) fn serve(
    instance: &Instance,
    paths: &Paths,
    layers: &[PathBuf],
    cgroup: &Cgroup,
) -> Result<Option<Server>, StartError> {
    if shared(instance).next().is_none() {
        return Ok(None);
    }
    let fills = |mount: &crate::config::Mount| matches!(&mount.source, MountSource::Volume(volume) if !volume.no_copy);
    let image = match shared(instance).any(fills) {
        true => Some(view(layers.to_vec()).map_err(failed("cannot mount the image"))?),
        false => None,
    };
    let found = sources::prepare(instance, paths, image.as_ref().map(AsFd::as_fd))?;
    let mut served = Vec::new();
    for (mount, source) in instance.config.mounts.iter().zip(found.paths) {
        let Some(source) = source else { continue };
        let what = format!("cannot mount {}", source.display());
        let source = openat(CWD, &source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(&what)(std::io::Error::from(errno)))?;
        served.push(Share {
            source,
            is_read_only: mount.read_only,
            is_recursive: !matches!(
                mount.source,
                MountSource::Bind {
                    non_recursive: true,
                    ..
                }
            ),
        });
    }
    shares::serve(&served, &paths.instance_run(&instance.id), Some(cgroup))
        .map(Some)
        .map_err(failed("cannot mount folders of the host"))
}

/// The server that another supervisor has started.
///
/// # Errors
/// When it has ended.
pub(super) fn find(pid: Option<i32>) -> io::Result<Option<Server>> {
    let Some(pid) = pid else {
        return Ok(None);
    };
    let gone = || io::Error::other("the server of the host's folders (isle-share) has ended");
    let held = Pid::from_raw(pid).ok_or_else(gone)?;
    let pidfd = pidfd_open(held, PidfdFlags::empty()).map_err(|_| gone())?;
    // Asked with the process held: the number may be another's by now.
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|_| gone())?;
    match name.trim_end() == isle_share::PROGRAM {
        true => Ok(Some(Server { pid, pidfd })),
        false => Err(gone()),
    }
}
