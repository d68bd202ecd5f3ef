//! What a project is, once everything is read: every short form written out, every reference found.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::schema::Warning;

/// A value that a text of bytes stands for.
fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// A project.
#[derive(Clone, Debug, Default)]
pub struct Project {
    /// Its name: what all its things have in front of theirs.
    pub name: String,
    /// Where relative paths start.
    pub folder: PathBuf,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// The environment that variables were filled in from.
    pub environment: BTreeMap<String, String>,
    /// Services that are wanted.
    pub services: BTreeMap<String, Service>,
    /// Services whose profiles are not.
    pub disabled: BTreeMap<String, Service>,
    /// Networks that a wanted service is on, and those declared.
    pub networks: BTreeMap<String, Network>,
    /// Volumes.
    pub volumes: BTreeMap<String, Volume>,
    /// Secrets.
    pub secrets: BTreeMap<String, Content>,
    /// Configs.
    pub configs: BTreeMap<String, Content>,
    /// All of it as one document, in the form that `config` prints.
    pub document: serde_json::Value,
    /// What was said while it was read.
    pub warnings: Vec<Warning>,
}

/// A service. The keys are those of the specification.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // each is a key of the specification, by its name
pub struct Service {
    #[serde(skip)]
    pub name: String,
    /// SHA-256 of what an instance of it is made from, in hexadecimal digits: another one, and instances are made again.
    #[serde(skip)]
    pub hash: String,
    pub image: Option<String>,
    pub build: Option<Build>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub container_name: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub environment: BTreeMap<String, Option<String>>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub init: Option<bool>,
    pub tty: bool,
    pub stdin_open: bool,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<String>,
    pub restart: Option<String>,
    pub scale: Option<u32>,
    pub profiles: Vec<String>,
    pub depends_on: BTreeMap<String, Dependency>,
    pub links: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub isolation: Option<String>,
    pub platform: Option<String>,
    pub pull_policy: Option<String>,
    pub networks: BTreeMap<String, Option<Attachment>>,
    pub network_mode: Option<String>,
    pub mac_address: Option<String>,
    pub ports: Vec<Port>,
    pub expose: Vec<String>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub volumes: Vec<Mount>,
    pub volumes_from: Vec<String>,
    pub tmpfs: Vec<String>,
    pub secrets: Vec<Grant>,
    pub configs: Vec<Grant>,
    pub read_only: bool,
    #[serde(deserialize_with = "bytes")]
    pub shm_size: Option<i64>,
    pub storage_opt: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    pub cpus: Option<f64>,
    pub cpu_shares: Option<i64>,
    pub cpuset: Option<String>,
    #[serde(deserialize_with = "bytes")]
    pub mem_limit: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    pub mem_reservation: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    pub memswap_limit: Option<i64>,
    pub oom_score_adj: Option<i64>,
    pub pids_limit: Option<i64>,
    pub blkio_config: Option<BlockIo>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    pub deploy: Option<Deploy>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub privileged: bool,
    pub pid: Option<String>,
    pub ipc: Option<String>,
    pub uts: Option<String>,
    pub userns_mode: Option<String>,
    pub cgroup: Option<String>,
    pub healthcheck: Option<Health>,
    pub logging: Option<Logging>,
    pub attach: Option<bool>,
    pub develop: Option<Develop>,
    #[serde(rename = "x-isle")]
    pub isle: Option<Isle>,
}

/// `x-isle`: what the specification lacks.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Isle {
    /// As the key of the service, and over it: for files that other programs read too.
    pub isolation: Option<String>,
    /// As `--egress`.
    pub egress: Vec<String>,
    /// As `--net-rate`.
    pub net_rate: Option<String>,
    /// As `--require-kvm`.
    pub require_kvm: bool,
}

/// `build`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Build {
    pub context: Option<String>,
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    pub args: BTreeMap<String, Option<String>>,
    pub target: Option<String>,
    pub ssh: BTreeMap<String, String>,
    pub secrets: Vec<Grant>,
    pub additional_contexts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub network: Option<String>,
    pub no_cache: bool,
    pub pull: bool,
    pub platforms: Vec<String>,
    pub privileged: bool,
    pub tags: Vec<String>,
    pub extra_hosts: Vec<String>,
    #[serde(deserialize_with = "bytes")]
    pub shm_size: Option<i64>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub entitlements: Vec<String>,
    pub isolation: Option<String>,
}

/// When a service that another one needs is far enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs.
    #[default]
    ServiceStarted,
    /// Its health check says so.
    ServiceHealthy,
    /// It has ended with code 0.
    ServiceCompletedSuccessfully,
}

/// A service that another one needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dependency {
    /// How far it has to be.
    pub condition: Condition,
    /// Whether the other is restarted with it.
    pub restart: bool,
    /// Whether the other goes without it.
    pub required: bool,
}

impl Default for Dependency {
    fn default() -> Dependency {
        Dependency {
            condition: Condition::default(),
            restart: false,
            required: true,
        }
    }
}

