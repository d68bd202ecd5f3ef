//! What lies behind the mounts of an instance: folders of the host, named volumes.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::backend::{StartError, failed};
use crate::config::MountSource;
use crate::state::Instance;
use crate::{Paths, volume};

/// What the mounts of an instance bind.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// For each mount of the configuration; `None` for tmpfs.
    pub(crate) paths: Vec<Option<PathBuf>>,
    /// Descriptors that some of the paths go through.
    pub(crate) held: Vec<OwnedFd>,
}

/// Finds what each mount of the configuration binds.
///
/// Makes named volumes that are not there, filled from what `rootfs` has at their place, and bind
/// sources that are to be made.
///
/// # Errors
/// When a source is not there.
pub(crate) fn prepare(
    instance: &Instance,
    paths: &Paths,
    rootfs: Option<BorrowedFd<'_>>,
) -> Result<Sources, StartError> {
    let mut held = Vec::new();
    let mut sources = Vec::with_capacity(instance.config.mounts.len());
    for mount in &instance.config.mounts {
        sources.push(match &mount.source {
            MountSource::Tmpfs { .. } => None,
            MountSource::Bind {
                path,
                create_source,
                ..
            } => {
                let what = format!("cannot mount {}", path.display());
                match fs::symlink_metadata(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && *create_source => {
                        fs::create_dir_all(path).map_err(failed(&what))?;
                    }
                    found => {
                        found.map_err(failed(&what))?;
                    }
                }
                Some(path.clone())
            }
            MountSource::Volume(volume) => {
                let name = volume.name.as_deref().unwrap_or_default();
                let what = format!("cannot use volume {name}");
                let image = rootfs.filter(|_| !volume.no_copy);
                let image = image.map(|rootfs| (rootfs, mount.target.as_str()));
                let prepared = volume::prepare(paths, volume, &instance.id, image);
                let prepared = prepared.map_err(failed(&what))?;
                held.extend(prepared.held);
                Some(prepared.path)
            }
        });
    }
    Ok(Sources {
        paths: sources,
        held,
    })
}
