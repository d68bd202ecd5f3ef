//! The same files, read by Docker Compose.

use std::process::Command;

use isle_tests::World;
use serde_json::Value;

/// What Docker Compose prints of a file means the same to us as the file itself. Its version 1.29 knows less, so the files
/// have what both know.
pub fn docker_compose_reads_the_same(world: &World) {
    let base = "version: '3.8'
services:
  web:
    image: \"nginx:${TAG:-1}\"
    command: sh -c \"echo 'a b' $$HOME\"
    ports: ['8080:80', '127.0.0.1:53:53/udp', 9]
    environment: [A=1, 'B=${FROM_FILE}', 'C=two words', EMPTY=]
    env_file: web.env
    volumes: ['rows:/rows:ro', './here:/there', {type: tmpfs, target: /t}]
    networks: {front: {aliases: [www]}, back: }
    labels: {l: '1'}
    depends_on: [db]
    ulimits: {nofile: {soft: 10, hard: 20}}
    healthcheck: {test: curl localhost, interval: 1m30s, retries: 3}
    cap_add: [NET_ADMIN]
    dns: 1.1.1.1
    deploy: {replicas: 2, resources: {limits: {cpus: '0.50', memory: 64M}}}
    restart: unless-stopped
    secrets: [{source: key, target: here, mode: 0440}]
  db:
    image: db
    entrypoint: /bin/db --flag
    stop_grace_period: 1m0s
    sysctls: {net.core.somaxconn: 1024}
    tmpfs: /tmp
    privileged: true
    user: '1000:1000'
networks:
  front: {}
  back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}, labels: [x=y]}
volumes: {rows: {driver_opts: {type: tmpfs, device: tmpfs}}}
secrets: {key: {file: ./key.txt}}
";
    let over = "version: '3.8'
services:
  web:
    command: [serve, 'x y']
    environment: {A: '2', D: d}
    ports: ['8081:81']
    volumes: ['./other:/there']
    labels: [m=2]
    dns: [8.8.8.8]
    healthcheck: {timeout: 10s}
";
    let first = world.file("demo/base.yaml", base);
    let second = world.file("demo/over.yaml", over);
    world.file("demo/.env", "FROM_FILE=file\n");
    world.file("demo/web.env", "E=env\nA=lost\n");
    world.file("demo/key.txt", "key");
    for files in [vec![&first], vec![&first, &second]] {
        let flags = || files.iter().flat_map(|file| ["--file", file.as_str()]);
        let theirs = Command::new("docker-compose")
            .current_dir(world.files().join("demo"))
            .env_remove("TAG")
            .args(flags())
            .arg("config")
            .output()
            .expect("docker-compose runs");
        assert!(
            theirs.status.success(),
            "{}",
            String::from_utf8_lossy(&theirs.stderr)
        );
        let printed = world.file("demo/theirs.yaml", theirs.stdout);
        let ours = |flags: Vec<&str>| {
            let outcome = world
                .isle(["compose"])
                .arguments(flags)
                .arguments(["config", "--format", "json"]);
            serde_json::from_str::<Value>(&outcome.succeeds()).expect("JSON")
        };
        let (ours, theirs) = (ours(flags().collect()), ours(vec!["--file", &printed]));
        for section in ["services", "networks", "volumes", "secrets"] {
            let (ours, theirs) = (&ours[section], &theirs[section]);
            let names = |value: &Value| {
                value
                    .as_object()
                    .map(|map| map.keys().cloned().collect::<Vec<_>>())
            };
            assert_eq!(names(ours), names(theirs), "{section}");
            for name in names(ours).unwrap_or_default() {
                for key in names(&ours[&name]).unwrap_or_default() {
                    assert_eq!(
                        comparable(&ours[&name][&key], &key),
                        comparable(&theirs[&name][&key], &key),
                        "{section}.{name}.{key}"
                    );
                }
            }
        }
    }
}

/// Nothing is nothing, whether it is written as `{}` or left out.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), bare(value)))
            .collect(),
        value => value.clone(),
    }
}

/// Ports and their like are no rows: theirs come sorted.
fn comparable(value: &Value, key: &str) -> Value {
    match bare(value) {
        Value::Array(mut items) if !matches!(key, "command" | "entrypoint") => {
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        value => value,
    }
}
