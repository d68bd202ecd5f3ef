//! File systems of volumes: mounted over the volume's folder when the first instance uses it,
//! unmounted after the last one.
//!
//! Who uses it is a file a user, `<run>/volumes/<name>/<instance>`, read and written with the
//! volume locked: no reference is lost with the process that held it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use isle_types::InstanceId;
use rustix::fs::{AtFlags, CWD, FlockOperation, StatxAttributes, StatxFlags, flock, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, unmount};

use super::options::{Backing, FileSystem};
use crate::Paths;
use crate::config::MountSource;
use crate::state::Instance;

fn users_folder(paths: &Paths, name: &str) -> PathBuf {
    paths.run.join("volumes").join(name)
}

/// Mounts the file system of a volume if it is not mounted, and notes who uses it. The caller has
/// the volume locked alone.
pub(super) fn attach(
    paths: &Paths,
    name: &str,
    data: &Path,
    system: &FileSystem,
    user: &InstanceId,
) -> io::Result<()> {
    let users = users_folder(paths, name);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&users)?;
    fs::write(users.join(user.to_string()), "")?;
    if is_mounted(data)? {
        return Ok(());
    }
    let told = system.resolved_data()?;
    let mounted = mount(
        system.device.as_str(),
        data,
        system.kind.as_str(),
        system.flags,
        Some(std::ffi::CString::new(told)?.as_c_str()),
    );
    mounted.map_err(|errno| {
        let _ = leave(paths, name, data, user);
        let what = match errno {
            Errno::NODEV => format!("the kernel has no file system {}", system.kind),
            errno => errno.to_string(),
        };
        let kind = io::Error::from(errno).kind();
        let (device, system) = (&system.device, &system.kind);
        io::Error::new(kind, format!("mount {device} as {system}: {what}"))
    })
}

/// Whether something is mounted at a folder, see `STATX_ATTR_MOUNT_ROOT` of statx(2).
///
/// # Errors
/// When it cannot be looked at.
pub(crate) fn is_mounted(folder: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, folder, flags, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets go of the file systems that the volumes of an instance have, when it runs no more. Harmless
/// when there are none.
///
/// # Errors
/// When one cannot be unmounted.
pub(crate) fn release(paths: &Paths, instance: &Instance) -> io::Result<()> {
    for mount in &instance.config.mounts {
        let MountSource::Volume(volume) = &mount.source else {
            continue;
        };
        let Some(name) = volume.name.as_deref() else {
            continue;
        };
        if let Ok(Backing::FileSystem(_)) = Backing::parse(&volume.options) {
            let folder = paths.volumes().join(name);
            let lock = match fs::File::open(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock?,
            };
            flock(&lock, FlockOperation::LockExclusive)?;
            leave(paths, name, &folder.join("_data"), &instance.id)?;
        }
    }
    Ok(())
}

fn leave(paths: &Paths, name: &str, data: &Path, user: &InstanceId) -> io::Result<()> {
    let users = users_folder(paths, name);
    match fs::remove_file(users.join(user.to_string())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Not empty: somebody else uses it.
    match fs::remove_dir(&users) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    while is_mounted(data)? {
        // Those of instances are mounts of their own; what has it open here keeps it until it ends.
        unmount(data, UnmountFlags::DETACH)?;
    }
    Ok(())
}
