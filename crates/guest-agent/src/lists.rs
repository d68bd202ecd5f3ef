//! Long lists: what differs from the image, and what runs.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use isle_guest_protocol::records::{Change, ChangeKind, MAX_RECORD, Process, put};
use isle_guest_protocol::{Bytes, Failure};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::failure::failed;
use crate::{Agent, helper};

/// Ticks a second of all times in `/proc`, see proc_pid_stat(5).
const TICKS: u64 = 100;
/// The longest command line that is told.
const MAX_COMMAND: usize = MAX_RECORD / 2;

/// Starts a helper that lists what differs from the image.
pub(crate) fn changes(agent: &mut Agent, task: u32) -> Result<(), Failure> {
    agent.check_prepared()?;
    if agent.files.upper.is_none() {
        // Nothing can be written: nothing differs.
        let null = helper::null().map_err(failed("cannot list"))?;
        return agent.spawn_reader(task, &[OsStr::new("changes")], null);
    }
    // Both are below the agent's own folder, which has the image beside the writable layer.
    let run = openat(
        CWD,
        &agent.place.run,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let run = run.map_err(failed("cannot list"))?;
    agent.spawn_reader(task, &[OsStr::new("changes")], run)
}

/// Starts a helper that lists processes.
pub(crate) fn processes(agent: &mut Agent, task: u32) -> Result<(), Failure> {
    let group = agent
        .place
        .cgroup
        .as_ref()
        .and_then(|cgroup| cgroup.directory(""));
    let group = group.ok_or_else(|| failed("cannot list")("there is no control group"))?;
    let null = helper::null().map_err(failed("cannot list"))?;
    agent.spawn_reader(task, &[OsStr::new("processes"), group.as_os_str()], null)
}

fn write(bytes: &[u8]) -> Result<(), String> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write the list: {error}"))
}

/// The helper's part of [`changes`].
pub(crate) fn write_changes() -> Result<(), String> {
    let fail = |error: io::Error| format!("cannot read the writable layer: {error}");
    let run = io::stdin();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = match openat(run.as_fd(), "disk/upper", flags, Mode::empty()) {
        Err(rustix::io::Errno::NOTDIR) => return Ok(()),
        upper => upper.map_err(|errno| fail(errno.into()))?,
    };
    let image =
        openat(run.as_fd(), "image", flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
    let mut bytes = Vec::new();
    for change in isle_archive::changes(upper.as_fd(), image.as_fd()).map_err(fail)? {
        let change = Change {
            kind: match change.kind {
                isle_archive::ChangeKind::Added => ChangeKind::Added,
                isle_archive::ChangeKind::Changed => ChangeKind::Changed,
                isle_archive::ChangeKind::Deleted => ChangeKind::Deleted,
            },
            path: Bytes(change.path.as_os_str().as_bytes().to_vec()),
        };
        put(&mut bytes, &change);
        if bytes.len() > 64 << 10 {
            write(&bytes)?;
            bytes.clear();
        }
    }
    write(&bytes)
}

/// The helper's part of [`processes`].
pub(crate) fn write_processes(group: &str) -> Result<(), String> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime "));
    let booted = booted
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let mut pids = Vec::new();
    collect(std::path::Path::new(group), &mut pids);
    pids.sort_unstable();
    let mut bytes = Vec::new();
    // One that is not there any more is not listed.
    for process in pids.into_iter().filter_map(|pid| process(pid, booted)) {
        put(&mut bytes, &process);
    }
    write(&bytes)
}

/// The processes of a group and of those below it.
fn collect(group: &std::path::Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// One process, from proc_pid_stat(5) and proc_pid_cmdline(5).
fn process(pid: i32, booted: u64) -> Option<Process> {
    let folder = format!("/proc/{pid}");
    let uid = fs::metadata(&folder).ok()?.uid();
    let stat = fs::read(format!("{folder}/stat")).ok()?;
    // The name is in parentheses, and may hold any character.
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let name = Bytes(stat.get(open + 1..close)?.to_vec());
    let rest = std::str::from_utf8(stat.get(close + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The numbers of fields in the man page begin with 1, and those here with 3.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
    let number = |place: usize| field(place).parse::<u64>().unwrap_or(0);
    let mut command = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
    while command.last() == Some(&0) {
        command.pop();
    }
    command
        .iter_mut()
        .filter(|byte| **byte == 0)
        .for_each(|byte| *byte = b' ');
    command.truncate(MAX_COMMAND);
    Some(Process {
        pid,
        parent: number(4) as i32,
        uid,
        state: field(3).chars().next().unwrap_or('?'),
        terminal: number(7),
        cpu_ms: (number(14) + number(15)) * 1000 / TICKS,
        started: booted + number(22) / TICKS,
        nice: field(19).parse().unwrap_or(0),
        threads: number(20) as u32,
        virtual_bytes: number(23),
        resident_bytes: resident(&folder),
        name,
        command: Bytes(command),
    })
}

/// Bytes in memory, see proc_pid_status(5).
fn resident(folder: &str) -> u64 {
    let status = fs::read(format!("{folder}/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
