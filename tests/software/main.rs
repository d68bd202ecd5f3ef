//! Real software from real images: it starts, answers, keeps its data, and stops in good order.

#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use isle_tests::peers::free_port;
use isle_tests::{Level, World, wait_for};

isle_tests::stories! {
    nginx_serves_its_page_and_stops_gracefully,
    redis_answers_and_keeps_its_data_in_its_volume,
    postgresql_is_made_at_the_first_start_and_keeps_its_rows,
    python_runs_a_program_from_standard_input,
    debian_installs_nothing_but_has_apt,
}

/// The network on which the test can reach the instance. A virtual machine has the host's at no time: there the
/// request is made from inside.
fn network(world: &World) -> &'static str {
    match world.level() {
        Level::Container => "host",
        Level::Vm => "none",
    }
}

/// Sends a request and reads the answer to its end; `None` when nobody listens.
fn ask(world: &World, name: &str, port: u16, request: &str) -> Option<String> {
    match world.level() {
        Level::Container => ask_from_here(port, request),
        Level::Vm => {
            let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && cat >&3 && cat <&3");
            let asked = world
                .isle(["exec", "-i", name, "bash", "-c", &script])
                .stdin(request)
                .run();
            let answer = String::from_utf8_lossy(asked.stdout_bytes()).into_owned();
            (asked.code() == 0).then_some(answer)
        }
    }
}

fn ask_from_here(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn nginx_serves_its_page_and_stops_gracefully(world: &World) {
    let image = world.image("nginx");
    let port = free_port();
    world
        .isle([
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            network(world),
            "-e",
            &format!("NGINX_PORT={port}"),
            &image,
        ])
        .succeeds();
    let mut answer = String::new();
    wait_for("nginx answers", || {
        answer = ask(world, "web", port, "GET / HTTP/1.0\r\n\r\n").unwrap_or_default();
        !answer.is_empty()
    });
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("Welcome to nginx"),
        "{answer}"
    );
    world.wait_for_log("web", "GET / HTTP/1.0");
    world.isle(["stop", "web"]).succeeds();
    // SIGQUIT, its STOPSIGNAL, ends it in good order.
    assert_eq!(world.isle(["wait", "web"]).succeeds(), "0");
    assert!(ask(world, "web", port, "GET / HTTP/1.0\r\n\r\n").is_none());
}

fn redis_answers_and_keeps_its_data_in_its_volume(world: &World) {
    let image = world.image("redis");
    let port = free_port();
    let run = |name: &str| {
        world
            .isle([
                "run",
                "-d",
                "--name",
                name,
                "--network",
                network(world),
                "-v",
                "data:/data",
                "-e",
                &format!("REDIS_PORT={port}"),
                &image,
            ])
            .succeeds();
        wait_for("Redis answers", || {
            ask(world, name, port, "PING\r\nQUIT\r\n")
                .is_some_and(|answer| answer.starts_with("+PONG"))
        });
    };
    run("one");
    // It has dropped root, as its entry point does.
    let processes = world
        .isle(["exec", "one", "sh", "-c", "stat -c %U /proc/1"])
        .succeeds();
    assert_eq!(processes, "redis");
    let answer = ask(world, "one", port, "SET key value\r\nSAVE\r\nQUIT\r\n").expect("it listens");
    assert_eq!(answer, "+OK\r\n+OK\r\n+OK\r\n");
    world.isle(["stop", "one"]).succeeds();
    assert_eq!(world.isle(["wait", "one"]).succeeds(), "0");
    run("two");
    assert_eq!(
        ask(world, "two", port, "GET key\r\nQUIT\r\n").expect("it listens"),
        "$5\r\nvalue\r\n+OK\r\n"
    );
    let text = world
        .isle([
            "exec",
            "two",
            "redis-cli",
            "-p",
            &port.to_string(),
            "dbsize",
        ])
        .succeeds();
    assert_eq!(text, "1");
}

fn postgresql_is_made_at_the_first_start_and_keeps_its_rows(world: &World) {
    let image = world.image("postgresql");
    let port = free_port().to_string();
    let script = world.file(
        "init/10-table.sql",
        "CREATE TABLE made (at_start text); INSERT INTO made VALUES ('yes');",
    );
    let bind = format!(
        "{}:/docker-entrypoint-initdb.d:ro",
        script.trim_end_matches("/10-table.sql")
    );
    let run = |name: &str| {
        world
            .isle([
                "run",
                "-d",
                "--name",
                name,
                "--network",
                network(world),
                "-v",
                "rows:/var/lib/postgresql/data",
                "-v",
                &bind,
                "-e",
                "POSTGRES_PASSWORD=secret",
                "-e",
                &format!("PGPORT={port}"),
                &image,
            ])
            .succeeds();
        let ready = [
            "exec",
            name,
            "pg_isready",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
        ];
        wait_for("PostgreSQL is ready", || {
            world.isle(ready).run().code() == 0
        });
    };
    let query = |name: &str, text: &str| {
        world
            .isle([
                "exec",
                "-e",
                "PGPASSWORD=secret",
                name,
                "psql",
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "postgres",
                "-tA",
                "-c",
                text,
            ])
            .succeeds()
    };
    run("one");
    assert_eq!(query("one", "SELECT at_start FROM made"), "yes");
    query(
        "one",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n",
    );
    // Without the password nobody gets in.
    let outcome = world
        .isle([
            "exec",
            "-e",
            "PGPASSWORD=wrong",
            "one",
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            "SELECT 1",
        ])
        .run();
    assert_eq!(outcome.code(), 2, "{outcome}");
    world.isle(["stop", "one"]).succeeds();
    assert_eq!(world.isle(["wait", "one"]).succeeds(), "0");
    run("two");
    assert_eq!(query("two", "SELECT sum(n) FROM t"), "500500");
    // A crash: the write-ahead log has the rows.
    query("two", "INSERT INTO t VALUES (1)");
    world.isle(["kill", "two"]).succeeds();
    world.isle(["rm", "-f", "two"]).succeeds();
    run("three");
    assert_eq!(query("three", "SELECT sum(n) FROM t"), "500501");
}

fn python_runs_a_program_from_standard_input(world: &World) {
    let image = world.image("python");
    let text = world
        .isle(["run", "--rm", "-i", &image, "python3", "-"])
        .stdin("import json, platform, ssl\nprint(json.dumps({'ok': platform.system()}))\n")
        .succeeds();
    assert_eq!(text, "{\"ok\": \"Linux\"}");
}

fn debian_installs_nothing_but_has_apt(world: &World) {
    let image = world.image("debian");
    let text = world
        .isle([
            "run",
            "--rm",
            &image,
            "bash",
            "-c",
            "apt-get --version | head -1; . /etc/os-release; echo $VERSION_ID",
        ])
        .succeeds();
    assert!(text.starts_with("apt 2.") && text.ends_with("12"), "{text}");
    // dpkg works on an overlay: it renames, links and syncs.
    world
        .isle(["run", "--rm", &image, "bash", "-c", "dpkg --remove --force-depends --force-remove-essential hostname && ! command -v hostname"])
        .exits_with(0);
}
