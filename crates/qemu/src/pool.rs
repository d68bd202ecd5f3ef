//! Copies of templates that wait: loaded, stopped, and without an owner.
//!
//! ```text
//! <run>/pool/<template>/size           how many there are to be
//!                       lock           who fills it has it
//!                       <name>.new/    a copy on its way
//!                       <name>/        one that waits: its sockets, and machine.json
//!                       <name>.taken/  one that somebody takes, for some milliseconds
//!                       <name>.gone/   what one that was taken has left
//! ```
//!
//! Each is in a control group of its own, `pool-<name>`, from before its first instruction until it joins its owner's: so
//! what it uses while it waits is counted there, and whatever was killed when, a QEMU that nobody knows of is found.
//!
//! A copy is taken by renaming its folder, so one of several who want it gets it. Its sockets move to its
//! new owner's run directory: a socket is found by its file, wherever that is. Nothing of it outlives a boot
//! of the host, and nothing runs to watch it: who has taken one has it replaced, see [`Pool::fill`].

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isle_cgroup::{Cgroup, Layout};
use oci_spec::runtime::LinuxResources;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::confinement::Identity;
use crate::file_identity;
use crate::process::{Guard, Process};
use crate::sockets::Sockets;
use crate::start::{Launch, StartError, Starting};
use crate::template::{Store, Template};
use crate::vm::host_memory;

/// The folder of all pools, below the run directory.
#[derive(Clone, Debug)]
pub struct Pool {
    /// It must not outlive a boot of the host.
    pub directory: PathBuf,
    /// The control group that those of the copies are in; `None`: they have none of their own.
    pub cgroups: Option<PathBuf>,
}

/// The pool of one template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSummary {
    /// The template's name.
    pub template: String,
    /// How many copies there are to be.
    pub size: u32,
    /// How many wait.
    pub ready: u32,
    /// What all of them take of the host: their parts of what is shared counted by the number of those
    /// who share it (PSS); bytes.
    pub proportional_bytes: u64,
}

