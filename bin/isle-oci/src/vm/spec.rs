//! From the runtime specification of a container to that of a virtual machine: what the guest carries out, what the
//! host holds for it, what is shared, and what stands in for the container on the host. Pure but for looking at what is bound.
//!
//! What a kernel of its own cannot share with the host is refused by name; what engines send with every container, and what
//! is there to protect the host's kernel, which the guest does not see, is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use isle_machine::{OVERHEAD_BYTES, Wanted, host::HostUsage, size};
use isle_types::ByteSize;
use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxMemory, LinuxNamespaceType, LinuxPids, LinuxResources, Mount,
    Process, Spec, User,
};
use serde::{Deserialize, Serialize};

/// Below it the agent mounts the folders of the host.
const SHARES: &str = "/run/isle/shares";
/// The share that is the root file system.
pub(super) const ROOT: u32 = 0;

/// What containerd and CRI-O call a container of a pod that is not the pod's first.
const POD_MEMBER: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];

/// A folder or file of the host for the guest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) source: PathBuf,
    pub(super) is_recursive: bool,
    pub(super) is_read_only: bool,
}

/// The parts of a container that is a virtual machine.
#[derive(Debug)]
pub(super) struct Parts {
    /// What is executed on the host in the container's place.
    pub(super) stand_in: Spec,
    /// What the guest carries out.
    pub(super) guest: Spec,
    pub(super) shares: Vec<Shared>,
    /// Limits of the machine's control group on the host.
    pub(super) host: LinuxResources,
    pub(super) memory_bytes: Option<u64>,
    pub(super) nano_cpus: Option<u64>,
}

/// How large a machine is to be.
pub(super) fn wanted(memory_bytes: Option<u64>, nano_cpus: Option<u64>) -> Wanted {
    Wanted {
        memory: memory_bytes.map(ByteSize),
        nano_cpus,
        require_kvm: false,
    }
}

impl Parts {
    /// # Errors
    /// What a virtual machine cannot do, by the name of the field.
    pub(super) fn of(spec: &Spec, bundle: &Path, program: &str) -> anyhow::Result<Parts> {
        refuse_pods(spec)?;
        refuse(spec)?;
        let root = spec.root().as_ref().context("config.json has no root")?;
        let mut shares = vec![Shared {
            source: bundle.join(root.path()),
            is_recursive: false,
            is_read_only: root.readonly().unwrap_or(false),
        }];
        let mut inside = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            inside.push(mount_inside(mount, bundle, &mut shares)?);
        }
        let resources = resources(spec);
        let memory_bytes = resources
            .and_then(|resources| resources.memory().as_ref()?.limit())
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0);
        let nano_cpus = resources.and_then(nano_cpus);
        Ok(Parts {
            stand_in: stand_in(spec, program),
            guest: guest(spec, inside)?,
            shares,
            host: host_limits(resources, memory_bytes, nano_cpus)?,
            memory_bytes,
            nano_cpus,
        })
    }
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

fn is_set<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// A container that joins a pod has to be in the pod's machine.
fn refuse_pods(spec: &Spec) -> anyhow::Result<()> {
    let annotations = spec.annotations().as_ref();
    for key in POD_MEMBER {
        let kind = annotations.and_then(|annotations| annotations.get(key));
        if kind.is_some_and(|kind| kind == "container") {
            bail!(
                "annotation {key} is \"container\": several containers of a pod in one virtual machine are not supported \
                 yet: use a runtime whose level is container for pods"
            );
        }
    }
    Ok(())
}

fn refuse(spec: &Spec) -> anyhow::Result<()> {
    if let Some(hooks) = spec.hooks()
        && is_set(hooks.start_container().as_ref())
    {
        bail!(
            "hooks.startContainer: such hooks are programs in the container's namespaces, which a virtual machine has none \
             of on the host: use createRuntime or poststart"
        );
    }
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    if let Some(device) = linux.devices().iter().flatten().next() {
        bail!(
            "linux.devices: {}: a virtual machine has a kernel of its own, which the devices of the host do not belong to: \
             leave --device and --privileged out, or use a runtime whose level is container",
            device.path().display()
        );
    }
    if is_set(linux.uid_mappings().as_ref()) || is_set(linux.gid_mappings().as_ref()) {
        bail!(
            "linux.uidMappings: users of a virtual machine are never users of the host: leave the user namespace out"
        );
    }
    let refused = [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|all| !all.is_empty()),
        ),
        (
            "linux.resources.unified",
            resources(spec)
                .and_then(|resources| resources.unified().as_ref())
                .is_some_and(|unified| !unified.is_empty()),
        ),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, is_there)| *is_there) {
        bail!(
            "{field}: a virtual machine cannot have it: leave it out, or use a runtime whose level is container"
        );
    }
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let network = namespaces
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let is_hosts = match network {
        None => true,
        Some(network) => network.path().as_deref().is_some_and(is_hosts_network),
    };
    if is_hosts {
        bail!(
            "linux.namespaces: the container would be on the host's network, and a virtual machine has a network stack \
             of its own: use another network, or a runtime whose level is container"
        );
    }
    for namespace in namespaces {
        if namespace.typ() != LinuxNamespaceType::Network
            && let Some(path) = namespace.path()
        {
            bail!(
                "linux.namespaces: {} {}: a virtual machine has a kernel of its own, which shares nothing with another \
                 one: leave it out, or use a runtime whose level is container",
                namespace.typ(),
                path.display()
            );
        }
    }
    Ok(())
}

