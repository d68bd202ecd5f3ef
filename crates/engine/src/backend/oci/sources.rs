//! What lies behind the mounts of an instance: folders of the host, named volumes.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::backend::{StartError, failed};
use crate::config::MountSource;
use crate::state::Instance;
use crate::{Paths, volume};

/// What each mount of the configuration binds; `None` for tmpfs.
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
) -> Result<Vec<Option<PathBuf>>, StartError> {
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
            MountSource::Volume { name, no_copy } => {
                let name = name.as_deref().unwrap_or_default();
                let what = format!("cannot use volume {name}");
                let image = rootfs.filter(|_| !no_copy);
                let data = volume::prepare(
                    paths,
                    name,
                    image.map(|rootfs| (rootfs, mount.target.as_str())),
                )
                .map_err(failed(&what))?;
                Some(data)
            }
        });
    }
    Ok(sources)
}
