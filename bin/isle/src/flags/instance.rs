//! The flags that `run` and `create` share, and the instance that they describe.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use isle_engine::config::{
    AttachedStreams, Device, HealthCheck, HostAddress, InstanceConfig, Mount, NamespaceMode,
    Namespaces, NetworkMode, ProcessConfig, RestartPolicy, Security, Ulimit, UserNamespace,
};
use isle_network::{Egress, Rate};
use isle_types::{ByteSize, InstanceName, Isolation, Signal};

use super::health::HealthFlags;
use super::network::NetworkFlag;
use super::publish::Published;
use super::resources::ResourceFlags;
use super::{
    FlagError, capability, device, environment, key_value, labels, log, mount, namespace, network,
    publish, restart, security, sysctl, time, ulimit,
};

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Even when it is there.
    Always,
    /// When it is not there.
    #[default]
    Missing,
    /// Not even then.
    Never,
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The flags.
#[derive(Args, Clone, Debug)]
pub struct InstanceFlags {
    /// Name of the instance; a random one when not given
    #[arg(long, value_name = "NAME")]
    pub name: Option<InstanceName>,
    /// Attach to these streams only: stdin, stdout, stderr
    #[arg(
        short,
        long,
        value_name = "STREAM",
        hide_possible_values = true,
        ignore_case = true
    )]
    pub attach: Vec<Stream>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Level of isolation
    #[arg(long, value_name = "LEVEL", default_value = "container")]
    isolation: Isolation,
    /// Refuse to emulate a virtual machine where the host has no usable KVM
    #[arg(long)]
    require_kvm: bool,
    /// Write the id to a file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Pull the image first: always, missing or never
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "missing",
        hide_possible_values = true
    )]
    pub pull: Pull,
    /// Platform of the image, like linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// No progress of a pull
    #[arg(short, long)]
    pub quiet: bool,

    /// Set an environment variable; KEY alone passes on your own
    #[arg(short, long, value_name = "KEY=VALUE", help_heading = "Process")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    env_file: Vec<PathBuf>,
    /// Program to run instead of the image's; "" for none
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    entrypoint: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = working_dir, help_heading = "Process")]
    workdir: Option<String>,
    /// User, and perhaps group: names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    user: Option<String>,
    /// Further group: name or number
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    group_add: Vec<String>,
    /// Run a small init process that reaps zombies and forwards signals
    #[arg(long, help_heading = "Process")]
    init: bool,
    /// What stop sends first (default SIGTERM)
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    stop_signal: Option<Signal>,
    /// Seconds that stop waits before it kills (default 10)
    #[arg(long, value_name = "SECONDS", value_parser = time::seconds, allow_hyphen_values = true, help_heading = "Process")]
    stop_timeout: Option<Duration>,
    /// When it is started again: no, always, unless-stopped or on-failure[:N]
    #[arg(long, value_name = "POLICY", value_parser = restart::policy, default_value = "no", help_heading = "Process")]
    restart: RestartPolicy,
    /// Remove it once it has exited
    #[arg(long, help_heading = "Process")]
    pub rm: bool,

    /// Mount a directory of the host, or a volume
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]", value_parser = mount::volume, help_heading = "Files")]
    volume: Vec<Mount>,
    /// Driver of the volumes that are made: local
    #[arg(long, value_name = "DRIVER", value_parser = mount::driver, help_heading = "Files")]
    volume_driver: Option<String>,
    /// Mount what another instance mounts
    #[arg(long, value_name = "NAME[:ro]", help_heading = "Files")]
    volumes_from: Vec<String>,
    /// Mount, with all options by name
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = mount::mount, help_heading = "Files")]
    mount: Vec<Mount>,
    /// Mount memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = mount::tmpfs, help_heading = "Files")]
    tmpfs: Vec<Mount>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Files")]
    read_only: bool,
    /// Size of /dev/shm (default 64m)
    #[arg(long, value_name = "BYTES", help_heading = "Files")]
    shm_size: Option<ByteSize>,
    /// size=10g: limit of what it may write
    #[arg(long, value_name = "KEY=VALUE", value_parser = storage_opt, help_heading = "Files")]
    storage_opt: Option<ByteSize>,
    /// Make a device of the host available
    #[arg(long, value_name = "HOST[:INSIDE[:rwm]]", value_parser = device::device, help_heading = "Files")]
    device: Vec<Device>,

    #[command(flatten)]
    resources: ResourceFlags,
    /// Limit of setrlimit(2), like nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::ulimit, help_heading = "Limits")]
    ulimit: Vec<Ulimit>,
    /// Kernel parameter of its namespaces
    #[arg(long, value_name = "KEY=VALUE", value_parser = sysctl, help_heading = "Limits")]
    sysctl: Vec<(String, String)>,
    /// Who goes first when memory is out, -1000 to 1000
    #[arg(long, value_name = "SCORE", value_parser = oom_score_adj, allow_hyphen_values = true, help_heading = "Limits")]
    oom_score_adj: Option<i32>,

    /// Add a capability
    #[arg(long, value_name = "CAP", value_parser = capability::capability, help_heading = "Security")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP", value_parser = capability::capability, help_heading = "Security")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=…, apparmor=…, label=…, systempaths=unconfined
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    security_opt: Vec<String>,
    /// All capabilities, all devices, no seccomp: nothing is kept from it
    #[arg(long, help_heading = "Security")]
    privileged: bool,
    /// PID namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE", value_parser = namespace::namespace, help_heading = "Security")]
    pid: Option<NamespaceMode>,
    /// IPC namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE", value_parser = namespace::ipc, help_heading = "Security")]
    ipc: Option<NamespaceMode>,
    /// UTS namespace: private or host
    #[arg(long, value_name = "MODE", value_parser = namespace::host_or_private, help_heading = "Security")]
    uts: Option<NamespaceMode>,
    /// User namespace: host, auto or auto:size=N
    #[arg(long, value_name = "MODE", value_parser = namespace::user, help_heading = "Security")]
    userns: Option<UserNamespace>,
    /// Cgroup namespace: private or host
    #[arg(long, value_name = "MODE", value_parser = namespace::host_or_private, help_heading = "Security")]
    cgroupns: Option<NamespaceMode>,

    /// Network: a name, none, host or container:NAME; several times for several networks
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = network::network, env = "ISLE_NETWORK", help_heading = "Network")]
    network: Vec<NetworkFlag>,
    /// A name that others on its networks can call it by
    #[arg(long, alias = "net-alias", value_name = "NAME", value_parser = network::alias, help_heading = "Network")]
    network_alias: Vec<String>,
    /// Its IPv4 address on its first network
    #[arg(long, value_name = "ADDRESS", value_parser = network::ipv4, help_heading = "Network")]
    ip: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address on its first network
    #[arg(long, value_name = "ADDRESS", value_parser = network::ipv6, help_heading = "Network")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Its hardware address on its first network
    #[arg(long, value_name = "ADDRESS", value_parser = network::mac_address, help_heading = "Network")]
    mac_address: Option<[u8; 6]>,
    /// What it may reach beyond its networks: allow, deny, or addresses, subnets and names with commas between
    #[arg(long, value_name = "allow|deny|LIST", value_parser = network::egress, help_heading = "Network")]
    egress: Option<Egress>,
    /// The most that it receives and sends on each network, in bytes a second: 10mb, or in=10mb,out=1mb
    #[arg(long, value_name = "RATE", value_parser = network::rate, help_heading = "Network")]
    net_rate: Option<Rate>,
    /// Lead a port of the host to it: 8080:80, 127.0.0.1:8080:80/udp, 80
    #[arg(short, long, value_name = "[ADDRESS:][HOST-PORT:]PORT[/PROTOCOL]", value_parser = publish::publish, help_heading = "Network")]
    publish: Vec<Published>,
    /// Lead free ports of the host to all that it exposes
    #[arg(short = 'P', long, help_heading = "Network")]
    publish_all: bool,
    /// Say that it listens on a port
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]", value_parser = network::expose, help_heading = "Network")]
    expose: Vec<network::Exposed>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME", value_parser = network::host_name, help_heading = "Network")]
    hostname: Option<String>,
    /// NIS domain name inside
    #[arg(long, value_name = "NAME", value_parser = network::host_name, help_heading = "Network")]
    domainname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = network::host, help_heading = "Network")]
    add_host: Vec<(String, HostAddress)>,
    /// Name server
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    dns: Vec<std::net::IpAddr>,
    /// Search domain
    #[arg(long, value_name = "DOMAIN", value_parser = network::dns_search, help_heading = "Network")]
    dns_search: Vec<String>,
    /// Option of resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION", value_parser = network::dns_option, help_heading = "Network")]
    dns_option: Vec<String>,

    #[command(flatten)]
    pub health: HealthFlags,

    /// Label
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = labels::label, help_heading = "Labels and logs")]
    label: Vec<(String, String)>,
    /// Read labels from a file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Labels and logs")]
    label_file: Vec<PathBuf>,
    /// Annotation for the OCI runtime
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Labels and logs")]
    annotation: Vec<(String, String)>,
    /// Where output is kept: json-file, local or none
    #[arg(long, value_name = "DRIVER", help_heading = "Labels and logs")]
    log_driver: Option<String>,
    /// max-size=10m, max-file=3
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Labels and logs")]
    log_opt: Vec<String>,
}

