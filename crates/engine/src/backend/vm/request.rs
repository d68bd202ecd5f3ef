//! From an instance to what its guest is asked for. Pure.

use std::path::PathBuf;

use isle_guest::{Disk, Root, UserRequest, Writable};
use isle_machine::OVERHEAD_BYTES;
use isle_types::ByteSize;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};

use crate::ExecRequest;
use crate::backend::oci::{limits, spec};

use crate::config::{InstanceConfig, MountSource, Resources};
use crate::state::Instance;

/// Where the agent keeps the files that it was handed.
const FILES: &str = "/run/isle/files";
/// Where the agent has the program of `--init`.
pub(super) const INIT: &str = "/run/isle/init";
/// Below it the agent mounts the folders of the host.
pub(super) const SHARES: &str = "/run/isle/shares";

/// What the specification depends on: in a guest nearly nothing.
pub(super) fn facts(instance: &Instance) -> spec::Facts {
    let mut share = 0;
    let sources = instance
        .config
        .mounts
        .iter()
        .map(|mount| match mount.source {
            MountSource::Tmpfs { .. } => None,
            MountSource::Bind { .. } | MountSource::Volume(_) => {
                share += 1;
                Some(PathBuf::from(format!("{SHARES}/{}", share - 1)))
            }
        });
    spec::Facts {
        sources: sources.collect(),
        // The guest's own kernel can give them all.
        available: isle_runtime::capabilities::all().collect(),
        files: FILES.into(),
        init: instance.config.process.init.then(|| INIT.into()),
        ..spec::Facts::default()
    }
}

/// The specification as a container has it, without what is the virtual machine's: the network is the guest's,
/// and time on processors is what the hypervisor gets.
pub(super) fn specification(instance: &Instance, facts: &spec::Facts) -> Spec {
    let mut inside = instance.clone();
    inside.config.resources = inside_limits(&instance.config.resources);
    let mut spec = spec::specification(&inside, facts);
    if let Some(linux) = spec.linux_mut()
        && let Some(namespaces) = linux.namespaces_mut()
    {
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    }
    spec
}

/// What of the limits the guest's kernel holds.
pub(super) fn inside_limits(resources: &Resources) -> Resources {
    Resources {
        memory: resources.memory,
        pids_limit: resources.pids_limit,
        ..Resources::default()
    }
}

/// What of the limits the host holds, for the hypervisor of a machine with so much memory.
///
/// # Errors
/// When a device is not there.
pub(super) fn host_limits(
    resources: &Resources,
    memory_bytes: u64,
) -> std::io::Result<LinuxResources> {
    let of_host = Resources {
        // The guest's memory is what its machine has; this is for a hypervisor that has gone astray.
        memory: resources
            .memory
            .map(|_| ByteSize(memory_bytes + OVERHEAD_BYTES)),
        memory_swap: None,
        pids_limit: None,
        ..resources.clone()
    };
    limits::with_devices(limits::resources(&of_host, false, None), resources)
}

/// The root file system: the image's disk below, the instance's own above.
pub(super) fn root(config: &InstanceConfig) -> Root {
    Root {
        is_volatile: config.auto_remove,
        image: Disk {
            device: "vda".to_owned(),
            filesystem: "erofs".to_owned(),
            options: String::new(),
        },
        writable: Writable::Disk(Disk {
            device: "vdb".to_owned(),
            filesystem: "ext4".to_owned(),
            options: "discard".to_owned(),
        }),
    }
}

/// Who the instance's own process runs as.
pub(super) fn user(instance: &Instance) -> UserRequest {
    let process = &instance.config.process;
    UserRequest {
        user: process.user.clone().unwrap_or_default(),
        groups: process.additional_groups.clone(),
    }
}

/// The process of an exec, and who it runs as.
pub(super) fn further(
    instance: &Instance,
    facts: &spec::Facts,
    request: &ExecRequest,
) -> (Process, UserRequest) {
    let user = match &request.user {
        // As Docker: the groups of --group-add are the first process's alone.
        Some(user) => UserRequest {
            user: user.clone(),
            groups: Vec::new(),
        },
        None => user(instance),
    };
    let instance = spec::with_request(instance, request);
    let process = spec::further_process(&instance, facts, request);
    (process, user)
}
