//! The language: what instructions do.

use isle_tests::World;

use crate::{build, context, inside};

pub fn a_dockerfile_becomes_an_image_that_runs(world: &World) {
    let dockerfile = "ARG BASE=busybox\n\
        FROM ${BASE} AS build\n\
        ARG WHO=nobody\n\
        WORKDIR /work\n\
        COPY name.txt .\n\
        RUN echo \"hello $WHO, $(cat name.txt)\" > greeting && rm /bin/vi\n\
        FROM ${BASE}\n\
        COPY --from=build /work/greeting /etc/greeting\n\
        ENV FILE=/etc/greeting\n\
        CMD [\"cat\", \"/etc/greeting\"]\n";
    let context = context(world, "first", dockerfile, &[("name.txt", "file\n")]);
    build(
        world,
        &["-t", "first", "--build-arg", "WHO=world"],
        &context,
    )
    .succeeds();
    assert_eq!(
        world.isle(["run", "--rm", "first"]).succeeds(),
        "hello world, file"
    );
    // What the build stage removed is there in the other one.
    assert_eq!(
        inside(world, "first", "test -e /bin/vi && echo $FILE"),
        "/etc/greeting\n"
    );
    build(world, &["-t", "stage", "--target", "build"], &context).succeeds();
    assert_eq!(
        inside(world, "stage", "pwd; test -e /bin/vi || echo gone"),
        "/work\ngone\n"
    );
}

pub fn only_the_stages_that_are_needed_are_built(world: &World) {
    let dockerfile = "FROM busybox AS broken\nRUN false\n\
        FROM busybox AS one\nRUN echo 1 > /1\n\
        FROM busybox AS two\nRUN echo 2 > /2\n\
        FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\nCOPY --from=one /bin /bin\n";
    let context = context(world, "stages", dockerfile, &[]);
    build(world, &["-t", "both"], &context).succeeds();
    assert_eq!(inside(world, "both", "cat /1 /2"), "1\n2\n");
    build(world, &["--target", "broken"], &context)
        .exits_with(1)
        .complains("exit code 1");
}

pub fn the_configuration_is_what_the_instructions_say(world: &World) {
    let dockerfile = "FROM busybox\n\
        LABEL one=1 \"two words\"=\"2 3\"\n\
        ENV A=1 B=\"x y\"\n\
        ENV C ${A}-$B\n\
        EXPOSE 80 53/udp\n\
        VOLUME /data\n\
        USER 7:8\n\
        STOPSIGNAL SIGUSR1\n\
        SHELL [\"/bin/sh\", \"-ec\"]\n\
        HEALTHCHECK --interval=5s --retries=2 CMD test -e /tmp\n\
        ENTRYPOINT echo\n\
        CMD [\"x\"]\n\
        MAINTAINER somebody\n\
        WORKDIR /a\n\
        WORKDIR b\n";
    let context = context(world, "config", dockerfile, &[]);
    build(world, &["-t", "config", "--label", "three=3"], &context).succeeds();
    let image = world.inspect("config");
    let config = &image["Config"];
    assert_eq!(config["Labels"]["two words"], "2 3");
    assert_eq!(config["Labels"]["three"], "3");
    let env = config["Env"].to_string();
    assert!(
        env.contains("\"C=1-x y\"") && env.contains("PATH="),
        "{env}"
    );
    assert!(
        config["ExposedPorts"].get("80/tcp").is_some()
            && config["ExposedPorts"].get("53/udp").is_some()
    );
    assert!(config["Volumes"].get("/data").is_some());
    assert_eq!(config["User"], "7:8");
    assert_eq!(config["StopSignal"], "SIGUSR1");
    assert_eq!(
        config["Entrypoint"].to_string(),
        "[\"/bin/sh\",\"-ec\",\"echo\"]"
    );
    assert_eq!(config["Cmd"].to_string(), "[\"x\"]");
    assert_eq!(config["WorkingDir"], "/a/b");
    assert_eq!(config["Healthcheck"]["Test"][0], "CMD-SHELL");
    assert_eq!(image["Author"], "somebody");
}

pub fn arguments_have_scopes(world: &World) {
    let dockerfile = "ARG OUTER=out\nFROM busybox AS one\nARG OUTER\nARG INNER=${OUTER}/in\nARG TARGETARCH\n\
        RUN echo \"$OUTER $INNER $TARGETARCH ${NOT:-unset}\" > /said\n\
        FROM one\nRUN echo \"${INNER:-none}\" >> /said\nENV INNER=env\nARG INNER=arg\nRUN echo $INNER >> /said\n";
    let context = context(world, "args", dockerfile, &[]);
    build(
        world,
        &["-t", "args", "--platform", "linux/amd64"],
        &context,
    )
    .succeeds();
    assert_eq!(
        inside(world, "args", "cat /said"),
        "out out/in amd64 unset\nnone\nenv\n"
    );
}

pub fn heredocs_are_scripts_and_files(world: &World) {
    let dockerfile = "FROM busybox\nARG NAME=you\n\
        RUN <<EOF\nset -e\necho one > /1\nfalse || echo two > /2\nEOF\n\
        RUN cat <<A > /3 && cat <<-B > /4\nthree $NAME\nA\n\tfour\n\tB\n\
        RUN <<SCRIPT\n#!/bin/cat\nnot a shell\nSCRIPT\n\
        COPY <<plain <<\"quoted\" /etc/\nhi $NAME\nplain\nhi $NAME\nquoted\n\
        COPY --chmod=755 <<X /bin/tool\n#!/bin/sh\necho tool\nX\n";
    let context = context(world, "heredocs", dockerfile, &[]);
    let told = build(world, &["-t", "heredocs"], &context).run();
    told.complains("not a shell");
    assert_eq!(
        inside(
            world,
            "heredocs",
            "cat /1 /2 /3 /4 /etc/plain /etc/quoted; tool; ls /dev/pipes 2>/dev/null; true"
        ),
        "one\ntwo\nthree you\nfour\nhi you\nhi $NAME\ntool\n"
    );
}

pub fn triggers_of_the_base_image_are_carried_out(world: &World) {
    let base = context(
        world,
        "base",
        "FROM busybox\nONBUILD COPY app /app\nONBUILD RUN cat /app > /ran\n",
        &[],
    );
    build(world, &["-t", "base"], &base).succeeds();
    let child = context(
        world,
        "child",
        "FROM base\nRUN echo own >> /ran\n",
        &[("app", "app\n")],
    );
    build(world, &["-t", "child"], &child).succeeds();
    assert_eq!(inside(world, "child", "cat /ran"), "app\nown\n");
    assert!(
        world.inspect("child")["Config"]
            .get("OnBuild")
            .is_none_or(serde_json::Value::is_null)
    );
}
