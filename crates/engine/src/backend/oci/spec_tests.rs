//! Golden text of specifications, in `golden/`. `ISLE_BLESS=1` writes them anew: look at the
//! difference before it is committed.

use std::path::{Path, PathBuf};

use isle_types::{ByteSize, InstanceId};
use jiff::Timestamp;
use serde_json::Value;

use super::*;
use crate::config::{self, Device, Mount, MountSource, Ulimit, VolumeMount};
use crate::state::InstanceState;

fn instance(config: InstanceConfig) -> Instance {
    Instance {
        id: InstanceId::from_bytes([0xab; 32]),
        name: "web".parse().unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
        image_id: "sha256:1".to_owned(),
        config,
        state: InstanceState::created(),
    }
}

fn facts() -> Facts {
    Facts {
        available: capabilities::of_mask(u64::MAX),
        host_name: "host".to_owned(),
        files: PathBuf::from("/var/lib/isle/instances/ab"),
        user: Identity {
            home: "/root".to_owned(),
            ..Identity::default()
        },
        counts_swap: true,
        ..Facts::default()
    }
}

fn shell() -> InstanceConfig {
    let mut config = InstanceConfig::default();
    config.process.command = Some(vec!["sh".to_owned()]);
    config
}

/// Sets have no order, and the seccomp policy has a test of its own.
fn shown(spec: &Spec) -> String {
    let mut value = serde_json::to_value(spec).unwrap();
    let sets = value["process"]["capabilities"].as_object_mut().unwrap();
    for set in sets.values_mut() {
        let list = set.as_array_mut().unwrap();
        list.sort_by_key(|name| name.to_string());
    }
    if let Some(seccomp) = value["linux"].get_mut("seccomp") {
        *seccomp = Value::from(format!("default {}", seccomp["defaultAction"]));
    }
    serde_json::to_string_pretty(&by_name(value)).unwrap() + "\n"
}

/// Keys in the order of their names. serde_json sorts them itself, unless another crate of the same build has
/// asked it to keep their order: `cargo test --workspace` and `cargo test -p isle-engine` differ there.
fn by_name(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<(String, Value)> = object.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries
                .into_iter()
                .map(|(key, value)| (key, by_name(value)))
                .collect()
        }
        Value::Array(list) => list.into_iter().map(by_name).collect(),
        other => other,
    }
}

#[track_caller]
fn assert_golden(name: &str, spec: &Spec) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/container/golden");
    let path = folder.join(format!("{name}.json"));
    let found = shown(spec);
    if std::env::var_os("ISLE_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(found.lines())
        .position(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "{} differs from line {} on; ISLE_BLESS=1 writes it anew\n{found}",
        path.display(),
        differs.unwrap_or(0) + 1
    );
}

#[test]
fn a_plain_container_has_dockers_defaults() {
    assert_golden("plain", &specification(&instance(shell()), &facts()));
}

#[test]
fn a_privileged_container_is_held_back_by_nothing() {
    let mut config = shell();
    config.security.privileged = true;
    assert_golden("privileged", &specification(&instance(config), &facts()));
}

