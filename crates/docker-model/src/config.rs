//! `Config` of `inspect`: what runs.

use isle_engine::config::{HealthCheck, HealthTest, InstanceConfig, MountSource};
use isle_engine::state::Instance;
use serde_json::{Map, Value, json};

/// The program and its arguments: entrypoint, then command.
#[must_use]
pub fn command_line(config: &InstanceConfig) -> Vec<String> {
    let entrypoint = config.process.entrypoint.iter().flatten();
    let command = config.process.command.iter().flatten();
    entrypoint.chain(command).cloned().collect()
}

pub fn config(instance: &Instance) -> Value {
    let config = &instance.config;
    let process = &config.process;
    let attached = process.attached();
    let volumes: Map<String, Value> = config
        .mounts
        .iter()
        .filter(
            |mount| matches!(&mount.source, MountSource::Volume(volume) if volume.name.is_none()),
        )
        .map(|mount| (mount.target.clone(), json!({})))
        .collect();
    let mut value = json!({
        "Hostname": config.hostname.clone().unwrap_or_else(|| instance.id.short()),
        "Domainname": config.domainname.clone().unwrap_or_default(),
        "User": process.user.clone().unwrap_or_default(),
        "AttachStdin": attached.stdin,
        "AttachStdout": attached.stdout,
        "AttachStderr": attached.stderr,
        "ExposedPorts": exposed_ports(config),
        "Tty": process.tty,
        "OpenStdin": process.open_stdin,
        "StdinOnce": process.open_stdin && attached.stdin,
        "Env": process.env,
        "Cmd": process.command,
        "Healthcheck": config.health_check.as_ref().map(health_check),
        "Image": config.image,
        "Volumes": if volumes.is_empty() { Value::Null } else { Value::Object(volumes) },
        "WorkingDir": process.working_dir.clone().unwrap_or_default(),
        "Entrypoint": process.entrypoint,
        "OnBuild": null,
        "Labels": config.labels,
    });
    if let Some(signal) = config.stop_signal {
        value["StopSignal"] = json!(signal.to_string());
    }
    if let Some(timeout) = config.stop_timeout {
        value["StopTimeout"] = json!(timeout.as_secs());
    }
    value
}

fn exposed_ports(config: &InstanceConfig) -> Value {
    let ports = config.exposed_ports.iter();
    let ports: Map<String, Value> = ports.map(|port| (port.clone(), json!({}))).collect();
    match ports.is_empty() {
        true => Value::Null,
        false => Value::Object(ports),
    }
}

fn health_check(check: &HealthCheck) -> Value {
    let test = match &check.test {
        HealthTest::Disabled => vec!["NONE".to_owned()],
        HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        HealthTest::Command(words) => {
            let mut test = vec!["CMD".to_owned()];
            test.extend(words.iter().cloned());
            test
        }
    };
    if matches!(check.test, HealthTest::Disabled) {
        return json!({ "Test": test });
    }
    let nanoseconds = |duration: std::time::Duration| duration.as_nanos() as u64;
    json!({
        "Test": test,
        "Interval": nanoseconds(check.interval),
        "Timeout": nanoseconds(check.timeout),
        "StartPeriod": nanoseconds(check.start_period),
        "StartInterval": nanoseconds(check.start_interval),
        "Retries": check.retries,
    })
}
