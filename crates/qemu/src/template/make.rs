//! Making a template.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use isle_cgroup::Cgroup;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::store::{FORMAT, MEMORY, RECORD, Record, STATE};
use super::{Key, Store, Template, TemplateError};
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
        if let Some(template) = self.find(&key) {
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
        if let Some(template) = self.find(&key) {
            return Ok(template);
        }
        let work = Work::begin(self.directory.join(format!("{name}.tmp")))?;
        let record = make(&work.0, &key, program, machine, making, ready, progress)?;
        let text = serde_json::to_vec(&record)
            .map_err(io::Error::other)
            .map_err(TemplateError::io("write down what the template is of"))?;
        let file = work.0.join(RECORD);
        fs::write(&file, text).map_err(TemplateError::io(format!("write {}", file.display())))?;
        let folder = self.directory.join(&name);
        fs::rename(&work.0, &folder)
            .map_err(TemplateError::io(format!("rename {}", work.0.display())))?;
        self.mark(&key)
            .map_err(TemplateError::io("read the template"))?;
        self.remove_older(&key);
        self.find(&key).ok_or_else(|| TemplateError::Io {
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

fn make(
    work: &Path,
    key: &Key,
    program: &Program,
    machine: &Machine,
    making: &Making<'_>,
    ready: Ready<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Record, TemplateError> {
    let new_file = |name: &str| {
        let path = work.join(name);
        File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o400)
            .open(&path)
            .map_err(TemplateError::io(format!("make {}", path.display())))
    };
    // Copied to its place later: a guest that boots dirties pages at random, which costs a file system of
    // a disk some milliseconds for each megabyte.
    let memory = unbounded("memory")
        .and_then(|file| file.set_len(machine.memory_bytes).map(|()| file))
        .map_err(TemplateError::io("make room for the template's memory"))?;
    let state = new_file(STATE)?;
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
    let start = |error| TemplateError::Start(Box::new(error));
    let origin = Origin {
        role: Role::Maker,
        memory: Some(memory_for_qemu),
        state: None,
        console: Some(console_for_qemu),
        initramfs: (!machine.boot.initramfs.is_empty()).then_some(initramfs.as_path()),
        is_paused: false,
    };
    let launch = Launch {
        run_directory: work,
        identity: Identity::of(&format!("template {key}")),
        cgroup: making.cgroup,
        disks: Vec::new(),
        taps: Vec::new(),
        patience: making.patience,
    };
    let mut starting = Starting::begin(program, machine, origin, launch).map_err(start)?;
    if let Err(error) = starting.wait_until_complete() {
        return Err(start(starting.explain(error)));
    }
    let deadline = Instant::now() + making.patience;
    let (monitor, agent) = starting.parts();
    if let Some(agent) = agent
        && let Err(source) = ready(agent, deadline)
    {
        return Err(TemplateError::NotReady {
            console: last_lines(&read_bounded(&console, MOST_CONSOLE)),
            source,
        });
    }
    progress(Progress::Saving);
    save(monitor, &state, deadline).map_err(TemplateError::Save)?;
    // It has done its work; what it maps must not change any more.
    drop(starting);
    for name in ["initramfs", "monitor.sock"] {
        let _ = fs::remove_file(work.join(name));
    }
    for port in &machine.devices.ports {
        let _ = fs::remove_file(work.join(format!("port-{port}.sock")));
    }
    let kept = new_file(MEMORY)?;
    file_identity::copy_sparse(&memory, &kept)
        .map_err(TemplateError::io("keep the template's memory"))?;
    let digest = |file: &File| {
        file_identity::digest_of(file).map_err(TemplateError::io("read the template"))
    };
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Record {
        format: FORMAT,
        family: key.family.clone(),
        program: program.clone(),
        machine: machine.clone(),
        memory_digest: digest(&kept)?,
        state_digest: digest(&state)?,
        created: since_1970.unwrap_or_default().as_secs(),
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
    let event = monitor.wait_for("save the machine's state", is_over, deadline)?;
    if event
        == (Event::Migration {
            status: "completed".to_owned(),
        })
    {
        return Ok(());
    }
    let answer = monitor.execute("query-migrate", Value::Null, deadline)?;
    let reason = answer["error-desc"]
        .as_str()
        .unwrap_or("it does not say why");
    Err(MonitorError::Refused {
        command: "migrate".to_owned(),
        reason: reason.to_owned(),
    })
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
