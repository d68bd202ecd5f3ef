//! Making a template.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use isle_cgroup::Cgroup;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::store::{DISK, FORMAT, Files, MEMORY, RECORD, Record, STATE};
use super::{Key, Store, Subject, Template, TemplateError};
use crate::arguments::Role;
use crate::confinement::Identity;
use crate::file_identity;
use crate::machine::Machine;
use crate::monitor::{Event, Monitor, MonitorError};
use crate::process::{read_bounded, unbounded, write_only};
use crate::program::Program;
use crate::start::{Launch, Origin, Starting};

/// What a template is made with.
#[derive(Debug)]
pub struct Making<'a> {
    /// Where QEMU's memory and time are counted and limited meanwhile.
    pub cgroup: Option<&'a Cgroup>,
    /// How long the machine may take until it is ready.
    pub patience: Duration,
}

/// What becomes of a copy of a template that is kept as another one.
pub struct Heir<'a> {
    /// What has happened in it.
    pub subject: Subject,
    /// Its disks; the writable one is a new file at the path given.
    pub disks: &'a mut dyn FnMut(&Path) -> io::Result<Vec<OwnedFd>>,
}

/// What happens, for who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process makes the same template; this one waits for it.
    Waiting,
    /// The machine boots.
    Booting,
    /// It is ready, and is saved.
    Saving,
}

/// Speaks with the first port of the machine that is to become a template, until it is ready to be
/// copied.
pub type Ready<'a> =
    &'a mut dyn FnMut(&UnixStream, Instant) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What the kernel's console may say.
const MOST_CONSOLE: usize = 64 << 10;

