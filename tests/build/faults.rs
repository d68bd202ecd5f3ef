//! What is wrong, and what is left of it.

use isle_tests::{World, wait_for};
use rustix::process::Signal;

use crate::{build, context, nothing_is_left};

pub fn mistakes_are_placed_and_have_a_fix(world: &World) {
    let cases = [
        (
            "FROM busybox\nRUM x\n",
            "Dockerfile:2:1",
            "did you mean RUN?",
        ),
        (
            "FROM busybox\nCOPY --form=x a b\n",
            "Dockerfile:2:6",
            "did you mean --from?",
        ),
        (
            "FROM busybox\n\nCOPY fil.txt /\n",
            "Dockerfile:3:1",
            "did you mean file.txt?",
        ),
        (
            "FROM busybox\nCOPY hidden /\n",
            "\"hidden\" is left out",
            ".dockerignore",
        ),
        (
            "FROM a AS x\nCOPY --from=y /a /a\nFROM b AS y\nCOPY --from=x /b /b\n",
            "circle",
            "take one of these",
        ),
        ("FROM $NONE\n", "is empty", "ARG NONE=…"),
        (
            "FROM busybox\nRUN --mount=type=cach,target=/x true\n",
            "Dockerfile:2:1",
            "there are bind, cache",
        ),
        ("FROM busybox\nENV A=\"x\n", "Dockerfile:2:1", "quote"),
        (
            "FROM busybox\nRUN <<EOF\nx\n",
            "Dockerfile:2:5",
            "write EOF alone",
        ),
        (
            "FROM busybox\nCOPY file.txt Dockerfile /none\n",
            "several sources",
            "write /none/",
        ),
        (
            "FROM busybox\nRUN --network=host true\n",
            "not allowed",
            "--allow network.host",
        ),
        (
            "FROM busybox\nUSER nobody-here\nRUN true\n",
            "Dockerfile:3:1",
            "nobody-here",
        ),
    ];
    for (index, (dockerfile, place, fix)) in cases.iter().enumerate() {
        let files = [
            ("file.txt", ""),
            ("hidden", ""),
            (".dockerignore", "hidden\n"),
        ];
        let context = context(world, &format!("bad{index}"), dockerfile, &files);
        let outcome = build(world, &[], &context).exits_with(1);
        outcome.complains(place).complains(fix);
    }
    let folder = world.files().to_string_lossy().into_owned();
    build(world, &[], &folder)
        .exits_with(1)
        .complains("there is no Dockerfile");
    let fine = context(world, "fine", "FROM busybox AS one\nFROM one AS two\n", &[]);
    build(world, &["--target", "tow"], &fine)
        .exits_with(1)
        .complains("did you mean two?");
    nothing_is_left(world);
}

pub fn a_step_that_fails_shows_its_last_lines_and_leaves_nothing(world: &World) {
    let dockerfile = "FROM busybox\nRUN echo fine > /fine\nRUN for i in 1 2 3; do echo line $i; done; exit 7\nRUN true\n";
    let context = context(world, "fails", dockerfile, &[]);
    let outcome = build(world, &["-t", "fails"], &context).exits_with(1);
    outcome
        .complains("Dockerfile:3:1")
        .complains("exit code 7")
        .complains("line 3");
    nothing_is_left(world);
    // What was done before is in the cache.
    let outcome = build(world, &["-t", "fails"], &context).exits_with(1);
    assert!(outcome.stderr().contains("CACHED"), "{}", outcome.stderr());
}

pub fn a_build_that_is_stopped_leaves_nothing(world: &World) {
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c echo begun; sleep 600\n";
    let context = context(world, "stopped", dockerfile, &[]);
    let running = build(world, &["-t", "stopped"], &context).spawn();
    wait_for("the step has begun", || running.stderr().contains(" begun"));
    running.signal(Signal::INT);
    let outcome = running.wait();
    assert_eq!(outcome.code(), 130, "{}", outcome.stderr());
    nothing_is_left(world);
}

pub fn a_build_that_is_killed_is_cleared_up_by_the_next(world: &World) {
    let dockerfile = "FROM busybox\nARG SLEEP=600\nRUN echo begun; sleep $SLEEP\n";
    let context = context(world, "killed", dockerfile, &[]);
    let running = build(world, &["-t", "killed"], &context).spawn();
    wait_for("the step has begun", || running.stderr().contains(" begun"));
    running.signal(Signal::KILL);
    let _ = running.wait();
    let out = world.files().join("out").to_string_lossy().into_owned();
    build(
        world,
        &["--output", &out, "--build-arg", "SLEEP=0"],
        &context,
    )
    .succeeds();
    nothing_is_left(world);
}
