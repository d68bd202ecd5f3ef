//! Isle as the runtime of other engines: the recipes of `docs/howto/`, told word by word.
//!
//! Each is told on a host of its own ([`EngineHost`]), at each level: `isle` runs containers, `isle-vm` virtual machines.

#![forbid(unsafe_code)]

mod containerd;
mod cri;
mod docker;
mod podman;
mod swarm;

use isle_tests::{EngineHost, Level, Need, World};

use containerd::{
    a_kubelet_runs_pods_by_a_handler_for_each_level, ctr_runs_isle_by_the_shim_of_runc,
    what_setup_writes_for_kubernetes_is_what_kubernetes_reads,
};
use docker::{
    docker_connects_networks_and_watches_health, docker_connects_one_that_runs,
    docker_follows_the_page_word_by_word, docker_names_neighbours,
    docker_runs_the_life_of_a_container, docker_takes_isle_without_being_told,
};
use podman::{
    podman_follows_the_page_word_by_word, podman_joins_pods,
    podman_publishes_ports_and_checks_health, podman_runs_the_life_of_a_container,
};
use swarm::a_swarm_heals_when_a_host_dies;

isle_tests::stories! {
    docker_runs_the_life_of_a_container [Need::Isle, Need::Docker, Need::OciRuntime],
    docker_connects_networks_and_watches_health [Need::Isle, Need::Docker, Need::OciRuntime],
    docker_connects_one_that_runs [Need::Isle, Need::Docker, Need::OciRuntime, Need::LateInterface],
    docker_names_neighbours [Need::Isle, Need::Docker, Need::OciRuntime, Need::EngineResolver],
    docker_follows_the_page_word_by_word [Need::Isle, Need::Docker, Need::OciRuntime],
    docker_takes_isle_without_being_told [Need::Isle, Need::Docker, Need::OciRuntime],
    podman_runs_the_life_of_a_container [Need::Isle, Need::Podman, Need::OciRuntime],
    podman_follows_the_page_word_by_word [Need::Isle, Need::Podman, Need::OciRuntime],
    podman_joins_pods [Need::Isle, Need::Podman, Need::OciRuntime, Need::Pods],
    podman_publishes_ports_and_checks_health [Need::Isle, Need::Podman, Need::OciRuntime],
    ctr_runs_isle_by_the_shim_of_runc [Need::Isle, Need::Containerd, Need::OciRuntime],
    a_kubelet_runs_pods_by_a_handler_for_each_level [Need::Isle, Need::Containerd, Need::OciRuntime, Need::Pods],
    a_swarm_heals_when_a_host_dies [Need::Isle, Need::Docker, Need::OciRuntime],
    what_setup_writes_for_kubernetes_is_what_kubernetes_reads [Need::Isle, Need::Containerd, Need::Only(Level::Container)],
}

/// What engines call the level. `ISLE_TEST_RUNTIME=runc` tells the recipes of the reference: what fails there is a
/// wrong test.
fn runtime(world: &World) -> String {
    match (std::env::var("ISLE_TEST_RUNTIME"), world.level()) {
        (Ok(name), _) => name,
        (_, Level::Container) => "isle".into(),
        (_, Level::Vm) => "isle-vm".into(),
    }
}

/// An image of the world's store as an archive that every engine loads.
fn archive(world: &World, host: &EngineHost, image: &str) -> String {
    let path = host.folder().join(format!("{image}.tar"));
    let path = path.to_str().expect("an ASCII path").to_owned();
    world.isle(["save", "-o", &path, image]).succeeds();
    path
}

/// Checks that the kernel that something prints with `uname -v` is the host's own at the level of containers, and
/// another one at that of virtual machines.
fn is_kernel_of_level(world: &World, printed: &str) {
    let host = std::fs::read_to_string("/proc/sys/kernel/version").expect("proc is mounted");
    match world.level() {
        Level::Container => assert_eq!(printed.trim(), host.trim()),
        Level::Vm => assert_ne!(printed.trim(), host.trim()),
    }
}
