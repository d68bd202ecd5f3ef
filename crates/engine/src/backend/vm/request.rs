//! From an instance to what its guest is asked for. Pure.

use std::path::PathBuf;

use isle_guest::UserRequest;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::ExecRequest;
use crate::backend::oci::spec;
use crate::config::{InstanceConfig, MountSource, Resources};
use crate::state::Instance;

/// Where the agent keeps the files that it was handed.
const FILES: &str = "/run/isle/files";
/// Where the agent has the program of `--init`.
const INIT: &str = "/run/isle/init";
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
            MountSource::Bind { .. } | MountSource::Volume { .. } => {
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
    inside.config.resources = Resources {
        memory: instance.config.resources.memory,
        pids_limit: instance.config.resources.pids_limit,
        ..Resources::default()
    };
    let mut spec = spec::specification(&inside, facts);
    if let Some(linux) = spec.linux_mut()
        && let Some(namespaces) = linux.namespaces_mut()
    {
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    }
    spec
}

/// Who the instance's own process runs as.
pub(super) fn user(instance: &Instance) -> UserRequest {
    let process = &instance.config.process;
    UserRequest {
        user: process.user.clone().unwrap_or_default(),
        groups: process.additional_groups.clone(),
    }
}

/// The process of an exec, who it runs as, and the configuration that holds for it.
pub(super) fn further(
    instance: &Instance,
    facts: &spec::Facts,
    request: &ExecRequest,
) -> (Process, UserRequest, InstanceConfig) {
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
    (process, user, instance.config)
}
