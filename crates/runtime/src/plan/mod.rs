//! From a runtime specification to steps.
//!
//! A [`Plan`] is a list of [`Step`]s in three parts, and a list of what the parent must open for
//! them. The standard streams, which only the caller knows, come between the second and the third.
//!
//! 1. *before*: entering namespaces that exist, up to the process that the container keeps;
//! 2. *setup*: the root file system and everything mounted in it;
//! 3. *finish*: hooks, pivot_root(2), and what makes the process less than root.

mod cgroup_mounts;
mod guest;
pub(crate) mod mount_options;
mod mounts;
mod need;
pub(crate) mod process;

use std::ffi::CString;
use std::fmt;
use std::path::PathBuf;

use isle_sys::launch::{Slot, Step, namespace};
use isle_sys::mount::{self, Attributes};
use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

pub(crate) use guest::run_as;
pub(crate) use need::{IdMap, Need, Needs};

use crate::users::User;
use crate::{Options, PlanError};
use mounts::Context;

/// Points at which the new process waits for its parent, see [`Step::Meet`].
pub(crate) mod meeting {
    /// The user namespace is there: its maps can be written.
    pub(crate) const MAPS: u32 = 1;
    /// The namespaces and mounts are there: `prestart` and `createRuntime` hooks run.
    pub(crate) const HOOKS: u32 = 2;
}

/// Everything that will be done, as data. A plan for a virtual machine ([`Options::is_for_guest`]) can be sent there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// `CLONE_NEW*` for clone3(2).
    pub(crate) flags: u64,
    pub(crate) before: Vec<Step>,
    pub(crate) setup: Vec<Step>,
    pub(crate) finish: Vec<Step>,
    pub(crate) needs: Needs,
    /// Of the user namespace.
    pub(crate) mappings: Option<IdMap>,
    /// `prestart` and `createRuntime`, in this order. A plan that is sent has none.
    #[serde(skip)]
    pub(crate) runtime_hooks: Vec<(&'static str, Hook)>,
    /// What hooks read on standard input.
    pub(crate) state: HookState,
    /// Owner of the terminal.
    pub(crate) uid: u32,
    /// Capabilities that the process shall have in some set.
    pub(crate) capabilities: u64,
    pub(crate) options: PlanOptions,
    /// Where to send the seccomp listener, and what with it.
    pub(crate) seccomp_listener: Option<(PathBuf, String)>,
    pub(crate) root_path: PathBuf,
}

/// What of [`Options`] is needed after planning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanOptions {
    pub(crate) no_pivot: bool,
}

/// See runtime.md, "State", of the runtime specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) version: String,
    pub(crate) annotations: Vec<(String, String)>,
}

impl HookState {
    /// The state of a container, as hooks are told it.
    #[must_use]
    pub fn new(id: &str, bundle: &std::path::Path, spec: &Spec) -> HookState {
        let mut annotations: Vec<(String, String)> = spec
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        annotations.sort();
        HookState {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            version: spec.version().clone(),
            annotations,
        }
    }

    /// As JSON, in two parts: between them comes the pid.
    pub(crate) fn around_pid(&self, status: &str) -> (String, String) {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let annotations: serde_json::Map<String, serde_json::Value> = self
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
            .collect();
        (
            format!(
                "{{\"ociVersion\":{},\"id\":{},\"status\":{},\"pid\":",
                string(&self.version),
                string(&self.id),
                string(status),
            ),
            format!(
                ",\"bundle\":{},\"annotations\":{}}}",
                string(&self.bundle.to_string_lossy()),
                serde_json::Value::from(annotations),
            ),
        )
    }
}

/// The clone flag of a namespace type.
pub(crate) fn clone_flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => namespace::MOUNT,
        LinuxNamespaceType::Cgroup => namespace::CGROUP,
        LinuxNamespaceType::Uts => namespace::UTS,
        LinuxNamespaceType::Ipc => namespace::IPC,
        LinuxNamespaceType::User => namespace::USER,
        LinuxNamespaceType::Pid => namespace::PID,
        LinuxNamespaceType::Network => namespace::NETWORK,
        LinuxNamespaceType::Time => namespace::TIME,
    }
}