impl InstanceFlags {
    /// What the engine is asked for. `image` and `command` are the words behind the flags,
    /// `image_check` the image's health check where the flags need it.
    pub fn config(
        &self,
        image: &str,
        command: &[String],
        image_check: Option<&HealthCheck>,
    ) -> Result<InstanceConfig, FlagError> {
        if self.rm && self.restart != RestartPolicy::No {
            return Err(FlagError::new(
                "--rm and --restart do not go together",
                "leave one of them out: what is removed cannot be started again",
            ));
        }
        let mut security = Security {
            privileged: self.privileged,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            ..Security::default()
        };
        for option in &self.security_opt {
            security::apply(&mut security, option, environment::read)?;
        }
        let mut config = InstanceConfig {
            isolation: self.isolation,
            require_kvm: self.require_kvm,
            image: image.to_owned(),
            process: self.process(command)?,
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            annotations: self.annotation.iter().cloned().collect(),
            exposed_ports: self.expose.iter().flat_map(|e| e.0.clone()).collect(),
            volumes_from: self.volumes_from.clone(),
            mounts: self.mounts()?,
            read_only_root: self.read_only,
            storage_size: self.storage_opt,
            shm_size: self.shm_size,
            resources: self.resources.resources()?,
            ulimits: self.ulimit.clone(),
            sysctls: self.sysctl.iter().cloned().collect(),
            oom_score_adj: self.oom_score_adj,
            devices: self.device.clone(),
            security,
            namespaces: Namespaces {
                pid: self.pid.clone().unwrap_or_default(),
                ipc: self.ipc.clone().unwrap_or_default(),
                uts: self.uts.clone().unwrap_or_default(),
                cgroup: self.cgroupns.clone().unwrap_or_default(),
                user: self.userns.clone().unwrap_or_default(),
            },
            network: self.networks()?,
            publish: self.publish.iter().flat_map(|p| p.0.clone()).collect(),
            publish_all: self.publish_all,
            egress: self.egress.clone().unwrap_or_default(),
            net_rate: self.net_rate.unwrap_or_default(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            extra_hosts: self.add_host.clone(),
            restart: self.restart,
            health_check: self.health.check(image_check)?,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            log: log::config(self.log_driver.as_deref(), &self.log_opt)?,
            auto_remove: self.rm,
            ..InstanceConfig::default()
        };
        for path in &self.label_file {
            let text = environment::read(path)?;
            config.labels.extend(labels::file(&text, path)?);
        }
        config.labels.extend(self.label.iter().cloned());
        if config.namespaces.uts == NamespaceMode::Host && config.hostname.is_some() {
            return Err(FlagError::new(
                "--hostname does not go with --uts host",
                "leave one of them out: the host's name is not changed",
            ));
        }
        Ok(config)
    }

    fn process(&self, command: &[String]) -> Result<ProcessConfig, FlagError> {
        let own = |name: &str| std::env::var(name).ok();
        let mut env = Vec::new();
        for path in &self.env_file {
            let text = environment::read(path)?;
            env.extend(environment::file(&text, path, own)?);
        }
        for text in &self.env {
            env.extend(environment::variable(text, own)?);
        }
        let entrypoint = self
            .entrypoint
            .as_ref()
            .map(|program| match program.as_str() {
                "" => Vec::new(),
                program => vec![program.to_owned()],
            });
        Ok(ProcessConfig {
            entrypoint,
            command: (!command.is_empty()).then(|| command.to_vec()),
            env: last_of_each(env),
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            additional_groups: self.group_add.clone(),
            tty: self.tty,
            open_stdin: self.interactive,
            attach: (!self.attach.is_empty()).then(|| AttachedStreams {
                stdin: self.attach.contains(&Stream::Stdin),
                stdout: self.attach.contains(&Stream::Stdout),
                stderr: self.attach.contains(&Stream::Stderr),
            }),
            init: self.init,
        })
    }

    fn networks(&self) -> Result<NetworkMode, FlagError> {
        let mut mode = match self.network.is_empty() {
            true => network::mode(&[network::network("bridge")?])?,
            false => network::mode(&self.network)?,
        };
        let is_addressed = self.ip.is_some() || self.ip6.is_some() || self.mac_address.is_some();
        let is_published = self.publish_all || !self.publish.is_empty();
        let is_limited = self.net_rate.is_some() || self.egress.is_some();
        let NetworkMode::Networks(attachments) = &mut mode else {
            let given = [
                (is_addressed, "an address (--ip, --ip6, --mac-address)"),
                (!self.network_alias.is_empty(), "--network-alias"),
                (is_published, "--publish"),
                (is_limited, "a limit (--egress, --net-rate)"),
            ];
            let Some((_, needless)) = given.iter().find(|(is_given, _)| *is_given) else {
                return Ok(mode);
            };
            return Err(FlagError::new(
                format!("{needless} needs a network of its own"),
                "leave it out, or choose a network that `isle network ls` shows",
            ));
        };
        for attachment in attachments.iter_mut() {
            attachment
                .aliases
                .extend(self.network_alias.iter().cloned());
        }
        if let Some(first) = attachments.first_mut() {
            first.ipv4 = self.ip.or(first.ipv4);
            first.ipv6 = self.ip6.or(first.ipv6);
            first.mac = self.mac_address.or(first.mac);
        }
        Ok(mode)
    }

    fn mounts(&self) -> Result<Vec<Mount>, FlagError> {
        let given = [&self.volume, &self.mount, &self.tmpfs];
        let mounts: Vec<Mount> = given.into_iter().flatten().cloned().collect();
        for (index, mount) in mounts.iter().enumerate() {
            if mounts[..index]
                .iter()
                .any(|other| other.target == mount.target)
            {
                return Err(FlagError::new(
                    format!("two mounts have the same place inside, {}", mount.target),
                    "leave one of them out",
                ));
            }
        }
        Ok(mounts)
    }
}

/// Of variables set twice the last one counts, at the place of the first.
fn last_of_each(env: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(env.len());
    for variable in env {
        let name = |text: &str| text.split('=').next().map(str::to_owned);
        match kept.iter().position(|other| name(other) == name(&variable)) {
            Some(index) => kept[index] = variable,
            None => kept.push(variable),
        }
    }
    kept
}

fn working_dir(text: &str) -> Result<String, FlagError> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("the working directory {text:?} is not absolute"),
            "write a path that starts with /",
        )),
    }
}

