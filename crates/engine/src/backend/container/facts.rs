//! What the specification of a container depends on besides the instance: users of the image,
//! namespaces of other instances, devices, volumes, and what the host can do.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use isle_types::InstanceId;
use oci_spec::runtime::Process as SpecProcess;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::IdRange;
use crate::backend::oci::capabilities;
use crate::backend::oci::devices::{self, Node};
use crate::backend::oci::sources::{self, Sources};
use crate::backend::oci::spec::{self, Identity, Joined};
use crate::backend::{StartError, failed};
use crate::config::{InstanceConfig, NamespaceMode, NetworkMode};
use crate::state::{Instance, Status};
use crate::store::Store;
use crate::{ExecRequest, InstanceLock, Paths};
use isle_machine::programs;

/// The facts, and the descriptors that keep them true.
#[derive(Debug)]
pub(crate) struct Facts {
    inner: spec::Facts,
    /// Namespaces of other instances and places in volumes, which the paths in `inner` go through.
    _held: Vec<OwnedFd>,
}

impl std::ops::Deref for Facts {
    type Target = spec::Facts;

    fn deref(&self) -> &spec::Facts {
        &self.inner
    }
}

/// When facts are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before it starts.
    Start,
    /// It runs already: nothing of it may change.
    Adoption,
}

impl Facts {
    /// Finds out all that there is to know. Makes the instance's volumes, and bind sources that
    /// are to be made.
    ///
    /// # Errors
    /// When something that was asked for is not there.
    pub(crate) fn gather(
        instance: &Instance,
        paths: &Paths,
        rootfs: BorrowedFd<'_>,
        id_range: Option<IdRange>,
        moment: Moment,
    ) -> Result<Facts, StartError> {
        let config = &instance.config;
        let mut held = Vec::new();
        let joined = joined(config, paths, &mut held)?;
        let devices = devices_of(config)?;
        let needs_host_name =
            config.namespaces.uts == NamespaceMode::Host || config.network == NetworkMode::Host;
        let counts_swap = config.resources.memory.is_some() && counts_swap();
        let init = match config.process.init {
            true => Some(init_program()?),
            false => None,
        };
        let process = &config.process;
        let user = identity(rootfs, process.user.as_deref(), &process.additional_groups)?;
        // What runs has them mounted already.
        let sources = match moment {
            Moment::Start => sources::prepare(instance, paths, Some(rootfs))?,
            Moment::Adoption => Sources::default(),
        };
        held.extend(sources.held);
        let files = files_folder(config, paths, &instance.id)?;
        let inner = spec::Facts {
            user,
            available: available_capabilities()
                .map_err(failed("cannot read the capabilities of this process"))?,
            host_name: match &config.network {
                NetworkMode::Instance(_) => fs::read_to_string(files.join("hostname"))
                    .map_err(failed("cannot share the name of the other instance"))?
                    .trim()
                    .to_owned(),
                _ if needs_host_name => host_name(),
                _ => String::new(),
            },
            joined,
            devices,
            files,
            sources: sources.paths,
            counts_swap,
            init,
            // It is no system of its own: what the image says holds, as with Docker.
            has_machine_id: false,
            id_range,
            own_ids: isle_rootless::own_ids().map(|ids| ids.count),
        };
        Ok(Facts { inner, _held: held })
    }

    /// The process of an exec, and the facts that hold for it.
    ///
    /// # Errors
    /// When its user is not there.
    pub(crate) fn for_exec(
        &self,
        instance: &Instance,
        request: &ExecRequest,
        pid: i32,
    ) -> Result<(SpecProcess, spec::Facts), StartError> {
        let mut facts = self.inner.clone();
        if let Some(user) = &request.user {
            let root = openat(
                CWD,
                format!("/proc/{pid}/root"),
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|errno| failed("cannot look into the instance")(io::Error::from(errno)))?;
            // As Docker: the groups of --group-add are the first process's alone.
            facts.user = identity(root.as_fd(), Some(user), &[])?;
        }
        let instance = spec::with_request(instance, request);
        let process = spec::further_process(&instance, &facts, request);
        Ok((process, facts))
    }
}

/// Looks a user up in the root file system.
fn identity(
    rootfs: BorrowedFd<'_>,
    user: Option<&str>,
    groups: &[String],
) -> Result<Identity, StartError> {
    let user = isle_runtime::users::resolve(rootfs, user.unwrap_or_default(), groups)
        .map_err(failed("cannot find the user"))?;
    Ok(Identity {
        uid: user.uid,
        gid: user.gid,
        additional_gids: user.groups,
        home: user.home,
    })
}

/// What this process may give away, see capget(2).
pub(crate) fn available_capabilities() -> io::Result<oci_spec::runtime::Capabilities> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(capabilities::of_mask(sets.permitted.bits()))
}

/// Whether swap can be limited by control groups here. Version 2 can wherever the kernel has swap.
pub(crate) fn counts_swap() -> bool {
    let exists = |path: &str| Path::new(path).exists();
    exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        || (exists("/sys/fs/cgroup/cgroup.controllers") && exists("/proc/swaps"))
}

fn host_name() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

