//! Docker Swarm: three hosts on a wire, of which one dies.

use std::collections::BTreeSet;
use std::process::Command;

use isle_tests::{EngineHost, Invocation, World, howto, wait_for};
use serde_json::Value;

use crate::{archive, is_kernel_of_level};

/// How many hosts, each of which manages and works: two of three are a majority.
const HOSTS: u8 = 3;

/// Serves its own name, and a page of which there will be a newer one.
const PAGE: &str =
    "mkdir /www; hostname > /www/name; echo page-1 > /www/page; exec httpd -f -h /www";

/// A cable from each host to a switch.
fn wire(hosts: &[EngineHost], switch: &EngineHost) {
    let run = |host: &EngineHost, line: &str| {
        host.sh(line).succeeds();
    };
    run(
        switch,
        "ip link add wire type bridge && ip link set wire up",
    );
    for (index, host) in hosts.iter().enumerate() {
        let port = format!("port{index}");
        let status = Command::new("ip")
            .args(["link", "add", "eth0", "netns", &host.init().to_string()])
            .args(["type", "veth", "peer", "name", &port, "netns"])
            .arg(switch.init().to_string())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "a cable");
        run(switch, &format!("ip link set {port} master wire up"));
        let address = address(index);
        run(
            host,
            &format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up"),
        );
    }
}

fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

/// A line that the page has, too.
fn told(host: &EngineHost, line: &str) -> Invocation {
    let on_page = line.replace("--default vm", "--default container");
    assert!(
        howto("swarm.md").contains(&on_page),
        "not on the page: {line}"
    );
    host.sh(line)
}

/// The tasks of the service that run, and the nodes that they are on.
fn running(manager: &EngineHost) -> Vec<(String, String)> {
    let list = manager
        .sh("docker service ps web --filter desired-state=running --format '{{.ID}} {{.Node}} {{.CurrentState}}'")
        .run();
    list.stdout()
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (id, node) = (words.next()?, words.next()?);
            (words.next()? == "Running").then(|| (id.to_owned(), node.to_owned()))
        })
        .collect()
}

/// What every replica says for itself, asked one by one over the network of the service.
fn served(manager: &EngineHost, file: &str) -> Vec<String> {
    let ask = format!(
        "docker exec probe sh -c 'for address in $(nslookup tasks.web 127.0.0.11 | sed -n \"s/^Address: //p\" | grep -v 127.0.0.11); do timeout 5 wget -q -O - http://$address/{file}; done'"
    );
    let answer = manager.sh(&ask).run().stdout();
    answer.lines().map(str::to_owned).collect()
}

pub(crate) fn a_swarm_heals_when_a_host_dies(world: &World) {
    let switch = EngineHost::new(world, "switch");
    let mut hosts = Vec::new();
    for number in 1..=HOSTS {
        hosts.push(EngineHost::new(world, &format!("host{number}")));
    }
    wire(&hosts, &switch);
    let limits =
        r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 4096}}}"#;
    let json = world.file("daemon.json", limits);
    let level = world.level().word();
    for host in &hosts {
        host.sh(&format!(
            "mkdir -p /etc/docker && cp {json} /etc/docker/daemon.json"
        ))
        .succeeds();
        told(host, &format!("isle setup docker --default {level} --yes")).succeeds();
        host.daemon("dockerd", "docker version");
        let archive = archive(world, host, &world.busybox());
        host.sh(&format!("docker load -i {archive}")).succeeds();
    }

    // three managers
    let (first, others) = hosts.split_first().expect("three hosts");
    told(
        first,
        &format!(
            "docker swarm init --advertise-addr {} --dispatcher-heartbeat 1s",
            address(0)
        ),
    )
    .succeeds();
    let token = told(first, "docker swarm join-token -q manager").succeeds();
    for (index, host) in others.iter().enumerate() {
        host.sh(&format!(
            "docker swarm join --token {token} --advertise-addr {} {}:2377",
            address(index + 1),
            address(0)
        ))
        .succeeds();
    }
    wait_for("three nodes", || {
        let nodes = first
            .sh("docker node ls --format '{{.Status}} {{.ManagerStatus}}'")
            .run()
            .stdout();
        nodes
            .lines()
            .filter(|line| line.starts_with("Ready ") && line.len() > 6)
            .count()
            == usize::from(HOSTS)
    });

    // A service on a network over all hosts. Its virtual address would need IPVS in the kernel.
    told(
        first,
        "docker network create --driver overlay --attachable site",
    )
    .succeeds();
    told(first, &format!("docker service create --detach --name web --replicas 3 --network site --endpoint-mode dnsrr --no-resolve-image --update-parallelism 5 --stop-grace-period 1s busybox sh -c '{PAGE}'"
        ))
        .succeeds();
    wait_for("three replicas", || running(first).len() == 3);
    let last = &others[1];
    // Who asks is a container at either level: Docker's name server is on the loopback address of its namespace.
    last.sh("docker run -d --name probe --runtime isle --network site busybox sleep 1000")
        .succeeds();
    wait_for("three answers", || served(last, "page").len() == 3);
    let task = last.sh("docker ps -q --filter label=com.docker.swarm.service.name=web");
    let task = task.succeeds();
    let runtime = last.sh(&format!(
        "docker inspect -f '{{{{.HostConfig.Runtime}}}}' {task}"
    ));
    assert!(runtime.succeeds().starts_with("isle"));
    let kernel = last.sh(&format!("docker exec {task} uname -v")).succeeds();
    is_kernel_of_level(world, &kernel);

    // scale
    told(first, "docker service scale --detach web=10").succeeds();
    wait_for("ten replicas", || running(first).len() == 10);
    let nodes: BTreeSet<String> = running(first).into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes.len(), usize::from(HOSTS), "{nodes:?}");
    wait_for("ten answers", || {
        let names: BTreeSet<String> = served(last, "name").into_iter().collect();
        names.len() == 10
    });

    // roll
    let newer = PAGE.replace("page-1", "page-2");
    first
        .sh(&format!(
            "docker service update --detach --no-resolve-image --args \"sh -c '{newer}'\" web"
        ))
        .succeeds();
    wait_for("the update", || {
        let service = first.sh("docker service inspect web").run().stdout();
        let service: Value = serde_json::from_str(&service).unwrap_or_default();
        service[0]["UpdateStatus"]["State"] == "completed"
    });
    wait_for("ten newer answers", || {
        served(last, "page") == vec!["page-2"; 10]
    });

    // One dies: the first, which has led until now. The others elect one of them and start what it ran.
    let first = hosts.remove(0);
    first.kill();
    let (second, last) = (&hosts[0], &hosts[1]);
    wait_for("ten replicas on two hosts", || {
        let tasks = running(second);
        tasks.len() == 10 && tasks.iter().all(|(_, node)| !node.ends_with("host1"))
    });
    wait_for("ten answers from two hosts", || {
        let names: BTreeSet<String> = served(last, "name").into_iter().collect();
        names.len() == 10
    });
    let nodes = second
        .sh("docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'")
        .succeeds();
    assert!(nodes.contains("Down"), "{nodes}");
    assert!(nodes.contains("Leader"), "{nodes}");
}
