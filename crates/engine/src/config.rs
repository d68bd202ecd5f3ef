//! What an instance is asked to be: the same words at every level of isolation.
//!
//! An [`InstanceConfig`] is what the user said (flags, an API request, a Compose service) merged
//! with what the image says. It is written once when the instance is created and changes only by
//! `update` and `rename`. How a level brings it about is the back end's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use isle_network::{Egress, Publish, Rate};
use isle_types::{ByteSize, Isolation, Signal};
use serde::{Deserialize, Serialize};

/// Everything that decides how an instance runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceConfig {
    /// The wall asked for.
    pub isolation: Isolation,
    /// The image as the user named it, for display. The store's id of it is in the record.
    pub image: String,
    /// What runs.
    pub process: ProcessConfig,
    /// The host name inside; the first twelve digits of the id when not given.
    pub hostname: Option<String>,
    /// The NIS domain name inside.
    pub domainname: Option<String>,
    /// `--label`, on top of the image's.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`, handed to the OCI runtime.
    pub annotations: BTreeMap<String, String>,
    /// `--expose` and the image's `EXPOSE`, like `80/tcp`: what it listens on, for those who publish
    /// ports and for those who read it.
    pub exposed_ports: BTreeSet<String>,
    /// `--volumes-from`, like `db` or `db:ro`: instances whose binds and volumes it had when it was
    /// created. They are among the mounts.
    pub volumes_from: Vec<String>,
    /// Binds, volumes and tmpfs, in the order they are mounted.
    pub mounts: Vec<Mount>,
    /// `--read-only`: the root file system cannot be written.
    pub read_only_root: bool,
    /// `--storage-opt size=`: the most that the writable layer may hold.
    pub storage_size: Option<ByteSize>,
    /// `--shm-size`, 64 MiB when not given.
    pub shm_size: Option<ByteSize>,
    /// Limits of memory, CPU, processes, I/O.
    pub resources: Resources,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// `--oom-score-adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// `--device`.
    pub devices: Vec<Device>,
    /// Privileges and their opposite.
    pub security: Security,
    /// Which namespaces are shared with the host or another instance.
    pub namespaces: Namespaces,
    /// How the instance is connected.
    pub network: NetworkMode,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--add-host`: lines for `/etc/hosts`.
    pub extra_hosts: Vec<(String, HostAddress)>,
    /// `--publish`: ports of the host that lead to it.
    pub publish: Vec<Publish>,
    /// `--publish-all`: every exposed port, by a port of the host that is free.
    pub publish_all: bool,
    /// `--egress`: what it may reach beyond its networks.
    pub egress: Egress,
    /// `--net-rate`: how much it may receive and send.
    pub net_rate: Rate,
    /// When the supervisor starts it again.
    pub restart: RestartPolicy,
    /// How its health is found out; `None` when neither image nor user says.
    pub health_check: Option<HealthCheck>,
    /// What `stop` sends first; SIGTERM when neither image nor user says.
    pub stop_signal: Option<Signal>,
    /// How long `stop` waits before it kills; 10 s when not given.
    pub stop_timeout: Option<Duration>,
    /// Where its output goes.
    pub log: LogConfig,
    /// `--require-kvm`: a virtual machine that would have to be emulated does not start.
    pub require_kvm: bool,
    /// `--rm`: removed, with its anonymous volumes, once it has exited.
    pub auto_remove: bool,
}

/// The process that is the instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// `--entrypoint`. `None`: the image's. `Some(vec![])`: none, even if the image has one.
    pub entrypoint: Option<Vec<String>>,
    /// The arguments after the image's name. `None`: the image's (unless `entrypoint` is given).
    pub command: Option<Vec<String>>,
    /// `KEY=value`, on top of the image's.
    pub env: Vec<String>,
    /// `-w`; the image's, else `/`.
    pub working_dir: Option<String>,
    /// `-u`: `user[:group]`, names or numbers; the image's, else root.
    pub user: Option<String>,
    /// `--group-add`: names or numbers.
    pub additional_groups: Vec<String>,
    /// `-t`: a terminal of its own.
    pub tty: bool,
    /// `-i`: standard input stays open.
    pub open_stdin: bool,
    /// `--attach`: what a front door in the foreground shows and sends. Output, errors and, where it
    /// is open, standard input when not given.
    pub attach: Option<AttachedStreams>,
    /// `--init`: a small init process reaps zombies and forwards signals.
    pub init: bool,
}

/// Some of the standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachedStreams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl ProcessConfig {
    /// The streams that a front door in the foreground is attached to.
    #[must_use]
    pub fn attached(&self) -> AttachedStreams {
        self.attach.unwrap_or(AttachedStreams {
            stdin: self.open_stdin,
            stdout: true,
            stderr: true,
        })
    }
}

/// One entry of the mount table, beside what every instance has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Where, absolute, inside.
    pub target: String,
    /// Not writable from inside.
    pub read_only: bool,
}

/// What can be mounted into an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// The absolute path on the host.
        path: PathBuf,
        /// `-v` makes a missing source a directory, `--mount` refuses it.
        create_source: bool,
        /// `private`, `rprivate`, `shared`, …; `rprivate` when not given.
        propagation: Option<String>,
        /// `--mount bind-recursive=disabled`: without the mounts below the source.
        non_recursive: bool,
        /// `--mount bind-recursive=writable`: of a read-only one, the mounts below the source can be
        /// written all the same.
        #[serde(default)]
        writable_below: bool,
    },
    /// A volume, made when it is not there.
    Volume(VolumeMount),
    /// Memory.
    Tmpfs {
        /// `tmpfs-size`.
        size: Option<ByteSize>,
        /// `tmpfs-mode`, 0o1777 when not given.
        mode: Option<u32>,
        /// Further options of `--tmpfs`, as mount(8) spells them.
        options: Vec<String>,
    },
}

/// A volume as an instance mounts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    /// Its name; `None` for an anonymous one, which goes with the instance on `rm -v`.
    pub name: Option<String>,
    /// `volume-nocopy`: do not fill a new volume from the image.
    pub no_copy: bool,
    /// `volume-subpath`: what is in the volume at this place, instead of all of it. Relative; links
    /// are resolved as if the volume were the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
    /// `volume-opt`: how a volume is made that is not there. In an instance that is made: what the
    /// volume was made with, which stays for as long as an instance has it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// `volume-label`, for a volume that is not there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl VolumeMount {
    /// All of a volume, with first-use copy.
    #[must_use]
    pub fn named(name: impl Into<String>) -> VolumeMount {
        VolumeMount {
            name: Some(name.into()),
            ..VolumeMount::default()
        }
    }
}

/// Limits. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `-m`.
    pub memory: Option<ByteSize>,
    /// `--memory-swap`: memory and swap together; `-1` is unlimited.
    pub memory_swap: Option<i64>,
    /// `--memory-reservation`.
    pub memory_reservation: Option<ByteSize>,
    /// `--cpus`, in billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// `--cpu-shares`, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// `--cpuset-cpus`, like `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`.
    pub cpuset_mems: Option<String>,
    /// `--pids-limit`; `-1` is unlimited.
    pub pids_limit: Option<i64>,
    /// `--blkio-weight`, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// `--blkio-weight-device`: the same on one device, 10 to 1000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blkio_weight_device: Vec<DeviceLimit>,
    /// `--device-read-bps`, bytes a second; 0 is no limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_bps: Vec<DeviceLimit>,
    /// `--device-write-bps`, bytes a second; 0 is no limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_bps: Vec<DeviceLimit>,
    /// `--device-read-iops`, operations a second; 0 is no limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_read_iops: Vec<DeviceLimit>,
    /// `--device-write-iops`, operations a second; 0 is no limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_write_iops: Vec<DeviceLimit>,
}

/// A limit that holds for one block device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// Its node, like `/dev/sda`.
    pub path: PathBuf,
    /// The limit.
    pub limit: u64,
}

impl Resources {
    /// The limits that hold for single devices, each kind with its flag.
    #[must_use]
    pub fn of_devices(&self) -> [(&'static str, &[DeviceLimit]); 5] {
        [
            ("--blkio-weight-device", &self.blkio_weight_device),
            ("--device-read-bps", &self.device_read_bps),
            ("--device-write-bps", &self.device_write_bps),
            ("--device-read-iops", &self.device_read_iops),
            ("--device-write-iops", &self.device_write_iops),
        ]
    }

    /// In the order of [`Resources::of_devices`].
    const fn of_devices_mut(&mut self) -> [&mut Vec<DeviceLimit>; 5] {
        [
            &mut self.blkio_weight_device,
            &mut self.device_read_bps,
            &mut self.device_write_bps,
            &mut self.device_read_iops,
            &mut self.device_write_iops,
        ]
    }

    /// Takes over each limit that `changes` gives.
    pub fn merge(&mut self, changes: &Resources) {
        fn take<T: Clone>(field: &mut Option<T>, change: &Option<T>) {
            if change.is_some() {
                field.clone_from(change);
            }
        }
        take(&mut self.memory, &changes.memory);
        take(&mut self.memory_swap, &changes.memory_swap);
        take(&mut self.memory_reservation, &changes.memory_reservation);
        take(&mut self.nano_cpus, &changes.nano_cpus);
        take(&mut self.cpu_shares, &changes.cpu_shares);
        take(&mut self.cpuset_cpus, &changes.cpuset_cpus);
        take(&mut self.cpuset_mems, &changes.cpuset_mems);
        take(&mut self.pids_limit, &changes.pids_limit);
        take(&mut self.blkio_weight, &changes.blkio_weight);
        for (own, changed) in self.of_devices_mut().into_iter().zip(changes.of_devices()) {
            for change in changed.1 {
                // Those of other devices stay.
                own.retain(|limit| limit.path != change.path);
                own.push(change.clone());
            }
        }
    }
}

/// `--ulimit name=soft[:hard]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As setrlimit(2) without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// `-1` is unlimited.
    pub soft: i64,
    /// `-1` is unlimited.
    pub hard: i64,
}

