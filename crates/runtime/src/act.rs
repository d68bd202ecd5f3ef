//! Carrying a plan out: the parent's side.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use isle_cgroup::Cgroup;
use isle_sys::launch::{self, Event, Launched, MountSource, Slot, Step, Strings, Target};
use isle_sys::mount::{self, Attributes};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::plan::{IdMap, Need, Plan, meeting};
use crate::{Child, Created, LaunchError, Rootfs, Stdio, hooks};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

fn open_proc() -> io::Result<OwnedFd> {
    let fd = rustix::fs::openat(
        CWD,
        "/proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    if rustix::fs::fstatfs(&fd)?.f_type as i64 != PROC_SUPER_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc is not a proc file system",
        ));
    }
    Ok(fd)
}

fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    match rustix::mount::open_tree(CWD, path, flags) {
        // A mount that is attached nowhere, handed over as a descriptor, and copied out of another
        // mount namespace: it cannot be copied again (may_copy_tree in fs/namespace.c), and need
        // not be, since nobody else has it.
        Err(rustix::io::Errno::INVAL) if path.starts_with("/proc/self/fd") => {
            let itself = OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(rustix::mount::open_tree(CWD, path, itself)?)
        }
        tree => Ok(tree?),
    }
}

/// A user namespace in which the ids from 0 on are those from `first` on outside, users and groups
/// alike, held by a descriptor alone: for mounts with mapped ids, see mount_setattr(2).
///
/// # Errors
/// When the kernel refuses it.
pub fn user_namespace_of(first: u32, size: u32) -> io::Result<OwnedFd> {
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(first)
        .size(size)
        .build()
        .map_err(io::Error::other)?;
    user_namespace(&IdMap {
        uids: vec![mapping],
        gids: vec![mapping],
    })
}

/// A user namespace with these maps, held by a descriptor alone.
fn user_namespace(map: &IdMap) -> io::Result<OwnedFd> {
    let steps = [Step::Meet(0)];
    let launched = launch::launch(launch::namespace::USER, None, &steps, &[])?;
    let result = launched
        .next_event()
        .and_then(|_| write_maps(launched.pid, map))
        .and_then(|()| {
            let path = format!("/proc/{}/ns/user", launched.pid);
            Ok(rustix::fs::openat(
                CWD,
                path,
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )?)
        });
    let (_, pidfd, channel) = launched.into_parts();
    // it ends when its channel closes
    drop(channel);
    reap(&pidfd)?;
    result
}

fn write_maps(pid: i32, map: &IdMap) -> io::Result<()> {
    let text = |mappings: &[LinuxIdMapping]| {
        mappings.iter().fold(String::new(), |mut text, mapping| {
            use std::fmt::Write as _;
            let _ = writeln!(
                text,
                "{} {} {}",
                mapping.container_id(),
                mapping.host_id(),
                mapping.size()
            );
            text
        })
    };
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    if !rustix::process::geteuid().is_root() {
        // user_namespaces(7): without CAP_SETGID a group map needs this
        write("setgroups", "deny")?;
    }
    write("uid_map", &text(&map.uids))?;
    write("gid_map", &text(&map.gids))
}

