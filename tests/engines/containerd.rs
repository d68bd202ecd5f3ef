//! containerd: `ctr`, and its CRI plug-in as a kubelet speaks to it.

use isle_tests::{EngineHost, World, howto, wait_for};

use crate::cri::{
    ContainerConfig, ContainerMetadata, ContainerStats, ContainerStatsResponse, ContainerStatus,
    ContainerStatusResponse, CreateContainer, Empty, ExecSync, ExecSyncResponse, Id, Image,
    LinuxContainer, LinuxPod, Metadata, Mount, PodConfig, PodStatusResponse, PortMapping,
    Resources, RunPod, Stop, UpdateResources, VersionResponse, call,
};
use crate::{archive, is_kernel_of_level, runtime};

/// Pods are on a bridge of the node, and their ports are published: what every CNI plug-in of a cluster does.
const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;

/// What a node's administrator has written before `isle setup` comes.
const CONFIG: &str = r#"# the node's own
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:latest" # sleeps
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
"#;

/// A host with containerd that `isle setup` has told of Isle, and the image busybox in its store.
fn containerd(world: &World, engine: &str) -> EngineHost {
    let host = EngineHost::new(world, "host");
    let config = world.file("config.toml", CONFIG);
    let network = world.file("pods.conflist", NETWORK);
    host.sh(&format!(
        "mkdir -p /etc/containerd /etc/cni/net.d && rm -f /etc/cni/net.d/* && cp {config} /etc/containerd/config.toml && \
         cp {network} /etc/cni/net.d/10-pods.conflist"
    ))
    .succeeds();
    host.sh(&format!("isle setup {engine} --yes")).succeeds();
    host.daemon("containerd", "ctr version");
    // The first process of a pod does nothing, as what Kubernetes calls pause.
    world.changed_image("busybox", r#"CMD ["/bin/sleep", "1000000"]"#, "pause");
    for image in [world.busybox(), "pause".to_owned()] {
        let archive = archive(world, &host, &image);
        host.sh(&format!("ctr -n k8s.io image import {archive}"))
            .succeeds();
    }
    host
}

pub(crate) fn ctr_runs_isle_by_the_shim_of_runc(world: &World) {
    let host = EngineHost::new(world, "host");
    host.daemon("containerd", "ctr version");
    let archive = archive(world, &host, &world.busybox());
    host.sh(&format!("ctr image import {archive}")).succeeds();
    let program = match runtime(world).as_str() {
        "isle" => "isle-oci",
        "isle-vm" => "isle-oci-vm",
        other => other,
    }
    .to_owned();
    let sh = |line: &str| {
        let flag = format!("--runc-binary {program} ");
        host.sh(&line.replace("--runc-binary isle-oci ", &flag))
    };
    let told = host.follow("containerd.md", |line| {
        line.replace(
            "--runc-binary isle-oci ",
            &format!("--runc-binary {program} "),
        )
    });
    let printed = |line: &str| {
        let mut found = told.iter().filter(|(typed, _)| typed.starts_with(line));
        found.next().expect("the page has the line").1.clone()
    };
    is_kernel_of_level(world, &printed("ctr run --rm"));
    is_kernel_of_level(world, &printed("ctr task exec"));
    assert!(printed("ctr task ls").contains("RUNNING"));
    assert!(printed("ctr task metrics").contains("memory.usage"));
    host.sh("test ! -e /etc/containerd").succeeds();

    // and what a page does not tell
    wait_for("its end", || {
        sh("ctr task ls").succeeds().contains("STOPPED")
    });
    // It passes on how the task has ended.
    sh("ctr task rm web").run().complains("137");
    sh("ctr container rm web").succeeds();
    sh("ctr run --rm --runc-binary isle-oci docker.io/library/busybox:latest one sh -c 'exit 7'")
        .exits_with(7);
    sh("ctr run -d --runc-binary isle-oci docker.io/library/busybox:latest two sleep 1000")
        .succeeds();
    sh("ctr task exec --exec-id first two sh -c 'exit 4'").exits_with(4);
    sh("ctr task pause two").succeeds();
    assert!(sh("ctr task ls").succeeds().contains("PAUSED"));
    sh("ctr task resume two").succeeds();
    assert!(sh("ctr task ps two").succeeds().lines().count() > 1);
}

/// A kubelet on the host.
struct Kubelet<'a> {
    host: &'a EngineHost,
    handler: String,
}