/// `--device host[:inside[:permissions]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host, or a directory of nodes.
    pub host_path: PathBuf,
    /// Where it appears.
    pub path: PathBuf,
    /// Some of `rwm`.
    pub permissions: String,
}

/// Privileges and their opposite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// `--privileged`.
    pub privileged: bool,
    /// `--cap-add`, without `CAP_`, upper case; `ALL` is allowed.
    pub cap_add: Vec<String>,
    /// `--cap-drop`, likewise.
    pub cap_drop: Vec<String>,
    /// `--security-opt no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--security-opt seccomp=`.
    pub seccomp: SeccompChoice,
    /// `--security-opt apparmor=PROFILE`.
    pub apparmor: Option<String>,
    /// `--security-opt label=…`: SELinux; the values in order.
    pub selinux: Vec<String>,
    /// `--security-opt systempaths=unconfined`: nothing masked, nothing read-only below `/proc`.
    pub unmask_system_paths: bool,
}

/// Which seccomp policy is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    /// Docker's default policy; none for a privileged instance.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The text of a profile in Docker's JSON format.
    Profile(String),
}

/// Which namespaces are shared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `--pid`.
    pub pid: NamespaceMode,
    /// `--ipc`.
    pub ipc: NamespaceMode,
    /// `--uts`.
    pub uts: NamespaceMode,
    /// `--cgroupns`.
    pub cgroup: NamespaceMode,
    /// `--userns`.
    pub user: UserNamespace,
}