/// New namespaces, and those that exist.
#[derive(Default)]
struct Namespaces {
    new: u64,
    joined: Vec<(PathBuf, u64)>,
}

impl Namespaces {
    fn of(spec: &Spec) -> Result<Namespaces, PlanError> {
        let mut namespaces = Namespaces::default();
        let mut seen = 0;
        let given = spec
            .linux()
            .iter()
            .filter_map(|linux| linux.namespaces().as_ref());
        for namespace in given.flatten() {
            let flag = clone_flag(namespace.typ());
            if seen & flag != 0 {
                return Err(PlanError::invalid(
                    "linux.namespaces",
                    namespace.typ().to_string(),
                    "it is given twice",
                ));
            }
            seen |= flag;
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => {
                    if !path.is_absolute() {
                        return Err(PlanError::invalid(
                            "linux.namespaces.path",
                            path.to_string_lossy(),
                            "it is not absolute",
                        ));
                    }
                    namespaces.joined.push((path.clone(), flag));
                }
                _ => namespaces.new |= flag,
            }
        }
        if namespaces.new & namespace::MOUNT == 0 {
            return Err(PlanError::invalid(
                "linux.namespaces",
                "mount",
                "a container has a mount namespace of its own: the host's mounts are never touched",
            ));
        }
        // A user namespace is entered last: the right to enter the others may end with it.
        namespaces
            .joined
            .sort_by_key(|(_, flag)| *flag == namespace::USER);
        Ok(namespaces)
    }

    fn has(&self, flag: u64) -> bool {
        self.new & flag != 0 || self.joined.iter().any(|(_, joined)| *joined == flag)
    }
}

/// Fields that mean something on other systems, or that this runtime does not do.
fn refuse_foreign(spec: &Spec) -> Result<(), PlanError> {
    let version = spec.version();
    if version.split('.').next() != Some("1") {
        return Err(PlanError::invalid(
            "ociVersion",
            version,
            "this runtime implements version 1 of the runtime specification",
        ));
    }
    let sections = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("zos", spec.zos().is_some()),
        ("vm", spec.vm().is_some()),
    ];
    if let Some((name, _)) = sections.into_iter().find(|(_, given)| *given) {
        return Err(PlanError::invalid(
            "specification",
            name,
            "this section is for another platform",
        ));
    }
    if let Some(process) = spec.process()
        && process.command_line().is_some()
    {
        return Err(PlanError::invalid(
            "process.commandLine",
            "",
            "it is for Windows",
        ));
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    if linux.intel_rdt().is_some() {
        return Err(PlanError::invalid(
            "linux.intelRdt",
            "",
            "this runtime does not do cache and bandwidth allocation",
        ));
    }
    if linux
        .net_devices()
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        return Err(PlanError::invalid(
            "linux.netDevices",
            "",
            "this runtime does not move network devices",
        ));
    }
    Ok(())
}

fn mappings(spec: &Spec, namespaces: &Namespaces) -> Result<Option<IdMap>, PlanError> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let map = IdMap {
        uids: linux.uid_mappings().clone().unwrap_or_default(),
        gids: linux.gid_mappings().clone().unwrap_or_default(),
    };
    let is_new = namespaces.new & namespace::USER != 0;
    if is_new && (map.uids.is_empty() || map.gids.is_empty()) {
        return Err(PlanError::Missing {
            field: "linux.uidMappings or linux.gidMappings, which a user namespace needs",
        });
    }
    if !namespaces.has(namespace::USER) {
        if !map.uids.is_empty() || !map.gids.is_empty() {
            return Err(PlanError::invalid(
                "linux.uidMappings",
                format!("{} of them", map.uids.len()),
                "there is no user namespace",
            ));
        }
        return Ok(None);
    }
    // the kernel's UID_GID_MAP_MAX_EXTENTS
    if map.uids.len() > 340 || map.gids.len() > 340 {
        return Err(PlanError::invalid(
            "linux.uidMappings",
            format!("{} of them", map.uids.len().max(map.gids.len())),
            "the kernel takes at most 340",
        ));
    }
    Ok((!map.uids.is_empty()).then_some(map))
}

