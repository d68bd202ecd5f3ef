//! Refuses what cannot be carried out, when an instance is created: each error names the flag, the
//! value and the remedy. What depends on the moment (is the device there? does the other instance
//! run?) is found out at the start.

mod block_io;
mod mounts;

use std::collections::BTreeSet;
use std::path::Path;

use isle_seccomp::Profile;
use isle_types::{ByteSize, Isolation};
use oci_spec::runtime::{Capabilities, Capability};

use crate::backend;
use crate::backend::oci::capabilities::by_name as capability_by_name;
use crate::backend::oci::limits::rlimit_type;
use crate::config::{
    ConfigError, HealthTest, InstanceConfig, NamespaceMode, NetworkMode, Resources, RestartPolicy,
    SeccompChoice, UserNamespace,
};

/// The least memory that Docker accepts: below it not even the start succeeds.
const LEAST_MEMORY: ByteSize = ByteSize(6 << 20);

/// What the host can give.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) cpus: u32,
    pub(crate) capabilities: Capabilities,
    pub(crate) has_apparmor: bool,
    pub(crate) has_selinux: bool,
}

impl Host {
    /// For an instance at a level.
    pub(crate) fn probe(isolation: Isolation) -> std::io::Result<Host> {
        let says_yes = |path: &str| {
            std::fs::read_to_string(path).is_ok_and(|text| text.trim().starts_with(['Y', '1']))
        };
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
        let last = online.trim().rsplit([',', '-']).next().unwrap_or("0");
        Ok(Host {
            cpus: last.parse::<u32>().map_or(1, |last| last + 1),
            capabilities: backend::capabilities(isolation)?,
            has_apparmor: says_yes("/sys/module/apparmor/parameters/enabled"),
            has_selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        })
    }
}

pub(crate) type Checked = Result<(), ConfigError>;

#[expect(
    clippy::needless_pass_by_value,
    reason = "numbers and names are given as they are"
)]
pub(crate) fn refuse(
    field: &'static str,
    value: impl ToString,
    reason: impl Into<String>,
    hint: Option<&'static str>,
) -> ConfigError {
    ConfigError {
        field,
        value: value.to_string(),
        reason: reason.into(),
        hint,
    }
}

/// Looks at every value of a merged configuration.
///
/// # Errors
/// The first that cannot be carried out.
pub(crate) fn validate(config: &InstanceConfig, host: &Host) -> Checked {
    backend::check(config)?;
    process(config)?;
    names(config)?;
    mounts::check(&config.mounts)?;
    resources(&config.resources, config.isolation, host)?;
    ulimits(config, host)?;
    sysctls(config)?;
    security(config, host)?;
    namespaces(config)?;
    lifecycle(config)?;
    for device in &config.devices {
        let shown = device.host_path.display();
        let is_known = |c: char| matches!(c, 'r' | 'w' | 'm');
        if device.permissions.is_empty() || !device.permissions.chars().all(is_known) {
            let reason = format!(
                "the permissions {:?} are not some of r, w and m",
                device.permissions
            );
            return Err(refuse("--device", shown, reason, None));
        }
        if !device.host_path.is_absolute() || !device.path.is_absolute() {
            return Err(refuse(
                "--device",
                shown,
                "both paths must be absolute",
                None,
            ));
        }
    }
    if let Some(adjustment) = config.oom_score_adj
        && !(-1000..=1000).contains(&adjustment)
    {
        let reason = "it must be from -1000 to 1000";
        return Err(refuse("--oom-score-adj", adjustment, reason, None));
    }
    if let Some(size) = config.storage_size.filter(|size| size.bytes() == 0) {
        return Err(refuse(
            "--storage-opt size",
            size,
            "it must be more than 0",
            None,
        ));
    }
    Ok(())
}

