//! What a virtual machine cannot be asked for, and what to say instead.

use super::network::most;
use crate::config::{
    InstanceConfig, MountSource, NamespaceMode, NetworkMode, Resources, UserNamespace,
};
use crate::validate::{Checked, refuse};

/// Looks at what means something else at this level, or nothing.
///
/// # Errors
/// The first that cannot be carried out.
pub(crate) fn check(config: &InstanceConfig) -> Checked {
    network(&config.network)?;
    namespaces(config)?;
    resources(&config.resources)?;
    if let Some(device) = config.devices.first() {
        return Err(refuse(
            "--device",
            device.host_path.display(),
            "a virtual machine has a kernel of its own, which the devices of the host do not belong to",
            Some("mount a folder with --volume, or use --isolation container"),
        ));
    }
    let security = &config.security;
    if let Some(profile) = &security.apparmor {
        return Err(refuse(
            "--security-opt apparmor",
            profile,
            "the guest's kernel has no AppArmor",
            Some("leave it out: the wall is the virtual machine"),
        ));
    }
    if let Some(option) = security.selinux.iter().find(|option| *option != "disable") {
        return Err(refuse(
            "--security-opt label",
            option,
            "the guest's kernel has no SELinux",
            Some("leave it out: the wall is the virtual machine"),
        ));
    }
    for mount in &config.mounts {
        if let MountSource::Bind {
            writable_below: true,
            ..
        } = &mount.source
        {
            return Err(refuse(
                "bind-recursive",
                "writable",
                "a guest sees a folder of the host and what is mounted below it as one file system",
                Some("leave it out, or use --isolation container"),
            ));
        }
        if let MountSource::Bind {
            propagation: Some(propagation),
            ..
        } = &mount.source
            && !propagation.ends_with("private")
        {
            return Err(refuse(
                "--volume",
                propagation,
                "mounts do not pass between the kernels of host and guest",
                Some("leave the propagation out, or use --isolation container"),
            ));
        }
    }
    Ok(())
}

fn network(network: &NetworkMode) -> Checked {
    let (value, reason) = match network {
        NetworkMode::None => return Ok(()),
        NetworkMode::Networks(networks) if networks.len() <= most() => return Ok(()),
        NetworkMode::Networks(_) => ("networks", "a virtual machine has two network cards"),
        NetworkMode::Host => (
            "host",
            "a virtual machine has a network stack of its own and cannot use the host's",
        ),
        NetworkMode::Instance(_) => (
            "container:…",
            "a virtual machine has a network stack of its own and cannot join another instance's",
        ),
    };
    Err(refuse(
        "--network",
        value,
        reason,
        Some("use a network that `isle network ls` shows, or --isolation container"),
    ))
}

fn namespaces(config: &InstanceConfig) -> Checked {
    let namespaces = &config.namespaces;
    for (field, mode) in [
        ("--pid", &namespaces.pid),
        ("--ipc", &namespaces.ipc),
        ("--uts", &namespaces.uts),
        ("--cgroupns", &namespaces.cgroup),
    ] {
        let value = match mode {
            NamespaceMode::Private => continue,
            NamespaceMode::Host => "host".to_owned(),
            NamespaceMode::Instance(name) => format!("container:{name}"),
        };
        return Err(refuse(
            field,
            value,
            "a virtual machine has a kernel of its own, which shares nothing with another one",
            Some("leave it out, or use --isolation container"),
        ));
    }
    match namespaces.user {
        UserNamespace::Default => Ok(()),
        UserNamespace::Host => Err(refuse(
            "--userns",
            "host",
            "users of a virtual machine are never users of the host",
            Some("leave it out"),
        )),
        UserNamespace::Auto { .. } => Err(refuse(
            "--userns",
            "auto",
            "users of a virtual machine are never users of the host: a range of ids adds nothing",
            Some("leave it out"),
        )),
    }
}

/// Looks at limits, for `create` and `update`.
///
/// # Errors
/// The first that cannot be carried out.
pub(crate) fn resources(resources: &Resources) -> Checked {
    // Docker sets it to the double of --memory; that much nobody asks for by name.
    if let Some(swap) = resources.memory_swap
        && swap != 0
        && resources
            .memory
            .is_none_or(|memory| swap < 0 || swap as u64 != memory.bytes())
    {
        return Err(refuse(
            "--memory-swap",
            swap,
            "a guest's memory is all that it has: it has no swap",
            Some("leave it out, or give more --memory"),
        ));
    }
    if let Some(mems) = &resources.cpuset_mems {
        return Err(refuse(
            "--cpuset-mems",
            mems,
            "a template's memory lies where it was made",
            Some("leave it out, or use --isolation container"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use isle_types::ByteSize;

    use super::*;

    #[test]
    fn what_a_virtual_machine_cannot_share_is_refused_by_name() {
        let refused = |change: fn(&mut InstanceConfig)| {
            let mut config = InstanceConfig::default();
            change(&mut config);
            check(&config).expect_err("refused")
        };
        type Change = fn(&mut InstanceConfig);
        let cases: [(&str, Change); 5] = [
            ("--network", |config| config.network = NetworkMode::Host),
            ("--pid", |config| {
                config.namespaces.pid = NamespaceMode::Host
            }),
            ("--userns", |config| {
                config.namespaces.user = UserNamespace::Host
            }),
            ("--memory-swap", |config| {
                config.resources.memory = Some(ByteSize(128 << 20));
                config.resources.memory_swap = Some(256 << 20);
            }),
            ("--security-opt apparmor", |config| {
                config.security.apparmor = Some("mine".to_owned());
            }),
        ];
        for (field, change) in cases {
            assert_eq!(refused(change).field, field);
        }
        assert!(check(&InstanceConfig::default()).is_ok());
    }
}