/// One namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another instance (`container:NAME`), by name or id.
    Instance(String),
}

/// `--userns`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespace {
    /// As the level has it by default: the host's for a container started by root.
    #[default]
    Default,
    /// The host's.
    Host,
    /// A range of its own, which no other instance has: `auto`, or `auto:size=N`.
    Auto {
        /// How many ids; as many as the image's accounts need when not given.
        size: Option<u32>,
    },
}

/// How an instance is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Loopback only.
    #[default]
    None,
    /// The host's network.
    Host,
    /// The network of another instance (`container:NAME`).
    Instance(String),
    /// Networks of the engine, `eth0` on the first one; none is as [`NetworkMode::None`].
    Networks(Vec<NetworkAttachment>),
}

impl NetworkMode {
    /// Whether the instance has a network stack that it shares with nobody.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, NetworkMode::None | NetworkMode::Networks(_))
    }

    /// The networks of the engine that it is on.
    #[must_use]
    pub fn attachments(&self) -> &[NetworkAttachment] {
        match self {
            NetworkMode::Networks(attachments) => attachments,
            NetworkMode::None | NetworkMode::Host | NetworkMode::Instance(_) => &[],
        }
    }
}

/// A network that an instance is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAttachment {
    /// Its name or id as the user gave it; its id once the instance is made.
    pub network: String,
    /// Its name, once the instance is made.
    pub name: String,
    /// `--network-alias`: what others on it can call the instance, beside its name.
    pub aliases: Vec<String>,
    /// `--ip`; chosen when not given.
    pub ipv4: Option<Ipv4Addr>,
    /// `--ip6`; chosen when not given.
    pub ipv6: Option<Ipv6Addr>,
    /// `--mac-address`; derived from the address when not given.
    pub mac: Option<[u8; 6]>,
}

