//! From an instance to an OCI runtime specification, with Docker's defaults.
//!
//! Pure: what the host has to say comes in as [`Facts`].
//! <https://github.com/opencontainers/runtime-spec/blob/main/config.md>

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use isle_seccomp::Profile;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, Mount as SpecMount, Process, Root,
    Spec, User,
};

use super::devices::{self, Node};
use super::{capabilities, limits, mounts};
use crate::ExecRequest;
use crate::IdRange;
use crate::config::{
    InstanceConfig, NamespaceMode, NetworkMode, SeccompChoice, Security, UserNamespace,
};
use crate::state::Instance;

/// What Docker gives every process that has no `PATH`.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's masked paths: they tell of the host, or change it.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Docker's read-only paths.
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the specification depends on besides the instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The user that the process runs as, looked up in the image.
    pub(crate) user: Identity,
    /// The capabilities that this process may give away.
    pub(crate) available: Capabilities,
    /// The name of the host or of the other instance, for those who share its UTS namespace or
    /// network.
    pub(crate) host_name: String,
    /// Namespaces of other instances that are joined.
    pub(crate) joined: Joined,
    /// The nodes of `--device`, or all of the host.
    pub(crate) devices: Vec<Node>,
    /// The folder of `hostname`, `hosts` and `resolv.conf`.
    pub(crate) files: PathBuf,
    /// For each mount of the configuration what is bound there; `None` for tmpfs.
    pub(crate) sources: Vec<Option<PathBuf>>,
    /// Whether the host counts swap for control groups.
    pub(crate) counts_swap: bool,
    /// The init program that `--init` binds into the container.
    pub(crate) init: Option<PathBuf>,
    /// Whether a machine id is among the files.
    pub(crate) has_machine_id: bool,
    /// The ids of a user namespace of its own.
    pub(crate) id_range: Option<IdRange>,
    /// How many ids the engine itself has, where that is an ordinary user's.
    pub(crate) own_ids: Option<u32>,
}

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) home: String,
}

/// Paths of the namespaces of other instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) network: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) cgroup: Option<PathBuf>,
    /// Where the other instance's `/dev/shm` can be bound from.
    pub(crate) shm: Option<PathBuf>,
}

/// Where `--init` puts its program, as Docker.
pub(crate) const INIT_INSIDE: &str = "/sbin/docker-init";

/// The specification of an instance.
pub(crate) fn specification(instance: &Instance, facts: &Facts) -> Spec {
    let config = &instance.config;
    let mut root = Root::default();
    // The root file system is handed over as a descriptor; the path only has a name to show.
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(config.read_only_root));

    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(first_process(instance, facts)))
        .set_hostname(own_hostname(instance, facts))
        .set_domainname(match config.namespaces.uts {
            NamespaceMode::Private => config.domainname.clone(),
            _ => None,
        })
        .set_mounts(Some(mounts::table(instance, facts)))
        .set_hooks(None)
        .set_annotations(match config.annotations.is_empty() {
            true => None,
            false => Some(config.annotations.clone().into_iter().collect()),
        })
        .set_linux(Some(linux(instance, facts)));
    spec
}

/// The host name inside, whether the container has a UTS namespace of its own or not.
pub(crate) fn hostname(instance: &Instance, host_name: &str) -> String {
    let config = &instance.config;
    match (&config.hostname, &config.namespaces.uts, &config.network) {
        (Some(given), _, _) => given.clone(),
        (None, NamespaceMode::Host, _)
        | (None, _, NetworkMode::Host | NetworkMode::Instance(_)) => host_name.to_owned(),
        _ => instance.id.short(),
    }
}

fn own_hostname(instance: &Instance, facts: &Facts) -> Option<String> {
    match instance.config.namespaces.uts {
        NamespaceMode::Private => Some(hostname(instance, &facts.host_name)),
        NamespaceMode::Host | NamespaceMode::Instance(_) => None,
    }
}

fn first_process(instance: &Instance, facts: &Facts) -> Process {
    let config = &instance.config;
    let asked = &config.process;
    let entrypoint = asked.entrypoint.iter().flatten();
    let mut args: Vec<String> = entrypoint
        .chain(asked.command.iter().flatten())
        .cloned()
        .collect();
    if facts.init.is_some() {
        args.splice(0..0, [INIT_INSIDE.to_owned(), "--".to_owned()]);
    }
    let mut process = process(config, facts);
    process
        .set_terminal(Some(asked.tty))
        .set_args(Some(args))
        .set_env(Some(environment(instance, facts)))
        .set_cwd(PathBuf::from(
            asked
                .working_dir
                .as_deref()
                .filter(|dir| !dir.is_empty())
                .unwrap_or("/"),
        ));
    process
}