fn process(config: &InstanceConfig) -> Checked {
    let process = &config.process;
    let mut words = process.entrypoint.iter().chain(&process.command).flatten();
    match words.next() {
        None => {
            return Err(refuse(
                "command",
                "",
                "neither the image nor you say what to run",
                Some("give a command after the image's name"),
            ));
        }
        Some(program) if program.is_empty() => {
            let reason = "the program's name is empty";
            return Err(refuse("command", "", reason, None));
        }
        Some(_) => {}
    }
    let mut texts = process.entrypoint.iter().chain(&process.command).flatten();
    if let Some(text) = texts.find(|text| text.contains('\0')) {
        return Err(refuse("command", text, "it has a zero byte", None));
    }
    for entry in &process.env {
        if entry.contains('\0') || entry.split('=').next().is_none_or(str::is_empty) {
            let reason = "it must be of the form NAME=value";
            return Err(refuse("--env", entry, reason, None));
        }
    }
    if let Some(directory) = &process.working_dir
        && (!directory.starts_with('/') || directory.contains('\0'))
    {
        let reason = "it must be an absolute path inside";
        return Err(refuse("--workdir", directory, reason, None));
    }
    Ok(())
}

fn names(config: &InstanceConfig) -> Checked {
    let is_plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    };
    for (field, name) in [
        ("--hostname", &config.hostname),
        ("--domainname", &config.domainname),
    ] {
        let Some(name) = name else { continue };
        if !is_plain(name) {
            let reason = "it must be 1 to 64 letters, digits, dots and hyphens";
            return Err(refuse(field, name, reason, None));
        }
        if config.namespaces.uts != NamespaceMode::Private {
            let reason = "a shared UTS namespace has the name of the other one";
            return Err(refuse(
                field,
                name,
                reason,
                Some("leave --uts or this flag out"),
            ));
        }
        if matches!(config.network, NetworkMode::Instance(_)) {
            let reason = "a shared network has the name of the other instance";
            return Err(refuse(
                field,
                name,
                reason,
                Some("leave --network or this flag out"),
            ));
        }
    }
    if matches!(config.network, NetworkMode::Instance(_)) {
        let given = [
            ("--dns", config.dns.first().map(ToString::to_string)),
            ("--dns-search", config.dns_search.first().cloned()),
            ("--dns-option", config.dns_options.first().cloned()),
            (
                "--add-host",
                config.extra_hosts.first().map(|(name, _)| name.clone()),
            ),
        ];
        for (field, value) in given {
            if let Some(value) = value {
                let reason = "a shared network has the files of the other instance";
                return Err(refuse(
                    field,
                    value,
                    reason,
                    Some("give it to the other instance"),
                ));
            }
        }
    }
    for (name, _) in &config.extra_hosts {
        if !is_plain(name) {
            return Err(refuse("--add-host", name, "it is not a host name", None));
        }
    }
    let has_space = |text: &&String| text.contains(char::is_whitespace) || text.is_empty();
    if let Some(bad) = config.dns_search.iter().find(has_space) {
        return Err(refuse("--dns-search", bad, "it is not a domain name", None));
    }
    if let Some(bad) = config.dns_options.iter().find(has_space) {
        return Err(refuse(
            "--dns-option",
            bad,
            "it is not an option of resolv.conf(5)",
            None,
        ));
    }
    Ok(())
}

