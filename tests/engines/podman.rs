//! Podman.

use isle_tests::{EngineHost, Invocation, Level, World, wait_for};

use crate::{archive, is_kernel_of_level, runtime};

/// A host with Podman that `isle setup` has told of Isle, and the image busybox in its store.
fn podman(world: &World, flags: &str) -> EngineHost {
    let host = EngineHost::new(world, "host");
    // Podman's own default exceeds what a test may have; without systemd nobody else makes control groups or keeps events.
    let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n\
                [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n";
    let conf = world.file("containers.conf", conf);
    host.sh(&format!("cp {conf} /etc/containers/containers.conf"))
        .succeeds();
    host.sh(&format!("isle setup podman{flags} --yes"))
        .succeeds();
    let archive = archive(world, &host, &world.busybox());
    host.sh(&format!("podman load -i {archive}")).succeeds();
    host
}

/// A line of the recipe, at the level of the world.
fn line(world: &World, host: &EngineHost, line: &str) -> Invocation {
    let runtime = format!("--runtime {}", runtime(world));
    host.sh(&line.replace("--runtime isle", &runtime))
}

fn inspect(host: &EngineHost, name: &str, field: &str) -> String {
    host.sh(&format!("podman inspect -f '{{{{{field}}}}}' {name}"))
        .succeeds()
}

/// A small server.
const SERVE: &str =
    "busybox sh -c 'mkdir /www; echo page > /www/index.html; exec httpd -f -h /www'";

/// What a server answers; nothing when there is none.
fn page(host: &EngineHost, url: &str) -> String {
    host.sh(&format!("wget -q -O - {url}")).run().stdout()
}

pub(crate) fn podman_runs_the_life_of_a_container(world: &World) {
    let host = podman(world, "");
    let sh = |text: &str| line(world, &host, text);
    let kernel = sh("podman --runtime isle run --rm busybox uname -v").succeeds();
    is_kernel_of_level(world, &kernel);
    sh("podman --runtime isle run --rm busybox sh -c 'exit 7'").exits_with(7);
    // Podman knows this from what `create` says; a machine finds its programs when it has started.
    let missing = match world.level() {
        Level::Container => 127,
        Level::Vm => 126,
    };
    sh("podman --runtime isle run --rm busybox no-such-program")
        .exits_with(missing)
        .complains("no-such-program");
    let id = sh(
        "podman --runtime isle run --rm --user 1000:1000 --read-only --cap-drop ALL busybox id -u",
    )
    .succeeds();
    assert_eq!(id, "1000");
    let output = sh("podman --runtime isle run --rm -i busybox wc -c")
        .stdin("twelve bytes")
        .succeeds();
    assert_eq!(output, "12");
    let mut terminal = sh("podman --runtime isle run --rm -it busybox sh").on_terminal();
    terminal.send("tty; echo $((6 * 7))\n");
    terminal.expect("/dev/pts/0");
    terminal.expect("42");
    terminal.send("exit 3\n");
    assert_eq!(terminal.wait(), 3);

    sh("podman --runtime isle run -d --name web --memory 96m --cpus 0.5 --pids-limit 50 -v data:/data \
        busybox sh -c 'trap \"exit 5\" TERM; echo started; while :; do sleep 0.1; done'")
    .succeeds();
    wait_for("the log", || sh("podman logs web").succeeds() == "started");
    let kernel = sh("podman exec web uname -v").succeeds();
    is_kernel_of_level(world, &kernel);
    sh("podman exec -i web sh -c 'cat > /data/file; exit 4'")
        .stdin("kept")
        .exits_with(4);
    assert_eq!(sh("podman exec web cat /data/file").succeeds(), "kept");
    let mut terminal = sh("podman exec -it web sh").on_terminal();
    terminal.send("tty\n");
    terminal.expect("/dev/pts/");
    terminal.send("exit 6\n");
    assert_eq!(terminal.wait(), 6);

    let top = sh("podman top web").succeeds();
    assert!(top.lines().count() > 1, "{top}");
    let stats =
        sh("podman stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDS}}' web").succeeds();
    assert!(
        stats.starts_with("web ") && !stats.contains(" 0B"),
        "{stats}"
    );
    sh("podman update --memory 64m web").succeeds();

    sh("podman pause web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.Status"), "paused");
    sh("podman unpause web").succeeds();
    sh("podman exec web true").succeeds();

    let file = world.file("file", "from the host\n");
    sh(&format!("podman cp {file} web:/tmp/file")).succeeds();
    assert_eq!(
        sh("podman exec web cat /tmp/file").succeeds(),
        "from the host"
    );
    sh("podman exec web sh -c 'echo inside > /root/made'").succeeds();
    assert!(sh("podman diff web").succeeds().contains("A /root/made"));
    sh("podman commit -q web changed").succeeds();
    let committed =
        sh("podman --runtime isle run --rm changed cat /root/made /tmp/file").succeeds();
    assert_eq!(committed, "inside\nfrom the host");

    sh("podman restart web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.Status"), "running");
    assert_eq!(sh("podman exec web cat /data/file").succeeds(), "kept");
    sh("podman stop web").succeeds();
    assert_eq!(inspect(&host, "web", ".State.ExitCode"), "5");
    sh("podman start web").succeeds();
    sh("podman kill web").succeeds();
    assert_eq!(sh("podman wait web").succeeds(), "137");
    sh("podman rm web").succeeds();
    sh("podman volume rm data").succeeds();
}

