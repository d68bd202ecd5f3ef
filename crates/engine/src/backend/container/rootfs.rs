//! The root file system: an overlay of the image's layers and the instance's writable layer, as a
//! mount that is attached nowhere.
//!
//! Made with the new mount API (fsopen(2), fsconfig(2), fsmount(2)). Since nothing is attached in
//! the host's mount namespace, there is nothing to unmount: the overlay ends with the last mount
//! namespace or descriptor that has it.
//! <https://docs.kernel.org/filesystems/overlayfs.html>

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, move_mount, open_tree,
};

use crate::id_range::{IdRange, as_its_root};

/// What an overlay is made of.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    /// The image's layers, topmost first; at least one.
    pub(crate) layers: Vec<PathBuf>,
    /// The instance's folder, which holds `upper` and `work`. `None`: read-only.
    pub(crate) writable: Option<PathBuf>,
    /// Writes need not survive the loss of power: the kernel then never syncs for this mount.
    pub(crate) is_volatile: bool,
}

/// The writable layer below an instance's folder.
pub(crate) fn upper(directory: &Path) -> PathBuf {
    directory.join("upper")
}

impl Overlay {
    /// Mounts it, attached nowhere. Makes `upper` and `work` when they are not there.
    ///
    /// # Errors
    /// What the kernel said, in its words where it has some.
    pub(crate) fn mount(&self) -> io::Result<OwnedFd> {
        match self.mount_by_descriptor() {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.mount_by_name(),
            result => result,
        }
    }

    fn mount_by_descriptor(&self) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        self.configure(context.as_fd())
            .map_err(|error| explained(context.as_fd(), error))?;
        let attributes = match self.writable {
            Some(_) => MountAttrFlags::empty(),
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        };
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        mount.map_err(|error| explained(context.as_fd(), error.into()))
    }

    fn configure(&self, context: BorrowedFd<'_>) -> io::Result<()> {
        fsconfig_set_string(context, "source", "overlay")?;
        for layer in &self.layers {
            fsconfig_set_string(context, "lowerdir+", layer.as_path()).map_err(|error| {
                let kind = match error {
                    // Before Linux 6.7 overlayfs has no such option.
                    Errno::INVAL if layer.exists() => io::ErrorKind::Unsupported,
                    error => io::Error::from(error).kind(),
                };
                io::Error::new(kind, format!("layer {}: {error}", layer.display()))
            })?;
        }
        if let Some(directory) = &self.writable {
            let (upper, work) = self.folders(directory)?;
            fsconfig_set_string(context, "upperdir", upper.as_path())?;
            fsconfig_set_string(context, "workdir", work.as_path())?;
            if self.is_volatile {
                fsconfig_set_flag(context, "volatile")?;
            }
        }
        for (name, value) in isle_sys::mount::overlay_options() {
            match value {
                Some(value) => fsconfig_set_string(context, *name, *value)?,
                None => fsconfig_set_flag(context, *name)?,
            }
        }
        fsconfig_create(context)?;
        Ok(())
    }
}

impl Overlay {
    /// Mounts it, attached nowhere, so that id 0 of the files is the first one of a range, and so
    /// on: what is written is on the disk with the ids that it has inside.
    ///
    /// overlayfs itself cannot map ids; its layers can come through mounts that do. Those mounts
    /// are attached over the layers' own places, in a mount namespace that ends with this call.
    ///
    /// # Errors
    /// What the kernel said; that the file system cannot map ids.
    pub(crate) fn mount_mapped(&self, range: IdRange) -> io::Result<OwnedFd> {
        let mut folders: Vec<&Path> = self
            .layers
            .iter()
            .map(|layer| layer.parent().unwrap_or(layer))
            .chain(self.writable.as_deref())
            .collect();
        folders.sort_unstable();
        folders.dedup();
        if let Some(directory) = &self.writable {
            // By the host's root: they are its own, so that they are root's inside.
            self.folders(directory)?;
        }
        let map = isle_runtime::user_namespace_of(range.first, range.size)?;
        std::thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                isle_sys::namespace::unshare_mounts()?;
                // What is mounted from here on stays here.
                let inward = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                mount_change("/", inward)?;
                for folder in folders {
                    map_ids_of(folder, map.as_fd())?;
                }
                // What overlayfs makes for itself must have an id that the mounts can map.
                as_its_root(range, || self.mount())?
            });
            mounting.join().expect("the thread does not panic")
        })
    }

    /// What it will show, for reading, while it is not mounted: as it is on the disk.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn view(&self) -> io::Result<OwnedFd> {
        let own = self.writable.as_deref().map(upper);
        let own = own.filter(|upper| upper.exists());
        view(own.into_iter().chain(self.layers.clone()).collect())
    }

    /// Makes the folders that it writes to.
    fn folders(&self, directory: &Path) -> io::Result<(PathBuf, PathBuf)> {
        let [upper, work] = make_writable(directory)?;
        // A volatile mount leaves this mark, and the kernel refuses to mount over it lest data be
        // lost unnoticed. Those who ask for volatile have said that they do not mind.
        let _ = std::fs::remove_dir_all(work.join("work/incompat"));
        Ok((upper, work))
    }

    /// For kernels before 6.7: mount(2), whose options fit one page, in a mount namespace of a
    /// thread of its own; what is taken along is a detached copy of the mount. Layers are named
    /// relative to the folder that they share, so that about a hundred fit.
    fn mount_by_name(&self) -> io::Result<OwnedFd> {
        let base = self.layers.first().and_then(|layer| layer.parent());
        let base = base.unwrap_or(Path::new("/"));
        let mut options = String::from("lowerdir=");
        for (place, layer) in self.layers.iter().enumerate() {
            let name = layer.strip_prefix(base).unwrap_or(layer);
            let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            let separator = if place == 0 { "" } else { ":" };
            options.push_str(separator);
            options.push_str(&name.replace('\\', "\\\\").replace(':', "\\:"));
        }
        if let Some(directory) = &self.writable {
            let (upper, work) = self.folders(directory)?;
            for (key, path) in [("upperdir", upper), ("workdir", work)] {
                let path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                let path = path.replace('\\', "\\\\").replace(',', "\\,");
                options.push_str(&format!(",{key}={path}"));
            }
            if self.is_volatile {
                options.push_str(",volatile");
            }
        }
        options.push_str(&isle_sys::mount::overlay_options_text());
        let options = CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
        if options.as_bytes().len() > 4000 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "{} layers are too many for this kernel; from Linux 6.7 on they are not",
                    self.layers.len()
                ),
            ));
        }
        let flags = match self.writable {
            Some(_) => MountFlags::empty(),
            None => MountFlags::RDONLY,
        };
        std::thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                isle_sys::namespace::unshare_mounts()?;
                // What is mounted from here on stays here.
                let inward = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                mount_change("/", inward)?;
                rustix::process::chdir(base)?;
                mount("overlay", base, "overlay", flags, options.as_c_str())?;
                let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                Ok(open_tree(CWD, base, clone)?)
            });
            mounting.join().expect("the thread does not panic")
        })
    }
}

