//! Projects of several services: `isle compose`.

#![forbid(unsafe_code)]

mod foreground;
mod peer;
mod project;
mod shop;
mod verbs;

use foreground::the_foreground_ends_with_a_service_or_an_interrupt;
use isle_tests::{Level, Need, World, wait_for};
use peer::docker_compose_reads_the_same;
use project::Project;
use shop::a_shop_takes_orders;
use verbs::{
    files_that_change_go_into_services, images_are_built_and_rebuilt,
    one_command_runs_in_an_instance_of_its_own, verbs_act_on_the_services_that_are_named,
};

isle_tests::stories! {
    a_project_comes_up_in_the_order_of_its_dependencies_and_goes [Need::Isle],
    up_twice_changes_nothing_and_a_changed_service_alone_is_made_again [Need::Isle],
    services_find_each_other_and_keep_their_volumes [Need::Isle],
    secrets_and_configs_are_files [Need::Isle],
    a_dry_run_changes_nothing [Need::Isle, Need::Only(Level::Container)],
    what_is_half_up_is_completed [Need::Isle, Need::Only(Level::Container)],
    a_dependency_that_fails_is_told [Need::Isle, Need::Only(Level::Container)],
    mistakes_are_told_with_their_place [Need::Isle, Need::Only(Level::Container)],
    one_command_runs_in_an_instance_of_its_own [Need::Isle],
    verbs_act_on_the_services_that_are_named [Need::Isle],
    files_that_change_go_into_services [Need::Isle, Need::Only(Level::Container)],
    images_are_built_and_rebuilt [Need::Isle, Need::Only(Level::Container)],
    the_foreground_ends_with_a_service_or_an_interrupt [Need::Isle, Need::Only(Level::Container)],
    docker_compose_reads_the_same [Need::Isle, Need::Only(Level::Container), Need::DockerCompose],
    a_shop_takes_orders [Need::Isle, Need::Only(Level::Container)],
}

fn a_project_comes_up_in_the_order_of_its_dependencies_and_goes(world: &World) {
    let project = Project::new(
        world,
        "services:
  db:
    command: sh -c 'sleep 1; touch /ready; exec sleep 1000'
    stop_grace_period: 0s
    healthcheck: {test: [CMD, test, -e, /ready], interval: 100ms, retries: 100}
  prepare:
    command: sh -c 'echo prepared'
  web:
    command: sh -c 'echo serving; exec sleep 1000'
    stop_grace_period: 0s
    depends_on:
      db: {condition: service_healthy}
      prepare: {condition: service_completed_successfully}
",
    );
    project.isle(["up", "-d", "--wait"]).succeeds();
    let states = project
        .isle([
            "ps",
            "-a",
            "--format",
            "{{.Service}} {{.State}} {{.Health}}",
        ])
        .succeeds();
    assert_eq!(states, "db running healthy\nprepare exited \nweb running");
    // A line of a machine comes a moment after it was written.
    wait_for("lines of both", || {
        let logs = project.isle(["logs", "--no-color"]).succeeds();
        logs.contains("prepare-1  | prepared\n") && logs.contains("web-1      | serving")
    });
    // The dependency was healthy before the other began.
    let started = |name: &str| {
        world.inspect(name)["State"]["StartedAt"]
            .as_str()
            .expect("a time")
            .to_owned()
    };
    assert!(started("demo-db-1") < started("demo-web-1"));
    let labels = &world.inspect("demo-web-1")["Config"]["Labels"];
    assert_eq!(labels["com.docker.compose.project"], "demo");
    assert_eq!(labels["com.docker.compose.service"], "web");
    assert_eq!(labels["com.docker.compose.container-number"], "1");
    project.isle(["down", "-v"]).succeeds();
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
    assert_eq!(world.isle(["volume", "ls", "-q"]).succeeds(), "");
    let networks = world
        .isle(["network", "ls", "-q", "--filter", "name=demo"])
        .succeeds();
    assert_eq!(networks, "");
}