impl Store {
    /// The template of a machine, made when there is none. Of several processes that want the same one
    /// makes it, and the others wait. `ready` gets the machine's first port, and a deadline; it returns when
    /// the machine is to be saved.
    ///
    /// Older templates of the same machine (another kernel, agent, QEMU, …) are removed when a new one was
    /// made.
    ///
    /// # Errors
    /// [`TemplateError`]; nothing is left behind.
    pub fn ensure(
        &self,
        program: &Program,
        machine: &Machine,
        making: &Making<'_>,
        ready: Ready<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Template, TemplateError> {
        let key = Key::of(program, machine, &self.checked).map_err(TemplateError::io(
            "read the kernel or its first file system",
        ))?;
        self.ensure_key(&key, progress, |work, progress| {
            make(work, &key, program, machine, making, ready, progress)
        })
    }

    /// The heir of a template, if it was made.
    #[must_use]
    pub fn heir(&self, base: &Template, subject: &Subject) -> Option<Template> {
        self.find(&Key::of_heir(base.key(), subject).ok()?)
    }

    /// A copy of a template that is kept, as a template, when `ready` returns; made when there is none. Its copies need
    /// the same disks: the read-only ones the same files, the writable one a copy of [`Template::disk`].
    ///
    /// # Errors
    /// [`TemplateError`]; nothing is left behind.
    pub fn ensure_heir(
        &self,
        base: &Template,
        heir: Heir<'_>,
        making: &Making<'_>,
        ready: Ready<'_>,
    ) -> Result<Template, TemplateError> {
        let key = Key::of_heir(base.key(), &heir.subject)
            .map_err(TemplateError::io("name the template"))?;
        self.ensure_key(&key, &mut |_| {}, |work, _| {
            make_heir(work, &key, base, heir, making, ready)
        })
    }

    fn ensure_key(
        &self,
        key: &Key,
        progress: &mut dyn FnMut(Progress),
        make: impl FnOnce(&Path, &mut dyn FnMut(Progress)) -> Result<Record, TemplateError>,
    ) -> Result<Template, TemplateError> {
        if let Some(template) = self.find(key) {
            return Ok(template);
        }
        self.make_folders()?;
        let name = key.to_string();
        let what = || TemplateError::io("wait for who makes the same template");
        let _lock = match self.lock(&name, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                progress(Progress::Waiting);
                self.lock(&name, FlockOperation::LockExclusive)
                    .map_err(what())?
            }
            other => other.map_err(what())?,
        };
        // Made meanwhile?
        if let Some(template) = self.find(key) {
            return Ok(template);
        }
        let work = Work::begin(self.directory.join(format!("{name}.tmp")))?;
        let record = make(&work.0, progress)?;
        let text = serde_json::to_vec(&record)
            .map_err(io::Error::other)
            .map_err(TemplateError::io("write down what the template is of"))?;
        let file = work.0.join(RECORD);
        fs::write(&file, text).map_err(TemplateError::io(format!("write {}", file.display())))?;
        let folder = self.directory.join(&name);
        fs::rename(&work.0, &folder)
            .map_err(TemplateError::io(format!("rename {}", work.0.display())))?;
        self.mark(key)
            .map_err(TemplateError::io("read the template"))?;
        self.remove_older(key);
        self.find(key).ok_or_else(|| TemplateError::Io {
            what: "read the template that was just made".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// A folder that is removed with what is in it, unless it has another name by then.
struct Work(PathBuf);

impl Work {
    /// The caller has the lock, so what is there is left from a maker that was killed.
    fn begin(path: PathBuf) -> Result<Work, TemplateError> {
        let what = || TemplateError::io(format!("make {}", path.display()));
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(what()(error)),
            _ => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(what())?;
        Ok(Work(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a file of a template.
fn new_file(work: &Path, name: &str) -> Result<File, TemplateError> {
    let path = work.join(name);
    File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o400)
        .open(&path)
        .map_err(TemplateError::io(format!("make {}", path.display())))
}

/// The memory of a machine that is to be kept. Copied to its place later: a guest that runs dirties pages at random, which
/// costs a file system of a disk some milliseconds for each megabyte.
fn memory_of(machine: &Machine, base: Option<&Template>) -> Result<File, TemplateError> {
    let fill = |file: File| -> io::Result<File> {
        match base {
            Some(base) => file_identity::copy_sparse(&base.memory, &file)?,
            None => file.set_len(machine.memory_bytes)?,
        }
        Ok(file)
    };
    unbounded("memory")
        .and_then(fill)
        .map_err(TemplateError::io("make room for the template's memory"))
}

fn make(
    work: &Path,
    key: &Key,
    program: &Program,
    machine: &Machine,
    making: &Making<'_>,
    ready: Ready<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Record, TemplateError> {
    let memory = memory_of(machine, None)?;
    let initramfs = work.join("initramfs");
    join_archives(&machine.boot.initramfs, &initramfs).map_err(TemplateError::io(
        "join the archives of the first file system",
    ))?;
    let console =
        unbounded("console").map_err(TemplateError::io("make room for the kernel's messages"))?;
    let own = || TemplateError::io("start a machine for a template");
    let memory_for_qemu = memory.try_clone().map_err(own())?;
    let console_for_qemu = write_only(&console).map_err(own())?;
    progress(Progress::Booting);
    let origin = Origin {
        role: Role::Maker,
        memory: Some(memory_for_qemu),
        state: None,
        console: Some(console_for_qemu),
        initramfs: (!machine.boot.initramfs.is_empty()).then_some(initramfs.as_path()),
        is_paused: false,
    };
    let mut starting = begin(work, key, program, machine, origin, Vec::new(), making)?;
    get_ready(&mut starting, making, ready, Some(&console))?;
    progress(Progress::Saving);
    let _ = fs::remove_file(work.join("initramfs"));
    keep(work, key, program, machine, starting, making, &memory)
}

fn make_heir(
    work: &Path,
    key: &Key,
    base: &Template,
    heir: Heir<'_>,
    making: &Making<'_>,
    ready: Ready<'_>,
) -> Result<Record, TemplateError> {
    let (program, machine) = (base.program(), base.machine());
    let memory = memory_of(machine, Some(base))?;
    let own = || TemplateError::io("start a machine for a template");
    let disk = work.join(DISK);
    let disks = (heir.disks)(&disk).map_err(own())?;
    let origin = Origin {
        role: Role::Heir,
        memory: Some(memory.try_clone().map_err(own())?),
        state: Some(base.open_state().map_err(own())?),
        console: None,
        initramfs: None,
        is_paused: false,
    };
    let mut starting = begin(work, key, program, machine, origin, disks, making)?;
    get_ready(&mut starting, making, ready, None)?;
    let record = keep(work, key, program, machine, starting, making, &memory)?;
    Ok(Record {
        subject: Some(heir.subject.name),
        ..record
    })
}

fn begin(
    work: &Path,
    key: &Key,
    program: &Program,
    machine: &Machine,
    origin: Origin<'_>,
    disks: Vec<OwnedFd>,
    making: &Making<'_>,
) -> Result<Starting, TemplateError> {
    let start = |error| TemplateError::Start(Box::new(error));
    let launch = Launch {
        run_directory: work,
        identity: Identity::of_name(&format!("template {key}")),
        cgroup: making.cgroup,
        disks,
        taps: Vec::new(),
        patience: making.patience,
        dies_with_starter: true,
    };
    let mut starting = Starting::begin(program, machine, origin, launch).map_err(start)?;
    match starting.wait_until_complete() {
        Ok(()) => Ok(starting),
        Err(error) => Err(start(starting.explain(error))),
    }
}

/// Waits until the machine is to be saved.
fn get_ready(
    starting: &mut Starting,
    making: &Making<'_>,
    ready: Ready<'_>,
    console: Option<&File>,
) -> Result<(), TemplateError> {
    let deadline = Instant::now() + making.patience;
    let (_, agent) = starting.parts();
    let Some(agent) = agent else { return Ok(()) };
    ready(agent, deadline).map_err(|source| {
        let said = console.map(|console| last_lines(&read_bounded(console, MOST_CONSOLE)));
        TemplateError::NotReady {
            console: said.unwrap_or_default(),
            source,
        }
    })
}

/// Saves a machine, and ends it: what it maps must not change any more.
fn keep(
    work: &Path,
    key: &Key,
    program: &Program,
    machine: &Machine,
    mut starting: Starting,
    making: &Making<'_>,
    memory: &File,
) -> Result<Record, TemplateError> {
    let state = new_file(work, STATE)?;
    let (monitor, _) = starting.parts();
    save(monitor, &state, Instant::now() + making.patience).map_err(TemplateError::Save)?;
    drop(starting);
    let _ = fs::remove_file(work.join("monitor.sock"));
    for port in &machine.devices.ports {
        let _ = fs::remove_file(work.join(format!("port-{port}.sock")));
    }
    let kept = new_file(work, MEMORY)?;
    file_identity::copy_sparse(memory, &kept)
        .map_err(TemplateError::io("keep the template's memory"))?;
    let digests = Files::open(work).and_then(|files| files.digests());
    let digests = digests.map_err(TemplateError::io("read the template"))?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Record {
        format: FORMAT,
        family: key.family.clone(),
        program: program.clone(),
        machine: machine.clone(),
        memory_digest: digests.memory,
        state_digest: digests.state,
        created: since_1970.unwrap_or_default().as_secs(),
        subject: None,
        disk_digest: digests.disk,
    })
}

/// Saves all but the memory, which is in its file. The machine runs until the last moment, so that its
/// copies run as soon as they have loaded it.
fn save(monitor: &mut Monitor, state: &File, deadline: Instant) -> Result<(), MonitorError> {
    let capabilities = json!({"capabilities": [
        {"capability": "x-ignore-shared", "state": true},
        {"capability": "events", "state": true},
    ]});
    monitor.execute("migrate-set-capabilities", capabilities, deadline)?;
    let limits = json!({"max-bandwidth": 100_000_000_000_u64});
    monitor.execute("migrate-set-parameters", limits, deadline)?;
    let named = monitor.send("getfd", json!({"fdname": "state"}), &[state.as_fd()])?;
    monitor.answer(&named, deadline)?;
    monitor.execute("migrate", json!({"uri": "fd:state"}), deadline)?;
    let is_over = |event: &Event| matches!(event, Event::Migration { status } if status == "completed" || status == "failed");
    loop {
        monitor.wait_for("save the machine's state", is_over, deadline)?;
        // The event may have been that of the state that a copy has loaded.
        let answer = monitor.execute("query-migrate", Value::Null, deadline)?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed") => {
                let reason = answer["error-desc"].as_str();
                return Err(MonitorError::Refused {
                    command: "migrate".to_owned(),
                    reason: reason.unwrap_or("it does not say why").to_owned(),
                });
            }
            _ => {}
        }
    }
}

/// Several archives of a first file system in one file that all can read. Each begins at a multiple of
/// four bytes, as the kernel wants it.
///
/// # Errors
/// When one cannot be read, or the file cannot be made.
pub fn join_archives(archives: &[PathBuf], into: &Path) -> io::Result<()> {
    let mut joined = File::options().create_new(true).write(true).open(into)?;
    let mut length = 0;
    for path in archives {
        let padding = [0; 3]
            .into_iter()
            .take((4 - length % 4) % 4)
            .collect::<Vec<u8>>();
        io::Write::write_all(&mut joined, &padding)?;
        let mut archive = File::open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let copied = io::copy(&mut archive, &mut joined)?;
        length += padding.len() + usize::try_from(copied).unwrap_or(0);
    }
    joined.set_permissions(Permissions::from_mode(0o444))
}

fn last_lines(text: &str) -> String {
    const MOST: usize = 2000;
    let start = text.len().saturating_sub(MOST);
    let start = (start..text.len()).find(|index| text.is_char_boundary(*index));
    text.get(start.unwrap_or(0)..)
        .unwrap_or_default()
        .to_owned()
}