/// Waits for the end of a child and forgets it.
fn reap(pidfd: &OwnedFd) -> io::Result<()> {
    loop {
        let waited = rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        match waited {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// A process that is killed and reaped unless it is kept.
struct Guard(Option<OwnedFd>);

impl Guard {
    fn keep(mut self) -> OwnedFd {
        self.0.take().expect("the pidfd is taken once only")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            let _ = reap(pidfd);
        }
    }
}

/// The table of descriptors while it is filled.
#[derive(Default)]
pub(crate) struct Table(Vec<OwnedFd>);

impl Table {
    pub(crate) fn add(&mut self, fd: OwnedFd) -> Slot {
        self.0.push(fd);
        Slot(self.0.len() - 1)
    }

    fn borrow(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

fn open_root(rootfs: Rootfs) -> Result<OwnedFd, LaunchError> {
    match rootfs {
        Rootfs::Detached(fd) => Ok(fd),
        Rootfs::Directory(path) => {
            let fail =
                LaunchError::prepare(format!("take the root file system {}", path.display()));
            let tree = clone_tree(&path, true).map_err(fail)?;
            let fail =
                LaunchError::prepare(format!("take the root file system {}", path.display()));
            mount::set_attributes(tree.as_fd(), true, &Attributes::new(0, 0, mount::SLAVE))
                .map_err(fail)?;
            Ok(tree)
        }
    }
}

pub(crate) fn open_need(need: &Need, cgroup: Option<&Cgroup>) -> Result<OwnedFd, LaunchError> {
    match need {
        Need::Root => unreachable!("the root file system is the first descriptor"),
        Need::Proc => open_proc().map_err(LaunchError::prepare("open /proc")),
        Need::Namespace { path, .. } => {
            rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(
                |errno| {
                    LaunchError::prepare(format!("open the namespace {}", path.display()))(
                        io::Error::from(errno),
                    )
                },
            )
        }
        Need::Tree {
            path,
            recursive,
            attributes,
            recursive_attributes,
            propagation: (propagation, is_propagation_recursive),
            is_id_map_recursive,
            id_map,
        } => {
            let fail = || LaunchError::prepare(format!("bind {}", path.display()));
            let tree = clone_tree(path, *recursive).map_err(fail())?;
            if let Some(map) = id_map {
                let user = user_namespace(map).map_err(LaunchError::prepare(format!(
                    "make a user namespace for the mapped ids of {}",
                    path.display()
                )))?;
                mount::map_ids(tree.as_fd(), *is_id_map_recursive, user.as_fd()).map_err(
                    LaunchError::prepare(format!("map the ids of {}", path.display())),
                )?;
            }
            let mut changes = [(true, *recursive_attributes), (false, *attributes)];
            let part = usize::from(!is_propagation_recursive);
            changes[part].1.propagation = *propagation;
            for (recursive, change) in changes {
                if !change.is_empty() {
                    mount::set_attributes(tree.as_fd(), recursive, &change).map_err(fail())?;
                }
            }
            Ok(tree)
        }
        Need::CgroupTree {
            mount_point,
            controller,
            attributes,
        } => {
            let directory = cgroup
                .and_then(|cgroup| cgroup.directory(controller))
                .unwrap_or_else(|| mount_point.clone());
            let fail = || LaunchError::prepare(format!("bind {}", directory.display()));
            let tree = clone_tree(&directory, false).map_err(fail())?;
            mount::set_attributes(tree.as_fd(), false, attributes).map_err(fail())?;
            Ok(tree)
        }
    }
}

/// Whether a bind mount is made on a directory or on a file depends on what it is of.
fn set_target_kinds(steps: &mut [Step], table: &Table) -> io::Result<()> {
    for step in steps {
        if let Step::Mount {
            source: MountSource::Tree(slot),
            kind,
            ..
        } = step
            && let Some(fd) = table.0.get(slot.0)
        {
            let mode = rustix::fs::fstat(fd)?.st_mode;
            *kind = match FileType::from_raw_mode(mode) {
                FileType::Directory => Target::Directory,
                _ => Target::File,
            };
        }
    }
    Ok(())
}

/// Steps by which a new process, still alone, joins the version 1 hierarchies.
pub(crate) fn join_steps(
    cgroup: Option<&Cgroup>,
    table: &mut Table,
) -> Result<Vec<Step>, LaunchError> {
    let Some(cgroup) = cgroup else {
        return Ok(Vec::new());
    };
    let name = cgroup.path().display().to_string();
    let files = cgroup.join_files().map_err(LaunchError::prepare(format!(
        "open the control group {name}"
    )))?;
    Ok(files
        .into_iter()
        .map(|file| Step::Write {
            file: table.add(file),
            bytes: b"0".to_vec(),
            name: format!("to the control group {name}"),
        })
        .collect())
}

pub(crate) fn stdio_step(stdio: Stdio, table: &mut Table, uid: u32, console: bool) -> Step {
    match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => Step::Streams([table.add(stdin), table.add(stdout), table.add(stderr)]),
        Stdio::Terminal { size } => Step::Terminal { size, console, uid },
    }
}

/// A program that finds no `HOME` gets that of its user, as runc does it.
fn add_home(steps: &mut [Step], root: BorrowedFd<'_>, uid: u32) {
    for step in steps {
        let Step::Execute { environment, .. } = step else {
            continue;
        };
        let variables = environment.as_slice();
        if variables
            .iter()
            .any(|variable| variable.as_bytes().starts_with(b"HOME="))
        {
            continue;
        }
        let home = crate::users::resolve(root, &uid.to_string(), &[])
            .map_or_else(|_| "/".to_owned(), |user| user.home);
        let mut variables = variables.to_vec();
        variables.extend(std::ffi::CString::new(format!("HOME={home}")));
        *environment = Strings::new(variables);
    }
}

pub(crate) fn check_capabilities(wanted: u64) -> Result<(), LaunchError> {
    let own = rustix::thread::capabilities(None).map_err(|errno| {
        LaunchError::prepare("read the capabilities of this process")(io::Error::from(errno))
    })?;
    let missing = wanted & !own.permitted.bits();
    if missing == 0 {
        return Ok(());
    }
    Err(LaunchError::Capabilities {
        names: crate::capabilities::names(missing),
    })
}

/// [`add_home`] for a further process: its root is that of the first one.
pub(crate) fn add_home_of_container(steps: &mut [Step], init: BorrowedFd<'_>, uid: u32) {
    let Some(pid) = pid_of(init).filter(|pid| *pid > 0) else {
        return;
    };
    let root = rustix::fs::openat(
        CWD,
        format!("/proc/{pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    if let Ok(root) = root {
        add_home(steps, root.as_fd(), uid);
    }
}

/// The pid of a process that a pidfd refers to, see the `Pid` line in pidfd_open(2), "fdinfo".
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// The conversation with a new process up to its readiness.
pub(crate) struct Conversation<'a> {
    steps: &'a [Step],
    launched: Launched,
    guard: Guard,
    terminal: Option<OwnedFd>,
}

impl<'a> Conversation<'a> {
    pub(crate) fn begin(
        flags: u64,
        into: Option<BorrowedFd<'_>>,
        steps: &'a [Step],
        table: &Table,
    ) -> Result<Conversation<'a>, LaunchError> {
        let launched = launch::launch(flags, into, steps, &table.borrow())
            .map_err(LaunchError::prepare("make the process"))?;
        let pidfd = launched
            .pidfd
            .try_clone()
            .map_err(LaunchError::prepare("hold the process"))?;
        Ok(Conversation {
            steps,
            launched,
            guard: Guard(Some(pidfd)),
            terminal: None,
        })
    }

    /// Until it is ready; `meet` and `listener` are called on the way.
    pub(crate) fn until_ready(
        &mut self,
        mut meet: impl FnMut(u32, i32) -> Result<(), LaunchError>,
        mut listener: impl FnMut(OwnedFd, i32) -> Result<(), LaunchError>,
    ) -> Result<(), LaunchError> {
        loop {
            let event = self
                .launched
                .next_event()
                .map_err(LaunchError::prepare("hear the new process"))?;
            match event {
                Event::Reached(label) => {
                    meet(label, self.launched.pid)?;
                    self.launched
                        .go_on()
                        .map_err(LaunchError::prepare("reach the new process"))?;
                }
                Event::Terminal(master) => self.terminal = Some(master),
                Event::Listener(fd) => listener(fd, self.launched.pid)?,
                Event::Split { pid, pidfd } => {
                    let first = std::mem::replace(&mut self.launched.pidfd, pidfd);
                    self.launched.pid = pid;
                    let pidfd = self
                        .launched
                        .pidfd
                        .try_clone()
                        .map_err(LaunchError::prepare("hold the process"))?;
                    // the first process ends by itself
                    let _ = self.guard.0.replace(pidfd);
                    reap(&first).map_err(LaunchError::prepare("reap the first process"))?;
                    self.launched
                        .go_on()
                        .map_err(LaunchError::prepare("reach the new process"))?;
                }
                Event::Ready => return Ok(()),
                Event::Failed(failure) => return Err(LaunchError::step(self.steps, failure)),
                Event::Closed => return Err(LaunchError::Died),
            }
        }
    }

    pub(crate) fn end(self) -> (Child, OwnedFd) {
        let (pid, _, channel) = self.launched.into_parts();
        (
            Child {
                pid,
                pidfd: self.guard.keep(),
                terminal: self.terminal,
            },
            channel,
        )
    }
}

impl Plan {
    /// Makes the container up to the point where only its program remains to be executed.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind then.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers share it among threads of use"
    )]
    pub fn create(
        self,
        rootfs: Rootfs,
        cgroup: Option<Arc<Cgroup>>,
        stdio: Stdio,
    ) -> Result<Created, LaunchError> {
        self.create_with(rootfs, cgroup.as_deref(), stdio, None)
    }

    /// Like [`Plan::create`], with a listening Unix socket (`SOCK_SEQPACKET`): whoever connects to
    /// it and calls [`crate::start`] starts the container, once [`Created::leave`] was called.
    ///
    /// # Errors
    /// As [`Plan::create`].
    pub fn create_with(
        mut self,
        rootfs: Rootfs,
        cgroup: Option<&Cgroup>,
        stdio: Stdio,
        listener: Option<OwnedFd>,
    ) -> Result<Created, LaunchError> {
        check_capabilities(self.capabilities)?;
        let mut table = Table::default();
        table.add(open_root(rootfs)?);
        for need in self.needs.0.iter().skip(1) {
            let fd = open_need(need, cgroup)?;
            table.add(fd);
        }
        set_target_kinds(&mut self.setup, &table)
            .map_err(LaunchError::prepare("look at what is mounted"))?;
        add_home(&mut self.finish, table.0[0].as_fd(), self.uid);
        if let Some(listener) = listener {
            let slot = table.add(listener);
            for step in &mut self.finish {
                if let Step::AwaitStart { listener, .. } = step {
                    *listener = Some(slot);
                }
            }
        }
        let mut steps = join_steps(cgroup, &mut table)?;
        steps.append(&mut self.before);
        steps.append(&mut self.setup);
        steps.push(stdio_step(stdio, &mut table, self.uid, true));
        steps.append(&mut self.finish);

        let into = cgroup.and_then(Cgroup::clone_into);
        let mut conversation = Conversation::begin(self.flags, into, &steps, &table)?;
        conversation.until_ready(
            |label, pid| match label {
                meeting::MAPS => match &self.mappings {
                    Some(map) => write_maps(pid, map)
                        .map_err(LaunchError::prepare("map the ids of the user namespace")),
                    None => Ok(()),
                },
                meeting::HOOKS => {
                    for (name, hook) in &self.runtime_hooks {
                        hooks::run(name, hook, &self.state, "creating", pid)?;
                    }
                    Ok(())
                }
                _ => Ok(()),
            },
            |fd, pid| match &self.seccomp_listener {
                Some((path, metadata)) => {
                    hooks::send_listener(path, metadata, &fd, &self.state, pid)
                        .map_err(LaunchError::prepare("send the seccomp listener"))
                }
                None => Ok(()),
            },
        )?;
        let (init, channel) = conversation.end();
        Ok(Created {
            init,
            channel,
            steps,
        })
    }
}