/// Whether a network namespace is that of the host, or of this program. Were it wired, the host would be cut off.
fn is_hosts_network(path: &Path) -> bool {
    let identity = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let Ok(asked) = identity(path) else {
        // What is not there is told when it is entered.
        return false;
    };
    ["/proc/1/ns/net", "/proc/self/ns/net"]
        .into_iter()
        .any(|own| identity(Path::new(own)) == Ok(asked))
}

/// Labels that engines give to every container for the sake of the host's kernel. Others were asked for by name.
fn leave_labels_out(process: &mut Process) {
    let is_default = |profile: &String| {
        [
            "docker-default",
            "cri-containerd.apparmor.d",
            "crio-default",
            "unconfined",
        ]
        .contains(&profile.as_str())
            || profile.starts_with("containers-default-")
    };
    if process.apparmor_profile().as_ref().is_some_and(is_default) {
        process.set_apparmor_profile(None);
    }
    if process
        .selinux_label()
        .as_deref()
        .is_some_and(is_container_label)
    {
        process.set_selinux_label(None);
    }
}

fn is_container_label(label: &str) -> bool {
    let mut fields = label.split(':').skip(2);
    matches!(
        fields.next(),
        Some("container_t" | "spc_t" | "container_init_t" | "container_file_t" | "svirt_lxc_net_t")
    )
}

/// A process as the guest has it.
pub(super) fn process_inside(process: &Process) -> Process {
    let mut inside = process.clone();
    leave_labels_out(&mut inside);
    inside
}

fn guest(spec: &Spec, mounts: Vec<Mount>) -> anyhow::Result<Spec> {
    let mut guest = spec.clone();
    guest.set_hooks(None).set_annotations(None);
    guest.set_mounts(Some(mounts));
    if let Some(process) = guest.process_mut() {
        leave_labels_out(process);
    }
    if let Some(linux) = guest.linux_mut() {
        let namespaces = linux.namespaces().clone().unwrap_or_default();
        let own = namespaces.into_iter().filter(|namespace| {
            !matches!(
                namespace.typ(),
                LinuxNamespaceType::Network | LinuxNamespaceType::User
            )
        });
        let own = own.collect();
        let limits = linux.resources().as_ref().map(limits_inside);
        linux
            .set_namespaces(Some(own))
            .set_resources(limits)
            .set_cgroups_path(None)
            .set_rootfs_propagation(None);
        if linux
            .mount_label()
            .as_deref()
            .is_some_and(is_container_label)
        {
            linux.set_mount_label(None);
        }
    }
    Ok(guest)
}

/// What of the limits the guest's kernel holds. Time on processors is what the hypervisor gets, swap there is none.
pub(super) fn limits_inside(resources: &LinuxResources) -> LinuxResources {
    let mut inside = LinuxResources::default();
    inside.set_devices(None);
    if let Some(limit) = resources.memory().as_ref().and_then(LinuxMemory::limit)
        && limit > 0
    {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit));
        inside.set_memory(Some(memory));
    }
    if let Some(limit) = resources.pids().as_ref().map(LinuxPids::limit) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        inside.set_pids(Some(pids));
    }
    inside
}

