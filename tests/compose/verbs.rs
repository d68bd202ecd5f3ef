//! The verbs about what is there.

use isle_tests::{World, wait_for};

use crate::project::Project;

pub fn one_command_runs_in_an_instance_of_its_own(world: &World) {
    let project = Project::new(
        world,
        "services:
  db: {command: sleep 1000, stop_grace_period: 0s}
  tool: {command: echo default, environment: {A: one}, depends_on: [db], profiles: [tools]}
",
    );
    assert_eq!(
        project.isle(["run", "--rm", "-T", "tool"]).succeeds(),
        "default"
    );
    let own = [
        "run",
        "--rm",
        "-T",
        "-e",
        "B=two",
        "tool",
        "sh",
        "-c",
        "echo $A $B; exit 3",
    ];
    assert_eq!(project.isle(own).exits_with(3).stdout(), "one two\n");
    // What it depends on was brought up; the service itself was not.
    assert_eq!(project.isle(["ps", "-a", "--services"]).succeeds(), "db");
    let name = project
        .isle(["run", "-d", "tool", "sleep", "1000"])
        .succeeds();
    assert!(name.starts_with("demo-tool-run-"), "{name}");
    project.isle(["down", "-t", "0"]).succeeds();
    assert_eq!(world.isle(["ps", "-aq"]).succeeds(), "");
}

pub fn verbs_act_on_the_services_that_are_named(world: &World) {
    let project = Project::new(
        world,
        "services:
  a: {command: sleep 1000, stop_grace_period: 0s}
  b: {command: sleep 1000, stop_grace_period: 0s, depends_on: [a]}
",
    );
    project.isle(["create"]).succeeds();
    let states = || {
        project
            .isle(["ps", "-a", "--format", "{{.Service}} {{.State}}"])
            .succeeds()
    };
    assert_eq!(states(), "a created\nb created");
    project.isle(["start"]).succeeds();
    assert_eq!(states(), "a running\nb running");
    project.isle(["pause", "a"]).succeeds();
    assert_eq!(states(), "a paused\nb running");
    project.isle(["unpause"]).succeeds();
    let listed = world
        .isle(["compose", "ls", "--format", "{{.Name}} {{.Status}}"])
        .succeeds();
    assert_eq!(listed, "demo running(2)");
    let top = project.isle(["top", "a"]).succeeds();
    assert!(
        top.starts_with("SERVICE") && top.contains("sleep 1000"),
        "{top}"
    );
    let file = world.file("note", "copied\n");
    project.isle(["cp", &file, "b:/note"]).succeeds();
    assert_eq!(
        project.isle(["exec", "-T", "b", "cat", "/note"]).succeeds(),
        "copied"
    );
    let images = project
        .isle(["images", "--format", "{{.ContainerName}} {{.Repository}}"])
        .succeeds();
    assert_eq!(images, "demo-a-1 busybox\ndemo-b-1 busybox");
    project.isle(["kill", "b"]).succeeds();
    wait_for("its end", || states() == "a running\nb exited");
    project.isle(["rm", "-f"]).succeeds();
    assert_eq!(states(), "a running");
    project.isle(["scale", "--no-deps", "b=2"]).succeeds();
    assert_eq!(states(), "a running\nb running\nb running");
    project.isle(["restart", "a"]).succeeds();
    project.isle(["stop"]).succeeds();
    assert_eq!(states(), "a exited\nb exited\nb exited");
    let drawing = project.isle(["viz"]).succeeds();
    assert!(drawing.contains("\"b\" -> \"a\";"), "{drawing}");
    let events = |services: &[&str]| {
        let events = project.isle(["events", "--since", "10m", "--until", "0s"]);
        events.arguments(services).succeeds()
    };
    let all = events(&[]);
    assert!(all.contains("pause") && all.contains("demo-a-1"), "{all}");
    assert_eq!(events(&["a", "b"]), all);
    let of_one = events(&["b"]);
    assert!(of_one.contains("demo-b-1"), "{of_one}");
    assert!(!of_one.contains("demo-a-1"), "{of_one}");
}

pub fn files_that_change_go_into_services(world: &World) {
    let project = Project::new(
        world,
        "services:
  a: {command: sleep 1000, stop_grace_period: 0s, develop: {watch: [{path: ./site, action: sync, target: /srv, ignore: ['*.tmp']}]}}
",
    );
    world.file("demo/site/one", "1");
    project.isle(["up", "-d"]).succeeds();
    let mut watch = project.isle(["watch", "--no-up"]).spawn();
    wait_for("the watch", || watch.stderr().contains("Watch enabled"));
    world.file("demo/site/deep/two", "2");
    world.file("demo/site/x.tmp", "not this");
    let inside = |script: &str| {
        project
            .isle(["exec", "-T", "a", "sh", "-c", script])
            .run()
            .stdout()
    };
    wait_for("the file inside", || inside("cat /srv/deep/two") == "2");
    std::fs::remove_file(world.files().join("demo/site/deep/two")).expect("removed");
    wait_for("its end inside", || {
        inside("ls /srv/deep; ls /srv") == "deep\n"
    });
    watch.signal(rustix::process::Signal::INT);
    wait_for("the end of the watch", || watch.has_ended());
    assert_eq!(watch.wait().code(), 0);
}

pub fn images_are_built_and_rebuilt(world: &World) {
    let image = world.busybox();
    let project = Project::new(world, "services: {}\n");
    project.change_to(
        "services:
  a:
    build: {context: ./a, args: {WHO: built}}
    stop_grace_period: 0s
  b:
    build: {dockerfile_inline: \"FROM busybox\\nCMD [\\\"sleep\\\", \\\"1000\\\"]\\n\"}
    stop_grace_period: 0s
",
    );
    let dockerfile = |text: &str| {
        world.file(
            "demo/a/Dockerfile",
            format!("FROM {image}\nARG WHO\nENV WHO=$WHO{text}\nCMD [\"sleep\", \"1000\"]\n"),
        )
    };
    dockerfile("");
    let who = || {
        project
            .isle(["exec", "-T", "a", "sh", "-c", "echo $WHO"])
            .succeeds()
    };
    project.isle(["up", "-d"]).succeeds();
    assert_eq!(who(), "built");
    dockerfile("-again");
    project.isle(["up", "-d"]).succeeds();
    assert_eq!(
        who(),
        "built",
        "without --build an image that is here is taken"
    );
    let b = world.inspect("demo-b-1")["Id"].clone();
    project.isle(["up", "-d", "--build"]).succeeds();
    assert_eq!(who(), "built-again");
    assert_eq!(
        world.inspect("demo-b-1")["Id"],
        b,
        "what was built the same is not made again"
    );
}