impl Kubelet<'_> {
    fn call<A: prost::Message + Default>(&self, method: &str, request: &impl prost::Message) -> A {
        call(self.host, method, request).unwrap_or_else(|error| panic!("{error}"))
    }

    fn pod_config(&self) -> PodConfig {
        PodConfig {
            metadata: Some(Metadata {
                name: "pod".into(),
                uid: "5f1c2b1e".into(),
                namespace: "default".into(),
            }),
            hostname: "pod".into(),
            log_directory: "/var/lib/pod-logs".into(),
            port_mappings: vec![PortMapping {
                container_port: 80,
                host_port: 8080,
            }],
            labels: [("app".to_owned(), "web".to_owned())].into(),
            linux: Some(LinuxPod {
                cgroup_parent: "/kubepods/pod5f1c2b1e".into(),
            }),
        }
    }

    fn run_pod(&self) -> String {
        let request = RunPod {
            config: Some(self.pod_config()),
            runtime_handler: self.handler.clone(),
        };
        self.call::<Id>("RunPodSandbox", &request).id
    }

    /// Creates a container and starts it.
    fn start(&self, pod: &str, name: &str, script: &str, mounts: &[(&str, &str)]) -> String {
        let resources = Resources {
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into() }),
            image: Some(Image {
                image: "docker.io/library/busybox:latest".into(),
            }),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            mounts: mounts
                .iter()
                .map(|(host, container)| Mount {
                    container_path: (*container).to_owned(),
                    host_path: (*host).to_owned(),
                })
                .collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainer {
                resources: Some(resources),
            }),
        };
        let request = CreateContainer {
            pod: pod.to_owned(),
            config: Some(config),
            pod_config: Some(self.pod_config()),
        };
        let id = self.call::<Id>("CreateContainer", &request).id;
        self.call::<Empty>("StartContainer", &Id { id: id.clone() });
        id
    }

    fn exec(&self, id: &str, script: &str) -> ExecSyncResponse {
        let request = ExecSync {
            id: id.to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            timeout: 60,
        };
        self.call("ExecSync", &request)
    }

    fn status(&self, id: &str) -> ContainerStatus {
        let id = Id { id: id.to_owned() };
        self.call::<ContainerStatusResponse>("ContainerStatus", &id)
            .status
            .expect("a container has a status")
    }

    fn stats(&self, id: &str) -> ContainerStats {
        let id = Id { id: id.to_owned() };
        self.call::<ContainerStatsResponse>("ContainerStats", &id)
            .stats
            .expect("a container has figures")
    }

    fn stop(&self, id: &str) {
        let request = Stop {
            id: id.to_owned(),
            timeout: 10,
        };
        self.call::<Empty>("StopContainer", &request);
    }
}