/// What of the limits the host holds, for the machine as a whole.
///
/// # Errors
/// When the host does not tell how large it is.
pub(super) fn host_limits(
    resources: Option<&LinuxResources>,
    memory_bytes: Option<u64>,
    nano_cpus: Option<u64>,
) -> anyhow::Result<LinuxResources> {
    let mut limits = resources.cloned().unwrap_or_default();
    // Of the guest's kernel, and of what the host's has for processes that a machine's are not.
    limits
        .set_devices(None)
        .set_pids(None)
        .set_network(None)
        .set_hugepage_limits(None)
        .set_rdma(None)
        .set_memory(None);
    if memory_bytes.is_some() {
        let host = HostUsage::read().context("cannot find out what the host has")?;
        let wanted = wanted(memory_bytes, nano_cpus);
        let machine = size::of(&wanted, host.memory_bytes, host.online_cpus).memory_bytes;
        let mut memory = LinuxMemory::default();
        memory.set_limit(i64::try_from(machine + OVERHEAD_BYTES).ok());
        limits.set_memory(Some(memory));
    }
    Ok(limits)
}

/// How many processors a quota, or else a set of them, is worth.
pub(super) fn nano_cpus(resources: &LinuxResources) -> Option<u64> {
    let cpu = resources.cpu().as_ref()?;
    let quota = cpu.quota().and_then(|quota| u64::try_from(quota).ok());
    if let Some(quota) = quota.filter(|quota| *quota > 0) {
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
        return Some(quota.saturating_mul(1_000_000_000) / period);
    }
    let set = cpu.cpus().as_deref().filter(|set| !set.is_empty())?;
    let count: Option<u64> = set
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.trim().parse::<u64>().ok()?, last.trim().parse().ok()?);
            u64::checked_sub(last, first)?.checked_add(1)
        })
        .sum();
    count.and_then(|count| count.checked_mul(1_000_000_000))
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options
            .into_iter()
            .any(|option| option == "bind" || option == "rbind")
}

/// A mount as the guest makes it; what is bound becomes a share.
fn mount_inside(mount: &Mount, bundle: &Path, shares: &mut Vec<Shared>) -> anyhow::Result<Mount> {
    if !is_bind(mount) {
        return Ok(mount.clone());
    }
    let destination = mount.destination();
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let source = bundle.join(source);
    if is_set(mount.uid_mappings().as_ref()) {
        bail!(
            "mounts: {}: a virtual machine cannot have ids mapped",
            destination.display()
        );
    }
    // Memory that processes share is the guest's: shared with the host it would be slow, and not shared.
    if destination == Path::new("/dev/shm")
        && let Some(bytes) = memory_below(&source)
    {
        let mut inside = mount.clone();
        let options = ["nosuid", "nodev", "noexec", "mode=1777"].map(str::to_owned);
        let size = format!("size={bytes}");
        inside
            .set_typ(Some("tmpfs".to_owned()))
            .set_source(Some("shm".into()))
            .set_options(Some(options.into_iter().chain([size]).collect()));
        return Ok(inside);
    }
    let mut kept = Vec::new();
    let (mut is_recursive, mut is_read_only) = (mount.options().is_none(), false);
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "bind" => {}
            "rbind" => is_recursive = true,
            "private" | "rprivate" | "unbindable" | "runbindable" => {}
            "shared" | "rshared" | "slave" | "rslave" => bail!(
                "mounts: {}: {option}: mounts do not pass between the kernels of host and guest: leave the propagation \
                 out, or use a runtime whose level is container",
                destination.display()
            ),
            "idmap" | "ridmap" => bail!(
                "mounts: {}: {option}: a virtual machine cannot have ids mapped",
                destination.display()
            ),
            other => {
                is_read_only |= matches!(other, "ro" | "rro");
                kept.push(other.to_owned());
            }
        }
    }
    kept.push("bind".to_owned());
    let mut inside = mount.clone();
    inside
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(format!("{SHARES}/{}", shares.len()).into()))
        .set_options(Some(kept));
    shares.push(Shared {
        source,
        is_recursive,
        is_read_only,
    });
    Ok(inside)
}

/// How large a file system in memory is; `None`: it is none.
fn memory_below(path: &Path) -> Option<u64> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let about = rustix::fs::statfs(path).ok()?;
    (about.f_type as u64 == TMPFS_MAGIC).then(|| about.f_blocks * about.f_bsize as u64)
}

/// The guest cannot make a place for this in a root that is shared read-only; the host does, before it is.
fn is_place_to_make(spec: &Spec, mount: &Mount) -> bool {
    let is_read_only = spec.root().as_ref().and_then(|root| root.readonly());
    let is_in_memory = mount.typ().as_deref() == Some("tmpfs");
    is_read_only == Some(true) && is_in_memory && !mount.destination().starts_with("/dev")
}

