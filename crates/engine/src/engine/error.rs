//! What can go wrong, as a front door acts upon it.

use std::io;
use std::path::PathBuf;

use isle_types::{InstanceId, InstanceName};

use crate::backend::Unsupported;
use crate::config::ConfigError;
use crate::state::Status;
use crate::store::StoreError;

/// What went wrong. Variants are what a front door acts upon (exit code, HTTP status).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The root is another user's.
    #[error("the root {} belongs to {owner}", root.display())]
    NotOurRoot {
        /// The folder.
        root: PathBuf,
        /// Whose it is, in words.
        owner: String,
    },
    /// No instance has that name, id or prefix.
    #[error("no such instance: {name}")]
    NoSuchInstance {
        /// What the user gave.
        name: String,
        /// The name that is nearest to it, if one is near.
        nearest: Option<String>,
    },
    /// The prefix fits more than one.
    #[error("{prefix:?} fits several instances: {}", .candidates.join(", "))]
    AmbiguousId {
        /// What the user gave.
        prefix: String,
        /// Short ids of those that it fits.
        candidates: Vec<String>,
    },
    /// The name belongs to another instance.
    #[error("the name {name:?} is already in use by instance {owner}")]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        owner: InstanceId,
    },
    /// A value of the configuration cannot be carried out.
    #[error(transparent)]
    InvalidConfig(#[from] ConfigError),
    /// The verb does not fit what the instance is at this moment.
    #[error("cannot {operation} instance {name}: it is {status}")]
    WrongStatus {
        /// The verb.
        operation: &'static str,
        /// Whose.
        name: InstanceName,
        /// What it is.
        status: Status,
    },
    /// It could not be started. The exit code is 125, 126 or 127, as Docker's.
    #[error("{message}")]
    CouldNotStart {
        /// The whole chain, outermost first.
        message: String,
        /// 127: not found, 126: cannot be executed, 125: all else.
        exit_code: u8,
    },
    /// The level of isolation cannot do it.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A network, an address or a port.
    #[error(transparent)]
    Network(#[from] isle_network::NetworkError),
    /// A path inside is not there.
    #[error("no such file or directory in instance {name}: {path}")]
    NoSuchPath {
        /// Whose file system.
        name: InstanceName,
        /// The path inside.
        path: String,
    },
    /// A path inside cannot be used so.
    #[error("cannot use {path} of instance {name}: {reason}")]
    UnusablePath {
        /// Whose file system.
        name: InstanceName,
        /// The path inside.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// An archive could not be unpacked into it.
    #[error("cannot unpack the archive into {path} of instance {name}: {reason}")]
    Archive {
        /// Whose file system.
        name: InstanceName,
        /// The folder inside.
        path: String,
        /// The whole chain, outermost first.
        reason: String,
    },
    /// Its log driver keeps nothing.
    #[error("instance {name} keeps no log: its log driver is none")]
    NoLog {
        /// Whose.
        name: InstanceName,
    },
    /// A volume cannot be used or made.
    #[error("cannot use volume {name:?}: {reason}")]
    Volume {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// No volume has that name.
    #[error("no such volume: {name}")]
    NoSuchVolume {
        /// What the user gave.
        name: String,
        /// The name that is nearest to it, if one is near.
        nearest: Option<String>,
    },
    /// The volume has no snapshot of that name.
    #[error("volume {volume} has no snapshot {name:?}")]
    NoSuchSnapshot {
        /// The volume.
        volume: String,
        /// What the user gave.
        name: String,
    },
    /// It goes with its snapshots, and nobody has said that they may go.
    #[error("cannot remove volume {volume}: it has the snapshots {}", .names.join(", "))]
    HasSnapshots {
        /// The volume.
        volume: String,
        /// Its snapshots.
        names: Vec<String>,
    },
    /// Instances mount it.
    #[error("cannot {operation} volume {name}: it is in use by {}", .users.join(", "))]
    VolumeInUse {
        /// The verb.
        operation: &'static str,
        /// Its name.
        name: String,
        /// The names of the instances.
        users: Vec<String>,
    },
    /// ps(1) refused its options, or is not there.
    #[error("cannot list the processes of instance {name}: {reason}")]
    ProcessList {
        /// Whose.
        name: InstanceName,
        /// What ps(1) said.
        reason: String,
    },
    /// The supervisor did not do what it was asked, or is not to be reached.
    #[error("cannot {operation} instance {name}: {reason}")]
    Supervisor {
        /// The verb.
        operation: &'static str,
        /// Whose.
        name: InstanceName,
        /// What it answered, or why it could not be reached.
        reason: String,
    },
    /// The supervisor program is not there.
    #[error("cannot find the supervisor program isle-shim")]
    NoSupervisorProgram,
    /// The state file cannot be used.
    #[error(transparent)]
    Store(StoreError),
    /// The image store.
    #[error(transparent)]
    Images(#[from] isle_image::StoreError),
    /// There is no such image.
    #[error(transparent)]
    FindImage(#[from] isle_image::FindError),
    /// No image could be made of it.
    #[error(transparent)]
    Commit(isle_image::BuildError),
    /// The host refused something.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried: `read`, `make the folder`, …
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

impl EngineError {
    /// What the user can do about it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            EngineError::NotOurRoot { .. } => {
                "call isle as that user, or give another --root (or $ISLE_ROOT): instances and images of root and of each \
                 user are kept apart"
                    .to_owned()
            }
            EngineError::NoSuchInstance { nearest, .. } => match nearest {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => "isle ps --all lists all instances".to_owned(),
            },
            EngineError::AmbiguousId { .. } => "give more digits of the id, or the name".to_owned(),
            EngineError::NameInUse { name, .. } => {
                format!("remove it with isle rm {name}, rename it, or choose another --name")
            }
            EngineError::NoSuchVolume { nearest, .. } => match nearest {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => "isle volume ls lists all volumes".to_owned(),
            },
            EngineError::HasSnapshots { volume, .. } => {
                format!("isle volume rm --force {volume} removes them too")
            }
            EngineError::NoSuchSnapshot { volume, .. } => {
                format!("isle volume snapshot ls {volume} lists them")
            }
            EngineError::VolumeInUse {
                operation, users, ..
            } => match *operation {
                "remove" => format!("remove them first with isle rm {}", users.join(" ")),
                _ => format!("stop them first with isle stop {}", users.join(" ")),
            },
            EngineError::InvalidConfig(error) => return error.hint().map(str::to_owned),
            EngineError::WrongStatus {
                operation,
                name,
                status,
            } => match (*operation, *status) {
                ("remove", Status::Running | Status::Paused | Status::Restarting) => {
                    format!("stop it first with isle stop {name}, or use isle rm --force {name}")
                }
                ("unpause", _) => "only a paused instance can be unpaused".to_owned(),
                (_, Status::Paused) => format!("resume it first with isle unpause {name}"),
                (_, Status::Created | Status::Exited) => {
                    format!("start it first with isle start {name}")
                }
                _ => return None,
            },
            EngineError::CouldNotStart { exit_code, .. } => match exit_code {
                127 => "the program must be in the image: look at the command, --entrypoint and \
                        PATH"
                    .to_owned(),
                126 => "the program must be an executable file for this architecture, with its \
                        interpreter in the image"
                    .to_owned(),
                _ => return None,
            },
            EngineError::NoLog { .. } => {
                "create the instance with --log-driver json-file to keep its output".to_owned()
            }
            EngineError::Network(error) => return error.hint(),
            EngineError::FindImage(error) => return error.hint(),
            EngineError::Commit(error) => return error.hint(),
            EngineError::NoSupervisorProgram => {
                "put isle-shim beside the isle program, or name it in $ISLE_SHIM".to_owned()
            }
            EngineError::Images(error) => return error.hint(),
            EngineError::Store(StoreError::Open(error)) => return error.hint().map(str::to_owned),
            EngineError::ProcessList { .. } => {
                "isle top INSTANCE [PS OPTIONS] needs ps(1) of the host (package procps)".to_owned()
            }
            EngineError::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as root, or choose folders of your own with --root".to_owned()
                }
                io::ErrorKind::StorageFull => {
                    format!("free some space on the file system of {}", path.display())
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a writable folder with --root".to_owned()
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(hint)
    }

    /// The exit code of a command that failed so: 125, 126 or 127 where nothing could be run as
    /// asked, 1 for all else. (`isle run` ends with 125 for those too, as Docker's does.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            EngineError::CouldNotStart { exit_code, .. } => *exit_code,
            EngineError::InvalidConfig(_)
            | EngineError::NameInUse { .. }
            | EngineError::Unsupported(_)
            | EngineError::Volume { .. }
            | EngineError::NoSupervisorProgram => 125,
            _ => 1,
        }
    }

    pub(crate) fn gone(id: &InstanceId) -> EngineError {
        EngineError::NoSuchInstance {
            name: id.short(),
            nearest: None,
        }
    }

    /// `map_err` for a system call on a path.
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.into();
        move |source| EngineError::Io {
            operation,
            path,
            source,
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> EngineError {
        match error {
            StoreError::NameInUse { name, owner } => EngineError::NameInUse { name, owner },
            StoreError::Gone(id) => EngineError::gone(&id),
            error => EngineError::Store(error),
        }
    }
}