/// The process of an exec; its flags are in the instance's configuration already.
pub(crate) fn further_process(
    instance: &Instance,
    facts: &Facts,
    request: &ExecRequest,
) -> Process {
    let mut process = process(&instance.config, facts);
    let working_dir = [&request.working_dir, &instance.config.process.working_dir]
        .into_iter()
        .flatten()
        .find(|dir| !dir.is_empty());
    process
        .set_terminal(Some(request.tty))
        .set_args(Some(request.args.clone()))
        .set_env(Some(environment(instance, facts)))
        .set_cwd(PathBuf::from(working_dir.map_or("/", String::as_str)));
    process
}

/// The configuration that holds for a process of exec: the instance's, with what was asked for.
pub(crate) fn with_request(instance: &Instance, request: &ExecRequest) -> Instance {
    let mut config = instance.config.clone();
    config.process.tty = request.tty;
    config.process.env.extend(request.env.iter().cloned());
    config.security.privileged |= request.privileged;
    Instance {
        config,
        ..instance.clone()
    }
}

/// What every process of the container has, the first one and those of exec.
pub(crate) fn process(config: &InstanceConfig, facts: &Facts) -> Process {
    let security = &config.security;
    let mut user = User::default();
    user.set_uid(facts.user.uid)
        .set_gid(facts.user.gid)
        .set_additional_gids(Some(facts.user.additional_gids.clone()));
    let mut process = Process::default();
    process
        .set_user(user)
        .set_capabilities(Some(capability_sets(security, facts)))
        .set_rlimits(match config.ulimits.is_empty() {
            true => None,
            false => Some(limits::rlimits(&config.ulimits)),
        })
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(
            security
                .apparmor
                .clone()
                .filter(|name| name != "unconfined"),
        )
        .set_selinux_label(selinux_label(&security.selinux))
        .set_oom_score_adj(config.oom_score_adj);
    process
}

/// Only root keeps them beyond exec; inheritable and ambient stay empty (CVE-2022-24769).
fn capability_sets(security: &Security, facts: &Facts) -> LinuxCapabilities {
    let granted = capabilities::granted(security, &facts.available);
    let in_force = match facts.user.uid {
        0 => granted.clone(),
        _ => Capabilities::new(),
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted))
        .set_effective(Some(in_force.clone()))
        .set_permitted(Some(in_force))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
}

fn selinux_label(options: &[String]) -> Option<String> {
    if options.is_empty() || options.iter().any(|option| option == "disable") {
        return None;
    }
    let part = |key: &str, default: &str| {
        let given = options
            .iter()
            .rev()
            .find_map(|option| option.strip_prefix(key));
        given.unwrap_or(default).to_owned()
    };
    Some(format!(
        "{}:{}:{}:{}",
        part("user:", "system_u"),
        part("role:", "system_r"),
        part("type:", "container_t"),
        part("level:", "s0"),
    ))
}

/// As Docker: PATH, HOSTNAME and TERM first, then what image and user say over it; HOME last,
/// where nobody says it.
pub(crate) fn environment(instance: &Instance, facts: &Facts) -> Vec<String> {
    let config = &instance.config;
    let mut environment = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", hostname(instance, &facts.host_name)),
    ];
    if config.process.tty {
        environment.push("TERM=xterm".to_owned());
    }
    override_environment(&mut environment, &config.process.env);
    // Without a home nobody knows the user yet: whoever looks it up adds it.
    let has_home = environment.iter().any(|entry| entry.starts_with("HOME="));
    if !has_home && !facts.user.home.is_empty() {
        environment.push(format!("HOME={}", facts.user.home));
    }
    environment
}

/// Sets variables; one that is there keeps its place. `KEY` without a value takes it away.
pub(crate) fn override_environment(environment: &mut Vec<String>, changes: &[String]) {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for change in changes {
        let name = key(change);
        let place = environment.iter().position(|entry| key(entry) == name);
        match (place, change.contains('=')) {
            (Some(place), true) => environment[place].clone_from(change),
            (Some(place), false) => {
                environment.remove(place);
            }
            (None, true) => environment.push(change.clone()),
            (None, false) => {}
        }
    }
}

