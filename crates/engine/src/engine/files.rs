//! The files of an instance: what differs from the image, archives out of it and into it.
//!
//! Every path inside is resolved beneath a descriptor of the instance's root with `RESOLVE_IN_ROOT`
//! (openat2(2)), so neither a link of the image nor one that a process inside swaps meanwhile leads
//! out (CVE-2018-15664). No program and no library of the instance is executed (CVE-2019-14271).

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_archive::{Archive, Style, TarReader, UnpackOptions, lexical, readable};
use isle_types::InstanceId;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Change, Engine, EngineError, PathStat};
use crate::InstanceLock;
use crate::backend::container::{Overlay, upper, view};
use crate::backend::inside::{Answer, Carry, Question};
use crate::backend::{self, chain};
use crate::config::UserNamespace;
use crate::id_range::{IdRange, as_its_root};
use crate::state::{Instance, Status};

/// How long a verb waits for another one that works on the same files.
const PATIENCE: Duration = Duration::from_secs(30);

/// The root of an instance's files.
struct Root {
    folder: OwnedFd,
    /// What runs in a user namespace of its own is seen with the ids of the host.
    ids: Option<IdRange>,
    /// Of a stopped instance that is written to: nobody may start it meanwhile.
    _lock: Option<InstanceLock>,
}