/// Whether a sysctl belongs to a namespace of the container, and its path below `/proc/sys`.
fn sysctl(key: &str, namespaces: &Namespaces, is_for_guest: bool) -> Result<CString, PlanError> {
    const IPC: [&str; 13] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/msg_next_id",
        "kernel/auto_msgmni",
        "kernel/sem",
        "kernel/sem_next_id",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_next_id",
        "kernel/shm_rmid_forced",
        "kernel/shm_rmid",
    ];
    let fail = |reason: &str| Err(PlanError::invalid("linux.sysctl", key, reason));
    // Like sysctl(8): the first separator says which of the two it is.
    let path = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    };
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return fail("it is not the name of a sysctl");
    }
    if is_for_guest && path != "kernel/hostname" {
        // The whole kernel is the instance's own, and with it what belongs to no namespace.
        return CString::new(format!("sys/{path}"))
            .map_err(|_| PlanError::invalid("linux.sysctl", key, "it holds a NUL byte"));
    }
    let needed = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        (namespace::IPC, "ipc")
    } else if path.starts_with("net/") {
        (namespace::NETWORK, "network")
    } else if path == "kernel/domainname" {
        (namespace::UTS, "uts")
    } else if path == "kernel/hostname" {
        return fail("use `hostname`");
    } else if path.starts_with("user/") {
        (namespace::USER, "user")
    } else {
        return fail("it belongs to the whole host and no namespace");
    };
    if !namespaces.has(needed.0) {
        return fail(&format!(
            "it belongs to the {} namespace, which the container shares",
            needed.1
        ));
    }
    CString::new(format!("sys/{path}")).or_else(|_| fail("it holds a NUL byte"))
}

fn hook_step(name: &'static str, hook: &Hook, state: &HookState) -> Result<Step, PlanError> {
    let path = hook.path().to_string_lossy().into_owned();
    if !hook.path().is_absolute() {
        return Err(PlanError::invalid("hooks.path", path, "it is not absolute"));
    }
    let timeout_ms = hook_timeout_ms(hook)?;
    let arguments = hook.args().clone().unwrap_or_else(|| vec![path.clone()]);
    let status = if name == "startContainer" {
        "created"
    } else {
        "creating"
    };
    let (before, after) = state.around_pid(status);
    Ok(Step::Hook {
        arguments: process::strings("hooks.args", &arguments)?,
        environment: process::strings("hooks.env", &hook.env().clone().unwrap_or_default())?,
        path: CString::new(path.as_str())
            .map_err(|_| PlanError::invalid("hooks.path", path, "it holds a NUL byte"))?,
        input_before_pid: before.into_bytes(),
        input_after_pid: after.into_bytes(),
        timeout_ms,
        name: name.into(),
    })
}

pub(crate) fn hook_timeout_ms(hook: &Hook) -> Result<Option<i32>, PlanError> {
    hook.timeout()
        .map(|seconds| {
            i32::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .and_then(|seconds| seconds.checked_mul(1000))
                .ok_or_else(|| {
                    PlanError::invalid(
                        "hooks.timeout",
                        seconds.to_string(),
                        "it is a number of seconds above 0",
                    )
                })
        })
        .transpose()
}