/// Why a pool could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file, a folder or a process.
    #[error("cannot {what}")]
    Io {
        /// What, as a verb with its object.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A copy did not start.
    #[error("cannot start a copy for the pool")]
    Start(#[from] StartError),
    /// What it was to do before it waits failed.
    #[error("a copy for the pool did not do what it was to do before it waits")]
    Exercise(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> PoolError {
    let what = what.into();
    move |source| PoolError::Io { what, source }
}

/// What a copy does before it waits: code that has run once is translated, when it is software that executes the guest.
pub struct Exercise<'a> {
    /// Disks for it, as [`Launch::disks`]; who claims the copy gives it others.
    pub disks: &'a mut dyn FnMut() -> io::Result<Vec<OwnedFd>>,
    /// Speaks with its first port.
    pub run: Talk<'a>,
}

/// What is said on a port, until it is said.
pub type Talk<'a> =
    &'a mut dyn FnMut(&UnixStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// `machine.json`
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// When it began, in ticks since the boot: a later process with the same pid has another one.
    began: u64,
}

impl Record {
    fn of(pid: i32) -> io::Result<Record> {
        Ok(Record {
            pid,
            began: began(pid)?,
        })
    }

    /// The process, if it is still there.
    fn process(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked with the process held, so that its number is not another's meanwhile.
        (began(self.pid).ok()? == self.began).then_some(pidfd)
    }
}

/// Field 22 of proc_pid_stat(5), counted from behind the name, which may hold anything.
fn began(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    let began = fields.nth(18).and_then(|field| field.parse().ok());
    match (state, began) {
        (Some("Z" | "X"), _) | (_, None) => Err(io::ErrorKind::NotFound.into()),
        (_, Some(began)) => Ok(began),
    }
}

const RECORD: &str = "machine.json";

impl Pool {
    fn folder(&self, template: &str) -> PathBuf {
        self.directory.join(template)
    }

    /// Says how many copies of a template are to wait; 0: none, see [`Pool::remove`]. Starts none: see
    /// [`Pool::fill`].
    ///
    /// # Errors
    /// [`PoolError`]
    pub fn set(&self, template: &Template, size: u32) -> Result<(), PoolError> {
        let name = template.key().to_string();
        if size == 0 {
            return self.remove(&name).map(drop);
        }
        let folder = self.folder(&name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failed(format!("make {}", folder.display())))?;
        let temporary = folder.join("size.tmp");
        fs::write(&temporary, size.to_string())
            .and_then(|()| fs::rename(&temporary, folder.join("size")))
            .map_err(failed(format!("write {}", folder.join("size").display())))
    }

    /// The size that was set; 0: there is no pool.
    #[must_use]
    pub fn size(&self, template: &str) -> u32 {
        let text = fs::read_to_string(self.folder(template).join("size"));
        text.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Starts copies until as many wait as were asked for, and ends what is too many, or was left by a
    /// filler that was killed. Returns how many it has started. Waits for another process that fills the same pool:
    /// that one may have counted before the last one was taken.
    ///
    /// # Errors
    /// [`PoolError`]; those that wait already stay.
    pub fn fill(
        &self,
        template: &Template,
        patience: Duration,
        mut exercise: Option<Exercise<'_>>,
    ) -> Result<u32, PoolError> {
        let name = template.key().to_string();
        let folder = self.folder(&name);
        if self.size(&name) == 0 {
            return Ok(0);
        }
        let _lock = lock(&folder, FlockOperation::LockExclusive)?;
        self.tidy(&folder)?;
        let mut started = 0;
        loop {
            let ready = self.ready(&folder)?;
            let size = self.size(&name) as usize;
            for entry in ready.iter().skip(size) {
                if let Some(taken) = take(entry) {
                    self.end(&taken);
                }
            }
            if ready.len() >= size {
                return Ok(started);
            }
            self.start_one(&folder, template, patience, exercise.as_mut())?;
            started += 1;
        }
    }

    /// Takes a copy of a template that waits; `None`: there is none that can be had, and the caller starts
    /// one of its own. It runs once it is finished ([`Starting::finish`]) and has the disks, the folder and the
    /// control group of `launch` from now on; its user is that which it was started with.
    #[must_use]
    pub fn claim(&self, template: &Template, launch: &Launch<'_>) -> Option<Starting> {
        // One that stayed in the pool's group would be ended with what is left there.
        if launch.cgroup.is_none() && self.cgroups.is_some() {
            return None;
        }
        let folder = self.folder(&template.key().to_string());
        for entry in self.ready(&folder).ok()? {
            let Some(taken) = take(&entry) else {
                continue;
            };
            // One that cannot be had has ended; whatever it was, the next may do.
            let claimed = adopt(&taken, template, launch);
            // Whoever fills the pool takes the rest away: that takes time.
            if fs::rename(&taken, taken.with_extension("gone")).is_err() {
                self.end(&taken);
            }
            if let Ok(starting) = claimed {
                return Some(starting);
            }
        }
        None
    }

    /// All pools.
    ///
    /// # Errors
    /// When the folder cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<PoolSummary>, PoolError> {
        let what = || failed(format!("read {}", self.directory.display()));
        let folders = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(what())?,
        };
        let mut list = Vec::new();
        for folder in folders {
            let folder = folder.map_err(what())?;
            // Nobody fills it: what a filler that was killed has left is nobody's.
            if let Ok(Some(_lock)) = lock(&folder.path(), FlockOperation::NonBlockingLockExclusive)
            {
                self.tidy(&folder.path())?;
            }
            let ready = self.ready(&folder.path())?;
            let memory = |entry: &PathBuf| Some(host_memory(record(entry)?.pid).ok()?.0);
            let template = folder.file_name().to_string_lossy().into_owned();
            list.push(PoolSummary {
                size: self.size(&template),
                ready: u32::try_from(ready.len()).unwrap_or(u32::MAX),
                proportional_bytes: ready.iter().filter_map(memory).sum(),
                template,
            });
        }
        list.sort_by(|a, b| a.template.cmp(&b.template));
        Ok(list)
    }

    /// Ends all that wait, and forgets the pool. `false`: there was none.
    ///
    /// # Errors
    /// [`PoolError`]
    pub fn remove(&self, template: &str) -> Result<bool, PoolError> {
        let folder = self.folder(template);
        let is_name = !template.is_empty() && template.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_name || !folder.is_dir() {
            return Ok(false);
        }
        // Who fills it now sees that nothing is wanted any more, and lets go.
        match fs::remove_file(folder.join("size")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("remove the pool {template}"))(error));
            }
            _ => {}
        }
        let _lock = lock(&folder, FlockOperation::LockExclusive)?;
        for entry in entries(&folder)? {
            match entry.state {
                State::Ready => take(&entry.path).iter().for_each(|taken| self.end(taken)),
                State::New | State::Gone => self.end(&entry.path),
                // Somebody is about to have it.
                State::Taken => {}
            }
        }
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("remove the pool {template}"))(error))
            }
            _ => Ok(true),
        }
    }

    /// Removes the pools of templates that are not there any more.
    ///
    /// # Errors
    /// [`PoolError`]
    pub fn remove_orphans(&self, store: &Store) -> Result<(), PoolError> {
        for pool in self.list()? {
            if !store.has(&pool.template) {
                self.remove(&pool.template)?;
            }
        }
        Ok(())
    }
}