/// What a verb does to the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Engine {
    /// What differs from the image.
    ///
    /// # Errors
    /// When the writable layer cannot be read.
    pub fn diff(&self, id: &InstanceId) -> Result<Vec<Change>, EngineError> {
        let instance = self.get(id)?;
        if let Some(Answer::Changes(changes)) =
            self.ask_inside(&instance, "/", &Question::Changes)?
        {
            return Ok(changes);
        }
        let upper = upper(&self.paths.instance(id));
        let folder = match std::fs::File::open(&upper) {
            // Never started: nothing written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            folder => folder.map_err(EngineError::io("read", &upper))?,
        };
        let image = self.image_root(&instance)?;
        let changes = isle_archive::changes(folder.as_fd(), image.as_fd())
            .map_err(EngineError::io("read", &upper))?;
        Ok(changes.into_iter().map(Change::from).collect())
    }

    /// Writes the whole root file system as a tar archive.
    ///
    /// # Errors
    /// When it cannot be read, or the writer fails.
    pub fn export(&self, id: &InstanceId, writer: &mut dyn Write) -> Result<(), EngineError> {
        let instance = self.get(id)?;
        if !backend::host_sees_files(&instance) {
            return self.carry_out(&instance, "/", &Carry::Root, writer);
        }
        // Not what runs: the volumes and kernel file systems mounted over it are not its own.
        let root = self.stopped_root(&instance, Access::Read)?;
        let folder = readable(root.folder.as_fd())
            .map_err(|errno| EngineError::io("read", "/")(errno.into()))?;
        let mut archive = Archive::new(writer, Style::default());
        archive
            .folder_content(folder.as_fd())
            .and_then(|()| archive.finish())
            .map_err(EngineError::io(
                "write an archive of",
                instance.name.as_str(),
            ))
    }

    /// What a path inside is, links in its last element not followed.
    ///
    /// # Errors
    /// When there is none.
    pub fn stat_path(&self, id: &InstanceId, path: &str) -> Result<PathStat, EngineError> {
        let instance = self.get(id)?;
        let question = Question::Stat(absolute(path));
        if let Some(Answer::Stat(stat)) = self.ask_inside(&instance, path, &question)? {
            return Ok(stat);
        }
        let root = self.root(&instance, Access::Read)?;
        let inside = absolute(path);
        let fail = |errno| path_error(&instance, path, errno);
        let (stat, link_target) =
            isle_archive::stat(root.folder.as_fd(), Path::new(path)).map_err(fail)?;
        Ok(PathStat {
            name: inside.file_name().map_or_else(
                || "/".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            ),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            link_target: link_target.map(|target| target.to_string_lossy().into_owned()),
        })
    }

    /// Writes a path inside as a tar archive whose entries start with the path's last element.
    ///
    /// # Errors
    /// When there is none.
    pub fn copy_out(
        &self,
        id: &InstanceId,
        path: &str,
        follow_link: bool,
        writer: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let instance = self.get(id)?;
        if !backend::host_sees_files(&instance) {
            let what = Carry::Path {
                path: absolute(path),
                follow_link: follow_link || path.ends_with('/') || path.ends_with("/."),
            };
            return self.carry_out(&instance, path, &what, writer);
        }
        let root = self.root(&instance, Access::Read)?;
        let inside = absolute(path);
        let fail = |errno| path_error(&instance, path, errno);
        let written = EngineError::io("write an archive of", path);
        let style = Style {
            ids: root.ids.map(IdRange::on_host),
            ..Style::default()
        };
        let mut archive = Archive::new(writer, style);
        let follows = follow_link || path.ends_with('/') || path.ends_with("/.");
        // Whether there is such a path is told apart from what may go wrong later.
        isle_archive::open_parent(root.folder.as_fd(), &inside)
            .and_then(|(folder, name)| statat(&folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW))
            .map_err(fail)?;
        archive
            .path(root.folder.as_fd(), &inside, follows)
            .and_then(|()| archive.finish())
            .map_err(written)
    }

    /// Unpacks a tar archive into a directory inside.
    ///
    /// # Errors
    /// When the directory is not there, or not writable.
    pub fn copy_in(
        &self,
        id: &InstanceId,
        directory: &str,
        keep_owner: bool,
        reader: &mut dyn Read,
    ) -> Result<(), EngineError> {
        let instance = self.get(id)?;
        if instance.config.read_only_root && !self.is_on_mount(&instance, directory) {
            return Err(EngineError::UnusablePath {
                name: instance.name,
                path: directory.to_owned(),
                reason: "the root file system is read-only",
            });
        }
        if !backend::host_sees_files(&instance) {
            let what = Carry::Into {
                directory: absolute(directory),
                keep_owner,
            };
            return self.carry_in(&instance, directory, &what, reader);
        }
        let root = self.root(&instance, Access::Write)?;
        let fail = |errno| path_error(&instance, directory, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = isle_archive::beneath(root.folder.as_fd(), &absolute(directory), flags)
            .map_err(fail)?;
        let options = UnpackOptions {
            whiteouts: false,
            keep_owner,
            first_id: root.ids.map_or(0, |range| range.first),
            ..UnpackOptions::default()
        };
        let mut archive = TarReader::new(BufReader::new(reader), options.limits);
        let mut unpack = || isle_archive::unpack(folder.as_fd(), &mut archive, &options);
        let unpacked = match root.ids {
            None => unpack(),
            Some(range) => as_its_root(range, unpack).map_err(EngineError::io(
                "write as the root of",
                instance.name.as_str(),
            ))?,
        };
        unpacked.map(drop).map_err(|error| EngineError::Archive {
            name: instance.name.clone(),
            path: directory.to_owned(),
            reason: chain(&error),
        })
    }

    fn is_on_mount(&self, instance: &Instance, path: &str) -> bool {
        let path = lexical(&absolute(path));
        let mut mounts = instance.config.mounts.iter();
        mounts.any(|mount| !mount.read_only && path.starts_with(&mount.target))
    }

    /// The root as its processes see it while it runs, else the layers of its image under its own.
    fn root(&self, instance: &Instance, access: Access) -> Result<Root, EngineError> {
        if matches!(instance.state.status, Status::Running | Status::Paused)
            && let Some(pid) = instance.state.pid
            && let Some(folder) = running_root(pid).map_err(|errno| {
                EngineError::io("look into", instance.name.as_str())(errno.into())
            })?
        {
            return Ok(Root {
                folder,
                ids: self.ids(instance)?,
                _lock: None,
            });
        }
        self.stopped_root(instance, access)
    }

    fn stopped_root(&self, instance: &Instance, access: Access) -> Result<Root, EngineError> {
        let directory = self.paths.instance(&instance.id);
        let image = self.image_layers(instance)?;
        let fail = EngineError::io("mount the root file system of", instance.name.as_str());
        if access == Access::Write {
            let lock = InstanceLock::acquire(&self.paths, &instance.id, PATIENCE)
                .map_err(EngineError::io("lock", instance.name.as_str()))?;
            let Some(lock) = lock else {
                return Err(EngineError::Supervisor {
                    operation: "write into",
                    name: instance.name.clone(),
                    reason: "it is just being started or removed".to_owned(),
                });
            };
            let overlay = Overlay {
                layers: image,
                writable: Some(directory),
                is_volatile: false,
            };
            return Ok(Root {
                folder: overlay.mount().map_err(fail)?,
                ids: None,
                _lock: Some(lock),
            });
        }
        let mut layers = image;
        let upper = upper(&directory);
        if upper.exists() {
            layers.insert(0, upper);
        }
        Ok(Root {
            folder: view(layers).map_err(fail)?,
            ids: None,
            _lock: None,
        })
    }

    /// The ids of the host that it has while it runs.
    fn ids(&self, instance: &Instance) -> Result<Option<IdRange>, EngineError> {
        match instance.config.namespaces.user {
            UserNamespace::Default | UserNamespace::Host => Ok(None),
            UserNamespace::Auto { .. } => Ok(self.store().id_range(&instance.id)?),
        }
    }

    fn image_layers(&self, instance: &Instance) -> Result<Vec<PathBuf>, EngineError> {
        let layers = self.store().layers(&instance.id)?;
        let root = &self.paths.root;
        Ok(layers.into_iter().map(|layer| root.join(layer)).collect())
    }

    /// The image's own files, without the instance's.
    fn image_root(&self, instance: &Instance) -> Result<OwnedFd, EngineError> {
        let layers = self.image_layers(instance)?;
        view(layers).map_err(EngineError::io(
            "mount the image of",
            instance.name.as_str(),
        ))
    }
}

/// The root of a process; `None` when it has ended. The pidfd makes sure that the pid did not come
/// to mean another process while its root was opened.
fn running_root(pid: i32) -> rustix::io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(None);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        process => process?,
    };
    let path = format!("/proc/{}/root", pid.as_raw_nonzero());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        root => root?,
    };
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let now = rustix::event::Timespec::default();
    match poll(&mut ended, Some(&now))? {
        0 => Ok(Some(root)),
        _ => Ok(None),
    }
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn path_error(instance: &Instance, path: &str, errno: Errno) -> EngineError {
    let unusable = |reason| EngineError::UnusablePath {
        name: instance.name.clone(),
        path: path.to_owned(),
        reason,
    };
    match errno {
        Errno::NOENT => EngineError::NoSuchPath {
            name: instance.name.clone(),
            path: path.to_owned(),
        },
        Errno::NOTDIR => unusable("it is not a directory"),
        Errno::LOOP => unusable("its links lead in a circle or into /proc"),
        Errno::NAMETOOLONG => unusable("it is too long"),
        Errno::ROFS => unusable("the file system is read-only"),
        errno => EngineError::io("use", path)(errno.into()),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
