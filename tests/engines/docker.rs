//! Docker Engine.

use isle_tests::{EngineHost, Invocation, World, wait_for};

use crate::{archive, is_kernel_of_level, runtime};

/// Docker gives containers as many files as the host's own service may have, which is more than a test's may.
const LIMITS: &str =
    r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 4096}}}"#;

/// A host with Docker that `isle setup` has told of Isle, and the image busybox in its store.
fn docker(world: &World, flags: &str) -> EngineHost {
    let host = EngineHost::new(world, "host");
    let json = world.file("daemon.json", LIMITS);
    host.sh(&format!(
        "mkdir -p /etc/docker && cp {json} /etc/docker/daemon.json"
    ))
    .succeeds();
    host.sh(&format!("isle setup docker{flags} --yes"))
        .succeeds();
    host.daemon("dockerd", "docker version");
    let archive = archive(world, &host, &world.busybox());
    host.sh(&format!("docker load -i {archive}")).succeeds();
    host
}

/// A line of the recipe, at the level of the world.
fn line(world: &World, host: &EngineHost, line: &str) -> Invocation {
    let runtime = format!("--runtime {}", runtime(world));
    host.sh(&line.replace("--runtime isle", &runtime))
}

fn inspect(host: &EngineHost, name: &str, field: &str) -> String {
    host.sh(&format!("docker inspect -f '{{{{{field}}}}}' {name}"))
        .succeeds()
}

pub(crate) fn docker_runs_the_life_of_a_container(world: &World) {
    let host = docker(world, "");
    let sh = |text: &str| line(world, &host, text);
    let kernel = sh("docker run --rm --runtime isle busybox uname -v").succeeds();
    is_kernel_of_level(world, &kernel);

    // exit codes, users, and what is refused
    sh("docker run --rm --runtime isle busybox sh -c 'exit 7'").exits_with(7);
    sh("docker run --rm --runtime isle busybox no-such-program")
        .exits_with(127)
        .complains("no-such-program");
    let id = sh(
        "docker run --rm --runtime isle --user 1000:1000 --read-only --cap-drop ALL busybox id -u",
    )
    .succeeds();
    assert_eq!(id, "1000");
    let output = sh("docker run --rm -i --runtime isle busybox wc -c")
        .stdin("twelve bytes")
        .succeeds();
    assert_eq!(output, "12");

    // a terminal
    let mut terminal = sh("docker run --rm -it --runtime isle busybox sh").on_terminal();
    terminal.send("tty; echo $((6 * 7))\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.send("exit 3\n");
    assert_eq!(terminal.wait(), 3);

    // one that stays
    sh("docker run -d --name web --runtime isle --memory 96m --cpus 0.5 --pids-limit 50 -v data:/data \
        busybox sh -c 'trap \"exit 5\" TERM; echo started; while :; do sleep 0.1; done'")
    .succeeds();
    wait_for("the log", || sh("docker logs web").succeeds() == "started");
    let kernel = sh("docker exec web uname -v").succeeds();
    is_kernel_of_level(world, &kernel);
    let output = sh("docker exec -i web sh -c 'cat > /data/file; exit 4'").stdin("kept");
    output.exits_with(4);
    assert_eq!(sh("docker exec web cat /data/file").succeeds(), "kept");
    let mut terminal = sh("docker exec -it web sh").on_terminal();
    terminal.send("tty\n");
    terminal.expect("/dev/pts/");
    terminal.send("exit 6\n");
    assert_eq!(terminal.wait(), 6);
    let top = sh("docker top web").succeeds();
    assert!(top.lines().count() > 1, "{top}");

    // figures and limits
    let stats =
        sh("docker stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' web").succeeds();
    assert!(
        stats.starts_with("web ") && !stats.contains(" 0B"),
        "{stats}"
    );
    sh("docker update --memory 64m --memory-swap 64m --pids-limit 60 web").succeeds();
    assert_eq!(
        inspect(&host, "web", ".HostConfig.Memory"),
        (64 << 20).to_string()
    );

    // held and let go
    sh("docker pause web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.Status"), "paused");
    sh("docker unpause web").succeeds();
    sh("docker exec web true").succeeds();

    // files
    let file = world.file("file", "from the host\n");
    sh(&format!("docker cp {file} web:/tmp/file")).succeeds();
    assert_eq!(
        sh("docker exec web cat /tmp/file").succeeds(),
        "from the host"
    );
    sh("docker exec web sh -c 'echo inside > /root/made'").succeeds();
    assert!(sh("docker diff web").succeeds().contains("A /root/made"));
    assert!(
        sh("docker cp web:/root/made - | tar tv")
            .succeeds()
            .contains("made")
    );
    sh("docker commit web changed").succeeds();
    let committed =
        sh("docker run --rm --runtime isle changed cat /root/made /tmp/file").succeeds();
    assert_eq!(committed, "inside\nfrom the host");

    // its end
    sh("docker restart web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.Status"), "running");
    assert_eq!(sh("docker exec web cat /data/file").succeeds(), "kept");
    sh("docker stop web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.ExitCode"), "5");
    sh("docker start web").succeeds();
    sh("docker kill web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.ExitCode"), "137");
    sh("docker rm web").succeeds();

    // a program that ends badly is started again
    sh("docker run -d --name flaky --runtime isle --restart on-failure:2 busybox false").succeeds();
    wait_for("two restarts", || {
        inspect(&host, "flaky", ".RestartCount") == "2"
    });
    wait_for("its end", || {
        inspect(&host, "flaky", ".State.Status") == "exited"
    });
    sh("docker rm flaky").succeeds();

    let events = sh("docker events --since 10m --until 0s --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'").succeeds();
    for event in [
        "start", "pause", "unpause", "commit", "restart", "kill", "die", "destroy",
    ] {
        let event = format!("container {event} web");
        assert!(events.contains(&event), "no {event} in {events}");
    }
}

