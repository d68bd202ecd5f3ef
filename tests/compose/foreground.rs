//! `up` in the foreground.

use isle_tests::{World, wait_for};

use crate::project::Project;

pub fn the_foreground_ends_with_a_service_or_an_interrupt(world: &World) {
    let project = Project::new(
        world,
        "services:
  job: {command: sh -c 'echo working; sleep 0.3; exit 7'}
  server: {command: sleep 1000, stop_grace_period: 0s}
",
    );
    let up = project
        .isle(["up", "--exit-code-from", "job", "--no-color"])
        .exits_with(7);
    up.prints("job-1     | working\n")
        .prints("job-1 exited with code 7")
        .complains("Aborting");
    assert_eq!(world.status("demo-server-1"), "exited");

    let mut up = project.isle(["up", "server"]).spawn();
    wait_for("the server", || {
        world
            .isle(["ps", "-q", "--filter", "name=demo-server-1"])
            .run()
            .stdout()
            != ""
    });
    up.wait_for_output("Attaching to server-1");
    up.signal(rustix::process::Signal::INT);
    wait_for("the end", || up.has_ended());
    let outcome = up.wait();
    assert_eq!(outcome.code(), 130);
    outcome.complains("Gracefully stopping");
    assert_eq!(world.status("demo-server-1"), "exited");
}
