//! A service as the words of `isle create`, a network and a volume as those of their verbs.
//!
//! What a service asks for is what the flags of `isle run` ask for, so it is said in them: checked in one place, printed by
//! `up --dry-run`, and typed by hand by whoever wants one instance without the project. What no flag can say (an entry point of
//! several words, a health check without a shell, files that are not on the host yet) stands beside them.

use std::collections::BTreeMap;

use crate::model::{Content, Grant, Mount, Network, Project, Service, Volume};

/// Keys of labels, as Docker Compose has them.
pub mod label {
    /// The project's name.
    pub const PROJECT: &str = "com.docker.compose.project";
    /// The service's name.
    pub const SERVICE: &str = "com.docker.compose.service";
    /// Which instance of the service, from 1.
    pub const NUMBER: &str = "com.docker.compose.container-number";
    /// `True` for what `compose run` has made.
    pub const ONE_OFF: &str = "com.docker.compose.oneoff";
    /// What it was made from.
    pub const HASH: &str = "com.docker.compose.config-hash";
    /// The id of its image.
    pub const IMAGE: &str = "com.docker.compose.image";
    /// The project's files.
    pub const FILES: &str = "com.docker.compose.project.config_files";
    /// The project's folder.
    pub const FOLDER: &str = "com.docker.compose.project.working_dir";
    /// What it waits for.
    pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
    /// The version of Docker Compose whose rules are followed.
    pub const VERSION: &str = "com.docker.compose.version";
    /// The network's name in the files.
    pub const NETWORK: &str = "com.docker.compose.network";
    /// The volume's name in the files.
    pub const VOLUME: &str = "com.docker.compose.volume";
}

/// The version of Docker Compose whose behaviour is followed.
pub const FOLLOWS: &str = "2.40.0";

/// An instance that is to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Flags of `isle create`.
    pub flags: Vec<String>,
    /// Instead of the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Instead of the image's arguments.
    pub command: Option<Vec<String>>,
    /// The program and arguments of its health check, where no shell runs it.
    pub health: Option<Vec<String>>,
    /// Files that are mounted, read-only.
    pub files: Vec<File>,
}

/// A secret or config as a file.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// What is in it.
    pub source: Source,
    /// Where it is inside.
    pub target: String,
    /// The owner; root's when not given.
    pub uid: Option<String>,
    /// The group.
    pub gid: Option<String>,
    /// The permissions; 0444 when not given.
    pub mode: Option<u32>,
    /// What it is called, for complaints: `secret db_password`.
    pub title: String,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of the host.
    Path(String),
    /// This.
    Text(String),
    /// A variable of this name is to be there, and is not.
    Unset(String),
    /// Something that others keep.
    External(String),
}

impl Wanted {
    /// The words that make it by hand.
    #[must_use]
    pub fn command_line(&self) -> Vec<String> {
        let mut words = vec![
            "isle".into(),
            "create".into(),
            format!("--name={}", self.name),
        ];
        words.extend(self.flags.iter().cloned());
        let mut command = self.command.clone().unwrap_or_default();
        if let Some(entrypoint) = &self.entrypoint {
            let (first, rest) = entrypoint
                .split_first()
                .map_or(("", &[][..]), |(first, rest)| (first, rest));
            words.push(format!("--entrypoint={first}"));
            command.splice(0..0, rest.iter().cloned());
        }
        words.push(self.image.clone());
        words.extend(command);
        words
    }
}

struct Flags(Vec<String>);

impl Flags {
    fn set(&mut self, flag: &str, value: impl std::fmt::Display) {
        self.0.push(format!("--{flag}={value}"));
    }

    fn maybe(&mut self, flag: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.set(flag, value);
        }
    }

    fn all<T: std::fmt::Display>(&mut self, flag: &str, values: impl IntoIterator<Item = T>) {
        for value in values {
            self.set(flag, value);
        }
    }

    fn switch(&mut self, flag: &str, is_on: bool) {
        if is_on {
            self.0.push(format!("--{flag}"));
        }
    }
}