pub(crate) fn docker_connects_networks_and_watches_health(world: &World) {
    let host = docker(world, "");
    let sh = |text: &str| line(world, &host, text);
    let serve = "busybox sh -c 'mkdir /www; echo page > /www/index.html; exec httpd -f -h /www'";
    sh(&format!(
        "docker run -d --name web --runtime isle -p 8080:80 --health-cmd 'wget -q -O /dev/null http://127.0.0.1/' --health-interval 1s {serve}"
    ))
    .succeeds();
    let page = |url: &str| sh(&format!("wget -q -O - {url}")).run().stdout();
    wait_for("the published port", || {
        page("http://127.0.0.1:8080/") == "page\n"
    });
    wait_for("health", || {
        inspect(&host, "web", ".State.Health.Status") == "healthy"
    });
    sh("docker exec web mv /www/index.html /www/other.html").succeeds();
    wait_for("no health", || {
        sh("docker exec web rm -rf /www").succeeds();
        inspect(&host, "web", ".State.Health.Status") == "unhealthy"
    });

    sh("docker network create back").succeeds();
    sh(&format!(
        "docker run -d --name served --network back --runtime isle {serve}"
    ))
    .succeeds();
    let address = inspect(&host, "served", ".NetworkSettings.Networks.back.IPAddress");
    wait_for("a neighbour", || {
        let page = sh(&format!(
            "docker run --rm --runtime isle --network back busybox wget -q -O - http://{address}/"
        ));
        page.run().stdout() == "page\n"
    });
    let output = sh("docker run --rm --runtime isle --network none busybox ip -o link").succeeds();
    assert_eq!(output.lines().count(), 1, "{output}");
    sh("docker rm -f web served").succeeds();
    sh("docker network rm back").succeeds();
}