pub(crate) fn a_kubelet_runs_pods_by_a_handler_for_each_level(world: &World) {
    let host = containerd(world, "kubernetes --node containerd");
    let kubelet = Kubelet {
        host: &host,
        handler: runtime(world),
    };
    let version: VersionResponse = kubelet.call("Version", &Empty {});
    assert_eq!(version.runtime_name, "containerd");
    host.sh("mkdir -p /var/lib/shared").succeeds();

    let pod = kubelet.run_pod();
    let status: PodStatusResponse = kubelet.call("PodSandboxStatus", &Id { id: pod.clone() });
    let status = status.status.expect("a pod has a status");
    assert_eq!((status.state, status.runtime_handler), (0, runtime(world)));
    let ip = status.network.expect("a pod has a network").ip;
    assert!(ip.starts_with("10.88.7."), "{ip}");

    // Two containers: one network, and a folder of the node.
    let serve = "mkdir /www; echo page > /www/index.html; echo serving; \
                 trap 'exit 5' TERM; httpd -h /www; while :; do sleep 0.1; done";
    let server = kubelet.start(&pod, "server", serve, &[("/var/lib/shared", "/shared")]);
    let other = "echo from the other > /shared/file; sleep 1000";
    let other = kubelet.start(&pod, "other", other, &[("/var/lib/shared", "/shared")]);
    let kernel = kubelet.exec(&server, "uname -v").stdout;
    is_kernel_of_level(world, &String::from_utf8_lossy(&kernel));
    wait_for("the neighbour in the pod", || {
        kubelet
            .exec(&other, "wget -q -O - http://127.0.0.1/")
            .stdout
            == b"page\n"
    });
    wait_for("the file of the other", || {
        kubelet.exec(&server, "cat /shared/file").stdout == b"from the other\n"
    });
    let named = kubelet
        .exec(&server, "hostname; ip -o -4 addr show dev eth0")
        .stdout;
    let named = String::from_utf8_lossy(&named).into_owned();
    assert!(named.starts_with("pod\n") && named.contains(&ip), "{named}");
    for url in [format!("http://{ip}/"), "http://127.0.0.1:8080/".to_owned()] {
        let page = host.sh(&format!("wget -q -O - {url}")).succeeds();
        assert_eq!(page, "page", "{url}");
    }
    let failed = kubelet.exec(&server, "echo out; echo err >&2; exit 4");
    assert_eq!(
        (failed.stdout, failed.stderr, failed.exit_code),
        (b"out\n".to_vec(), b"err\n".to_vec(), 4)
    );

    // what the kubelet reads
    let log = host.sh("cat /var/lib/pod-logs/server.log").succeeds();
    assert!(log.ends_with(" stdout F serving"), "{log}");
    let stats = kubelet.stats(&server);
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes);
    assert!(memory.expect("memory is told").value > 0);
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
    assert!(cpu.expect("time is told").value > 0);
    let update = UpdateResources {
        id: server.clone(),
        linux: Some(Resources {
            cpu_shares: 256,
            memory_limit_in_bytes: 96 << 20,
        }),
    };
    kubelet.call::<Empty>("UpdateContainerResources", &update);

    // the end of one, then of all
    kubelet.stop(&server);
    let ended = kubelet.status(&server);
    assert_eq!((ended.state, ended.exit_code), (2, 5));
    assert_eq!(kubelet.status(&other).state, 1);
    kubelet.call::<Empty>("RemoveContainer", &Id { id: server });
    let again = kubelet.start(&pod, "again", "sleep 1000", &[]);
    assert_eq!(kubelet.status(&again).state, 1);
    kubelet.call::<Empty>("StopPodSandbox", &Id { id: pod.clone() });
    kubelet.call::<Empty>("RemovePodSandbox", &Id { id: pod.clone() });
    let gone = call::<PodStatusResponse>(&host, "PodSandboxStatus", &Id { id: pod });
    assert!(gone.is_err());

    // A handler that nobody knows is refused in containerd's words.
    let unknown = RunPod {
        config: Some(kubelet.pod_config()),
        runtime_handler: "nobodys".into(),
    };
    let error = call::<Id>(&host, "RunPodSandbox", &unknown).expect_err("nobody knows it");
    assert!(error.contains("nobodys"), "{error}");
}

pub(crate) fn what_setup_writes_for_kubernetes_is_what_kubernetes_reads(world: &World) {
    let host = EngineHost::new(world, "host");
    let config = world.file("config.toml", CONFIG);
    host.sh(&format!(
        "mkdir -p /etc/containerd && cp {config} /etc/containerd/config.toml"
    ))
    .succeeds();
    let told = host.follow("kubernetes.md", str::to_owned);
    assert!(told[0].1.contains("+  name: isle"), "{}", told[0].1);
    assert_eq!(
        host.sh("cat /etc/containerd/config.toml").succeeds(),
        CONFIG.trim_end()
    );
    host.sh("test ! -e /etc/isle").succeeds();

    host.sh("isle setup kubernetes --yes").succeeds();
    let manifests = host
        .sh("cat /etc/isle/kubernetes/runtime-classes.yaml")
        .succeeds();
    let page = howto("kubernetes.md");
    assert!(
        page.contains(&manifests),
        "the page shows other manifests than:\n{manifests}"
    );
    // containerd's own opinion of the file
    let dump = host.sh("containerd config dump").succeeds();
    let handler = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.isle]";
    assert!(dump.contains(handler), "{dump}");
    assert!(
        dump.contains("sandbox_image = \"docker.io/library/pause:latest\""),
        "{dump}"
    );
    host.sh("isle setup kubernetes --undo --yes").succeeds();
    assert_eq!(
        host.sh("cat /etc/containerd/config.toml").succeeds(),
        CONFIG.trim_end()
    );
    host.sh("test ! -e /etc/isle").succeeds();
    // CRI-O, where it is there
    host.sh("mkdir /etc/crio && isle setup kubernetes --yes")
        .succeeds();
    host.sh("cat /etc/crio/crio.conf.d/50-isle.conf").succeeds();
    assert_eq!(
        host.sh("cat /etc/containerd/config.toml").succeeds(),
        CONFIG.trim_end()
    );
}