fn linux(instance: &Instance, facts: &Facts) -> Linux {
    let config = &instance.config;
    let security = &config.security;
    let is_unmasked = security.privileged || security.unmask_system_paths;
    let paths = |paths: &[&str]| match is_unmasked {
        true => None,
        false => Some(paths.iter().map(|path| (*path).to_owned()).collect()),
    };
    let device_rules = match security.privileged {
        true => devices::allow_all(),
        false => {
            let own = facts.devices.iter().map(devices::allow);
            devices::default_rules().into_iter().chain(own).collect()
        }
    };
    let nodes = facts
        .devices
        .iter()
        .map(|node| node.device.clone())
        .collect();
    let mappings = facts.id_range.map(|range| {
        let mapping = LinuxIdMappingBuilder::default();
        let mapping = mapping
            .host_id(range.first)
            .container_id(0_u32)
            .size(range.size)
            .build();
        vec![mapping.expect("all fields are given")]
    });

    let mut linux = Linux::default();
    linux
        .set_uid_mappings(mappings.clone())
        .set_gid_mappings(mappings)
        .set_sysctl(Some(sysctls(config, facts)))
        .set_resources(Some(limits::resources(
            &config.resources,
            facts.counts_swap,
            Some(device_rules),
        )))
        .set_cgroups_path(Some(cgroup_path(instance)))
        .set_namespaces(Some(namespaces(config, facts)))
        .set_devices(Some(nodes))
        .set_seccomp(seccomp(security, facts))
        .set_rootfs_propagation(Some(mounts::root_propagation(config).to_owned()))
        .set_masked_paths(paths(&MASKED_PATHS))
        .set_readonly_paths(paths(&READ_ONLY_PATHS));
    linux
}

/// The control group that those of all instances are in, below each hierarchy's root.
pub(crate) const CGROUPS: &str = "/isle";

/// The instance's control group below each hierarchy's root.
pub(crate) fn cgroup_path(instance: &Instance) -> PathBuf {
    Path::new(CGROUPS).join(instance.id.to_string())
}

fn namespaces(config: &InstanceConfig, facts: &Facts) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Kind;
    let mut namespaces = vec![namespace(Kind::Mount, None)];
    let asked = [
        (Kind::Pid, &config.namespaces.pid, &facts.joined.pid),
        (Kind::Ipc, &config.namespaces.ipc, &facts.joined.ipc),
        (Kind::Uts, &config.namespaces.uts, &facts.joined.uts),
        (
            Kind::Cgroup,
            &config.namespaces.cgroup,
            &facts.joined.cgroup,
        ),
    ];
    for (kind, mode, path) in asked {
        match mode {
            NamespaceMode::Private => namespaces.push(namespace(kind, None)),
            NamespaceMode::Host => {}
            NamespaceMode::Instance(_) => namespaces.push(namespace(kind, path.clone())),
        }
    }
    match config.network {
        NetworkMode::None | NetworkMode::Networks(_) => {
            namespaces.push(namespace(Kind::Network, None));
        }
        NetworkMode::Host => {}
        NetworkMode::Instance(_) => {
            namespaces.push(namespace(Kind::Network, facts.joined.network.clone()));
        }
    }
    if matches!(config.namespaces.user, UserNamespace::Auto { .. }) {
        namespaces.push(namespace(Kind::User, None));
    }
    namespaces
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    match path {
        Some(path) => builder.path(path),
        None => builder,
    }
    .build()
    .expect("all fields are given")
}

/// The user's, and in a network namespace of its own Docker's two: any port and ping without
/// privileges.
fn sysctls(config: &InstanceConfig, facts: &Facts) -> HashMap<String, String> {
    let mut sysctls: HashMap<String, String> = HashMap::new();
    if config.network.is_own() {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        let groups = facts.id_range.map(|range| range.size).or(facts.own_ids);
        let last_group = groups.map_or(i32::MAX as u32, |groups| groups.saturating_sub(1));
        let every_group = format!("0 {last_group}");
        sysctls.insert("net.ipv4.ping_group_range".into(), every_group);
    }
    sysctls.extend(config.sysctls.clone());
    sysctls
}

/// The policy in force; `None` for none.
pub(crate) fn seccomp(security: &Security, facts: &Facts) -> Option<LinuxSeccomp> {
    let bounding = capabilities::granted(security, &facts.available);
    match &security.seccomp {
        SeccompChoice::Default if security.privileged => None,
        SeccompChoice::Default => Some(Profile::docker_default().resolve(&bounding)),
        SeccompChoice::Unconfined => None,
        SeccompChoice::Profile(json) => {
            let profile = Profile::parse(json).expect("the profile was read when it was created");
            Some(profile.resolve(&bounding))
        }
    }
}

/// A mount of the table.
pub(crate) fn mount(
    destination: &str,
    kind: &str,
    source: impl Into<PathBuf>,
    options: &[&str],
) -> SpecMount {
    let mut mount = SpecMount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(
            options.iter().map(|option| (*option).to_owned()).collect(),
        ));
    mount
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
