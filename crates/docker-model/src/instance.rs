//! `GET /containers/{id}/json`: what `inspect` prints of an instance.

use std::path::Path;

use isle_engine::Paths;
use isle_engine::config::LogDriver;
use isle_engine::machines::Machine;
use isle_engine::state::Instance;
use isle_types::Accelerator;
use serde_json::{Value, json};

use crate::{command_line, config, host_config, mounts, network, state};

/// What is not in the record of an instance, and is shown with it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Bytes in its writable layer, and in all of its root file system: `--size`.
    pub sizes: Option<(u64, u64)>,
    /// The virtual machine that it runs in.
    pub machine: Option<Machine>,
}

/// An instance as `docker inspect` shows it. `State.Health` and `Config.Healthcheck` are `null` when
/// there are none, for templates; [`for_print`] leaves them out as Docker does.
#[must_use]
pub fn inspect(instance: &Instance, paths: &Paths, surroundings: &Surroundings) -> Value {
    let words = command_line(&instance.config);
    let (program, arguments) = match words.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let id = instance.id.to_string();
    let folder = paths.root.join("instances").join(&id);
    let text = |path: &Path| path.display().to_string();
    let log_path = match instance.config.log.driver {
        LogDriver::JsonFile => text(&folder.join(format!("{id}-json.log"))),
        LogDriver::None => String::new(),
    };
    let mut value = json!({
        "Id": id,
        "Created": instance.created_at.to_string(),
        "Path": program,
        "Args": arguments,
        "State": state::state(&instance.state),
        "Image": instance.image_id,
        "ResolvConfPath": text(&folder.join("resolv.conf")),
        "HostnamePath": text(&folder.join("hostname")),
        "HostsPath": text(&folder.join("hosts")),
        "LogPath": log_path,
        "Name": format!("/{}", instance.name),
        "RestartCount": instance.state.restart_count,
        "Driver": "overlayfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": instance.config.security.apparmor.clone().unwrap_or_default(),
        "ExecIDs": null,
        "HostConfig": host_config::host_config(&instance.config),
        "GraphDriver": {
            "Data": {
                "UpperDir": text(&folder.join("upper")),
                "WorkDir": text(&folder.join("work")),
            },
            "Name": "overlayfs",
        },
    });
    if let Some((writable, whole)) = surroundings.sizes {
        value["SizeRw"] = json!(writable);
        value["SizeRootFs"] = json!(whole);
    }
    value["Mounts"] = mounts::mounts(&instance.config, &paths.root.join("volumes"));
    value["Config"] = config::config(instance);
    value["NetworkSettings"] = network::settings(instance);
    if let Some(machine) = surroundings.machine {
        value["Machine"] = json!({
            "VCPUs": machine.vcpus,
            "Memory": machine.memory.memory_bytes,
            "GuestMemory": machine.memory.guest_memory_bytes,
            "IsElastic": machine.is_elastic,
            "HostMemory": {
                "Proportional": machine.memory.host_bytes,
                "Private": machine.memory.host_private_bytes,
            },
        });
    }
    value["Isolation"] = json!(instance.config.isolation.to_string());
    if !instance.config.network.attachments().is_empty() {
        value["Egress"] = json!(instance.config.egress.to_string());
    }
    if let Some(accelerator) = instance.state.accelerator {
        value["Accelerator"] = json!(accelerator.to_string());
        value["IsSecurityBoundary"] = json!(accelerator == Accelerator::Kvm);
    }
    value
}