pub(crate) fn podman_publishes_ports_and_checks_health(world: &World) {
    let level = world.level().word();
    let host = podman(world, &format!(" --default {level}"));
    let sh = |text: &str| host.sh(text);
    let kernel = sh("podman run --rm busybox uname -v").succeeds();
    is_kernel_of_level(world, &kernel);

    sh(&format!(
        "podman run -d --name web -p 8080:80 --health-cmd 'wget -q -O /dev/null http://127.0.0.1/' --health-interval disable {SERVE}"
    ))
    .succeeds();
    assert_eq!(inspect(&host, "web", ".OCIRuntime"), runtime(world));
    wait_for("the published port", || {
        page(&host, "http://127.0.0.1:8080/") == "page\n"
    });
    sh("podman healthcheck run web").succeeds();
    sh("podman exec web rm -r /www").succeeds();
    assert_ne!(sh("podman healthcheck run web").run().code(), 0);

    sh("podman rm -f -t 0 web").succeeds();

    sh("isle setup podman --undo --yes").succeeds();
    let name = sh("podman info -f '{{.Host.OCIRuntime.Name}}'").succeeds();
    assert_eq!(name, "runc");
    sh("podman --runtime isle run --rm busybox true").exits_with(125);
}

pub(crate) fn podman_joins_pods(world: &World) {
    let level = world.level().word();
    let host = podman(world, &format!(" --default {level}"));
    let sh = |text: &str| host.sh(text);
    sh("podman pod create --name site -p 8081:80").succeeds();
    sh(&format!("podman run -d --pod site --name server {SERVE}")).succeeds();
    wait_for("the pod's port", || {
        page(&host, "http://127.0.0.1:8081/") == "page\n"
    });
    let neighbour =
        sh("podman run --rm --pod site busybox wget -q -O - http://127.0.0.1/").succeeds();
    assert_eq!(neighbour, "page");
    sh("podman pod stop -t 0 site").succeeds();
    sh("podman pod rm -f site").succeeds();
}

pub(crate) fn podman_follows_the_page_word_by_word(world: &World) {
    let host = podman(world, "");
    host.sh("isle setup podman --undo --yes").succeeds();
    let level = world.level().word();
    let runtime = format!("--runtime {} ", runtime(world));
    let told = host.follow("podman.md", |line| {
        let line = line.replace("--runtime isle ", &runtime);
        line.replace("--default container", &format!("--default {level}"))
    });
    let kernels: Vec<&String> = told
        .iter()
        .filter(|(line, _)| line.ends_with("uname -v"))
        .map(|(_, printed)| printed)
        .collect();
    assert_eq!(kernels.len(), 3);
    for kernel in kernels {
        is_kernel_of_level(world, kernel);
    }
    host.sh("test ! -e /etc/containers/containers.conf.d")
        .succeeds();
}