/// Makes the folders that overlayfs writes to, where they are not there: the writable layer itself,
/// and one for what is on its way there.
pub(crate) fn make_writable(directory: &Path) -> io::Result<[PathBuf; 2]> {
    let (upper, work) = (upper(directory), directory.join("work"));
    make_folder(&upper, 0o755)?;
    make_folder(&work, 0o700)?;
    Ok([upper, work])
}

/// Covers a folder with itself, its ids mapped as a user namespace says.
fn map_ids_of(folder: &Path, map: BorrowedFd<'_>) -> io::Result<()> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, folder, clone)?;
    isle_sys::mount::map_ids(tree.as_fd(), false, map).map_err(|error| {
        let reason = match error.raw_os_error() {
            Some(errno) if errno == Errno::INVAL.raw_os_error() => {
                "its file system cannot map ids (ext4, xfs, btrfs can)".to_owned()
            }
            _ => error.to_string(),
        };
        let text = format!("map the ids of {}: {reason}", folder.display());
        io::Error::new(error.kind(), text)
    })?;
    let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&tree, "", CWD, folder, from_descriptor)?)
}

/// Layers as one tree that cannot be written, topmost first. An overlay needs two; one is a folder
/// already.
///
/// # Errors
/// What the kernel said; without layers.
pub(crate) fn view(layers: Vec<PathBuf>) -> io::Result<OwnedFd> {
    match layers.as_slice() {
        [] => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the image has no layers",
        )),
        [only] => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(openat(CWD, only, flags, Mode::empty())?)
        }
        _ => Overlay {
            layers,
            writable: None,
            is_volatile: false,
        }
        .mount(),
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(above)?;
            }
            DirBuilder::new().mode(mode).create(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
    .map_err(|error| io::Error::new(error.kind(), format!("make {}: {error}", path.display())))
}

/// The kernel leaves its reasons in the context, one a read, see fsopen(2).
fn explained(context: BorrowedFd<'_>, error: io::Error) -> io::Error {
    let mut reasons = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]);
        let text = message
            .trim_end()
            .trim_start_matches(['e', 'w', 'i'])
            .trim_start();
        reasons.push(text.to_owned());
    }
    match reasons.is_empty() {
        true => error,
        false => io::Error::new(error.kind(), format!("{error} ({})", reasons.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(mount: &OwnedFd, path: &str) -> String {
        let file = openat(mount, path, OFlags::RDONLY, Mode::empty()).unwrap();
        io::read_to_string(fs::File::from(file)).unwrap()
    }

    fn is_possible() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            eprintln!("skipped: mounting an overlay needs root");
        }
        is_root
    }

    #[test]
    fn upper_layers_win_and_writes_go_to_the_writable_one() {
        if is_possible() {
            mounts_well(Overlay::mount_by_descriptor);
        }
    }

    #[test]
    fn older_kernels_mount_the_same_by_name() {
        if is_possible() {
            mounts_well(Overlay::mount_by_name);
        }
    }

    fn mounts_well(mount: fn(&Overlay) -> io::Result<OwnedFd>) {
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "base"]
            .map(|name| folder.path().join(name))
            .to_vec();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
            fs::write(
                layer.join("both"),
                layer.file_name().unwrap().as_encoded_bytes(),
            )
            .unwrap();
        }
        fs::write(layers[1].join("one"), "base").unwrap();
        let overlay = Overlay {
            layers,
            writable: Some(folder.path().join("instance")),
            is_volatile: false,
        };
        let mount = mount(&overlay).unwrap();
        assert_eq!(read(&mount, "both"), "top");
        assert_eq!(read(&mount, "one"), "base");
        let flags = OFlags::WRONLY | OFlags::CREATE;
        drop(openat(&mount, "new", flags, Mode::from(0o600)).unwrap());
        assert!(folder.path().join("instance/upper/new").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(folder.path().to_str().unwrap()));
    }

    #[test]
    fn a_missing_layer_is_named() {
        if !is_possible() {
            return;
        }
        let overlay = Overlay {
            layers: vec!["/nowhere/at/all".into()],
            writable: None,
            is_volatile: false,
        };
        let error = overlay.mount().unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
