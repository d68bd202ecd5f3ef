//! `HostConfig` of `inspect`: limits, privileges, mounts, namespaces.

use isle_engine::config::{
    DeviceLimit, InstanceConfig, LogDriver, NamespaceMode, RestartPolicy, SeccompChoice,
    UserNamespace,
};
use isle_types::ByteSize;
use serde_json::{Value, json};

use crate::{mounts, network};

/// What Docker masks below `/proc` and `/sys`.
const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What Docker makes read-only there.
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

fn namespace(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Instance(name) => format!("container:{name}"),
    }
}

fn user_namespace(mode: &UserNamespace) -> String {
    match mode {
        UserNamespace::Default => String::new(),
        UserNamespace::Host => "host".to_owned(),
        UserNamespace::Auto { size: None } => "auto".to_owned(),
        UserNamespace::Auto { size: Some(size) } => format!("auto:size={size}"),
    }
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries.unwrap_or(0)),
    };
    json!({ "Name": name, "MaximumRetryCount": retries })
}

fn log_config(config: &InstanceConfig) -> Value {
    match config.log.driver {
        LogDriver::JsonFile => json!({
            "Type": "json-file",
            "Config": {
                "max-file": config.log.max_files.to_string(),
                "max-size": config.log.max_size.bytes().to_string(),
            },
        }),
        LogDriver::None => json!({ "Type": "none", "Config": {} }),
    }
}

fn security_options(config: &InstanceConfig) -> Value {
    let security = &config.security;
    let mut options = Vec::new();
    options.extend(
        security
            .no_new_privileges
            .then(|| "no-new-privileges".to_owned()),
    );
    match &security.seccomp {
        SeccompChoice::Default => {}
        SeccompChoice::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompChoice::Profile(text) => options.push(format!("seccomp={text}")),
    }
    options.extend(
        security
            .apparmor
            .iter()
            .map(|name| format!("apparmor={name}")),
    );
    options.extend(
        security
            .selinux
            .iter()
            .map(|label| format!("label={label}")),
    );
    match options.is_empty() {
        true => Value::Null,
        false => json!(options),
    }
}

fn list_or_null(list: &[String]) -> Value {
    match list {
        [] => Value::Null,
        list => json!(list),
    }
}

fn device_limits(limits: &[DeviceLimit], key: &str) -> Value {
    let limits = limits.iter();
    limits
        .map(|limit| json!({ "Path": limit.path, key: limit.limit }))
        .collect()
}

fn bytes(size: Option<ByteSize>) -> u64 {
    size.map_or(0, ByteSize::bytes)
}

pub fn host_config(config: &InstanceConfig) -> Value {
    let resources = &config.resources;
    let devices: Vec<Value> = config
        .devices
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": device.host_path,
                "PathInContainer": device.path,
                "CgroupPermissions": device.permissions,
            })
        })
        .collect();
    let ulimits: Vec<Value> = config
        .ulimits
        .iter()
        .map(|limit| json!({ "Name": limit.name, "Hard": limit.hard, "Soft": limit.soft }))
        .collect();
    let extra_hosts: Vec<String> = config.extra_hosts.iter().map(network::extra_host).collect();
    let dns: Vec<String> = config.dns.iter().map(ToString::to_string).collect();
    let is_open = config.security.privileged || config.security.unmask_system_paths;
    let paths = |paths: &[&str]| match is_open {
        true => Value::Null,
        false => json!(paths),
    };
    let capabilities = |names: &[String]| {
        let full = names.iter().map(|name| match name.as_str() {
            "ALL" => name.clone(),
            name => format!("CAP_{name}"),
        });
        list_or_null(&full.collect::<Vec<_>>())
    };
    let mut value = json!({
        "Binds": mounts::binds(config),
        "ContainerIDFile": "",
        "LogConfig": log_config(config),
        "NetworkMode": network::mode(&config.network),
        "PortBindings": network::port_bindings(&config.publish),
        "RestartPolicy": restart_policy(config.restart),
        "AutoRemove": config.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": list_or_null(&config.volumes_from),
        "ConsoleSize": [0, 0],
        "Annotations": config.annotations,
        "CapAdd": capabilities(&config.security.cap_add),
        "CapDrop": capabilities(&config.security.cap_drop),
        "CgroupnsMode": namespace(&config.namespaces.cgroup, "private"),
        "Dns": dns,
        "DnsOptions": config.dns_options,
        "DnsSearch": config.dns_search,
        "ExtraHosts": list_or_null(&extra_hosts),
        "GroupAdd": list_or_null(&config.process.additional_groups),
        "IpcMode": namespace(&config.namespaces.ipc, "private"),
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": config.oom_score_adj.unwrap_or(0),
        "PidMode": namespace(&config.namespaces.pid, ""),
        "Privileged": config.security.privileged,
        "PublishAllPorts": config.publish_all,
        "ReadonlyRootfs": config.read_only_root,
        "SecurityOpt": security_options(config),
        "UTSMode": namespace(&config.namespaces.uts, ""),
        "UsernsMode": user_namespace(&config.namespaces.user),
        "ShmSize": config.shm_size.map_or(DEFAULT_SHM_BYTES, ByteSize::bytes),
        "Runtime": "isle",
        "Isolation": "",
        "CpuShares": resources.cpu_shares.unwrap_or(0),
        "Memory": bytes(resources.memory),
        "NanoCpus": resources.nano_cpus.unwrap_or(0),
        "CgroupParent": "",
        "BlkioWeight": resources.blkio_weight.unwrap_or(0),
        "BlkioWeightDevice": device_limits(&resources.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": device_limits(&resources.device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": device_limits(&resources.device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": device_limits(&resources.device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": device_limits(&resources.device_write_iops, "Rate"),
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": resources.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "Devices": devices,
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "MemoryReservation": bytes(resources.memory_reservation),
        "MemorySwap": resources.memory_swap.unwrap_or(0),
        "MemorySwappiness": null,
        "OomKillDisable": null,
        "PidsLimit": resources.pids_limit,
        "Ulimits": ulimits,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": paths(&MASKED_PATHS),
        "ReadonlyPaths": paths(&READ_ONLY_PATHS),
        "Init": config.process.init,
    });
    if let Some(tmpfs) = mounts::tmpfs(config) {
        value["Tmpfs"] = tmpfs;
    }
    if let Some(mounts) = mounts::by_name(config) {
        value["Mounts"] = mounts;
    }
    if !config.sysctls.is_empty() {
        value["Sysctls"] = json!(config.sysctls);
    }
    if let Some(size) = config.storage_size {
        value["StorageOpt"] = json!({ "size": size.bytes().to_string() });
    }
    value
}