/// Looks at limits, for `create` and `update`.
///
/// # Errors
/// The first that cannot be carried out.
pub(crate) fn resources(resources: &Resources, isolation: Isolation, host: &Host) -> Checked {
    backend::check_resources(isolation, resources)?;
    let least = |field, size: Option<ByteSize>| match size {
        Some(size) if size < LEAST_MEMORY => Err(refuse(
            field,
            size,
            format!("the least is {LEAST_MEMORY}"),
            None,
        )),
        _ => Ok(()),
    };
    least("--memory", resources.memory)?;
    least("--memory-reservation", resources.memory_reservation)?;
    match (resources.memory_swap, resources.memory) {
        (Some(swap), None) if swap != 0 => {
            let hint = Some("give --memory as well");
            let reason = "it is memory and swap together, so it needs --memory";
            return Err(refuse("--memory-swap", swap, reason, hint));
        }
        (Some(swap), Some(memory)) if swap > 0 && (swap as u64) < memory.bytes() => {
            let hint = Some("it counts memory and swap together; -1 is unlimited swap");
            let shown = ByteSize(swap as u64);
            let reason = format!("it is less than --memory {memory}");
            return Err(refuse("--memory-swap", shown, reason, hint));
        }
        (Some(swap), _) if swap < -1 => {
            return Err(refuse("--memory-swap", swap, "-1 means unlimited", None));
        }
        _ => {}
    }
    if let (Some(reservation), Some(memory)) = (resources.memory_reservation, resources.memory)
        && reservation > memory
    {
        let reason = format!("it is more than --memory {memory}");
        return Err(refuse("--memory-reservation", reservation, reason, None));
    }
    if let Some(nano_cpus) = resources.nano_cpus {
        let most = u64::from(host.cpus) * 1_000_000_000;
        if !(10_000_000..=most).contains(&nano_cpus) {
            let shown = nano_cpus as f64 / 1e9;
            let reason = format!("this host has 0.01 to {}.00 CPUs to give", host.cpus);
            return Err(refuse("--cpus", shown, reason, None));
        }
    }
    if let Some(shares) = resources.cpu_shares
        && shares != 0
        && !(2..=262_144).contains(&shares)
    {
        return Err(refuse(
            "--cpu-shares",
            shares,
            "it must be from 2 to 262144",
            None,
        ));
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        let last = list_end(cpus)
            .ok_or_else(|| refuse("--cpuset-cpus", cpus, "it is not a list like 0-2,4", None))?;
        if last >= host.cpus {
            let reason = format!("this host has CPUs 0 to {}", host.cpus - 1);
            return Err(refuse("--cpuset-cpus", cpus, reason, None));
        }
    }
    if let Some(mems) = &resources.cpuset_mems
        && list_end(mems).is_none()
    {
        return Err(refuse(
            "--cpuset-mems",
            mems,
            "it is not a list like 0-1",
            None,
        ));
    }
    block_io::check(resources)?;
    if let Some(limit) = resources.pids_limit
        && limit < -1
    {
        return Err(refuse("--pids-limit", limit, "-1 means unlimited", None));
    }
    Ok(())
}

/// The highest number of a list like `0-2,4`, see cpuset(7); `None` if it is none.
fn list_end(list: &str) -> Option<u32> {
    let mut end = 0;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last {
            return None;
        }
        end = end.max(last);
    }
    Some(end)
}

fn ulimits(config: &InstanceConfig, host: &Host) -> Checked {
    let mut seen = BTreeSet::new();
    for ulimit in &config.ulimits {
        let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        let shown = format!("{}={}:{}", ulimit.name, ulimit.soft, ulimit.hard);
        if rlimit_type(&ulimit.name).is_none() {
            let hint = Some("see setrlimit(2): core, cpu, data, fsize, memlock, nofile, nproc, …");
            return Err(refuse("--ulimit", shown, "there is no such limit", hint));
        }
        if !seen.insert(&ulimit.name) {
            return Err(refuse("--ulimit", shown, "it is given twice", None));
        }
        if value(ulimit.soft) > value(ulimit.hard) || ulimit.soft < -1 || ulimit.hard < -1 {
            let reason = "the soft limit must not be above the hard one; -1 is unlimited";
            return Err(refuse("--ulimit", shown, reason, None));
        }
        let own = own_hard_limit(&ulimit.name);
        if let Some(own) = own
            && value(ulimit.hard) > own
            && !host.capabilities.contains(&Capability::SysResource)
        {
            let reason = format!(
                "the hard limit here is {own}, and without CAP_SYS_RESOURCE it cannot be raised"
            );
            let hint = Some("ask for less, or start isle with a higher hard limit (ulimit -H)");
            return Err(refuse("--ulimit", shown, reason, hint));
        }
    }
    Ok(())
}

