//! Processes of the agent's own program that read or write trees of files.
//!
//! Their standard streams are all they have: the root of the tree as a directory descriptor, the data as a pipe, and a file
//! for the reason of a failure. Whatever they meet, the agent goes on.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use isle_archive::{Archive, Limits, Style, TarReader, UnpackOptions, beneath, readable};
use isle_guest_protocol::{Bytes, Failure, PathStat, ReadTree, Stream, Tree, WriteTree};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::Agent;
use crate::agent::token;
use crate::failure::{chain, failed, path as path_failure};
use crate::streams::{Input, Output};
use crate::task::Task;

/// The agent's program.
const OWN: &str = "/proc/self/exe";
/// The first word of a helper's arguments.
pub(crate) const WORD: &str = "isle-guest-helper";

/// What a path is.
pub(crate) fn stat(root: &OwnedFd, path: &Bytes) -> Result<PathStat, Failure> {
    let asked = Path::new(OsStr::from_bytes(path));
    let (stat, target) = isle_archive::stat(root.as_fd(), asked)
        .map_err(|errno| path_failure(path, &errno.into()))?;
    let name = isle_archive::lexical(&Path::new("/").join(asked));
    let name = name.file_name().unwrap_or(OsStr::new("/"));
    Ok(PathStat {
        name: Bytes(name.as_bytes().to_vec()),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        mtime: stat.st_mtime,
        link_target: target.map(|target| Bytes(target.as_os_str().as_bytes().to_vec())),
    })
}

/// Starts a helper. Its words and streams are given; its standard error is where it says what went wrong.
fn spawn(words: &[&OsStr], stdin: Stdio, stdout: Stdio) -> io::Result<(i32, File)> {
    let complaint = File::from(memfd_create("complaint", MemfdFlags::CLOEXEC)?);
    let mut command = Command::new(OWN);
    command
        .arg0("isle-guest")
        .arg(WORD)
        .args(words)
        .env_clear()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(complaint.try_clone()?);
    // Else it would inherit that the ends of children are not signalled.
    let child = isle_sys::signals::release_in(&mut command).spawn()?;
    Ok((child.id() as i32, complaint))
}

impl Agent {
    /// A helper that writes to the host.
    pub(crate) fn spawn_reader(
        &mut self,
        id: u32,
        words: &[&OsStr],
        stdin: OwnedFd,
    ) -> Result<(), Failure> {
        let start = || -> io::Result<Task> {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            let (pid, complaint) = spawn(words, stdin.into(), theirs.into())?;
            let mut task = Task::new(pid);
            task.complaint = Some(complaint);
            let mut output = Output::new(ours, token(id, Stream::Stdout))?;
            output.fill(&self.epoll, &mut self.buffer);
            task.stdout = Some(output);
            Ok(task)
        };
        let task = start().map_err(failed("cannot start a helper"))?;
        self.tasks.insert(id, task);
        Ok(())
    }
}

/// Sends a tree as an archive.
pub(crate) fn read_tree(agent: &mut Agent, asked: &ReadTree) -> Result<(), Failure> {
    match &asked.tree {
        Tree::Path { path, follow_link } => {
            let root = agent.inside()?;
            stat(&root, path)?;
            let word = match follow_link {
                true => "read-target",
                false => "read",
            };
            let words = [OsStr::new(word), OsStr::from_bytes(path)];
            agent.spawn_reader(asked.task, &words, root)
        }
        Tree::Root => {
            let root = agent.files.root()?;
            agent.spawn_reader(asked.task, &[OsStr::new("read"), OsStr::new("/")], root)
        }
        Tree::Layer | Tree::FrozenLayer => {
            let upper = agent.files.upper.as_ref();
            let upper =
                upper.ok_or_else(|| failed("cannot read the writable layer")("there is none"))?;
            let upper = upper
                .try_clone()
                .map_err(failed("cannot read the writable layer"))?;
            if asked.tree == Tree::FrozenLayer {
                agent
                    .freeze()
                    .map_err(failed("cannot freeze the instance"))?;
            }
            let spawned = agent.spawn_reader(asked.task, &[OsStr::new("read-layer")], upper);
            if let Some(task) = agent.tasks.get_mut(&asked.task) {
                task.freezes = asked.tree == Tree::FrozenLayer;
            }
            agent.thaw_unless_wanted();
            spawned
        }
    }
}

/// Unpacks an archive.
pub(crate) fn write_tree(agent: &mut Agent, asked: &WriteTree) -> Result<(), Failure> {
    let root = agent.inside()?;
    let path = Path::new("/").join(OsStr::from_bytes(&asked.path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let folder = beneath(root.as_fd(), &path, flags)
        .map_err(|errno| path_failure(&asked.path, &errno.into()))?;
    let word = match asked.keep_owner {
        true => "write-owned",
        false => "write",
    };
    let start = || -> io::Result<Task> {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        let (pid, complaint) = spawn(
            &[OsStr::new(word)],
            theirs.into(),
            folder.try_clone()?.into(),
        )?;
        let mut task = Task::new(pid);
        task.complaint = Some(complaint);
        task.stdin = Some(Input::new(ours, token(asked.task, Stream::Stdin))?);
        Ok(task)
    };
    let task = start().map_err(failed("cannot start a helper"))?;
    agent.tasks.insert(asked.task, task);
    Ok(())
}

/// What a helper is.
pub(crate) fn main(words: &[std::ffi::OsString]) -> ExitCode {
    let words: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
    let text: Vec<&str> = words
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    let result = match text.as_slice() {
        [word @ ("read" | "read-target"), _] => write_archive(words[1], *word == "read-target"),
        ["read-layer"] => write_layer(),
        [word @ ("write" | "write-owned")] => unpack(*word == "write-owned"),
        ["changes"] => crate::lists::write_changes(),
        ["processes", group] => crate::lists::write_processes(group),
        _ => Err("there is no such helper".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprint!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn output() -> io::Result<BufWriter<File>> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(BufWriter::with_capacity(64 << 10, File::from(stdout)))
}

fn write_archive(path: &OsStr, follows: bool) -> Result<(), String> {
    let root = io::stdin();
    let write = || -> io::Result<()> {
        let bytes = path.as_bytes();
        let follows = follows || bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        let mut output = output()?;
        let mut archive = Archive::new(&mut output, Style::default());
        archive.path(root.as_fd(), &Path::new("/").join(path), follows)?;
        archive.finish()
    };
    write().map_err(|error| format!("cannot write an archive of {}: {error}", path.display()))
}

fn write_layer() -> Result<(), String> {
    let write = || -> io::Result<()> {
        let folder = readable(io::stdin().as_fd())?;
        let style = Style {
            is_layer: true,
            leaves_mount_points_out: true,
            ..Style::default()
        };
        let mut output = output()?;
        let mut archive = Archive::new(&mut output, style);
        archive.folder_content(folder.as_fd())?;
        archive.finish()
    };
    write().map_err(|error| format!("cannot write an archive of the writable layer: {error}"))
}

fn unpack(keep_owner: bool) -> Result<(), String> {
    let options = UnpackOptions {
        whiteouts: false,
        keep_owner,
        limits: Limits::default(),
        ..UnpackOptions::default()
    };
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    let mut archive = TarReader::new(
        BufReader::with_capacity(64 << 10, File::from(input)),
        options.limits,
    );
    isle_archive::unpack(io::stdout().as_fd(), &mut archive, &options)
        .map(drop)
        .map_err(|error| chain(&error))
}

/// A descriptor of `/dev/null`.
pub(crate) fn null() -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