#[test]
fn every_option_has_its_place() {
    let mut config = shell();
    config.process = config::ProcessConfig {
        entrypoint: Some(vec!["/start".to_owned()]),
        command: Some(vec!["serve".to_owned(), "--port=80".to_owned()]),
        env: vec![
            "PATH=/opt/bin".to_owned(),
            "HOSTNAME".to_owned(),
            "A=b=c".to_owned(),
        ],
        working_dir: Some("/srv".to_owned()),
        tty: true,
        ..config::ProcessConfig::default()
    };
    config.hostname = Some("web-1".to_owned());
    config.domainname = Some("example.org".to_owned());
    config.annotations = [("key".to_owned(), "value".to_owned())].into();
    config.read_only_root = true;
    config.shm_size = Some(ByteSize(128 << 20));
    config.oom_score_adj = Some(500);
    config.sysctls = [("net.core.somaxconn".to_owned(), "1024".to_owned())].into();
    config.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: 1024,
        hard: -1,
    }];
    config.resources = config::Resources {
        memory: Some(ByteSize(256 << 20)),
        memory_reservation: Some(ByteSize(128 << 20)),
        nano_cpus: Some(1_500_000_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0-1".to_owned()),
        pids_limit: Some(100),
        blkio_weight: Some(300),
        ..config::Resources::default()
    };
    config.security.cap_add = vec!["NET_ADMIN".to_owned()];
    config.security.cap_drop = vec!["ALL".to_owned()];
    config.security.no_new_privileges = true;
    config.devices = vec![Device {
        host_path: "/dev/null".into(),
        path: "/dev/nothing".into(),
        permissions: "r".to_owned(),
    }];
    config.mounts = vec![
        Mount {
            source: MountSource::Bind {
                path: "/host/deep".into(),
                create_source: true,
                propagation: Some("rslave".to_owned()),
                non_recursive: false,
                writable_below: false,
            },
            target: "/data/deep".to_owned(),
            read_only: true,
        },
        Mount {
            source: MountSource::Volume(VolumeMount::named("data")),
            target: "/data".to_owned(),
            read_only: false,
        },
        Mount {
            source: MountSource::Tmpfs {
                size: Some(ByteSize(1 << 20)),
                mode: Some(0o700),
                options: vec!["exec".to_owned(), "uid=5".to_owned()],
            },
            target: "/run".to_owned(),
            read_only: false,
        },
    ];
    let mut facts = facts();
    facts.user = Identity {
        uid: 1000,
        gid: 1000,
        additional_gids: vec![4, 1000],
        home: "/home/app".to_owned(),
    };
    facts.sources = vec![
        Some("/host/deep".into()),
        Some("/var/lib/isle/volumes/data/_data".into()),
        None,
    ];
    facts.init = Some("/usr/libexec/isle/isle-init".into());
    facts.devices = devices::resolve(&config.devices[0]).unwrap();
    assert_golden("everything", &specification(&instance(config), &facts));
}

#[test]
fn shared_namespaces_are_joined_or_left_out() {
    let mut config = shell();
    config.network = NetworkMode::Instance("other".to_owned());
    config.namespaces.pid = NamespaceMode::Host;
    config.namespaces.ipc = NamespaceMode::Host;
    config.namespaces.uts = NamespaceMode::Host;
    config.namespaces.cgroup = NamespaceMode::Host;
    let mut facts = facts();
    facts.joined.network = Some("/proc/self/fd/7".into());
    assert_golden("shared", &specification(&instance(config), &facts));
}

#[test]
fn what_the_user_mounts_replaces_what_would_be_there() {
    let mut config = shell();
    for target in ["/dev/shm", "/etc/hosts"] {
        config.mounts.push(Mount {
            source: MountSource::Bind {
                path: "/host".into(),
                create_source: false,
                propagation: None,
                non_recursive: true,
                writable_below: false,
            },
            target: target.to_owned(),
            read_only: false,
        });
    }
    let mut facts = facts();
    facts.sources = vec![None, None];
    let spec = specification(&instance(config), &facts);
    for target in ["/dev/shm", "/etc/hosts"] {
        let mounts = spec.mounts().as_ref().unwrap().iter();
        let sources: Vec<_> = mounts
            .filter(|mount| mount.destination() == Path::new(target))
            .map(|mount| mount.source().clone().unwrap())
            .collect();
        assert_eq!(sources, [Path::new("/host")], "{target}");
    }
}

#[test]
fn the_default_seccomp_policy_is_in_force_unless_refused() {
    let policy = |security: &Security| seccomp(security, &facts());
    let mut security = Security::default();
    assert!(policy(&security).is_some());
    security.seccomp = SeccompChoice::Unconfined;
    assert!(policy(&security).is_none());
    security.seccomp = SeccompChoice::Default;
    security.privileged = true;
    assert!(policy(&security).is_none());
    security.seccomp =
        SeccompChoice::Profile(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}"#.to_owned());
    assert!(
        policy(&security).is_some(),
        "a profile of one's own holds for a privileged one too"
    );
}