fn up_twice_changes_nothing_and_a_changed_service_alone_is_made_again(world: &World) {
    let text = "services:
  a: {command: sleep 1000, stop_grace_period: 0s, environment: {V: '1'}, volumes: [/anonymous]}
  b: {command: sleep 1000, stop_grace_period: 0s, scale: 2}
";
    let project = Project::new(world, text);
    project.isle(["up", "-d"]).succeeds();
    let ids = || {
        world
            .isle(["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])
            .succeeds()
    };
    let volume = || world.inspect("demo-a-1")["Mounts"][0]["Name"].clone();
    let (first, kept) = (ids(), volume());
    project.isle(["up", "-d"]).succeeds();
    assert_eq!(ids(), first);
    project.change(&text.replace("V: '1'", "V: '2'"));
    let plan = project.isle(["up", "-d", "--dry-run"]).succeeds();
    assert!(
        plan.contains("recreate demo-a-1 (its configuration has changed)")
            && plan.contains("keep demo-b-2"),
        "{plan}"
    );
    assert_eq!(ids(), first);
    project.isle(["up", "-d"]).succeeds();
    let second = ids();
    for line in first.lines() {
        assert_eq!(
            second.contains(line),
            !line.starts_with("demo-a-1 "),
            "{line} in {second}"
        );
    }
    assert_eq!(
        project
            .isle(["exec", "-T", "a", "sh", "-c", "echo $V"])
            .succeeds(),
        "2"
    );
    assert_eq!(
        volume(),
        kept,
        "an anonymous volume goes over to the new instance"
    );
    project
        .isle(["up", "-d", "--scale", "b=1", "--no-recreate"])
        .succeeds();
    assert!(!ids().contains("demo-b-2"));
}

fn services_find_each_other_and_keep_their_volumes(world: &World) {
    let project = Project::new(
        world,
        "services:
  db: {command: sh -c 'echo kept >> /data/rows; exec httpd -f -p 80 -h /data', stop_grace_period: 0s, volumes: ['rows:/data'], networks: {back: {aliases: [database]}}}
  web: {command: sleep 1000, stop_grace_period: 0s, networks: [back, front], depends_on: [db]}
  alone: {command: sleep 1000, stop_grace_period: 0s, networks: [front]}
networks: {back: {internal: true}, front: {}}
volumes: {rows: {}}
",
    );
    project.isle(["up", "-d"]).succeeds();
    for name in ["db", "database", "demo-db-1"] {
        wait_for("an answer", || {
            let get = [
                "exec",
                "-T",
                "web",
                "wget",
                "-q",
                "-O",
                "-",
                &format!("http://{name}/rows"),
            ]
            .map(str::to_owned);
            project.isle(get).run().stdout() == "kept\n"
        });
    }
    let outcome = project
        .isle(["exec", "-T", "alone", "nslookup", "db"])
        .run();
    assert_ne!(
        outcome.code(),
        0,
        "a service is found on its own networks only"
    );
    project.isle(["down"]).succeeds();
    project.isle(["up", "-d", "db"]).succeeds();
    wait_for("rows of both runs", || {
        project
            .isle(["exec", "-T", "db", "cat", "/data/rows"])
            .run()
            .stdout()
            == "kept\nkept\n"
    });
    project.isle(["down", "-v"]).succeeds();
    assert_eq!(world.isle(["volume", "ls", "-q"]).succeeds(), "");
}

fn secrets_and_configs_are_files(world: &World) {
    let project = Project::new(
        world,
        "services:
  a:
    command: sleep 1000
    stop_grace_period: 0s
    secrets: [of_file, {source: of_variable, target: here, uid: '1000', mode: 0400}]
    configs: [{source: inline, target: /etc/motd}]
secrets:
  of_file: {file: ./secret.txt}
  of_variable: {environment: SECRET}
configs:
  inline: {content: \"port ${PORT:-80} $$kept\\n\"}
",
    );
    world.file("demo/secret.txt", "of a file\n");
    let up = project.isle(["up", "-d"]).run();
    up.complains("the variable SECRET is not set");
    project
        .isle(["up", "-d"])
        .env("SECRET", "of a variable")
        .succeeds();
    let cat = |path: &str| {
        project
            .isle(["exec", "-T", "a", "cat", path])
            .env("SECRET", "of a variable")
            .succeeds()
    };
    assert_eq!(cat("/run/secrets/of_file"), "of a file");
    assert_eq!(cat("/run/secrets/here"), "of a variable");
    assert_eq!(cat("/etc/motd"), "port 80 $kept");
    let listed = project
        .isle([
            "exec",
            "-T",
            "a",
            "stat",
            "-c",
            "%u %a",
            "/run/secrets/here",
        ])
        .succeeds();
    assert_eq!(listed, "1000 400");
    project.isle(["down"]).succeeds();
    assert!(!world.root().join("compose/demo").exists());
}

fn a_dry_run_changes_nothing(world: &World) {
    let project = Project::new(
        world,
        "services:\n  a: {command: sleep 1000, volumes: ['v:/v'], ports: ['80']}\nvolumes: {v: }\n",
    );
    let plan = project.isle(["up", "--dry-run"]).succeeds();
    for part in [
        "create network demo_default",
        "create volume demo_v",
        "create demo-a-1",
        "isle create --name=demo-a-1",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
    assert_eq!(world.isle(["volume", "ls", "-q"]).succeeds(), "");
}

fn what_is_half_up_is_completed(world: &World) {
    let text = "services:
  a: {command: sleep 1000, stop_grace_period: 0s}
  b: {command: BAD, stop_grace_period: 0s, depends_on: [a]}
  c: {command: sleep 1000, stop_grace_period: 0s, depends_on: [b]}
";
    let project = Project::new(world, &text.replace("BAD", "/no/such/program"));
    project
        .isle(["up", "-d"])
        .run()
        .complains("cannot start demo-b-1");
    let states = project
        .isle(["ps", "-a", "--format", "{{.Service}} {{.State}}"])
        .succeeds();
    assert_eq!(states, "a running\nb created\nc created");
    project.change(&text.replace("BAD", "sleep 1000"));
    project.isle(["up", "-d"]).succeeds();
    let states = project
        .isle(["ps", "-a", "--format", "{{.Service}} {{.State}}"])
        .succeeds();
    assert_eq!(states, "a running\nb running\nc running");
}

fn a_dependency_that_fails_is_told(world: &World) {
    let project = Project::new(
        world,
        "services:
  prepare: {command: sh -c 'exit 3'}
  sick: {command: sleep 1000, stop_grace_period: 0s, healthcheck: {test: exit 1, interval: 50ms, retries: 1}}
  a: {command: sleep 1000, depends_on: {prepare: {condition: service_completed_successfully}}}
  b: {command: sleep 1000, depends_on: {sick: {condition: service_healthy}}}
  c: {command: sleep 1000, stop_grace_period: 0s, depends_on: {prepare: {condition: service_completed_successfully, required: false}}}
",
    );
    let up = project.isle(["up", "-d", "a"]).run();
    up.complains("dependency failed: demo-prepare-1 has exited with code 3");
    let up = project.isle(["up", "-d", "b"]).run();
    up.complains("dependency failed: demo-sick-1 is unhealthy");
    project.isle(["up", "-d", "c"]).succeeds();
    assert_eq!(world.status("demo-c-1"), "running");
}

fn mistakes_are_told_with_their_place(world: &World) {
    let project = Project::new(world, "services: {}\n");
    project.change_to("services:\n  a:\n    comand: x\n");
    let outcome = project.isle(["config"]).exits_with(1);
    outcome.complains("compose.yaml:3:5: services.a has no key \"comand\"");
    outcome.complains("did you mean \"command\"?");
    project.change_to("services:\n  a: {volumes: ['/x:/y:what']}\n");
    project
        .isle(["up"])
        .exits_with(1)
        .complains("compose.yaml:2:17: services.a.volumes.0: \"what\" is no option of a mount");
    project.change("services:\n  a: {mem_limit: 1k}\n");
    project
        .isle(["up", "-d"])
        .run()
        .complains("service a cannot be made");
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}