/// What is executed on the host in the container's place: a process that waits, with the namespaces, files and network
/// that the engine expects of a container's first process, and without any rights.
fn stand_in(spec: &Spec, program: &str) -> Spec {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_permitted(None)
        .set_inheritable(None)
        .set_ambient(None);
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(User::default())
        .set_args(Some(vec![program.to_owned(), super::STAND_IN.to_owned()]))
        .set_env(None)
        .set_cwd("/".into())
        .set_capabilities(Some(none))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true));
    let given = spec.linux().as_ref();
    let mut linux = Linux::default();
    let namespaces = given.and_then(|linux| linux.namespaces().clone());
    let namespaces = namespaces
        .unwrap_or_default()
        .into_iter()
        .filter(|namespace| {
            !matches!(
                namespace.typ(),
                LinuxNamespaceType::User | LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time
            )
        });
    linux
        .set_namespaces(Some(namespaces.collect()))
        .set_rootfs_propagation(given.and_then(|linux| linux.rootfs_propagation().clone()))
        .set_resources(None)
        .set_devices(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let mut mounts: Vec<Mount> = Vec::new();
    let is_at = |mount: &Mount, path: &str| mount.destination() == Path::new(path);
    for mount in spec.mounts().iter().flatten() {
        let is_kept = match is_bind(mount) {
            true => !is_at(mount, "/dev/shm"),
            // Devices are made there, else they would be among the container's files.
            false => is_at(mount, "/dev") || is_at(mount, "/proc") || is_place_to_make(spec, mount),
        };
        if is_kept {
            mounts.push(mount.clone());
        }
    }
    if !mounts.iter().any(|mount| is_at(mount, "/proc")) {
        let mut proc = Mount::default();
        proc.set_destination("/proc".into())
            .set_typ(Some("proc".to_owned()))
            .set_source(Some("proc".into()))
            .set_options(None);
        mounts.push(proc);
    }
    let mut stand_in = Spec::default();
    stand_in
        .set_version(spec.version().clone())
        .set_root(spec.root().clone())
        .set_mounts(Some(mounts))
        .set_process(Some(process))
        .set_hostname(spec.hostname().clone())
        .set_domainname(spec.domainname().clone())
        .set_hooks(spec.hooks().clone())
        .set_annotations(spec.annotations().clone())
        .set_linux(Some(linux));
    stand_in
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "hostname": "h",
            "process": {
                "user": {"uid": 5, "gid": 6}, "args": ["sh"], "cwd": "/", "apparmorProfile": "docker-default",
                "selinuxLabel": "system_u:system_r:container_t:s0:c1,c2",
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
                {"destination": "/etc/hosts", "type": "bind", "source": "hosts", "options": ["rbind", "rprivate", "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "mount"}, {"type": "cgroup"}],
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 134_217_728, "swap": 268_435_456},
                    "pids": {"limit": 50},
                    "cpu": {"quota": 150_000, "period": 100_000, "shares": 512},
                },
            },
        })
    }

    fn parts(config: &Value) -> anyhow::Result<Parts> {
        let spec: Spec = serde_json::from_value(config.clone()).unwrap();
        Parts::of(&spec, Path::new("/bundle"), "/program")
    }

    #[test]
    fn what_is_bound_is_shared_and_the_guest_finds_it_by_number() {
        let parts = parts(&config()).unwrap();
        let shares: Vec<_> = parts
            .shares
            .iter()
            .map(|share| {
                (
                    share.source.to_str().unwrap(),
                    share.is_recursive,
                    share.is_read_only,
                )
            })
            .collect();
        assert_eq!(
            shares,
            [
                ("/bundle/rootfs", false, false),
                ("/bundle/hosts", true, true)
            ]
        );
        let mounts = parts.guest.mounts().as_ref().unwrap();
        let hosts = mounts.last().unwrap();
        assert_eq!(
            hosts.source().as_deref(),
            Some(Path::new("/run/isle/shares/1"))
        );
        assert_eq!(
            hosts.options().as_deref(),
            Some(&["ro".to_owned(), "bind".to_owned()][..])
        );
    }

    #[test]
    fn limits_are_held_where_they_are_felt() {
        let parts = parts(&config()).unwrap();
        assert_eq!(
            (parts.memory_bytes, parts.nano_cpus),
            (Some(128 << 20), Some(1_500_000_000))
        );
        let inside = parts
            .guest
            .linux()
            .as_ref()
            .unwrap()
            .resources()
            .as_ref()
            .unwrap();
        assert_eq!(inside.memory().unwrap().limit(), Some(128 << 20));
        assert_eq!(inside.pids().unwrap().limit(), 50);
        assert!(inside.cpu().is_none() && inside.devices().is_none());
        // The machine as a whole, which has no swap and needs its own devices.
        assert!(parts.host.memory().unwrap().limit().unwrap() > (128 << 20) + 256 * (1 << 20));
        assert!(parts.host.pids().is_none() && parts.host.devices().is_none());
        assert_eq!(parts.host.cpu().as_ref().unwrap().shares(), Some(512));
    }

    #[test]
    fn the_stand_in_has_the_namespaces_and_files_and_nothing_to_do() {
        let parts = parts(&config()).unwrap();
        let process = parts.stand_in.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap()[0], "/program");
        assert_eq!(process.no_new_privileges(), Some(true));
        let sets = process.capabilities().as_ref().unwrap();
        assert!(sets.bounding().is_none() && sets.effective().is_none());
        let mounts = parts.stand_in.mounts().as_ref().unwrap();
        let places: Vec<_> = mounts
            .iter()
            .map(|mount| mount.destination().to_str().unwrap())
            .collect();
        assert_eq!(places, ["/proc", "/dev", "/etc/hosts"]);
        let guest = parts.guest.process().as_ref().unwrap();
        assert!(guest.apparmor_profile().is_none() && guest.selinux_label().is_none());
    }

    #[test]
    fn places_in_a_read_only_root_are_made_on_the_host() {
        let mut config = config();
        let run = json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"});
        config["mounts"].as_array_mut().unwrap().push(run);
        let has_run = |config: &Value| {
            let parts = parts(config).unwrap();
            let mut mounts = parts.stand_in.mounts().iter().flatten();
            mounts.any(|mount| mount.destination() == Path::new("/run"))
        };
        config["root"]["readonly"] = json!(false);
        assert!(!has_run(&config));
        config["root"]["readonly"] = json!(true);
        assert!(has_run(&config));
    }

    #[test]
    fn what_a_machine_cannot_do_is_refused_by_name() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 9] = [
            ("host's network", |c| {
                c["linux"]["namespaces"] = json!([{"type": "mount"}])
            }),
            ("host's network", |c| {
                c["linux"]["namespaces"][1]["path"] = json!("/proc/self/ns/net")
            }),
            ("pid", |c| {
                c["linux"]["namespaces"][0]["path"] = json!("/proc/1/ns/pid")
            }),
            (
                "linux.devices",
                |c| {
                    c["linux"]["devices"] =
                        json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}])
                },
            ),
            ("uidMappings", |c| {
                c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 9}])
            }),
            ("rshared", |c| {
                c["mounts"][3]["options"] = json!(["rbind", "rshared"])
            }),
            ("startContainer", |c| {
                c["hooks"] = json!({"startContainer": [{"path": "/x"}]})
            }),
            ("unified", |c| {
                c["linux"]["resources"]["unified"] = json!({"memory.high": "1"})
            }),
            ("container-type", |c| {
                c["annotations"] = json!({"io.kubernetes.cri.container-type": "container"})
            }),
        ];
        for (named, change) in cases {
            let mut config = config();
            change(&mut config);
            let error = parts(&config).expect_err(named);
            assert!(format!("{error:#}").contains(named), "{named}: {error:#}");
        }
    }

    #[test]
    fn processors_are_counted_by_quota_or_else_by_set() {
        let nano = |text: Value| {
            let cpu = serde_json::from_value(text).unwrap();
            let mut resources = LinuxResources::default();
            resources.set_cpu(Some(cpu));
            nano_cpus(&resources)
        };
        assert_eq!(nano(json!({"quota": 50_000})), Some(500_000_000));
        assert_eq!(
            nano(json!({"quota": -1, "cpus": "0-2,5"})),
            Some(4_000_000_000)
        );
        for broken in ["x", "3-1", "0-18446744073709551615", ""] {
            assert_eq!(nano(json!({"cpus": broken})), None, "{broken}");
        }
    }

    #[test]
    fn labels_that_somebody_has_asked_for_are_not_left_out() {
        let label = |text: &str| is_container_label(text);
        assert!(label("system_u:system_r:container_t:s0"));
        assert!(!label("system_u:system_r:my_t:s0") && !label("container_t"));
        let mut own = config();
        own["process"]["apparmorProfile"] = json!("mine");
        let parts = parts(&own).unwrap();
        let process = parts.guest.process().as_ref().unwrap();
        assert_eq!(process.apparmor_profile().as_deref(), Some("mine"));
    }
}