/// The hard limit of this process; `None`: unlimited.
fn own_hard_limit(name: &str) -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    let resource = match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        "as" => Resource::As,
        _ => return None,
    };
    getrlimit(resource).maximum
}

/// Only what belongs to a namespace that the instance has to itself; as runc's validator.
fn sysctls(config: &InstanceConfig) -> Checked {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.auto_msgmni",
    ];
    for (name, value) in &config.sysctls {
        let shown = format!("{name}={value}");
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        if name.is_empty() || !name.bytes().all(is_plain) || name.contains("..") {
            return Err(refuse(
                "--sysctl",
                shown,
                "it is not the name of a setting",
                None,
            ));
        }
        let dotted = name.replace('/', ".");
        let is_ipc = IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.");
        let (is_own, whose) = if is_ipc {
            (
                config.namespaces.ipc == NamespaceMode::Private,
                "IPC namespace",
            )
        } else if dotted.starts_with("net.") {
            (config.network.is_own(), "network")
        } else if dotted == "kernel.domainname" {
            (
                config.namespaces.uts == NamespaceMode::Private,
                "UTS namespace",
            )
        } else {
            let hint = Some("set it on the host with sysctl(8)");
            let reason = "it belongs to the host, not to a namespace";
            return Err(refuse("--sysctl", shown, reason, hint));
        };
        if !is_own {
            let reason = format!("it belongs to the {whose}, which is shared");
            return Err(refuse("--sysctl", shown, reason, None));
        }
    }
    Ok(())
}

fn security(config: &InstanceConfig, host: &Host) -> Checked {
    let security = &config.security;
    for (field, names) in [
        ("--cap-add", &security.cap_add),
        ("--cap-drop", &security.cap_drop),
    ] {
        for name in names {
            if name.eq_ignore_ascii_case("ALL") {
                continue;
            }
            let Some(capability) = capability_by_name(name) else {
                let hint = Some("see capabilities(7); the names come with or without CAP_");
                return Err(refuse(field, name, "there is no such capability", hint));
            };
            if field == "--cap-add" && !host.capabilities.contains(&capability) {
                let reason = "this process does not have it, so it cannot give it";
                return Err(refuse(
                    field,
                    name,
                    reason,
                    Some("run isle where it has it"),
                ));
            }
        }
    }
    if let SeccompChoice::Profile(json) = &security.seccomp {
        Profile::parse(json).map_err(|error| {
            let reason = crate::backend::chain(&error);
            refuse("--security-opt seccomp", "profile", reason, None)
        })?;
    }
    if let Some(profile) = security
        .apparmor
        .as_ref()
        .filter(|name| *name != "unconfined")
        && !host.has_apparmor
    {
        let reason = "this host has no AppArmor";
        return Err(refuse(
            "--security-opt apparmor",
            profile,
            reason,
            Some("leave it out"),
        ));
    }
    for option in &security.selinux {
        let key = option.split(':').next().unwrap_or_default();
        if option != "disable" && !matches!(key, "user" | "role" | "type" | "level") {
            let reason = "it must be disable, user:…, role:…, type:… or level:…";
            return Err(refuse("--security-opt label", option, reason, None));
        }
        if option != "disable" && !host.has_selinux {
            let reason = "this host has no SELinux";
            return Err(refuse(
                "--security-opt label",
                option,
                reason,
                Some("leave it out"),
            ));
        }
    }
    Ok(())
}

