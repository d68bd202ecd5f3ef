//! The instance's control group: limits, and what they have led to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use isle_cgroup::{Cgroup, Hierarchy, Layout, OutOfMemory, Version};
use isle_guest_protocol::{Failure, FailureKind, Limit, LimitFallback, Reply};

use crate::failure::failed;

const EINVAL: i32 = 22;

/// Where version 2 is mounted.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// The instance's group below it.
const GROUP: &str = "/instance";

/// Makes the group, with all controllers that limit or count. Once, at boot: a clone finds it there.
///
/// # Errors
/// When version 2 is not mounted.
pub(crate) fn make() -> io::Result<Cgroup> {
    let mount_point = Path::new(MOUNT_POINT);
    let controllers = fs::read_to_string(mount_point.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        // Those that limit by nothing that anybody can ask for would cost without use.
        if matches!(controller, "cpuset" | "cpu" | "io" | "memory" | "pids") {
            let wanted = format!("+{controller}");
            // One that cannot be had is missed when a limit asks for it.
            let _ = fs::write(mount_point.join("cgroup.subtree_control"), wanted);
        }
    }
    fs::create_dir(mount_point.join(&GROUP[1..]))?;
    let layout = Layout::new(vec![Hierarchy {
        version: Version::V2,
        mount_point: mount_point.to_owned(),
        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
    }]);
    Cgroup::open(&layout, Path::new(GROUP)).map_err(io::Error::other)
}

fn directory(cgroup: Option<&Cgroup>) -> Result<PathBuf, Failure> {
    let directory = cgroup.and_then(|cgroup| cgroup.directory(""));
    directory.ok_or_else(|| failed("cannot set limits")("there is no control group"))
}

/// Sets limits. The kernel checks some values against each other, so which order is right depends on the old ones: what
/// is refused as invalid is tried again after the rest. With `all_or_none`, what was set before a failure is set back.
pub(crate) fn set(
    cgroup: Option<&Cgroup>,
    limits: &[Limit],
    all_or_none: bool,
) -> Result<(), Failure> {
    if limits.is_empty() {
        return Ok(());
    }
    let directory = directory(cgroup)?;
    let mut undo = Vec::new();
    let mut refused = Vec::new();
    let mut result = Ok(());
    for limit in limits {
        match set_one(&directory, limit, all_or_none, &mut undo) {
            Err(error) if error.raw_os_error() == Some(EINVAL) => refused.push(limit),
            Err(error) => {
                result = Err(explained(limit, &error));
                break;
            }
            Ok(()) => {}
        }
    }
    if result.is_ok() {
        result = refused.into_iter().try_for_each(|limit| {
            set_one(&directory, limit, all_or_none, &mut undo)
                .map_err(|error| explained(limit, &error))
        });
    }
    if result.is_err() {
        for (file, value) in undo.iter().rev() {
            // Best effort: the error that led here is the one to tell.
            let _ = fs::write(file, value);
        }
    }
    result
}

fn explained(limit: &Limit, error: &io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{}: the guest's kernel has no {} to enforce it",
            limit.name, limit.file
        ),
        _ => format!(
            "{}: cannot write {:?} to {}: {error}",
            limit.name, limit.value, limit.file
        ),
    };
    Failure::new(FailureKind::Failed, message)
}

fn set_one(
    directory: &Path,
    limit: &Limit,
    keeps_old: bool,
    undo: &mut Vec<(PathBuf, String)>,
) -> io::Result<()> {
    let mut write = |file: &str, value: &str| -> io::Result<()> {
        let path = directory.join(file);
        if keeps_old {
            let old = fs::read_to_string(&path)?;
            fs::write(&path, value)?;
            undo.push((path, old.trim_end().to_owned()));
            return Ok(());
        }
        // Never made: a control file that is not there cannot be.
        let mut file = fs::File::options().write(true).open(&path)?;
        io::Write::write_all(&mut file, value.as_bytes())
    };
    match write(&limit.file, &limit.value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match &limit.fallback {
            LimitFallback::Fail => Err(error),
            LimitFallback::Skip => Ok(()),
            LimitFallback::Write(file, value) => write(file, value),
        },
        result => result,
    }
}

/// What a change of one half of a pair has to know.
pub(crate) fn current(cgroup: Option<&Cgroup>) -> Result<Reply, Failure> {
    let directory = directory(cgroup)?;
    // A file that is not there is missed when it is written.
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    Ok(Reply::Limits {
        cpu_max: read("cpu.max").trim().to_owned(),
        memory_max: read("memory.max").trim().to_owned(),
    })
}

/// What lack of memory has led to so far.
pub(crate) fn out_of_memory(cgroup: Option<&Cgroup>) -> OutOfMemory {
    let found = cgroup.map(Cgroup::out_of_memory);
    found.and_then(Result::ok).unwrap_or_default()
}

/// Whose memory it was.
pub(crate) fn whose(memory: OutOfMemory) -> isle_guest_protocol::OutOfMemory {
    match memory.was_at_limit {
        true => isle_guest_protocol::OutOfMemory::Instance,
        false => isle_guest_protocol::OutOfMemory::Guest,
    }
}
