//! What is told about a build besides its result.

use std::process::Command;

use isle_tests::World;
use serde_json::Value;

use crate::{build, context};

pub fn attestations_tell_how_and_what(world: &World) {
    let status =
        "Package: shop\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\n\n";
    let dockerfile = "FROM busybox\nCOPY status /var/lib/dpkg/status\nARG V\n";
    let context = context(world, "attest", dockerfile, &[("status", status)]);
    let file = world
        .files()
        .join("image.tar")
        .to_string_lossy()
        .into_owned();
    let output = format!("type=oci,dest={file}");
    let flags = [
        "--output",
        &output,
        "-t",
        "attested",
        "--sbom",
        "--provenance=mode=max",
        "--build-arg",
        "V=7",
        "--annotation",
        "org.example.key=value",
    ];
    build(world, &flags, &context).succeeds();
    let folder = world.files().join("layout");
    std::fs::create_dir(&folder).expect("our own");
    let status = Command::new("tar")
        .arg("-xf")
        .arg(&file)
        .arg("-C")
        .arg(&folder)
        .status();
    assert!(status.expect("tar is there").success());
    let read = |path: &str| -> Value {
        let bytes = std::fs::read(folder.join(path)).expect("it is in the layout");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let blob = |digest: &Value| {
        read(&format!(
            "blobs/{}",
            digest.as_str().expect("a digest").replace(':', "/")
        ))
    };
    let index = blob(&read("index.json")["manifests"][0]["digest"]);
    let image = blob(&index["manifests"][0]["digest"]);
    assert_eq!(image["annotations"]["org.example.key"], "value");
    let attestation = &index["manifests"][1];
    assert_eq!(attestation["platform"]["os"], "unknown");
    assert_eq!(
        attestation["annotations"]["vnd.docker.reference.digest"],
        index["manifests"][0]["digest"]
    );
    let manifest = blob(&attestation["digest"]);
    let provenance = blob(&manifest["layers"][0]["digest"]);
    assert_eq!(
        provenance["predicateType"],
        "https://slsa.dev/provenance/v1"
    );
    let definition = &provenance["predicate"]["buildDefinition"];
    assert!(
        definition["resolvedDependencies"][0]["uri"]
            .as_str()
            .is_some_and(|uri| uri.contains("busybox"))
    );
    assert_eq!(
        definition["externalParameters"]["request"]["args"]["build-args"]["V"],
        "7"
    );
    let sbom = blob(&manifest["layers"][1]["digest"]);
    assert_eq!(sbom["predicate"]["packages"][0]["name"], "shop");
    assert_eq!(sbom["predicate"]["spdxVersion"], "SPDX-2.3");
    // It is still an image that can be loaded.
    world.isle(["load", "-i", &file]).succeeds();
    build(world, &["--sbom", "-t", "x"], &context)
        .exits_with(1)
        .complains("--output type=oci");
}

pub fn odd_things_are_told_by_check(world: &World) {
    let dockerfile = "FROM busybox AS Base\nENV a b\nCOPY $NONE /x\nCMD sleep 1\n";
    let odd = context(world, "odd", dockerfile, &[]);
    let outcome = world.isle(["build", "--check", &odd]).exits_with(1);
    for rule in [
        "StageNameCasing",
        "LegacyKeyValueFormat",
        "UndefinedVar",
        "JSONArgsRecommended",
    ] {
        outcome.prints(rule);
    }
    outcome.prints("rule/stage-name-casing/");
    let fine = context(world, "fine", "FROM busybox\nCMD [\"true\"]\n", &[]);
    world.isle(["build", "--check", &fine]).succeeds();
    let strict = context(
        world,
        "strict",
        "# check=error=true\nFROM busybox\nCMD true\n",
        &[],
    );
    build(world, &[], &strict)
        .exits_with(1)
        .complains("JSONArgsRecommended");
}
