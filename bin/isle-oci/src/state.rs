//! What is known of a container between two calls: one directory in `--root` for each.
//!
//! `state.json` is written to a temporary file and renamed, and carries a version; `config.json` is
//! the specification that the container was made from, whatever the bundle holds later. The
//! directory is locked (flock(2)) while a verb changes something. Nothing is synced: the state
//! describes processes, which do not outlive a crash of the host either.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const FILE: &str = "state.json";
const CONFIG: &str = "config.json";
const SOCKET: &str = "start";

/// `state.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct State {
    /// Of this format.
    pub(crate) version: u32,
    pub(crate) id: String,
    /// First process.
    pub(crate) pid: i32,
    /// When the kernel started it, in clock ticks since boot: tells it from a later process with
    /// the same pid. See `starttime` in proc_pid_stat(5).
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// RFC 3339
    pub(crate) created: String,
    pub(crate) owner: u32,
    /// Path of its control group below each hierarchy; `None`: it has none.
    pub(crate) cgroup: Option<PathBuf>,
    /// The unit of systemd that the group belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
}

/// The directory of a container, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

/// Ids become names of directories and control groups.
pub(crate) fn check_id(id: &str) -> anyhow::Result<()> {
    let is_valid = !id.is_empty()
        && id.len() <= 255
        && id != "."
        && id != ".."
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    if is_valid {
        return Ok(());
    }
    bail!("invalid container id {id:?}: expected letters, digits and _+-. only, at most 255")
}

/// The `starttime` of a process; `None`: there is no such process.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid).map(|(_, start_time)| start_time)
}

/// State letter and start time.
fn stat_fields(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that can hold anything.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

fn lock(path: PathBuf, id: &str) -> anyhow::Result<Directory> {
    let fd = match rustix::fs::openat(
        CWD,
        &path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    ) {
        Err(rustix::io::Errno::NOENT) => bail!("container {id:?} does not exist"),
        other => other.with_context(|| format!("cannot open {}", path.display()))?,
    };
    rustix::fs::flock(&fd, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    // Whoever held the lock before may have removed it.
    if rustix::fs::fstat(&fd)?.st_nlink == 0 {
        bail!("container {id:?} does not exist");
    }
    Ok(Directory { path, fd })
}

impl Drop for Directory {
    /// A copy of the descriptor in a process that we have made would keep the lock.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

impl Directory {
    /// Makes the directory of a new container.
    pub(crate) fn create(root: &Path, id: &str) -> anyhow::Result<Directory> {
        check_id(id)?;
        let path = root.join(id);
        let make = || DirBuilder::new().mode(0o700).create(&path);
        let made = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(root)
                    .with_context(|| format!("cannot make the directory {}", root.display()))?;
                make()
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with id {id:?} exists already")
            }
            other => {
                other.with_context(|| format!("cannot make the directory {}", path.display()))?;
            }
        }
        lock(path, id)
    }

    /// The directory of an existing container.
    pub(crate) fn open(root: &Path, id: &str) -> anyhow::Result<Directory> {
        check_id(id)?;
        lock(root.join(id), id)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}.{}", std::process::id());
        let fd = rustix::fs::openat(
            &self.fd,
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        let written = File::from(fd).write_all(bytes);
        let renamed = written.and_then(|()| {
            Ok(rustix::fs::renameat_with(
                &self.fd,
                &temporary,
                &self.fd,
                name,
                RenameFlags::empty(),
            )?)
        });
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
        }
        renamed
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    pub(crate) fn save(&self, state: &State) -> anyhow::Result<()> {
        let text = serde_json::to_vec(state)?;
        self.write(FILE, &text)
            .with_context(|| format!("cannot write {}", self.path.join(FILE).display()))
    }

    pub(crate) fn save_config(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(CONFIG, bytes)
            .with_context(|| format!("cannot write {}", self.path.join(CONFIG).display()))
    }

    pub(crate) fn load(&self) -> anyhow::Result<State> {
        let text = self.read(FILE)?;
        let state: State = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", self.path.join(FILE).display()))?;
        if state.version != VERSION {
            bail!(
                "{} has format version {}, this isle-oci reads version {VERSION}",
                self.path.join(FILE).display(),
                state.version
            );
        }
        Ok(state)
    }

    pub(crate) fn config(&self) -> anyhow::Result<Spec> {
        let text = self.read(CONFIG)?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", self.path.join(CONFIG).display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The socket that a created container listens on, by a path that is short enough for unix(7).
    pub(crate) fn socket(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.fd.as_raw_fd()))
    }

    /// Whether the container waits to be started.
    pub(crate) fn has_socket(&self) -> bool {
        rustix::fs::accessat(
            &self.fd,
            SOCKET,
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        )
        .is_ok()
    }

    pub(crate) fn remove_socket(&self) {
        let _ = rustix::fs::unlinkat(&self.fd, SOCKET, AtFlags::empty());
    }

    /// Takes the directory away.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        for name in [SOCKET, FILE, CONFIG] {
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
        }
        match rustix::fs::rmdir(&self.path) {
            // something else is in there
            Err(rustix::io::Errno::NOTEMPTY) => fs::remove_dir_all(&self.path),
            other => other.map_err(io::Error::from),
        }
        .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

impl State {
    pub(crate) fn new(id: &str, pid: i32, bundle: PathBuf, rootfs: PathBuf) -> State {
        State {
            version: VERSION,
            id: id.to_owned(),
            pid,
            start_time: start_time(pid).unwrap_or(0),
            bundle,
            rootfs,
            created: jiff::Timestamp::now().to_string(),
            owner: rustix::process::geteuid().as_raw(),
            cgroup: None,
            scope: None,
        }
    }

    /// The first process, if it is still that one and has not ended.
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        // The descriptor first: from now on the pid cannot become another process's.
        match stat_fields(self.pid) {
            Some(('Z' | 'X', _)) | None => None,
            Some((_, start_time)) => (start_time == self.start_time).then_some(pidfd),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_directory() {
        for id in ["", ".", "..", "a/b", "/a", "a b", "ä", "a\0"] {
            check_id(id).unwrap_err();
        }
        for id in ["a", "A-b_c.d+1", "...", "0123456789abcdef"] {
            check_id(id).unwrap();
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_damage_is_told() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::create(root.path(), "a").unwrap();
        Directory::create(root.path(), "a").unwrap_err();
        let own = i32::try_from(std::process::id()).unwrap();
        let state = State::new("a", own, "/b".into(), "/b/rootfs".into());
        directory.save(&state).unwrap();
        let read = directory.load().unwrap();
        assert_eq!((read.pid, read.start_time), (own, state.start_time));
        assert!(read.process().is_some());
        let mut other = read;
        other.start_time += 1;
        assert!(other.process().is_none(), "the pid is another process's");
        directory.write(FILE, b"{\"version\":").unwrap();
        let error = format!("{:#}", directory.load().unwrap_err());
        assert!(error.contains("is damaged"), "{error}");
        directory.remove().unwrap();
        let error = Directory::open(root.path(), "a").unwrap_err().to_string();
        assert_eq!(error, "container \"a\" does not exist");
    }
}
