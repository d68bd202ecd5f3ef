//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::Version;

/// Why something could not be done to a control group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's hierarchies could not be found out.
    #[error("cannot find the control group hierarchies in {path}")]
    Layout {
        /// The file that was read.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No hierarchy is mounted.
    #[error("no control group hierarchy is mounted on this host")]
    NoHierarchy,
    /// The path of a group is not an absolute path of plain names.
    #[error("invalid control group path {path:?}: expected an absolute path of plain names")]
    Path {
        /// What was given.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot create control group {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory could not be opened.
    #[error("cannot open control group {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes are still in the group.
    #[error("control group {path} still has processes")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A directory could not be removed.
    #[error("cannot remove control group {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("cannot write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A user namespace without any group, see [`crate::Layout::detect`].
    #[error(
        "{limit} needs a control group, and instances of ordinary users have none yet: leave it out, or run it as root"
    )]
    NotDelegated {
        /// The field of `linux.resources` that asks for it.
        limit: &'static str,
    },
    /// The host has no such controller.
    #[error("this host has no control group controller {controller:?}, which {limit} needs")]
    NoController {
        /// The controller.
        controller: &'static str,
        /// The field of `linux.resources` that asks for it.
        limit: &'static str,
    },
    /// The controller is there but lacks the file.
    #[error("this host's kernel has no {file}, which {limit} needs")]
    NoFile {
        /// The file.
        file: String,
        /// The field of `linux.resources` that asks for it.
        limit: &'static str,
    },
    /// This version of control groups has no such limit.
    #[error("control groups version {version} cannot enforce {limit}")]
    NotInVersion {
        /// The field of `linux.resources`.
        limit: &'static str,
        /// The version that the host has for it.
        version: Version,
    },
    /// The value makes no sense.
    #[error("invalid {limit} {value:?}: {expected}")]
    Invalid {
        /// The field of `linux.resources`.
        limit: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        expected: &'static str,
    },
    /// A controller could not be enabled for the children of a group (version 2).
    #[error("cannot enable the controllers {controllers} below {path}")]
    Enable {
        /// The group whose `cgroup.subtree_control` was written.
        path: PathBuf,
        /// As written.
        controllers: String,
        /// Why.
        source: io::Error,
    },
    /// The device program (version 2) could not be loaded or attached.
    #[error("cannot {operation} the device program of control group {path}")]
    DeviceProgram {
        /// `load`, `attach`, …
        operation: &'static str,
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not all processes stopped in time.
    #[error("the processes of control group {path} could not be frozen in time")]
    FreezeTimeout {
        /// The group.
        path: PathBuf,
    },
    /// Processes outlived their kill.
    #[error("processes of control group {path} could not be killed: {pids:?}")]
    KillTimeout {
        /// The group.
        path: PathBuf,
        /// Those left.
        pids: Vec<i32>,
    },
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NoHierarchy => {
                "mount cgroup2 on /sys/fs/cgroup: mount -t cgroup2 none /sys/fs/cgroup".to_owned()
            }
            Error::NoController { controller, .. } => format!(
                "boot a kernel with the {controller} controller enabled (see /proc/cgroups), or leave the limit out"
            ),
            Error::NoFile { file, .. } if file.contains("memsw") || file.contains("swap") => {
                "enable swap accounting with the kernel parameter swapaccount=1, or leave the swap limit out".to_owned()
            }
            Error::NoFile { file, .. } if file.contains("weight") => {
                "switch the device to the BFQ scheduler (CONFIG_IOSCHED_BFQ), or leave the weight out".to_owned()
            }
            Error::NoFile { .. } => "leave the limit out, or boot a kernel that has it".to_owned(),
            Error::NotInVersion { .. } => "leave the limit out on this host".to_owned(),
            Error::Enable { source, .. } if source.raw_os_error() == Some(16) => {
                "a version 2 group with children cannot have processes: move them to a group of their own".to_owned()
            }
            Error::Create { source, .. } | Error::Enable { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                "run as root, or in a group that is delegated to you (systemd: Delegate=yes)".to_owned()
            }
            Error::Create { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "/sys/fs/cgroup is mounted read-only here: mount it read-write".to_owned()
            }
            Error::Write { path, source, .. }
                if source.raw_os_error() == Some(16)
                    && path.file_name().is_some_and(|name| name == "memory.limit_in_bytes") =>
            {
                "more memory than that is in use: choose a higher limit".to_owned()
            }
            _ => return None,
        })
    }

    /// The kind of the error below, for callers that only ask "not found?" or "not permitted?".
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Error::Layout { source, .. }
            | Error::Create { source, .. }
            | Error::Open { source, .. }
            | Error::Remove { source, .. }
            | Error::Read { source, .. }
            | Error::Write { source, .. }
            | Error::Enable { source, .. }
            | Error::DeviceProgram { source, .. } => source.kind(),
            Error::Busy { .. } => io::ErrorKind::ResourceBusy,
            Error::Path { .. } | Error::Invalid { .. } => io::ErrorKind::InvalidInput,
            Error::NoHierarchy
            | Error::NoController { .. }
            | Error::NotDelegated { .. }
            | Error::NoFile { .. }
            | Error::NotInVersion { .. } => io::ErrorKind::Unsupported,
            Error::FreezeTimeout { .. } | Error::KillTimeout { .. } => io::ErrorKind::TimedOut,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}