fn root_propagation(spec: &Spec) -> Result<Option<(u64, bool)>, PlanError> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let Some(text) = linux.rootfs_propagation().as_deref() else {
        return Ok(None);
    };
    Ok(Some(match text {
        "" => return Ok(None),
        "private" => (mount::PRIVATE, false),
        "rprivate" => (mount::PRIVATE, true),
        "slave" => (mount::SLAVE, false),
        "rslave" => (mount::SLAVE, true),
        "shared" => (mount::SHARED, false),
        "rshared" => (mount::SHARED, true),
        "unbindable" => (mount::UNBINDABLE, false),
        "runbindable" => (mount::UNBINDABLE, true),
        other => {
            return Err(PlanError::invalid(
                "linux.rootfsPropagation",
                other,
                "it is private, slave, shared or unbindable, or one of these with an r before",
            ));
        }
    }))
}

/// Steps before the process that stays: namespaces that exist, clocks, the second clone.
fn before(
    spec: &Spec,
    namespaces: &Namespaces,
    needs: &mut Needs,
) -> Result<(u64, Vec<Step>), PlanError> {
    const IN_CLONE: u64 = namespace::MOUNT
        | namespace::UTS
        | namespace::IPC
        | namespace::USER
        | namespace::PID
        | namespace::NETWORK;
    let offsets = spec
        .linux()
        .iter()
        .filter_map(|linux| linux.time_offsets().as_ref())
        .flatten();
    let mut clocks = String::new();
    let mut offsets: Vec<_> = offsets.collect();
    offsets.sort_by_key(|(clock, _)| clock.as_str());
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(PlanError::invalid(
                "linux.timeOffsets",
                clock.as_str(),
                "the clocks are monotonic and boottime",
            ));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        clocks.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    let has_new_time = namespaces.new & namespace::TIME != 0;
    if !clocks.is_empty() && !has_new_time {
        return Err(PlanError::invalid(
            "linux.timeOffsets",
            clocks.trim_end(),
            "there is no new time namespace",
        ));
    }
    let in_clone = namespaces.new & IN_CLONE;
    let joins_for_children = namespaces
        .joined
        .iter()
        .any(|(_, flag)| *flag == namespace::PID || *flag == namespace::USER);
    let joins_before_user = namespaces.new & namespace::USER != 0 && !namespaces.joined.is_empty();
    let mut steps = Vec::new();
    for (path, kind) in &namespaces.joined {
        steps.push(Step::Enter {
            namespace: needs.add(Need::Namespace {
                path: path.clone(),
                kind: *kind,
            }),
            kinds: *kind,
        });
    }
    if !(joins_for_children || joins_before_user || has_new_time) {
        return Ok((in_clone, steps));
    }
    if has_new_time {
        steps.push(Step::Unshare(namespace::TIME));
        if !clocks.is_empty() {
            steps.push(Step::WriteProc {
                proc: needs.add(Need::Proc),
                path: c"self/timens_offsets".to_owned(),
                bytes: clocks.into_bytes(),
                purpose: "set the offsets of the clocks".to_owned(),
            });
        }
    }
    steps.push(Step::Split { flags: in_clone });
    Ok((0, steps))
}