/// The same without the keys that Docker leaves out when they are empty.
#[must_use]
pub fn for_print(mut inspected: Value) -> Value {
    let optional = [
        ("State", "Health"),
        ("Config", "Healthcheck"),
        ("Config", "ExposedPorts"),
    ];
    for (section, key) in optional {
        if let Some(map) = inspected.get_mut(section).and_then(Value::as_object_mut)
            && map.get(key).is_some_and(Value::is_null)
        {
            map.shift_remove(key);
        }
    }
    inspected
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use isle_engine::config::{
        Device, HealthCheck, HealthTest, InstanceConfig, Mount, MountSource, NetworkMode,
        OnUnhealthy, ProcessConfig, Resources, RestartPolicy, Security, Ulimit, VolumeMount,
    };
    use isle_engine::state::{
        Exit, ExitReason, Health, HealthResult, HealthStatus, InstanceState, MemoryOf, Status,
    };
    use isle_types::{ByteSize, InstanceId};

    fn paths() -> Paths {
        Paths {
            root: "/var/lib/isle".into(),
            run: "/run/isle".into(),
        }
    }

    fn plain() -> Instance {
        Instance {
            id: InstanceId::from_bytes([0xab; 32]),
            name: "web".parse().unwrap(),
            created_at: "2026-11-21T10:00:00Z".parse().unwrap(),
            image_id: format!("sha256:{}", "1".repeat(64)),
            config: InstanceConfig {
                image: "debian:bookworm".into(),
                process: ProcessConfig {
                    command: Some(vec!["sleep".into(), "60".into()]),
                    env: vec!["PATH=/usr/bin".into()],
                    ..ProcessConfig::default()
                },
                ..InstanceConfig::default()
            },
            state: InstanceState {
                networks: Vec::new(),
                ports: Vec::new(),
                status: Status::Exited,
                pid: None,
                accelerator: None,
                started_at: Some("2026-11-21T10:00:01.5Z".parse().unwrap()),
                finished_at: Some("2026-11-21T10:01:01Z".parse().unwrap()),
                exit: Some(Exit {
                    code: 137,
                    reason: ExitReason::OutOfMemory {
                        whose: Some(MemoryOf::Instance),
                    },
                }),
                restart_count: 2,
                is_stopped_by_user: false,
                health: None,
            },
        }
    }

    fn rich() -> Instance {
        let time = |text: &str| text.parse().unwrap();
        let mut instance = plain();
        let config = &mut instance.config;
        config.process.entrypoint = Some(vec!["/docker-entrypoint.sh".into()]);
        config.process.user = Some("www-data".into());
        config.process.init = true;
        config.labels.insert("tier".into(), "front".into());
        config.network = NetworkMode::Host;
        config.restart = RestartPolicy::OnFailure {
            max_retries: Some(3),
        };
        config.resources = Resources {
            memory: Some(ByteSize(512 << 20)),
            nano_cpus: Some(1_500_000_000),
            pids_limit: Some(100),
            ..Resources::default()
        };
        config.ulimits.push(Ulimit {
            name: "nofile".into(),
            soft: 1024,
            hard: 2048,
        });
        config.devices.push(Device {
            host_path: "/dev/fuse".into(),
            path: "/dev/fuse".into(),
            permissions: "rwm".into(),
        });
        config.security = Security {
            cap_add: vec!["NET_ADMIN".into()],
            cap_drop: vec!["ALL".into()],
            no_new_privileges: true,
            ..Security::default()
        };
        config.mounts = vec![
            Mount {
                source: MountSource::Bind {
                    path: "/srv/www".into(),
                    create_source: true,
                    propagation: None,
                    non_recursive: false,
                    writable_below: false,
                },
                target: "/usr/share/nginx/html".into(),
                read_only: true,
            },
            Mount {
                source: MountSource::Volume(VolumeMount::named("data")),
                target: "/data".into(),
                read_only: false,
            },
            Mount {
                source: MountSource::Tmpfs {
                    size: Some(ByteSize(1 << 20)),
                    mode: Some(0o1777),
                    options: vec!["noexec".into()],
                },
                target: "/run".into(),
                read_only: false,
            },
        ];
        config.health_check = Some(HealthCheck {
            test: HealthTest::Shell("curl -f localhost".into()),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
            on_unhealthy: OnUnhealthy::None,
        });
        instance.state = InstanceState {
            status: Status::Running,
            pid: Some(4242),
            exit: None,
            health: Some(Health {
                status: HealthStatus::Healthy,
                failing_streak: 0,
                log: vec![HealthResult {
                    start: time("2026-11-21T10:00:31Z"),
                    end: time("2026-11-21T10:00:31.25Z"),
                    exit_code: 0,
                    output: "ok\n".into(),
                }],
            }),
            ..instance.state
        };
        instance
    }

    /// Compares with a file beside this one; `ISLE_UPDATE_GOLDEN=1` writes it.
    fn assert_golden(name: &str, value: &Value) {
        let text = serde_json::to_string_pretty(value).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/golden")
            .join(name);
        if std::env::var_os("ISLE_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, golden, "{}", path.display());
    }

    #[test]
    fn an_instance_with_defaults_inspects_as_in_the_golden_file() {
        let value = inspect(&plain(), &paths(), &Surroundings::default());
        assert_golden("plain.json", &for_print(value));
    }

    #[test]
    fn an_instance_with_everything_inspects_as_in_the_golden_file() {
        let surroundings = Surroundings {
            sizes: Some((4096, 120_000_000)),
            machine: None,
        };
        let value = inspect(&rich(), &paths(), &surroundings);
        assert_golden("rich.json", &for_print(value));
    }

    #[test]
    fn the_templates_that_scripts_use_find_what_they_name() {
        for (template, expected) in [
            ("{{.State.ExitCode}}", "0"),
            ("{{.State.Health.Status}}", "healthy"),
            ("{{.Name}}", "/web"),
            ("{{.HostConfig.RestartPolicy.Name}}", "on-failure"),
            (r#"{{index .Config.Labels "tier"}}"#, "front"),
            (
                "{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}",
                "/srv/www:/usr/share/nginx/html /var/lib/isle/volumes/data/_data:/data ",
            ),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}",
                "host",
            ),
            (
                "{{json .Config.Entrypoint}}",
                r#"["/docker-entrypoint.sh"]"#,
            ),
            ("{{.Isolation}}", "container"),
        ] {
            let value = inspect(&rich(), &paths(), &Surroundings::default());
            let parsed = isle_format::Template::parse(template).unwrap();
            assert_eq!(parsed.render(&value).unwrap(), expected, "{template}");
        }
        let value = inspect(&plain(), &paths(), &Surroundings::default());
        let template = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}";
        let parsed = isle_format::Template::parse(template).unwrap();
        assert_eq!(parsed.render(&value).unwrap(), "none");
    }
}
