//! Where results go.

use isle_tests::World;

use crate::{build, context, nothing_is_left};

pub fn results_go_to_folders_and_archives(world: &World) {
    let dockerfile = "FROM busybox AS build\nRUN mkdir /out && echo made > /out/file\nFROM scratch\nCOPY --from=build /out /\n";
    let context = context(world, "out", dockerfile, &[]);
    let folder = world.files().join("result");
    let path = folder.to_string_lossy().into_owned();
    build(world, &["--output", &path], &context).succeeds();
    assert_eq!(
        std::fs::read_to_string(folder.join("file")).expect("it was written"),
        "made\n"
    );
    let tar = build(world, &["--output", "-"], &context).run();
    assert!(
        tar.stdout_bytes()
            .windows(5)
            .any(|bytes| bytes == b"made\n")
    );
    nothing_is_left(world);
    for kind in ["oci", "docker"] {
        let file = world
            .files()
            .join(format!("{kind}.tar"))
            .to_string_lossy()
            .into_owned();
        let output = format!("type={kind},dest={file}");
        build(world, &["--output", &output], &context).succeeds();
        nothing_is_left(world);
        let said = world.isle(["load", "-i", &file]).succeeds();
        let id = said.trim().rsplit(' ').next().expect("an id").to_owned();
        world.isle(["rmi", &id]).succeeds();
    }
    let (id, metadata) = (world.files().join("id"), world.files().join("meta.json"));
    let flags = [
        "-q",
        "-t",
        "kept",
        "--iidfile",
        &id.to_string_lossy(),
        "--metadata-file",
        &metadata.to_string_lossy(),
    ];
    let said = build(world, &flags, &context).succeeds();
    let id = std::fs::read_to_string(id).expect("it was written");
    assert_eq!(said.trim(), id);
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(metadata).expect("it was written")).expect("JSON");
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["image.name"], "docker.io/library/kept:latest");
}

pub fn progress_has_a_form_for_programs(world: &World) {
    let context = context(world, "raw", "FROM busybox\nRUN echo said\n", &[]);
    let outcome = world
        .isle(["build", "--progress", "rawjson", &context])
        .run();
    let mut logs = String::new();
    for line in outcome.stderr().lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        logs.push_str(object["logs"][0]["data"].as_str().unwrap_or_default());
    }
    assert_eq!(logs, "c2FpZAo=");
}