/// Waits until a process that was let go has executed its program.
fn until_executed(channel: &OwnedFd, steps: &[Step]) -> Result<(), LaunchError> {
    match launch::next_event(channel).map_err(LaunchError::prepare("hear the new process"))? {
        Event::Failed(failure) => Err(LaunchError::step(steps, failure)),
        _ => Ok(()),
    }
}

impl Created {
    /// Lets the process execute its program; returns once that has succeeded or failed.
    ///
    /// # Errors
    /// [`LaunchError`] when the program cannot be executed.
    pub fn start(self) -> Result<Child, LaunchError> {
        launch::go_on(&self.channel).map_err(|_| LaunchError::Died)?;
        let guard = Guard(Some(self.init.pidfd));
        until_executed(&self.channel, &self.steps)?;
        Ok(Child {
            pid: self.init.pid,
            pidfd: guard.keep(),
            terminal: self.init.terminal,
        })
    }

    /// Leaves the process to whoever connects to the socket of [`Plan::create_with`].
    ///
    /// # Errors
    /// When the process is gone.
    pub fn leave(self) -> Result<Child, LaunchError> {
        launch::go_on(&self.channel).map_err(|_| LaunchError::Died)?;
        Ok(self.init)
    }
}

/// Starts a container through a connection to the socket of [`Plan::create_with`]. `plan` is asked
/// for when the start fails, to name the step: it plans the specification again.
///
/// # Errors
/// [`LaunchError`] when the program cannot be executed.
pub fn start(connection: &OwnedFd, plan: impl FnOnce() -> Option<Plan>) -> Result<(), LaunchError> {
    launch::go_on(connection).map_err(|_| LaunchError::Died)?;
    match launch::next_event(connection).map_err(LaunchError::prepare("hear the container"))? {
        Event::Failed(failure) => {
            let steps = plan().map(|plan| plan.finish).unwrap_or_default();
            Err(LaunchError::step_from_end(&steps, failure))
        }
        _ => Ok(()),
    }
}
