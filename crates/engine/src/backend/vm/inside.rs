//! Files and processes of a guest, by its agent.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use isle_archive::lexical;
use isle_guest::{Connection, Tree};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ps::{self, Moment};
use crate::backend::inside::{Answer, Carry, Inside, Question};
use crate::backend::{Ended, Process};
use crate::{Change, ChangeKind, PathStat, ProcessTable};

/// The agent's end of an instance's files and processes.
pub(super) struct Agent<'a> {
    pub(super) guest: &'a mut Connection,
    /// Tasks that carry archives: their ends say something else than those of processes.
    pub(super) carrying: &'a mut BTreeSet<u32>,
    /// The hypervisor's pid.
    pub(super) pid: i32,
}

impl Inside for Agent<'_> {
    fn ask(&mut self, question: &Question) -> io::Result<Answer> {
        Ok(match question {
            Question::Stat(path) => Answer::Stat(stat(self.guest, path)?),
            Question::Changes => {
                let changes = self.guest.changes()?;
                Answer::Changes(changes.iter().map(change).collect())
            }
            Question::Processes { options } => Answer::Processes(processes(self.guest, options)?),
        })
    }

    fn carry(&mut self, what: &Carry, stream: OwnedFd) -> io::Result<Process> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec().into();
        let tree = match what {
            Carry::Path { path, follow_link } => Tree::Path {
                path: bytes(path),
                follow_link: *follow_link,
            },
            Carry::Root => Tree::Root,
            Carry::Layer { is_frozen: false } => Tree::Layer,
            Carry::Layer { is_frozen: true } => Tree::FrozenLayer,
            Carry::Into {
                directory,
                keep_owner,
            } => {
                let directory = directory.as_os_str().as_bytes();
                let task = self.guest.write_tree(directory, *keep_owner, stream)?;
                return Ok(self.carried(task));
            }
        };
        let task = self.guest.read_tree(tree, stream)?;
        Ok(self.carried(task))
    }
}

impl Agent<'_> {
    fn carried(&mut self, task: isle_guest::RemoteTask) -> Process {
        self.carrying.insert(task.id);
        Process {
            pid: self.pid,
            ended: task.ended,
            terminal: None,
            task: task.id,
        }
    }
}

/// How an archive on its way has ended.
pub(super) fn reap(guest: &mut Connection, task: u32) -> Ended {
    match guest.reap_task(task) {
        Ok(()) => Ended::Code(0),
        Err(error) => Ended::Crashed(crate::backend::chain(&error)),
    }
}

fn stat(guest: &mut Connection, path: &Path) -> io::Result<PathStat> {
    let found = guest.stat(path.as_os_str().as_bytes())?;
    let text = |bytes: Vec<u8>| {
        std::ffi::OsString::from_vec(bytes)
            .to_string_lossy()
            .into_owned()
    };
    // Resolved inside, as Docker has it.
    let above = path.parent().unwrap_or(Path::new("/"));
    let target = found.link_target.map(|target| {
        let target = PathBuf::from(std::ffi::OsString::from_vec(target.to_vec()));
        lexical(&above.join(target)).to_string_lossy().into_owned()
    });
    Ok(PathStat {
        name: text(found.name.to_vec()),
        size: found.size,
        mode: found.mode,
        link_target: target,
    })
}

fn change(change: &isle_guest::Change) -> Change {
    Change {
        kind: match change.kind {
            isle_guest::ChangeKind::Added => ChangeKind::Added,
            isle_guest::ChangeKind::Changed => ChangeKind::Changed,
            isle_guest::ChangeKind::Deleted => ChangeKind::Deleted,
        },
        path: PathBuf::from(std::ffi::OsString::from_vec(change.path.to_vec())),
    }
}

/// As ps(1) shows processes; the pids are the guest's.
fn processes(guest: &mut Connection, options: &[String]) -> io::Result<ProcessTable> {
    let processes = guest.processes()?;
    let moment = Moment {
        now: Timestamp::now(),
        zone: TimeZone::system(),
        memory_bytes: guest.stats()?.guest_memory,
    };
    ps::table(&processes, options, &moment)
        .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))
}