pub(crate) fn docker_connects_one_that_runs(world: &World) {
    let host = docker(world, "");
    let sh = |text: &str| line(world, &host, text);
    sh("docker network create back").succeeds();
    sh("docker run -d --name served --network back --runtime isle \
        busybox sh -c 'mkdir /www; echo page > /www/index.html; exec httpd -f -h /www'")
    .succeeds();
    let address = inspect(&host, "served", ".NetworkSettings.Networks.back.IPAddress");
    // One that runs is put on a further network, and taken off it.
    sh("docker network create front").succeeds();
    sh("docker run -d --name late --network front --runtime isle busybox sleep 1000").succeeds();
    let get = format!("docker exec late timeout 2 wget -q -O - http://{address}/");
    assert_ne!(sh(&get).run().code(), 0);
    sh("docker network connect back late").succeeds();
    wait_for("the further network", || {
        sh(&get).run().stdout() == "page\n"
    });
    sh("docker network disconnect back late").succeeds();
    assert_ne!(sh(&get).run().code(), 0);
}

pub(crate) fn docker_names_neighbours(world: &World) {
    let host = docker(world, "");
    let sh = |text: &str| line(world, &host, text);
    sh("docker network create back").succeeds();
    sh("docker run -d --name served --network back --runtime isle busybox sleep 1000").succeeds();
    let found =
        sh("docker run --rm --runtime isle --network back busybox nslookup served").succeeds();
    let address = inspect(&host, "served", ".NetworkSettings.Networks.back.IPAddress");
    assert!(found.contains(&address), "no {address} in {found}");
}

pub(crate) fn docker_follows_the_page_word_by_word(world: &World) {
    let host = EngineHost::new(world, "host");
    let limits = world.file("daemon.json", LIMITS);
    host.sh(&format!(
        "mkdir -p /etc/docker && cp {limits} /etc/docker/daemon.json"
    ))
    .succeeds();
    // Nobody has set it up yet: the page does. Its daemon reads the file again when it is told to.
    host.daemon("dockerd", "docker version");
    let archive = archive(world, &host, &world.busybox());
    host.sh(&format!("docker load -i {archive}")).succeeds();
    let runtime = format!("--runtime {} ", runtime(world));
    let told = host.follow("docker.md", |line| {
        line.replace("--runtime isle ", &runtime)
    });
    let printed = |line: &str| {
        let mut found = told.iter().filter(|(typed, _)| typed == line);
        found.next().expect("the page has the line").1.clone()
    };
    assert!(printed("isle setup docker --dry-run").contains("+    \"isle\": {"));
    assert!(printed("docker info -f '{{json .Runtimes}}'").contains("/isle-oci"));
    is_kernel_of_level(world, &printed("docker exec web uname -v"));
    assert_eq!(host.sh("cat /etc/docker/daemon.json").succeeds(), LIMITS);
}

pub(crate) fn docker_takes_isle_without_being_told(world: &World) {
    let level = world.level().word();
    let host = docker(world, &format!(" --default {level}"));
    let json = host.sh("cat /etc/docker/daemon.json").succeeds();
    assert!(
        json.contains(&format!("\"default-runtime\": \"{}\"", runtime(world))),
        "{json}"
    );
    assert!(json.contains("default-ulimits"), "{json}");
    assert_eq!(
        host.sh("docker info -f '{{.DefaultRuntime}}'").succeeds(),
        runtime(world)
    );
    let kernel = host.sh("docker run --rm busybox uname -v").succeeds();
    is_kernel_of_level(world, &kernel);
    host.sh("docker run -d --name one busybox sleep 1000")
        .succeeds();
    assert_eq!(inspect(&host, "one", ".HostConfig.Runtime"), runtime(world));

    // and back
    host.sh("isle setup docker --undo --yes").succeeds();
    let json = host.sh("cat /etc/docker/daemon.json").succeeds();
    assert!(!json.contains("isle"), "{json}");
    host.sh("kill $(pidof dockerd)").succeeds();
    wait_for("the end of the daemon", || {
        host.sh("pidof dockerd").run().code() != 0
    });
    host.daemon("dockerd", "docker version");
    assert_eq!(
        host.sh("docker info -f '{{.DefaultRuntime}}'").succeeds(),
        "runc"
    );
    let runtimes = host.sh("docker info -f '{{json .Runtimes}}'").succeeds();
    assert!(!runtimes.contains("isle"), "{runtimes}");
}