fn namespaces(config: &InstanceConfig) -> Checked {
    if let UserNamespace::Auto { size } = config.namespaces.user {
        own_ids(config, size)?;
    }
    if let Some(size) = config.shm_size {
        if size.bytes() == 0 {
            return Err(refuse("--shm-size", size, "it must be more than 0", None));
        }
        if config.namespaces.ipc != NamespaceMode::Private {
            let reason = "a shared IPC namespace has the size of the other one";
            return Err(refuse(
                "--shm-size",
                size,
                reason,
                Some("leave --ipc or this flag out"),
            ));
        }
    }
    Ok(())
}

/// What root of a user namespace of its own has no right to, as Docker refuses it.
fn own_ids(config: &InstanceConfig, size: Option<u32>) -> Checked {
    const MOST: u32 = 1 << 30;
    if let Some(size) = size.filter(|size| *size == 0 || *size > MOST) {
        let reason = format!("it must be from 1 to {MOST}");
        return Err(refuse("--userns auto:size", size, reason, None));
    }
    if config.security.privileged {
        let reason = "root of a user namespace of its own has no privileges on the host";
        let hint = Some("leave --privileged or --userns auto out");
        return Err(refuse("--privileged", "true", reason, hint));
    }
    let namespaces = &config.namespaces;
    let shared = [
        ("--network", !config.network.is_own()),
        ("--pid", namespaces.pid != NamespaceMode::Private),
        ("--ipc", namespaces.ipc != NamespaceMode::Private),
        ("--uts", namespaces.uts != NamespaceMode::Private),
        ("--cgroupns", namespaces.cgroup != NamespaceMode::Private),
    ];
    match shared.iter().find(|(_, is_shared)| *is_shared) {
        None => Ok(()),
        Some((field, _)) => Err(refuse(
            field,
            "shared",
            "a namespace of others cannot be shared from a user namespace of its own",
            Some("leave this flag or --userns auto out"),
        )),
    }
}