enum State {
    New,
    Ready,
    Taken,
    Gone,
}

struct Entry {
    path: PathBuf,
    state: State,
}

/// The copies of a pool, in any state.
fn entries(folder: &Path) -> Result<Vec<Entry>, PoolError> {
    let what = || failed(format!("read {}", folder.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(what())? {
        let path = entry.map_err(what())?.path();
        if !path.is_dir() {
            continue;
        }
        let state = match path.extension().and_then(|extension| extension.to_str()) {
            Some("new") => State::New,
            Some("taken") => State::Taken,
            Some("gone") => State::Gone,
            _ => State::Ready,
        };
        found.push(Entry { path, state });
    }
    Ok(found)
}

/// After so long nobody takes any more what he began to take.
const TAKING: Duration = Duration::from_secs(300);

impl Pool {
    /// Takes away what was left by who was killed. The caller has the pool's lock: nobody else fills it.
    fn tidy(&self, folder: &Path) -> Result<(), PoolError> {
        for entry in entries(folder)? {
            let is_left = match entry.state {
                State::New | State::Gone => true,
                State::Ready => false,
                State::Taken => fs::metadata(&entry.path)
                    .and_then(|about| about.modified())
                    .is_ok_and(|since| since.elapsed().is_ok_and(|age| age > TAKING)),
            };
            if is_left {
                self.end(&entry.path);
            }
        }
        Ok(())
    }

    /// Those that wait and live. The dead are taken away.
    fn ready(&self, folder: &Path) -> Result<Vec<PathBuf>, PoolError> {
        let mut found = Vec::new();
        for entry in entries(folder)? {
            if !matches!(entry.state, State::Ready) {
                continue;
            }
            match record(&entry.path).and_then(|record| record.process()) {
                Some(_) => found.push(entry.path),
                None => take(&entry.path).iter().for_each(|taken| self.end(taken)),
            }
        }
        found.sort();
        Ok(found)
    }

    /// The control group of a copy.
    fn cgroup_path(&self, name: &str) -> Option<PathBuf> {
        let cgroups = self.cgroups.as_ref()?;
        Some(cgroups.join(format!("pool-{name}")))
    }

    fn make_cgroup(&self, name: &str) -> Result<Option<Cgroup>, PoolError> {
        let Some(path) = self.cgroup_path(name) else {
            return Ok(None);
        };
        let made = Layout::detect()
            .map_err(io::Error::other)
            .and_then(|layout| {
                Cgroup::create(&layout, &path, &LinuxResources::default()).map_err(io::Error::other)
            });
        made.map(Some)
            .map_err(failed(format!("make the control group {}", path.display())))
    }

    /// Ends what is in the control group of a copy, which is nothing once it has joined its owner's, and takes away what is
    /// left of it.
    fn end(&self, folder: &Path) {
        let name = folder.file_stem().unwrap_or_default().to_string_lossy();
        match self.cgroup_path(&name) {
            Some(path) => {
                let cgroup = Layout::detect().and_then(|layout| Cgroup::open(&layout, &path));
                let ended = cgroup.map(|cgroup| cgroup.kill_all().and_then(|()| cgroup.remove()));
                if let Ok(Err(_)) = ended {
                    // Whoever tidies next tries again.
                    return;
                }
            }
            // One that somebody has taken is that one's.
            None if folder.extension().is_some_and(|word| word == "gone") => {}
            None => {
                if let Some(process) = record(folder).and_then(|record| record.process()) {
                    let _ = pidfd_send_signal(process, Signal::KILL);
                }
            }
        }
        let _ = fs::remove_dir_all(folder);
    }

    fn start_one(
        &self,
        folder: &Path,
        template: &Template,
        patience: Duration,
        exercise: Option<&mut Exercise<'_>>,
    ) -> Result<(), PoolError> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| failed("get random bytes")(errno.into()))?;
        let name = format!("{:016x}", u64::from_ne_bytes(random));
        let new = folder.join(format!("{name}.new"));
        // The folder first: who finds one without its owner can end what is in the group of that name.
        fs::create_dir(&new).map_err(failed(format!("make {}", new.display())))?;
        let cgroup = self.make_cgroup(&name)?;
        let started = start_in(&new, cgroup.as_ref(), template, patience, exercise);
        if started.is_err() {
            self.end(&new);
            return started;
        }
        fs::rename(&new, folder.join(&name)).map_err(failed(format!("rename {}", new.display())))
    }
}