/// A field of a line of comma-separated values.
fn field(key: &str, value: &str) -> String {
    let field = format!("{key}={value}");
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}

/// Instance number `number` of a service. `instances` has the name of an instance of each other service, for shared namespaces.
#[must_use]
pub fn instance(
    project: &Project,
    service: &Service,
    number: u32,
    instances: &BTreeMap<String, String>,
) -> Wanted {
    let mut flags = Flags(Vec::new());
    let isle = service.isle.clone().unwrap_or_default();
    match service.isolation() {
        "container" => {}
        level => flags.set("isolation", level),
    }
    flags.switch("require-kvm", isle.require_kvm);
    flags.maybe("platform", service.platform.as_ref());
    process(&mut flags, service);
    files(&mut flags, project, service, instances);
    limits(&mut flags, service);
    privileges(&mut flags, service, instances);
    network(&mut flags, project, service, number, instances);
    let health = health(&mut flags, service);
    logging(&mut flags, service);
    for (key, value) in labels(project, service, number) {
        flags.set("label", format!("{key}={value}"));
    }
    flags.all(
        "annotation",
        service
            .annotations
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    Wanted {
        name: service.instance_name(&project.name, number),
        image: service.image_name(&project.name),
        flags: flags.0,
        entrypoint: service.entrypoint.clone(),
        command: service.command.clone(),
        health,
        files: grants(project, service),
    }
}

/// The labels of an instance: its own, and those that say what it belongs to.
fn labels(project: &Project, service: &Service, number: u32) -> BTreeMap<String, String> {
    let mut labels = service.labels.clone();
    let files: Vec<String> = project
        .files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let needed = service.depends_on.iter().map(|(name, dependency)| {
        let condition = match dependency.condition {
            crate::Condition::ServiceStarted => "service_started",
            crate::Condition::ServiceHealthy => "service_healthy",
            crate::Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
        };
        format!("{name}:{condition}:{}", dependency.restart)
    });
    let needed: Vec<String> = needed.collect();
    labels.extend(
        [
            (label::PROJECT, project.name.clone()),
            (label::SERVICE, service.name.clone()),
            (label::NUMBER, number.to_string()),
            (label::ONE_OFF, "False".to_owned()),
            (label::HASH, service.hash.clone()),
            (label::FILES, files.join(",")),
            (label::FOLDER, project.folder.display().to_string()),
            (label::DEPENDS_ON, needed.join(",")),
            (label::VERSION, FOLLOWS.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels
}

fn process(flags: &mut Flags, service: &Service) {
    let variables = service
        .environment
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    flags.all("env", variables);
    flags.maybe("workdir", service.working_dir.as_ref());
    flags.maybe("user", service.user.as_ref());
    flags.all("group-add", &service.group_add);
    flags.switch("init", service.init == Some(true));
    flags.switch("tty", service.tty);
    flags.switch("interactive", service.stdin_open);
    flags.maybe("stop-signal", service.stop_signal.as_ref());
    if let Some(period) = &service.stop_grace_period {
        let seconds = isle_types::parse_duration(period).unwrap_or_default();
        flags.set(
            "stop-timeout",
            seconds.as_secs() + u64::from(seconds.subsec_nanos() > 0),
        );
    }
    let of_deploy = service
        .deploy
        .as_ref()
        .and_then(|deploy| deploy.restart_policy.as_ref());
    let restart = match (&service.restart, of_deploy) {
        (Some(restart), _) => Some(restart.clone()),
        (None, Some(policy)) => match (policy.condition.as_deref(), policy.max_attempts) {
            (Some("none"), _) => None,
            (Some("on-failure"), Some(most)) => Some(format!("on-failure:{most}")),
            (Some("on-failure"), None) => Some("on-failure".into()),
            _ => Some("always".into()),
        },
        (None, None) => None,
    };
    flags.maybe("restart", restart.filter(|restart| !restart.is_empty()));
}

fn files(
    flags: &mut Flags,
    project: &Project,
    service: &Service,
    instances: &BTreeMap<String, String>,
) {
    for mount in &service.volumes {
        flags.set("mount", mounted(project, mount));
    }
    for from in &service.volumes_from {
        let from = match from.strip_prefix("container:") {
            Some(name) => name.to_owned(),
            None => {
                let (name, mode) = from.split_once(':').unwrap_or((from, ""));
                let instance = instances.get(name).map_or(name, String::as_str);
                match mode {
                    "" => instance.to_owned(),
                    mode => format!("{instance}:{mode}"),
                }
            }
        };
        flags.set("volumes-from", from);
    }
    flags.all("tmpfs", &service.tmpfs);
    flags.switch("read-only", service.read_only);
    flags.maybe("shm-size", service.shm_size);
    flags.all(
        "storage-opt",
        service
            .storage_opt
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    for device in &service.devices {
        let target = device.target.as_deref().unwrap_or(&device.source);
        let permissions = device.permissions.as_deref().unwrap_or("rwm");
        flags.set(
            "device",
            format!("{}:{target}:{permissions}", device.source),
        );
    }
}

/// A mount as `--mount` takes it.
#[must_use]
pub fn mounted(project: &Project, mount: &Mount) -> String {
    let mut fields = vec![field("type", &mount.kind)];
    match (&mount.source, mount.kind.as_str()) {
        (Some(source), "volume") => {
            let name = project
                .volumes
                .get(source)
                .map_or(source.as_str(), |volume| volume.name.as_str());
            fields.push(field("source", name));
        }
        (Some(source), _) => fields.push(field("source", source)),
        (None, _) => {}
    }
    fields.push(field("target", &mount.target));
    if mount.read_only {
        fields.push("readonly".into());
    }
    if mount.kind == "bind" {
        // As Docker Compose: a folder that is not there is made, unless the long form says otherwise.
        if mount.bind.create_host_path != Some(false) {
            fields.push("bind-create-src=true".into());
        }
        if let Some(propagation) = &mount.bind.propagation {
            fields.push(field("bind-propagation", propagation));
        }
        if let Some(recursive) = &mount.bind.recursive {
            fields.push(field("bind-recursive", recursive));
        }
    }
    if mount.volume.nocopy {
        fields.push("volume-nocopy".into());
    }
    if let Some(subpath) = &mount.volume.subpath {
        fields.push(field("volume-subpath", subpath));
    }
    for (key, value) in &mount.volume.labels {
        fields.push(field("volume-label", &format!("{key}={value}")));
    }
    if let Some(size) = mount.tmpfs.size {
        fields.push(format!("tmpfs-size={size}"));
    }
    if let Some(mode) = mount.tmpfs.mode {
        fields.push(format!("tmpfs-mode={mode:o}"));
    }
    fields.join(",")
}

fn limits(flags: &mut Flags, service: &Service) {
    let deploy = service.deploy.clone().unwrap_or_default().resources;
    flags.maybe(
        "cpus",
        deploy
            .limits
            .cpus
            .or(service.cpus)
            .filter(|cpus| *cpus > 0.0),
    );
    flags.maybe("cpu-shares", service.cpu_shares);
    flags.maybe("cpuset-cpus", service.cpuset.as_ref());
    flags.maybe(
        "memory",
        deploy
            .limits
            .memory
            .or(service.mem_limit)
            .filter(|bytes| *bytes > 0),
    );
    flags.maybe(
        "memory-reservation",
        deploy.reservations.memory.or(service.mem_reservation),
    );
    flags.maybe("memory-swap", service.memswap_limit);
    flags.maybe("pids-limit", deploy.limits.pids.or(service.pids_limit));
    flags.maybe("oom-score-adj", service.oom_score_adj);
    for (name, limit) in &service.ulimits {
        flags.set("ulimit", format!("{name}={}:{}", limit.soft, limit.hard));
    }
    flags.all(
        "sysctl",
        service
            .sysctls
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    if let Some(io) = &service.blkio_config {
        flags.maybe("blkio-weight", io.weight);
        flags.all(
            "blkio-weight-device",
            io.weight_device
                .iter()
                .map(|one| format!("{}:{}", one.path, one.weight)),
        );
        for (flag, limits) in [
            ("device-read-bps", &io.device_read_bps),
            ("device-write-bps", &io.device_write_bps),
            ("device-read-iops", &io.device_read_iops),
            ("device-write-iops", &io.device_write_iops),
        ] {
            flags.all(
                flag,
                limits
                    .iter()
                    .map(|one| format!("{}:{}", one.path, one.rate)),
            );
        }
    }
}

/// `service:NAME` as `container:INSTANCE`.
fn shared(mode: &str, instances: &BTreeMap<String, String>) -> String {
    match mode.strip_prefix("service:") {
        Some(name) => format!(
            "container:{}",
            instances.get(name).map_or(name, String::as_str)
        ),
        None => mode.to_owned(),
    }
}

fn privileges(flags: &mut Flags, service: &Service, instances: &BTreeMap<String, String>) {
    flags.all("cap-add", &service.cap_add);
    flags.all("cap-drop", &service.cap_drop);
    flags.all("security-opt", &service.security_opt);
    flags.switch("privileged", service.privileged);
    flags.maybe(
        "pid",
        service.pid.as_ref().map(|mode| shared(mode, instances)),
    );
    flags.maybe(
        "ipc",
        service.ipc.as_ref().map(|mode| shared(mode, instances)),
    );
    flags.maybe("uts", service.uts.as_ref());
    flags.maybe("userns", service.userns_mode.as_ref());
    flags.maybe("cgroupns", service.cgroup.as_ref());
}

fn network(
    flags: &mut Flags,
    project: &Project,
    service: &Service,
    number: u32,
    instances: &BTreeMap<String, String>,
) {
    if let Some(mode) = &service.network_mode {
        flags.set("network", shared(mode, instances));
    }
    let mut networks: Vec<_> = service.networks.iter().collect();
    networks.sort_by_key(|(key, attachment)| {
        (
            std::cmp::Reverse(
                attachment
                    .as_ref()
                    .map_or(0, |attachment| attachment.priority),
            ),
            (*key).clone(),
        )
    });
    for (index, (key, attachment)) in networks.into_iter().enumerate() {
        let attachment = attachment.clone().unwrap_or_default();
        let name = project
            .networks
            .get(key)
            .map_or(key.as_str(), |network| network.name.as_str());
        let mut fields = vec![field("name", name)];
        // Found by the service's name, and by the name of the instance, which needs no alias.
        fields.push(field("alias", &service.name));
        let own = service.instance_name(&project.name, number);
        for alias in attachment
            .aliases
            .iter()
            .filter(|alias| **alias != service.name && **alias != own)
        {
            fields.push(field("alias", alias));
        }
        fields.extend(
            attachment
                .ipv4_address
                .iter()
                .map(|address| field("ip", address)),
        );
        fields.extend(
            attachment
                .ipv6_address
                .iter()
                .map(|address| field("ip6", address)),
        );
        let mac = attachment
            .mac_address
            .as_ref()
            .or(service.mac_address.as_ref().filter(|_| index == 0));
        fields.extend(mac.map(|address| field("mac-address", address)));
        flags.set("network", fields.join(","));
    }
    for port in &service.ports {
        let host = match &port.host_ip {
            Some(host) if host.contains(':') => format!("[{host}]:"),
            Some(host) => format!("{host}:"),
            None => String::new(),
        };
        let published = match &port.published {
            Some(published) => format!("{published}:"),
            None if host.is_empty() => String::new(),
            None => ":".to_owned(),
        };
        flags.set(
            "publish",
            format!("{host}{published}{}/{}", port.target, port.protocol),
        );
    }
    flags.all("expose", &service.expose);
    flags.maybe("hostname", service.hostname.as_ref());
    flags.maybe("domainname", service.domainname.as_ref());
    flags.all("dns", &service.dns);
    flags.all("dns-search", &service.dns_search);
    flags.all("dns-option", &service.dns_opt);
    flags.all("add-host", &service.extra_hosts);
    let isle = service.isle.clone().unwrap_or_default();
    if !isle.egress.is_empty() {
        flags.set("egress", isle.egress.join(","));
    }
    flags.maybe("net-rate", isle.net_rate);
}

fn health(flags: &mut Flags, service: &Service) -> Option<Vec<String>> {
    let health = service.healthcheck.as_ref()?;
    let (kind, words) = health
        .test
        .split_first()
        .map_or(("", &[][..]), |(kind, words)| (kind, words));
    if health.disable || kind == "NONE" {
        flags.switch("no-healthcheck", true);
        return None;
    }
    let test = match kind {
        "" => None,
        "CMD-SHELL" => {
            flags.set("health-cmd", words.join(" "));
            None
        }
        _ => {
            // Said in a shell's words for whoever reads them; run without one.
            flags.set("health-cmd", shell_line(words));
            Some(words.to_vec())
        }
    };
    flags.maybe("health-interval", health.interval.as_ref());
    flags.maybe("health-timeout", health.timeout.as_ref());
    flags.maybe("health-start-period", health.start_period.as_ref());
    flags.maybe("health-start-interval", health.start_interval.as_ref());
    flags.maybe("health-retries", health.retries);
    test
}

/// Words as a shell reads them back.
#[must_use]
pub fn shell_line(words: &[String]) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    let quoted = words
        .iter()
        .map(|word| match !word.is_empty() && word.chars().all(is_safe) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        });
    quoted.collect::<Vec<_>>().join(" ")
}

fn logging(flags: &mut Flags, service: &Service) {
    if let Some(logging) = &service.logging {
        flags.maybe("log-driver", logging.driver.as_ref());
        flags.all(
            "log-opt",
            logging
                .options
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
    }
}

fn grants(project: &Project, service: &Service) -> Vec<File> {
    let secrets = service
        .secrets
        .iter()
        .map(|grant| (grant, &project.secrets, "secret"));
    let configs = service
        .configs
        .iter()
        .map(|grant| (grant, &project.configs, "config"));
    let files = secrets.chain(configs).filter_map(|(grant, all, kind)| {
        let content = all.get(&grant.source)?;
        Some(granted(project, grant, content, kind))
    });
    files.collect()
}

fn granted(project: &Project, grant: &Grant, content: &Content, kind: &str) -> File {
    let folder = if kind == "secret" {
        "/run/secrets/"
    } else {
        "/"
    };
    let target = match grant.target.as_deref() {
        Some(target) if target.starts_with('/') => target.to_owned(),
        Some(target) => format!("{folder}{target}"),
        None => format!("{folder}{}", grant.source),
    };
    let source = match (&content.file, &content.environment, &content.content) {
        _ if content.external => Source::External(content.name.clone()),
        (Some(path), ..) => Source::Path(path.clone()),
        (None, Some(name), _) => match project.environment.get(name) {
            Some(text) => Source::Text(text.clone()),
            None => Source::Unset(name.clone()),
        },
        (None, None, Some(text)) => Source::Text(text.clone()),
        (None, None, None) => Source::External(content.name.clone()),
    };
    File {
        source,
        target,
        uid: grant.uid.clone(),
        gid: grant.gid.clone(),
        mode: grant.mode,
        title: format!("{kind} {}", grant.source),
    }
}

/// The words of `isle network create` that make a network.
#[must_use]
pub fn new_network(project: &Project, key: &str, network: &Network) -> Vec<String> {
    let mut flags = Flags(Vec::new());
    flags.maybe(
        "driver",
        network
            .driver
            .as_ref()
            .filter(|driver| *driver != "default"),
    );
    flags.all(
        "opt",
        network
            .driver_opts
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    flags.switch("internal", network.internal);
    flags.switch("ipv6", network.enable_ipv6 == Some(true));
    for pool in &network.ipam.config {
        flags.maybe("subnet", pool.subnet.as_ref());
        flags.maybe("ip-range", pool.ip_range.as_ref());
        flags.maybe("gateway", pool.gateway.as_ref());
        flags.all(
            "aux-address",
            pool.aux_addresses
                .iter()
                .map(|(name, address)| format!("{name}={address}")),
        );
    }
    for (label, value) in &network.labels {
        flags.set("label", format!("{label}={value}"));
    }
    flags.set("label", format!("{}={}", label::PROJECT, project.name));
    flags.set("label", format!("{}={key}", label::NETWORK));
    flags.set("label", format!("{}={}", label::HASH, network.hash));
    flags.set("label", format!("{}={FOLLOWS}", label::VERSION));
    flags.0.push(network.name.clone());
    flags.0
}

/// The words of `isle volume create` that make a volume.
#[must_use]
pub fn new_volume(project: &Project, key: &str, volume: &Volume) -> Vec<String> {
    let mut flags = Flags(Vec::new());
    flags.maybe(
        "driver",
        volume.driver.as_ref().filter(|driver| *driver != "default"),
    );
    flags.all(
        "opt",
        volume
            .driver_opts
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    for (label, value) in &volume.labels {
        flags.set("label", format!("{label}={value}"));
    }
    flags.set("label", format!("{}={}", label::PROJECT, project.name));
    flags.set("label", format!("{}={key}", label::VOLUME));
    flags.set("label", format!("{}={}", label::HASH, volume.hash));
    flags.set("label", format!("{}={FOLLOWS}", label::VERSION));
    flags.0.push(volume.name.clone());
    flags.0
}

/// The words of `isle build` that build the image of a service, its context last.
#[must_use]
pub fn build(project: &Project, service: &Service, build: &crate::Build) -> Vec<String> {
    let mut flags = Flags(Vec::new());
    flags.set("tag", service.image_name(&project.name));
    flags.all("tag", &build.tags);
    if build.dockerfile_inline.is_none() {
        flags.maybe("file", build.dockerfile.as_ref());
    }
    flags.maybe("target", build.target.as_ref());
    let arguments = build.args.iter().filter_map(|(key, value)| match value {
        Some(value) => Some(format!("{key}={value}")),
        None => Some(format!("{key}={}", project.environment.get(key)?)),
    });
    flags.all("build-arg", arguments);
    for grant in &build.secrets {
        let id = grant.target.as_deref().unwrap_or(&grant.source);
        let content = project.secrets.get(&grant.source);
        let from = content.and_then(|content| match (&content.file, &content.environment) {
            (Some(path), _) => Some(field("src", path)),
            (None, Some(name)) => Some(field("env", name)),
            (None, None) => None,
        });
        if let Some(from) = from {
            flags.set("secret", format!("{},{from}", field("id", id)));
        }
    }
    flags.all(
        "ssh",
        build.ssh.iter().map(|(id, path)| match path.is_empty() {
            true => id.clone(),
            false => format!("{id}={path}"),
        }),
    );
    flags.switch("no-cache", build.no_cache);
    flags.switch("pull", build.pull);
    flags.maybe(
        "platform",
        build.platforms.first().or(service.platform.as_ref()),
    );
    flags.all(
        "label",
        build
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    flags.maybe("network", build.network.as_ref());
    flags.all("add-host", &build.extra_hosts);
    flags.maybe("shm-size", build.shm_size);
    for (name, limit) in &build.ulimits {
        flags.set("ulimit", format!("{name}={}:{}", limit.soft, limit.hard));
    }
    flags.all(
        "build-context",
        build.additional_contexts.iter().map(|(name, source)| {
            match source.strip_prefix("service:") {
                Some(other) => {
                    let image = project
                        .services
                        .get(other)
                        .map_or_else(|| other.to_owned(), |other| other.image_name(&project.name));
                    format!("{name}=docker-image://{image}")
                }
                None => format!("{name}={source}"),
            }
        }),
    );
    flags.all("allow", &build.entitlements);
    flags.switch("allow=security.insecure", build.privileged);
    flags.maybe(
        "isolation",
        build.isolation.as_ref().filter(|level| *level != "default"),
    );
    flags.0.push(
        build
            .context
            .clone()
            .unwrap_or_else(|| project.folder.display().to_string()),
    );
    flags.0
}