fn lifecycle(config: &InstanceConfig) -> Checked {
    if config.auto_remove && config.restart != RestartPolicy::No {
        let reason = "what is started again cannot be removed when it exits";
        return Err(refuse(
            "--rm",
            "",
            reason,
            Some("leave --rm or --restart out"),
        ));
    }
    if let Some(check) = &config.health_check {
        let durations = [
            ("--health-interval", check.interval),
            ("--health-timeout", check.timeout),
            ("--health-start-interval", check.start_interval),
        ];
        for (field, duration) in durations {
            if duration < std::time::Duration::from_millis(1) {
                let shown = isle_types::format_duration(duration);
                return Err(refuse(field, shown, "the least is 1ms", None));
            }
        }
        if check.retries == 0 {
            return Err(refuse("--health-retries", 0, "the least is 1", None));
        }
        if matches!(&check.test, HealthTest::Command(words) if words.is_empty()) {
            return Err(refuse("--health-cmd", "", "it is empty", None));
        }
    }
    if config.log.max_files == 0 {
        return Err(refuse("--log-opt max-file", 0, "the least is 1", None));
    }
    if config.log.max_size.bytes() == 0 {
        return Err(refuse(
            "--log-opt max-size",
            0,
            "it must be more than 0",
            None,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Device, Mount, MountSource, Ulimit};

    fn host() -> Host {
        Host {
            cpus: 2,
            capabilities: [Capability::NetAdmin].into(),
            has_apparmor: false,
            has_selinux: false,
        }
    }

    fn runnable() -> InstanceConfig {
        let mut config = InstanceConfig::default();
        config.process.command = Some(vec!["true".to_owned()]);
        config
    }

    fn tmpfs(target: &str) -> Mount {
        Mount {
            source: MountSource::Tmpfs {
                size: None,
                mode: None,
                options: Vec::new(),
            },
            target: target.to_owned(),
            read_only: false,
        }
    }

    #[test]
    fn a_plain_configuration_is_fine() {
        assert_eq!(validate(&runnable(), &host()), Ok(()));
    }

    #[test]
    fn every_refusal_names_the_flag() {
        type Change = fn(&mut InstanceConfig);
        let table: [(&str, Change); 32] = [
            ("command", |c| c.process.command = None),
            ("--env", |c| c.process.env = vec!["=x".into()]),
            ("--workdir", |c| c.process.working_dir = Some("srv".into())),
            ("--hostname", |c| c.hostname = Some("a b".into())),
            ("--hostname", |c| {
                c.hostname = Some("a".into());
                c.namespaces.uts = NamespaceMode::Host;
            }),
            ("--memory", |c| c.resources.memory = Some(ByteSize(4 << 20))),
            ("--memory-swap", |c| c.resources.memory_swap = Some(1 << 30)),
            ("--memory-swap", |c| {
                c.resources.memory = Some(ByteSize(64 << 20));
                c.resources.memory_swap = Some(32 << 20);
            }),
            ("--cpus", |c| c.resources.nano_cpus = Some(3_000_000_000)),
            ("--cpu-shares", |c| c.resources.cpu_shares = Some(1)),
            ("--cpuset-cpus", |c| {
                c.resources.cpuset_cpus = Some("0-2".into())
            }),
            ("--cpuset-cpus", |c| {
                c.resources.cpuset_cpus = Some("1-0".into())
            }),
            ("--blkio-weight", |c| c.resources.blkio_weight = Some(5)),
            ("--cap-add", |c| c.security.cap_add = vec!["FLY".into()]),
            ("--cap-add", |c| {
                c.security.cap_add = vec!["SYS_ADMIN".into()]
            }),
            ("--cap-drop", |c| c.security.cap_drop = vec!["FLY".into()]),
            ("--sysctl", |c| {
                c.sysctls = [("vm.swappiness".to_owned(), "1".to_owned())].into();
            }),
            ("--sysctl", |c| {
                c.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
                c.network = NetworkMode::Host;
            }),
            ("--tmpfs", |c| c.mounts = vec![tmpfs("/a"), tmpfs("/a")]),
            ("--tmpfs", |c| c.mounts = vec![tmpfs("a")]),
            ("--tmpfs", |c| c.mounts = vec![tmpfs("/a/../b")]),
            ("--tmpfs", |c| c.mounts = vec![tmpfs("/")]),
            ("--ulimit", |c| {
                c.ulimits = vec![Ulimit {
                    name: "nofile".into(),
                    soft: 10,
                    hard: 5,
                }];
            }),
            ("--ulimit", |c| {
                c.ulimits = vec![Ulimit {
                    name: "fly".into(),
                    soft: 1,
                    hard: 1,
                }];
            }),
            ("--device", |c| {
                c.devices = vec![Device {
                    host_path: "/dev/null".into(),
                    path: "/dev/null".into(),
                    permissions: "x".into(),
                }];
            }),
            ("--userns auto:size", |c| {
                c.namespaces.user = UserNamespace::Auto { size: Some(0) };
            }),
            ("--privileged", |c| {
                c.namespaces.user = UserNamespace::Auto { size: None };
                c.security.privileged = true;
            }),
            ("--network", |c| {
                c.namespaces.user = UserNamespace::Auto { size: None };
                c.network = NetworkMode::Host;
            }),
            ("--pid", |c| {
                c.namespaces.user = UserNamespace::Auto { size: None };
                c.namespaces.pid = NamespaceMode::Host;
            }),
            ("--storage-opt size", |c| c.storage_size = Some(ByteSize(0))),
            ("--rm", |c| {
                c.auto_remove = true;
                c.restart = RestartPolicy::Always;
            }),
            ("--security-opt apparmor", |c| {
                c.security.apparmor = Some("x".into())
            }),
        ];
        for (field, change) in table {
            let mut config = runnable();
            change(&mut config);
            let error = validate(&config, &host()).expect_err(field);
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().starts_with(&format!("invalid {field} ")));
        }
    }
}