fn record(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
}

/// Makes one the caller's own; `None`: somebody else was first.
fn take(ready: &Path) -> Option<PathBuf> {
    let taken = ready.with_extension("taken");
    fs::rename(ready, &taken).ok().map(|()| taken)
}

/// `None`: somebody else has it.
fn lock(folder: &Path, operation: FlockOperation) -> Result<Option<File>, PoolError> {
    let path = folder.join("lock");
    let what = || failed(format!("lock {}", path.display()));
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = options.open(&path).map_err(what())?;
    match rustix::fs::flock(&file, operation) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(what()(errno.into())),
    }
}

/// Starts a copy in its folder, with which it is left alone.
fn start_in(
    new: &Path,
    cgroup: Option<&Cgroup>,
    template: &Template,
    patience: Duration,
    mut exercise: Option<&mut Exercise<'_>>,
) -> Result<(), PoolError> {
    let launch = Launch {
        run_directory: new,
        identity: Identity::of_name(&format!("pool {}", new.display())),
        cgroup,
        disks: match &mut exercise {
            Some(exercise) => (exercise.disks)().map_err(failed("make disks for an exercise"))?,
            None => Vec::new(),
        },
        taps: Vec::new(),
        patience,
        dies_with_starter: false,
    };
    let mut starting = match exercise {
        Some(_) => Starting::clone_of(template, launch)?,
        None => Starting::paused_clone_of(template, launch)?,
    };
    let about = Record::of(starting.pid()).map_err(failed("look at a copy for the pool"))?;
    let text = serde_json::to_vec(&about)
        .map_err(io::Error::other)
        .map_err(failed("write down a copy for the pool"))?;
    // As early as can be: who finds the folder without its owner can end it.
    file_identity::replace(&new.join(RECORD), &text);
    let agent = starting.take_agent();
    let mut vm = starting.finish()?;
    let exercised = match (exercise, &agent) {
        (Some(exercise), Some(agent)) => (exercise.run)(agent)
            .map_err(PoolError::Exercise)
            .and_then(|()| {
                vm.pause()
                    .map_err(|error| PoolError::Exercise(error.into()))
            }),
        _ => Ok(()),
    };
    // Its connections end here, and it waits for its next client.
    drop((vm, agent));
    exercised
}

/// Makes a copy that was taken the machine of a launch.
fn adopt(taken: &Path, template: &Template, launch: &Launch<'_>) -> Result<Starting, StartError> {
    let io = |what: &str, source: io::Error| StartError::Prepare {
        what: format!("take a machine out of the pool: {what}"),
        source,
    };
    let gone = || io("it has ended", io::ErrorKind::NotFound.into());
    let record = record(taken).ok_or_else(gone)?;
    let pidfd = record.process().ok_or_else(gone)?;
    let process = Process::adopt(record.pid, pidfd).map_err(|error| io("hold it", error))?;
    let guard = Guard(Some(process));
    if let Some(cgroup) = launch.cgroup {
        cgroup
            .add_process(record.pid)
            .map_err(|error| io("move it to its control group", io::Error::other(error)))?;
    }
    let sockets = Sockets::open(taken)?;
    sockets
        .move_to(launch.run_directory)
        .map_err(|error| io("move its sockets", error))?;
    Starting::adopted(guard, template.machine(), launch)
}
