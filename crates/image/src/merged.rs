//! An image's layers as one tree that cannot be written, mounted where nobody sees it.
//!
//! Whiteouts are gone from it, and overlayfs's own attributes too.
//! <https://docs.kernel.org/filesystems/overlayfs.html>

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    open_tree,
};

/// Mounts `layers`, lowest first, attached nowhere. They and `folder`, which is empty and the caller's, are
/// below `root`.
///
/// # Errors
/// What the kernel says.
pub(crate) fn mounted(root: &Path, layers: &[PathBuf], folder: &Path) -> io::Result<OwnedFd> {
    // Topmost first. overlayfs asks for two layers at least, and an image may have one, or none.
    let mut lower: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    for name in ["empty", "emptier"] {
        if lower.len() < 2 {
            let empty = folder.join(name);
            DirBuilder::new().mode(0o755).create(&empty)?;
            lower.push(empty);
        }
    }
    match by_descriptor(&lower) {
        Err(Errno::INVAL) => by_name(root, &lower),
        result => Ok(result?),
    }
}

/// From Linux 6.7 on: any number of layers.
fn by_descriptor(lower: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer.as_path())?;
    }
    for (name, value) in isle_sys::mount::overlay_options() {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Before: mount(2), whose options fit one page, so layers are named relative to the store; in the mount
/// namespace of a thread, of which a detached copy of the mount is taken along.
fn by_name(root: &Path, lower: &[PathBuf]) -> io::Result<OwnedFd> {
    let mut options = String::from("lowerdir=");
    for (place, layer) in lower.iter().enumerate() {
        let name = layer.strip_prefix(root).unwrap_or(layer);
        let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        options.push_str(if place == 0 { "" } else { ":" });
        options.push_str(&name.replace('\\', "\\\\").replace(':', "\\:"));
    }
    options.push_str(&isle_sys::mount::overlay_options_text());
    let options = CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
    if options.as_bytes().len() > 4000 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} layers are too many for this kernel; from Linux 6.7 on they are not",
                lower.len()
            ),
        ));
    }
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            isle_sys::namespace::unshare_mounts()?;
            // What is mounted from here on stays here.
            let inward = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            mount_change("/", inward)?;
            rustix::process::chdir(root)?;
            let options = options.as_c_str();
            mount("overlay", root, "overlay", MountFlags::RDONLY, options)?;
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(open_tree(rustix::fs::CWD, root, clone)?)
        });
        mounting.join().expect("the thread does not panic")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{Mode, OFlags, openat};

    use super::*;

    #[test]
    fn older_kernels_mount_the_same_by_name() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let lower = ["top:1", "base"]
            .map(|name| root.path().join(name))
            .to_vec();
        for layer in &lower {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("both"), layer.as_os_str().as_encoded_bytes()).unwrap();
        }
        for tree in [
            by_descriptor(&lower).unwrap(),
            by_name(root.path(), &lower).unwrap(),
        ] {
            let file = openat(&tree, "both", OFlags::RDONLY, Mode::empty()).unwrap();
            let text = io::read_to_string(fs::File::from(file)).unwrap();
            assert_eq!(text, lower[0].to_str().unwrap());
            let flags = OFlags::WRONLY | OFlags::CREATE;
            assert_eq!(
                openat(&tree, "new", flags, Mode::RWXU).unwrap_err(),
                Errno::ROFS
            );
        }
    }
}
