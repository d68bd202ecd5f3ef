//! The mount table of a container: what every container has, then what it was asked for.

use oci_spec::runtime::Mount as SpecMount;

use super::files;
use super::spec::{Facts, INIT_INSIDE, mount};
use crate::config::{InstanceConfig, Mount, MountSource, NamespaceMode, NetworkMode};
use crate::state::Instance;

/// 64 MiB, Docker's size of `/dev/shm`.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// All mounts, in the order in which they are made: a mount below another one comes after it.
pub(crate) fn table(instance: &Instance, facts: &Facts) -> Vec<SpecMount> {
    let config = &instance.config;
    let mut table = of_every_container(config, facts);
    let is_asked_for = |path: &str| config.mounts.iter().any(|mount| mount.target == path);
    // What the user mounts at a place replaces what would be there by default.
    table.retain(|default| !is_asked_for(&default.destination().to_string_lossy()));
    for name in files::NAMES {
        let inside = format!("/etc/{name}");
        if !is_asked_for(&inside) {
            let source = facts.files.join(name);
            let mut options = vec!["rbind", "rprivate"];
            options.extend(facts.id_range.map(|_| "idmap"));
            table.push(mount(&inside, "bind", source, &options));
        }
    }
    let machine_id = format!("/etc/{}", files::MACHINE_ID);
    if facts.has_machine_id && !is_asked_for(&machine_id) {
        let source = facts.files.join(files::MACHINE_ID);
        table.push(mount(&machine_id, "bind", source, &["bind", "ro"]));
    }
    if let Some(init) = &facts.init {
        let options = ["bind", "ro", "nosuid", "nodev"];
        table.push(mount(INIT_INSIDE, "bind", init, &options));
    }
    let mut asked: Vec<_> = config.mounts.iter().zip(&facts.sources).collect();
    asked.sort_by_key(|(mount, _)| depth(&mount.target));
    for (mount, source) in asked {
        table.push(asked_for(mount, source.as_deref(), facts));
    }
    table
}

fn depth(target: &str) -> usize {
    target.split('/').filter(|part| !part.is_empty()).count()
}

fn of_every_container(config: &InstanceConfig, facts: &Facts) -> Vec<SpecMount> {
    let is_privileged = config.security.privileged;
    let access = if is_privileged { "rw" } else { "ro" };
    let shm_bytes = config
        .shm_size
        .map_or(DEFAULT_SHM_BYTES, |size| size.bytes());
    let shm_size = format!("size={shm_bytes}");
    // Another one shows the links of a network, which only its owner may see: not an ordinary user those of the host.
    let sys = match facts.own_ids.is_some() && config.network == NetworkMode::Host {
        true => mount(
            "/sys",
            "bind",
            "/sys",
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
        ),
        false => mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
    };
    let mut table = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", access],
        ),
    ];
    let bound = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
    match config.namespaces.ipc {
        NamespaceMode::Host => {
            table.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &bound));
            table.push(mount("/dev/shm", "bind", "/dev/shm", &bound));
        }
        NamespaceMode::Private | NamespaceMode::Instance(_) => {
            let options = ["nosuid", "noexec", "nodev"];
            table.push(mount("/dev/mqueue", "mqueue", "mqueue", &options));
            table.push(match &facts.joined.shm {
                Some(path) => mount("/dev/shm", "bind", path, &bound),
                None => mount(
                    "/dev/shm",
                    "tmpfs",
                    "shm",
                    &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
                ),
            });
        }
    }
    table
}

fn asked_for(asked: &Mount, source: Option<&std::path::Path>, facts: &Facts) -> SpecMount {
    let target = asked.target.as_str();
    match &asked.source {
        MountSource::Bind {
            path,
            propagation,
            non_recursive,
            writable_below,
            ..
        } => {
            let mut options = vec![if *non_recursive { "bind" } else { "rbind" }];
            options.push(propagation.as_deref().unwrap_or("rprivate"));
            if asked.read_only {
                options.push("ro");
                if !non_recursive && !writable_below {
                    // The mounts below the source too, as Docker since 25.
                    options.push("rro");
                }
            }
            mount(target, "bind", source.unwrap_or(path), &options)
        }
        MountSource::Volume(_) => {
            let mut options = vec!["rbind", "rprivate"];
            if asked.read_only {
                options.extend(["ro", "rro"]);
            }
            // On the disk a volume has the ids that its files have inside.
            options.extend(facts.id_range.map(|_| "idmap"));
            mount(target, "bind", source.unwrap_or("".as_ref()), &options)
        }
        MountSource::Tmpfs {
            size,
            mode,
            options: given,
        } => {
            let mut options: Vec<String> =
                ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
            for option in given {
                // `exec` takes `noexec` back, and so on.
                options.retain(|known| known.strip_prefix("no") != Some(option) && known != option);
                options.push(option.clone());
            }
            if let Some(size) = size {
                options.push(format!("size={}", size.bytes()));
            }
            match mode {
                Some(mode) => options.push(format!("mode={mode:o}")),
                None if options.iter().any(|option| option.starts_with("mode=")) => {}
                None => options.push("mode=1777".to_owned()),
            }
            if asked.read_only {
                options.push("ro".to_owned());
            }
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            mount(target, "tmpfs", "tmpfs", &options)
        }
    }
}

/// A bind that shares its mounts with the host needs a root that lets it.
pub(crate) fn root_propagation(config: &InstanceConfig) -> &'static str {
    let asked = |wanted: &[&str]| {
        config.mounts.iter().any(|mount| match &mount.source {
            MountSource::Bind {
                propagation: Some(propagation),
                ..
            } => wanted.contains(&propagation.as_str()),
            _ => false,
        })
    };
    if asked(&["shared", "rshared"]) {
        "rshared"
    } else if asked(&["slave", "rslave"]) {
        "rslave"
    } else {
        "rprivate"
    }
}