fn devices_of(config: &InstanceConfig) -> Result<Vec<Node>, StartError> {
    let mut nodes = match config.security.privileged {
        true => devices::of_host().map_err(failed("cannot list the devices of the host"))?,
        false => Vec::new(),
    };
    for device in &config.devices {
        let what = format!(
            "cannot give access to device {}",
            device.host_path.display()
        );
        nodes.extend(devices::resolve(device).map_err(failed(&what))?);
    }
    Ok(nodes)
}

/// The program of `--init`.
fn init_program() -> Result<PathBuf, StartError> {
    programs::find("isle-init").ok_or_else(|| StartError {
        message: "cannot find the program isle-init for --init: put it beside isle-shim".to_owned(),
        exit_code: 125,
    })
}

/// Another instance, held by its first process so that its pid cannot come to mean another one.
struct Other {
    pid: i32,
}

fn running_instance(
    store: &Store,
    paths: &Paths,
    name: &str,
    what: &str,
) -> Result<(Other, OwnedFd), StartError> {
    let fail = |reason: &str| StartError {
        message: format!("cannot join the {what} of instance {name}: {reason}"),
        exit_code: 125,
    };
    let find = || -> Result<Option<Instance>, StartError> {
        let found = match name.parse::<InstanceId>() {
            Ok(id) => store.get(&id),
            Err(_) => store.by_name(name),
        };
        found.map_err(failed("cannot read the state file"))
    };
    let other = find()?.ok_or_else(|| fail("there is no such instance"))?;
    let is_running = |other: &Instance| {
        matches!(other.state.status, Status::Running | Status::Paused)
            && InstanceLock::is_held(paths, &other.id).unwrap_or(false)
    };
    let pid = other.state.pid.filter(|_| is_running(&other));
    let pid = pid.ok_or_else(|| fail("it is not running; start it first"))?;
    let process = Pid::from_raw(pid)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .ok_or_else(|| fail("it has just ended"))?;
    // Still the same now that it is held: then it was its process all the time.
    match find()?.is_some_and(|again| again.state.pid == Some(pid)) {
        true => Ok((Other { pid }, process)),
        false => Err(fail("it has just ended")),
    }
}

fn joined(
    config: &InstanceConfig,
    paths: &Paths,
    held: &mut Vec<OwnedFd>,
) -> Result<Joined, StartError> {
    let mut joined = Joined::default();
    let network = match &config.network {
        NetworkMode::Instance(name) => Some(name),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Networks(_) => None,
    };
    fn of(mode: &NamespaceMode) -> Option<&String> {
        match mode {
            NamespaceMode::Instance(name) => Some(name),
            NamespaceMode::Private | NamespaceMode::Host => None,
        }
    }
    let namespaces = &config.namespaces;
    let asked = [
        (network, "net", "network", &mut joined.network),
        (
            of(&namespaces.pid),
            "pid",
            "process namespace",
            &mut joined.pid,
        ),
        (of(&namespaces.ipc), "ipc", "IPC namespace", &mut joined.ipc),
        (of(&namespaces.uts), "uts", "UTS namespace", &mut joined.uts),
        (
            of(&namespaces.cgroup),
            "cgroup",
            "cgroup namespace",
            &mut joined.cgroup,
        ),
    ];
    let mut store = None;
    let mut shm = None;
    for (name, file, what, path) in asked {
        let Some(name) = name else { continue };
        let store = match &mut store {
            Some(store) => store,
            none => {
                let opened = Store::open(paths).map_err(failed("cannot read the state file"))?;
                none.insert(opened)
            }
        };
        let (other, process) = running_instance(store, paths, name, what)?;
        let namespace = openat(
            CWD,
            format!("/proc/{}/ns/{file}", other.pid),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| {
            failed(&format!("cannot join the {what} of instance {name}"))(io::Error::from(errno))
        })?;
        *path = Some(through(&namespace));
        if file == "ipc" {
            let what = format!("cannot share /dev/shm of instance {name}");
            let memory = shared_memory(other.pid).map_err(failed(&what))?;
            shm = Some(through(&memory));
            held.push(memory);
        }
        held.extend([namespace, process]);
    }
    joined.shm = shm;
    Ok(joined)
}

/// A path that leads to what a descriptor of this process has open.
fn through(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// A detached copy of the mount that a process has at `/dev/shm`: the memory that goes with the
/// IPC namespace. Mounts can be copied only from within their namespace, so a thread goes there.
fn shared_memory(pid: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/mnt");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(CWD, path, flags, Mode::empty())?;
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            // A thread that shares its working directory with others may not change the namespace.
            isle_sys::namespace::unshare_mounts()?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(open_tree(CWD, "/dev/shm", flags)?)
        });
        copying.join().expect("the thread does not panic")
    })
}

/// The folder of hosts, hostname and resolv.conf: that of the instance whose network is shared.
fn files_folder(
    config: &InstanceConfig,
    paths: &Paths,
    id: &InstanceId,
) -> Result<PathBuf, StartError> {
    let NetworkMode::Instance(name) = &config.network else {
        return Ok(paths.instance(id));
    };
    match name.parse::<InstanceId>() {
        Ok(other) => Ok(paths.instance(&other)),
        Err(error) => Err(failed("cannot share the network")(error)),
    }
}