fn oom_score_adj(text: &str) -> Result<i32, FlagError> {
    match text.parse() {
        Ok(score @ -1000..=1000) => Ok(score),
        _ => Err(FlagError::new(
            format!("{text:?} is not a score"),
            "give a number from -1000 to 1000",
        )),
    }
}

fn storage_opt(text: &str) -> Result<ByteSize, FlagError> {
    let size = text
        .strip_prefix("size=")
        .and_then(|size| size.parse().ok());
    size.filter(|size: &ByteSize| size.bytes() > 0)
        .ok_or_else(|| {
            FlagError::new(
                format!("storage option {text:?} is not known"),
                "write size=10g",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(words: &[&str]) -> Result<InstanceConfig, String> {
        let command = InstanceFlags::augment_args(Command::new("run").disable_help_flag(true));
        let words = ["run"].iter().chain(words);
        let matches = command
            .try_get_matches_from(words)
            .map_err(|error| error.to_string())?;
        let flags = InstanceFlags::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        flags
            .config("debian", &[], None)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn no_flags_are_dockers_defaults() {
        let expected = InstanceConfig {
            image: "debian".into(),
            network: network::mode(&[network::network("bridge").unwrap()]).unwrap(),
            ..InstanceConfig::default()
        };
        assert_eq!(parse(&[]), Ok(expected));
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = parse(&[
            "-it",
            "-e",
            "A=1",
            "-e",
            "B=2",
            "-e",
            "A=3",
            "-w",
            "/srv",
            "-u",
            "1000:1000",
            "--group-add",
            "disk",
            "--entrypoint",
            "",
            "--init",
            "--read-only",
            "--cap-add",
            "cap_net_admin",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--privileged",
            "--device",
            "/dev/fuse",
            "--cpus",
            "1.5",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0-1",
            "-m",
            "512m",
            "--memory-swap",
            "-1",
            "--memory-reservation",
            "256m",
            "--pids-limit",
            "100",
            "--blkio-weight",
            "300",
            "--ulimit",
            "nofile=10:20",
            "--shm-size",
            "1g",
            "--restart",
            "on-failure:2",
            "--health-cmd",
            "true",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "3",
            "--label",
            "a=1",
            "-l",
            "b",
            "-h",
            "box",
            "--add-host",
            "db:10.0.0.5",
            "--dns",
            "1.1.1.1",
            "--pid",
            "host",
            "--ipc",
            "host",
            "--userns",
            "auto",
            "--cgroupns",
            "host",
            "--network",
            "host",
            "--log-opt",
            "max-size=1m",
            "--sysctl",
            "net.core.somaxconn=1",
            "--oom-score-adj",
            "-5",
            "--annotation",
            "x=y",
            "--isolation",
            "container",
            "-v",
            "/a:/b",
            "--mount",
            "type=tmpfs,target=/c",
            "--tmpfs",
            "/d",
        ])
        .unwrap();
        let process = &config.process;
        assert_eq!(process.env, ["A=3", "B=2"]);
        assert_eq!(process.entrypoint, Some(vec![]));
        assert!(process.tty && process.open_stdin && process.init);
        assert_eq!(config.resources.nano_cpus, Some(1_500_000_000));
        assert_eq!(config.resources.memory_swap, Some(-1));
        assert_eq!(config.labels.len(), 2);
        assert_eq!(config.mounts.len(), 3);
        assert_eq!(config.security.cap_add, ["NET_ADMIN"]);
        assert_eq!(config.network, NetworkMode::Host);
        assert_eq!(config.oom_score_adj, Some(-5));
        assert!(config.health_check.is_some());
        assert_eq!(config.hostname.as_deref(), Some("box"));
    }

    #[test]
    fn what_does_not_go_together_or_is_not_there_yet_is_refused() {
        for (words, reason) in [
            (&["-p", "80:http"][..], "cannot be published"),
            (&["--network", "none", "-P"], "--publish needs"),
            (
                &["--network", "host", "--ip", "10.0.0.5"],
                "needs a network",
            ),
            (
                &["--network", "a", "--network", "host"],
                "do not go together",
            ),
            (&["--isolation", "wasm"], "not available"),
            (&["--isolation", "box"], "unknown isolation level"),
            (&["--rm", "--restart", "always"], "do not go together"),
            (&["-v", "/a:/x", "--tmpfs", "/x"], "same place"),
            (&["-w", "srv"], "not absolute"),
            (&["--oom-score-adj", "2000"], "not a score"),
            (&["--uts", "host", "-h", "x"], "--uts host"),
            (&["--env-file", "/no/such/file"], "cannot read"),
            (&["--name=-x!"], "invalid instance name"),
            (&["--stop-signal", "FOO"], "invalid signal"),
            (&["--shm-size", "x"], "invalid size"),
            (&["--memory", "1k"], "6m"),
        ] {
            let error = parse(words).expect_err(&format!("{words:?}"));
            assert!(error.contains(reason), "{words:?}: {error}");
        }
    }
}