impl Plan {
    /// Plans; pure but for reading what the specification refers to (paths of namespaces, devices)
    /// and the host's control group hierarchies.
    ///
    /// # Errors
    /// [`PlanError`] names the field and says what it may hold.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "it is used up: a plan is for one container"
    )]
    pub fn new(spec: &Spec, options: Options) -> Result<Plan, PlanError> {
        refuse_foreign(spec)?;
        if options.is_for_guest {
            guest::refuse(spec)?;
        }
        let namespaces = Namespaces::of(spec)?;
        let mappings = mappings(spec, &namespaces)?;
        let mut needs = Needs::default();
        let root = needs.add(Need::Root);
        debug_assert_eq!(root, Slot(0));
        let (flags, mut before) = before(spec, &namespaces, &mut needs)?;
        let has_user_namespace = namespaces.has(namespace::USER);
        if namespaces.new & namespace::USER != 0 {
            before.push(Step::Meet(meeting::MAPS));
        }
        if has_user_namespace {
            before.push(Step::BecomeRoot);
            // Its files in /proc are the user namespace's root's then, and it must write some.
            before.push(Step::Dumpable(true));
        }
        if namespaces.new & namespace::CGROUP != 0 {
            before.push(Step::Unshare(namespace::CGROUP));
        }

        let linux = spec.linux().as_ref();
        let label = linux
            .and_then(|linux| linux.mount_label().as_deref())
            .filter(|label| !label.is_empty());
        if let Some(label) = label
            && !std::path::Path::new("/sys/fs/selinux/enforce").exists()
        {
            return Err(PlanError::Unavailable {
                field: "linux.mountLabel",
                value: label.to_owned(),
                feature: "SELinux",
            });
        }
        let state = HookState::new(&options.id, &options.bundle, spec);
        let mut setup = vec![Step::NewSession];
        if !options.keep_keyring {
            let name = CString::new(format!("_ses.{}", options.id))
                .map_err(|_| PlanError::invalid("id", &options.id, "it holds a NUL byte"))?;
            setup.push(Step::NewKeyring(name));
        }
        if namespaces.new & namespace::NETWORK != 0 {
            setup.push(Step::LoopbackUp);
        }
        for (name, field, make) in [
            (
                spec.hostname(),
                "hostname",
                Step::HostName as fn(CString) -> Step,
            ),
            (spec.domainname(), "domainname", Step::DomainName),
        ] {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            if !namespaces.has(namespace::UTS) {
                return Err(PlanError::invalid(
                    field,
                    name,
                    "the container shares the host's uts namespace",
                ));
            }
            if name.len() > 64 {
                return Err(PlanError::invalid(
                    field,
                    name,
                    "it is longer than 64 bytes",
                ));
            }
            setup.push(make(CString::new(name).map_err(|_| {
                PlanError::invalid(field, name, "it holds a NUL byte")
            })?));
        }

        let process = spec
            .process()
            .as_ref()
            .ok_or(PlanError::Missing { field: "process" })?;
        let root_spec = spec
            .root()
            .as_ref()
            .ok_or(PlanError::Missing { field: "root" })?;
        let hooks = spec.hooks().clone().unwrap_or_default();
        #[allow(deprecated, reason = "the field is, and must be honoured")]
        let prestart = hooks.prestart().clone().unwrap_or_default();
        let create_runtime = hooks.create_runtime().clone().unwrap_or_default();
        let create_container = hooks.create_container().clone().unwrap_or_default();
        let runtime_hooks: Vec<(&'static str, Hook)> = prestart
            .into_iter()
            .map(|hook| ("prestart", hook))
            .chain(
                create_runtime
                    .into_iter()
                    .map(|hook| ("createRuntime", hook)),
            )
            .collect();
        for (_, hook) in &runtime_hooks {
            hook_timeout_ms(hook)?;
        }
        // Hooks look for the root file system at its path; nobody else does.
        let root_path = options.bundle.join(root_spec.path());
        let at = if runtime_hooks.is_empty() && create_container.is_empty() {
            c"/".to_owned()
        } else {
            CString::new(root_path.to_string_lossy().as_bytes()).map_err(|_| {
                PlanError::invalid(
                    "root.path",
                    root_path.to_string_lossy(),
                    "it holds a NUL byte",
                )
            })?
        };
        let is_over_root = at.as_c_str() == c"/";
        setup.push(Step::Propagate(mount::PRIVATE));
        setup.push(Step::AttachRoot { tree: root, at });
        let context = Context {
            bundle: &options.bundle,
            has_device_nodes: !has_user_namespace && !options.confinement.no_device_nodes,
            has_cgroup_namespace: namespaces.has(namespace::CGROUP),
            is_for_guest: options.is_for_guest,
            mappings: mappings.clone(),
            label,
        };
        setup.extend(mounts::mounts(spec, &context, &mut needs)?);

        let mut finish = Vec::new();
        let mut sysctls: Vec<_> = linux
            .and_then(|linux| linux.sysctl().as_ref())
            .into_iter()
            .flatten()
            .collect();
        sysctls.sort();
        for (key, value) in sysctls {
            finish.push(Step::WriteProc {
                proc: needs.add(Need::Proc),
                path: sysctl(key, &namespaces, options.is_for_guest)?,
                bytes: value.clone().into_bytes(),
                purpose: format!("set the sysctl {key} to {value:?}"),
            });
        }
        finish.extend(process::about_self(process, &mut needs)?);
        finish.extend(process::working_directory(process)?);
        if !runtime_hooks.is_empty() {
            finish.push(Step::Meet(meeting::HOOKS));
        }
        for hook in &create_container {
            finish.push(hook_step("createContainer", hook, &state)?);
        }
        finish.extend(mounts::hidden(spec)?);
        finish.push(if options.no_pivot {
            Step::MoveRoot { is_over_root }
        } else {
            Step::PivotRoot
        });
        let mut root_attributes = Attributes::default();
        if root_spec.readonly() == Some(true) {
            root_attributes.set |= mount::RDONLY;
        }
        let propagation = root_propagation(spec)?;
        match propagation {
            Some((kind, true)) => finish.push(Step::RootAttributes {
                attributes: Attributes::new(0, 0, kind),
                recursive: true,
            }),
            Some((kind, false)) => root_attributes.propagation = kind,
            None => {}
        }
        if !root_attributes.is_empty() {
            finish.push(Step::RootAttributes {
                attributes: root_attributes,
                recursive: false,
            });
        }
        let start_hooks: Result<Vec<Step>, PlanError> = hooks
            .start_container()
            .iter()
            .flatten()
            .map(|hook| hook_step("startContainer", hook, &state))
            .collect();
        let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
        let policy = process::Policy::new(seccomp, options.seccomp.as_deref())?;
        let seccomp_listener = match (&policy, seccomp) {
            (Some(policy), Some(seccomp)) if policy.listener => {
                seccomp.listener_path().clone().map(|path| {
                    let metadata = seccomp.listener_metadata().clone().unwrap_or_default();
                    (path, metadata)
                })
            }
            _ => None,
        };
        finish.extend(process::last_steps(
            process,
            process::Setting {
                linux,
                policy,
                preserve_fds: options.preserve_fds,
                no_groups: options.confinement.no_groups,
                start_hooks: start_hooks?,
            },
        )?);
        let capabilities = if has_user_namespace {
            0
        } else {
            finish.iter().fold(0, |all, step| match step {
                Step::BoundingSet(set) => all | set,
                Step::Capabilities {
                    permitted,
                    inheritable,
                    ..
                } => all | permitted | inheritable,
                _ => all,
            })
        };
        Ok(Plan {
            flags,
            before,
            setup,
            finish,
            needs,
            mappings: (namespaces.new & namespace::USER != 0)
                .then_some(mappings)
                .flatten(),
            runtime_hooks,
            state,
            uid: process.user().uid(),
            capabilities,
            options: PlanOptions {
                no_pivot: options.no_pivot,
            },
            seccomp_listener,
            root_path,
        })
    }
}

impl Plan {
    /// Makes it another user's: a plan made for user 0 can be carried out for one who is known only where the root
    /// file system is. Who is not root has no capabilities then; a missing `HOME` becomes the user's.
    pub fn run_as(&mut self, user: &User) {
        self.uid = user.uid;
        for step in &mut self.setup {
            if let Step::Terminal { uid, .. } = step {
                *uid = user.uid;
            }
        }
        run_as(&mut self.finish, user);
    }
}

/// The steps, one a line.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "make the process with namespaces: {}",
            isle_sys::launch::NamespaceKinds(self.flags)
        )?;
        for step in self.before.iter().chain(&self.setup).chain(&self.finish) {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}