/// Where a name of `--add-host` leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum HostAddress {
    /// There.
    Address(IpAddr),
    /// `host-gateway`: to the host, by the gateway of the instance's first network.
    Gateway,
}

impl HostAddress {
    /// Docker's word for the host as the instance reaches it.
    pub const GATEWAY: &str = "host-gateway";
}

impl From<HostAddress> for String {
    fn from(address: HostAddress) -> String {
        match address {
            HostAddress::Address(address) => address.to_string(),
            HostAddress::Gateway => HostAddress::GATEWAY.to_owned(),
        }
    }
}

impl TryFrom<String> for HostAddress {
    type Error = std::net::AddrParseError;

    fn try_from(text: String) -> Result<HostAddress, std::net::AddrParseError> {
        match text.as_str() {
            HostAddress::GATEWAY => Ok(HostAddress::Gateway),
            address => address.parse().map(HostAddress::Address),
        }
    }
}

/// When the supervisor starts an instance again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Always, also after a reboot.
    Always,
    /// Always, unless the user has stopped it.
    UnlessStopped,
    /// When it exits with another code than 0.
    OnFailure {
        /// At most that often; `None` without end.
        max_retries: Option<u32>,
    },
}

/// How the health of an instance is found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is run inside. Exit code 0 is healthy.
    pub test: HealthTest,
    /// From the end of one check to the start of the next; 30 s.
    pub interval: Duration,
    /// A check that takes longer has failed; 30 s.
    pub timeout: Duration,
    /// Failures in this time after the start do not count; 0.
    pub start_period: Duration,
    /// From check to check during the start period; 5 s.
    pub start_interval: Duration,
    /// So many failures in a row make it unhealthy; 3.
    pub retries: u32,
    /// What happens when it becomes unhealthy.
    pub on_unhealthy: OnUnhealthy,
}

/// The command of a health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// `NONE`, `--no-healthcheck`: not checked, whatever the image says.
    Disabled,
    /// `CMD`: run as it is.
    Command(Vec<String>),
    /// `CMD-SHELL`: run by `/bin/sh -c`.
    Shell(String),
}

/// `--health-on-failure`, as Podman has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnhealthy {
    /// It is only shown.
    #[default]
    None,
    /// It is killed; the restart policy decides what follows.
    Kill,
    /// It is stopped and started again.
    Restart,
    /// It is stopped.
    Stop,
}

/// Where the output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The driver.
    pub driver: LogDriver,
    /// A file that has reached this size is rotated; 10 MiB.
    pub max_size: ByteSize,
    /// How many files are kept, the current one included; 3.
    pub max_files: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            driver: LogDriver::default(),
            max_size: ByteSize(10 << 20),
            max_files: 3,
        }
    }
}

/// What becomes of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's `json-file` format.
    #[default]
    JsonFile,
    /// Thrown away; `logs` says so.
    None,
}

/// A value that cannot be carried out, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field} {value:?}: {reason}")]
pub struct ConfigError {
    /// The flag, like `--memory`.
    pub field: &'static str,
    /// What it was given.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: Option<&'static str>,
}

impl ConfigError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}