/// A network as a service is on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Attachment {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub mac_address: Option<String>,
    pub priority: i64,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Port {
    pub target: u16,
    pub published: Option<String>,
    pub host_ip: Option<String>,
    pub protocol: String,
}

/// Something mounted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Mount {
    #[serde(rename = "type")]
    pub kind: String,
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
    pub bind: BindOptions,
    pub volume: VolumeOptions,
    pub tmpfs: MemoryOptions,
}

/// `bind` of a mount.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BindOptions {
    pub propagation: Option<String>,
    pub create_host_path: Option<bool>,
    pub recursive: Option<String>,
}

/// `volume` of a mount.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VolumeOptions {
    pub nocopy: bool,
    pub subpath: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// `tmpfs` of a mount.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct MemoryOptions {
    #[serde(deserialize_with = "bytes")]
    pub size: Option<i64>,
    pub mode: Option<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Device {
    pub source: String,
    pub target: Option<String>,
    pub permissions: Option<String>,
}

/// A secret or config as a service gets it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Grant {
    pub source: String,
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub mode: Option<u32>,
}

/// A soft and a hard limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// Limits of block devices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct BlockIo {
    pub weight: Option<u16>,
    pub weight_device: Vec<Weight>,
    pub device_read_bps: Vec<Throttle>,
    pub device_write_bps: Vec<Throttle>,
    pub device_read_iops: Vec<Throttle>,
    pub device_write_iops: Vec<Throttle>,
}

/// A weight of one device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct Weight {
    pub path: String,
    pub weight: u16,
}

/// A limit of one device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct Throttle {
    pub path: String,
    pub rate: String,
}

/// `healthcheck`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Health {
    pub test: Vec<String>,
    pub interval: Option<String>,
    pub timeout: Option<String>,
    pub start_period: Option<String>,
    pub start_interval: Option<String>,
    pub retries: Option<u32>,
    pub disable: bool,
}

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: BTreeMap<String, String>,
}

/// `deploy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Deploy {
    pub mode: Option<String>,
    pub replicas: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub resources: DeployResources,
    pub restart_policy: Option<DeployRestart>,
}

/// `deploy.resources`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DeployResources {
    pub limits: DeployLimits,
    pub reservations: DeployLimits,
}

/// Either of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DeployLimits {
    pub cpus: Option<f64>,
    #[serde(deserialize_with = "bytes")]
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

/// `deploy.restart_policy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DeployRestart {
    pub condition: Option<String>,
    pub max_attempts: Option<u32>,
}

/// `develop`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Develop {
    /// What is done when files change.
    pub watch: Vec<Trigger>,
}

/// `develop.watch`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Trigger {
    pub path: String,
    pub action: String,
    pub target: Option<String>,
    pub ignore: Vec<String>,
    pub include: Vec<String>,
    pub initial_sync: bool,
    pub exec: Option<TriggerExec>,
}

/// `develop.watch.exec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct TriggerExec {
    pub command: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub privileged: bool,
    pub environment: BTreeMap<String, Option<String>>,
}

/// A network of the project.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Network {
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub ipam: AddressManagement,
    pub external: bool,
    pub internal: bool,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub labels: BTreeMap<String, String>,
    /// As [`Service::hash`].
    #[serde(skip)]
    pub hash: String,
}

/// `ipam`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AddressManagement {
    pub driver: Option<String>,
    pub config: Vec<AddressPool>,
}

/// `ipam.config`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AddressPool {
    pub subnet: Option<String>,
    pub ip_range: Option<String>,
    pub gateway: Option<String>,
    pub aux_addresses: BTreeMap<String, String>,
}

/// A volume of the project.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Volume {
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub external: bool,
    pub labels: BTreeMap<String, String>,
    /// As [`Service::hash`].
    #[serde(skip)]
    pub hash: String,
}

/// A secret or a config.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Content {
    pub name: String,
    pub file: Option<String>,
    pub environment: Option<String>,
    pub content: Option<String>,
    pub external: bool,
    pub labels: BTreeMap<String, String>,
}

impl Service {
    /// How many instances of it are wanted.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        let of_deploy = self.deploy.as_ref().and_then(|deploy| deploy.replicas);
        self.scale.or(of_deploy).unwrap_or(1)
    }

    /// Its image; what a build is called when it has no name.
    #[must_use]
    pub fn image_name(&self, project: &str) -> String {
        match &self.image {
            Some(image) => image.clone(),
            None => format!("{project}-{}", self.name),
        }
    }

    /// The level of isolation in force.
    #[must_use]
    pub fn isolation(&self) -> &str {
        let of_isle = self
            .isle
            .as_ref()
            .and_then(|isle| isle.isolation.as_deref());
        match of_isle.or(self.isolation.as_deref()) {
            None | Some("" | "default") => "container",
            Some(level) => level,
        }
    }

    /// Name of its instance of that number.
    #[must_use]
    pub fn instance_name(&self, project: &str, number: u32) -> String {
        match &self.container_name {
            Some(name) => name.clone(),
            None => format!("{project}-{}-{number}", self.name),
        }
    }
}
