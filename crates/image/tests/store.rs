//! What the store promises to those who use it.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic"
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use isle_image::{
    CommitOptions, FindError, ImportOptions, LabelFilter, LoadInput, PruneOptions, RemoveError,
    Removed, SaveFormat, Store, StoreError,
};
use serde_json::json;
use support::{Tar, config, docker_archive, docker_archive_of, load, open_store, silent};

fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    Tar::default().file(name, content).end()
}

fn one_image(store: &Store, content: &[u8], name: &str) -> isle_image::Image {
    load(store, &docker_archive(&[&layer("file", content)], &[name]))
        .remove(0)
        .image
}

/// Nothing is on the disk that no row names, and everything that a row names is.
fn is_tidy(root: &Path, store: &Store) {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(names("tmp"), ["partial"]);
    assert!(names("tmp/partial").is_empty());
    let count = |query: &str| -> usize {
        let connection = store.database().connection();
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(names("layers").len(), count("SELECT count(*) FROM layer"));
    assert_eq!(
        names("blobs/sha256").len(),
        count("SELECT count(*) FROM blob")
    );
    assert_eq!(count("SELECT count(*) FROM image_lease"), 0);
}

#[test]
fn an_image_is_found_by_name_id_prefix_and_digest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let image = one_image(&store, b"1", "owner/app:1.0");
    let id = image.id.to_string();
    for name in [
        "owner/app:1.0",
        "docker.io/owner/app:1.0",
        &id,
        &id[7..],
        &id[7..19],
        &id[..20],
    ] {
        assert_eq!(store.find(name).unwrap().id, image.id, "{name}");
    }
    let error = store.find("owner/ap:1.0").unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean owner/app:1.0?"));
    for name in ["owner/app", "nothing", &"0".repeat(64), "sha256:00"] {
        assert!(
            matches!(store.find(name), Err(FindError::NotFound { .. })),
            "{name}"
        );
    }
    for name in ["", "..", "A", "/etc/passwd", "a@sha256:../../x"] {
        assert!(
            matches!(store.find(name), Err(FindError::Reference(_))),
            "{name}"
        );
    }
    assert_eq!(image.repo_tags, ["owner/app:1.0"]);
    assert_eq!(
        image.config.config().as_ref().unwrap().cmd().as_deref(),
        Some(&["/bin/sh".to_owned()][..])
    );
}

#[test]
fn a_prefix_of_several_ids_is_ambiguous() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let mut ids = Vec::new();
    for n in 0..17 {
        ids.push(
            one_image(&store, &[n], &format!("a:{n}"))
                .id
                .hex()
                .to_owned(),
        );
    }
    // Of seventeen ids two begin alike.
    let first = |id: &String| id[..1].to_owned();
    let twice = ids
        .iter()
        .find(|id| ids.iter().filter(|o| first(o) == first(id)).count() > 1)
        .unwrap();
    let error = store.find(&first(twice)).unwrap_err();
    assert!(
        matches!(
            error,
            FindError::Ambiguous { .. } | FindError::NotFound { .. }
        ),
        "{error}"
    );
}

#[test]
fn names_move_and_images_live_as_long_as_anything_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let a = one_image(&store, b"a", "app");
    let b = one_image(&store, b"b", "app");
    assert_eq!(store.find("app").unwrap().id, b.id);
    assert!(store.find(a.id.as_str()).unwrap().is_dangling());
    store.tag(a.id.as_str(), "old/app:1").unwrap();
    store.tag("old/app:1", "old/app:2").unwrap();
    store.tag("old/app:1", "other").unwrap();
    store.tag("nothing", "x").unwrap_err();
    store.tag("app", "UPPER").unwrap_err();
    store.tag("app", &format!("x@{}", a.id)).unwrap_err();

    assert_eq!(
        store.remove("old/app:2", false).unwrap(),
        [Removed::Untagged("old/app:2".into())]
    );
    let error = store.remove(a.id.as_str(), false).unwrap_err();
    assert!(matches!(error, RemoveError::SeveralNames { .. }), "{error}");
    assert_eq!(store.remove(a.id.short(), true).unwrap().len(), 3);
    assert!(matches!(
        store.find("other"),
        Err(FindError::NotFound { .. })
    ));
    is_tidy(folder.path(), &store);
    let removed = store.remove("app", false).unwrap();
    assert_eq!(
        removed,
        [
            Removed::Untagged("app:latest".into()),
            Removed::Deleted(b.id)
        ]
    );
    assert!(store.images().unwrap().is_empty());
    is_tidy(folder.path(), &store);
    assert_eq!(
        fs::read_dir(folder.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    let error = store.remove("app", true).unwrap_err();
    assert!(matches!(
        error,
        RemoveError::Find(FindError::NotFound { .. })
    ));
}

#[test]
fn what_an_instance_holds_cannot_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let image = one_image(&store, b"a", "app");
    let owner = "f".repeat(64);
    let held = store
        .database()
        .write(|tx| Store::hold(tx, image.id.as_str(), &owner));
    held.unwrap();
    let missing = format!("sha256:{}", "0".repeat(64));
    store
        .database()
        .write(|tx| Store::hold(tx, &missing, &owner))
        .unwrap_err();
    for name in ["app", image.id.as_str()] {
        let error = store.remove(name, false).unwrap_err();
        assert!(
            error.to_string().contains("used by ffffffffffff"),
            "{error}"
        );
    }
    store.remove(image.id.as_str(), true).unwrap_err();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    assert!(store.prune(&all).unwrap().removed.is_empty());
    assert_eq!(
        store.remove("app", true).unwrap(),
        [Removed::Untagged("app:latest".into())]
    );
    assert!(
        store
            .prune(&PruneOptions::default())
            .unwrap()
            .removed
            .is_empty()
    );
    assert!(store.layers(&image).unwrap()[0].join("file").exists());
    store
        .database()
        .write(|tx| Store::release(tx, &owner))
        .unwrap();
    let pruned = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed, [Removed::Deleted(image.id)]);
    assert!(pruned.reclaimed_bytes > 0);
    is_tidy(folder.path(), &store);
}

#[test]
fn prune_takes_what_its_filters_say() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let with = |labels: serde_json::Value, created: &str, name: &str| {
        let layer = layer("f", name.as_bytes());
        let extra = json!({"config": {"Labels": labels}, "created": created});
        load(
            &store,
            &docker_archive_of(&config(&[&layer], extra), &[&layer], &[name]),
        );
    };
    with(json!({"keep": "yes"}), "2001-01-01T00:00:00Z", "kept");
    with(json!({"stage": "test"}), "2001-01-01T00:00:00Z", "old");
    with(json!(null), "2030-01-01T00:00:00.123456789Z", "new");
    let label = |key: &str, value: Option<&str>, is_negated| LabelFilter {
        key: key.into(),
        value: value.map(Into::into),
        is_negated,
    };
    let prune = |options: PruneOptions| {
        store.prune(&options).unwrap();
        store
            .images()
            .unwrap()
            .iter()
            .flat_map(|i| i.repo_tags.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(prune(PruneOptions::default()).len(), 3);
    let options = PruneOptions {
        all: true,
        until: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        labels: vec![
            label("keep", None, true),
            label("stage", Some("prod"), false),
        ],
    };
    assert_eq!(prune(options).len(), 3);
    let options = PruneOptions {
        all: true,
        until: Some("2020-01-01T00:00:00Z".parse().unwrap()),
        labels: vec![label("keep", Some("yes"), true)],
    };
    assert_eq!(prune(options), ["new:latest", "kept:latest"]);
    assert!(
        prune(PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .is_empty()
    );
    is_tidy(folder.path(), &store);
}

#[test]
fn layers_are_stored_once_and_go_with_their_last_image() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let (base, top) = (layer("base", &[1; 5000]), layer("top", &[2; 300]));
    let empty = Tar::default().end();
    load(&store, &docker_archive(&[&base], &["base"]));
    load(
        &store,
        &docker_archive(&[&base, &empty, &top, &empty], &["app"]),
    );
    let (base, app) = (store.find("base").unwrap(), store.find("app").unwrap());
    assert_eq!(
        store.layers(&app).unwrap()[0],
        store.layers(&base).unwrap()[0]
    );
    // The one without files comes once: overlayfs refuses a folder that is named twice.
    assert_eq!(store.layers(&app).unwrap().len(), 3);
    assert_eq!((base.size, app.size), (5000, 5300));
    let usage = store.usage().unwrap();
    assert_eq!(usage.bytes, 5300);
    assert_eq!(usage.images[&app.id].unique_bytes, 300);
    store.remove("base", false).unwrap();
    assert!(store.layers(&app).unwrap()[0].join("base").exists());
    store.remove("app", false).unwrap();
    is_tidy(folder.path(), &store);
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    if support::skipped("root", support::is_root()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let lower = layer("lower", b"x");
    let upper = Tar::default()
        .file(".wh..wh..opq", b"")
        .file("upper", b"x")
        .end();
    let top = layer("top", b"x");
    let image = load(&store, &docker_archive(&[&lower, &upper, &top], &["app"]))
        .remove(0)
        .image;
    let layers = store.layers(&image).unwrap();
    assert_eq!(layers.len(), 2);
    assert!(layers[0].join("upper").exists() && layers[1].join("top").exists());
}

#[test]
fn a_layer_of_an_earlier_boot_is_made_again_from_its_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let image = one_image(&store, b"content", "app");
    let before = store.layers(&image).unwrap();
    // The machine went down: the directory has holes, and the boot is another one.
    fs::write(before[0].join("file"), "").unwrap();
    store
        .database()
        .connection()
        .execute("UPDATE layer SET boot = 'another'", [])
        .unwrap();
    let after = store.layers(&image).unwrap();
    assert_ne!(before, after);
    assert_eq!(fs::read(after[0].join("file")).unwrap(), b"content");
    assert_eq!(store.layers(&image).unwrap(), after);
    store.prune(&PruneOptions::default()).unwrap();
    is_tidy(folder.path(), &store);
    // Prune has synced it; from now on it is never made again.
    let boot: Option<String> = store
        .database()
        .connection()
        .query_row("SELECT boot FROM layer", [], |row| row.get(0))
        .unwrap();
    assert_eq!(boot, None);
    // A blob that is damaged as well is reported, not unpacked.
    store
        .database()
        .connection()
        .execute("UPDATE layer SET boot = 'another'", [])
        .unwrap();
    for blob in fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[600.min(path.as_os_str().len())] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let error = store.layers(&image).unwrap_err();
    assert!(matches!(error, StoreError::Restore { .. }), "{error}");
    is_tidy(folder.path(), &store);
}

#[test]
fn damage_is_noticed_when_a_blob_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let image = one_image(&store, &[5; 3000], "app");
    let blobs: Vec<_> = fs::read_dir(folder.path().join("blobs/sha256"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let layer = blobs
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(layer).unwrap();
    bytes[700] ^= 1;
    fs::write(layer, bytes).unwrap();
    let save = |store: &Store| {
        store.save(
            &["app".to_owned()],
            SaveFormat::Docker,
            &mut std::io::sink(),
            &silent(),
        )
    };
    let error = save(&store).unwrap_err();
    assert!(
        error.to_string().contains("cannot read blob sha256:"),
        "{error}"
    );
    fs::remove_file(layer).unwrap();
    let error = save(&store).unwrap_err();
    assert!(
        error.to_string().contains("is damaged on the disk"),
        "{error}"
    );
    store
        .database()
        .connection()
        .execute("UPDATE image SET config = x'7b7d'", [])
        .unwrap();
    let error = store.find("app").unwrap_err();
    assert!(error.to_string().contains("the configuration"), "{error}");
    assert!(error.hint().unwrap().contains("rmi -f"));
    // It can still be removed.
    store.remove(image.id.as_str(), true).unwrap();
}

#[test]
fn import_makes_an_image_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let files = Tar::default()
        .directory("./")
        .directory("./bin/")
        .file("./bin/sh", b"#!")
        .end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &files).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&*files, 1).unwrap();
    for (number, bytes) in [files, gzip, zstd].into_iter().enumerate() {
        let options = ImportOptions {
            changes: vec![
                "CMD [\"/bin/sh\"]".into(),
                "ENV A=b".into(),
                "HEALTHCHECK CMD true".into(),
            ],
            message: Some(format!("import {number}")),
            reference: Some(format!("imported:{number}").parse().unwrap()),
            platform: Some("linux/arm64".parse().unwrap()),
        };
        let image = store.import(&mut &*bytes, &options, &silent()).unwrap();
        assert_eq!(image.repo_tags, [format!("imported:{number}")]);
        assert_eq!(image.platform.to_string(), "linux/arm64");
        assert_eq!(
            image.docker.healthcheck.as_ref().unwrap().test,
            ["CMD-SHELL", "true"]
        );
        assert!(store.layers(&image).unwrap()[0].join("bin/sh").exists());
        let history = store.history(&image).unwrap();
        assert_eq!(history[0].comment, format!("import {number}"));
        assert_eq!(history[0].size, 2);
    }
    // The layer is one, however it was compressed.
    assert_eq!(
        fs::read_dir(folder.path().join("layers")).unwrap().count(),
        1
    );
    let bad = ImportOptions {
        changes: vec!["RUN x".into()],
        ..ImportOptions::default()
    };
    store.import(&mut &b""[..], &bad, &silent()).unwrap_err();
    for (bytes, why) in [
        (&b"BZh91AY"[..], "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"not a tar archive", "cut off"),
    ] {
        let error = store
            .import(&mut &*bytes, &ImportOptions::default(), &silent())
            .unwrap_err();
        let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(chain.contains(why), "{chain}");
    }
    assert_eq!(store.images().unwrap().len(), 3);
    is_tidy(folder.path(), &store);
}

#[test]
fn commit_puts_a_layer_on_top_and_keeps_what_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let base_layer = layer("base", b"x");
    let base = config(
        &[&base_layer],
        json!({
            "config": {"Env": ["A=1"], "Cmd": ["x"], "Unknown": 7},
            "container_config": {"Cmd": ["gone"]},
            "history": [{"created_by": "base step"}, {"created_by": "ENV", "empty_layer": true}],
        }),
    );
    load(&store, &docker_archive_of(&base, &[&base_layer], &["base"]));
    let base = store.find("base").unwrap();
    let options = CommitOptions {
        author: Some("me".into()),
        message: Some("why".into()),
        created_by: Some("sh -c x".into()),
        changes: vec!["ENV B=$A".into()],
        reference: Some("committed".parse().unwrap()),
        ..CommitOptions::default()
    };
    let image = store
        .commit_layer(Some(&base), &mut &*layer("new", b"yy"), &options)
        .unwrap();
    assert_eq!(store.layers(&image).unwrap().len(), 2);
    let document: serde_json::Value = serde_json::from_slice(&image.config_bytes).unwrap();
    assert_eq!(document["config"]["Env"], json!(["A=1", "B=1"]));
    assert_eq!(document["config"]["Unknown"], json!(7));
    assert!(document.get("container_config").is_none());
    let history = store.history(&image).unwrap();
    let steps: Vec<_> = history.iter().map(|h| (&*h.created_by, h.size)).collect();
    assert_eq!(steps, [("sh -c x", 2), ("ENV", 0), ("base step", 1)]);
    let other = CommitOptions {
        config: Some((
            oci_spec::image::ConfigBuilder::default()
                .cmd(vec!["y".to_owned()])
                .build()
                .unwrap(),
            isle_image::DockerConfig::default(),
        )),
        ..CommitOptions::default()
    };
    let other = store
        .commit_layer(Some(&image), &mut &*layer("more", b"z"), &other)
        .unwrap();
    assert_eq!(
        other
            .config
            .config()
            .as_ref()
            .unwrap()
            .cmd()
            .as_ref()
            .unwrap(),
        &["y"]
    );
    assert!(other.is_dangling());
    assert_eq!(store.layers(&other).unwrap().len(), 3);
    // The base may go; its layers stay for the others.
    store.remove("base", false).unwrap();
    assert!(store.layers(&other).unwrap()[0].join("base").exists());
}

#[test]
fn an_archive_that_lies_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let good = layer("f", b"good");
    let evil = layer("f", b"evil");
    let config = config(&[&good], json!({}));
    let manifest = |value: serde_json::Value| value.to_string().into_bytes();
    let listed = |config: &str, layers: &[&str]| {
        manifest(json!([{"Config": config, "RepoTags": ["a"], "Layers": layers}]))
    };
    let zeros = format!("{}.json", "0".repeat(64));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Tar::default().file("x", b"").end(), "neither index.json nor manifest.json"),
        (Tar::default().file("manifest.json", b"[]").end(), "no image"),
        (Tar::default().file("manifest.json", b"{").end(), "cannot understand manifest.json"),
        (Tar::default().file("manifest.json", &listed("c", &["l"])).end(), "no file \"c\""),
        (Tar::default().file("c", &config).file("manifest.json", &listed("c", &["l"])).end(), "no file \"l\""),
        (Tar::default().file("c", &config).file("manifest.json", &listed("c", &[])).end(), "lists 0 layers"),
        (Tar::default().file("c", &config).file("l", &evil).file("manifest.json", &listed("c", &["l"])).end(), "does not have the digest"),
        (Tar::default().file(&zeros, &config).file("l", &good).file("manifest.json", &listed(&zeros, &["l"])).end(), "does not have the digest"),
        (Tar::default().file("c", b"[]").file("manifest.json", &listed("c", &[])).end(), "configuration cannot be understood"),
        (Tar::default().file("c", &config).symlink("l", "l").file("manifest.json", &listed("c", &["l"])).end(), "leads to itself"),
        (Tar::default().file("c", &config).file("l", &good).file("manifest.json", &manifest(json!([{"Config": "c", "RepoTags": ["../evil"], "Layers": ["l"]}]))).end(), "a name that is none"),
        (Tar::default().file("index.json", b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}").end(), "manifest and an index at once"),
        (Tar::default().file("index.json", b"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":1,\"digest\":\"sha256:../../../../etc/passwd\"}]}").end(), "manifest cannot be understood"),
        (Tar::default().file("index.json", b"{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":1,\"digest\":\"md5:00\"}]}").end(), "no known algorithm"),
        (Tar::default().with(|h| h.size = 1 << 40, "manifest.json", b'0').end(), "cut off"),
        (format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500)).into_bytes(), "wrong checksum"),
    ];
    for (archive, why) in cases {
        let mut reader = &*archive;
        let error = store
            .load(LoadInput::Stream(&mut reader), None, &silent())
            .expect_err(why);
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            chain.push_str(&format!(": {error}"));
            source = error.source();
        }
        assert!(chain.contains(why), "{chain:?} does not say {why:?}");
        assert!(store.images().unwrap().is_empty());
        is_tidy(folder.path(), &store);
    }
    let nested = format!("[{}1{}]", "[".repeat(50_000), "]".repeat(50_000));
    let archive = Tar::default()
        .file("manifest.json", nested.as_bytes())
        .end();
    store
        .load(LoadInput::Stream(&mut &*archive), None, &silent())
        .unwrap_err();
}

#[test]
fn an_index_gives_the_image_for_the_platform() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let mut tar = Tar::default();
    let mut manifests = Vec::new();
    for architecture in ["arm64", "amd64", "s390x"] {
        let layer = layer("arch", architecture.as_bytes());
        let config = config(&[&layer], json!({"architecture": architecture}));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": isle_image::Digest::of(&config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(), "digest": isle_image::Digest::of(&layer)}],
        }).to_string();
        for blob in [&layer, &config, manifest.as_bytes()] {
            tar = tar
                .pax(&[(
                    "path",
                    format!("blobs/sha256/{}", isle_image::Digest::of(blob).hex()).as_bytes(),
                )])
                .file("x", blob);
        }
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": manifest.len(),
            "digest": isle_image::Digest::of(manifest.as_bytes()),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let inner = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let inner_digest = isle_image::Digest::of(inner.as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json", "size": inner.len(), "digest": inner_digest,
        "annotations": {"org.opencontainers.image.ref.name": "localhost/multi:1"},
    }]}).to_string();
    let archive = tar
        .pax(&[(
            "path",
            format!("blobs/sha256/{}", inner_digest.hex()).as_bytes(),
        )])
        .file("x", inner.as_bytes())
        .file("index.json", index.as_bytes())
        .end();
    for (asked, expected) in [
        (None, "amd64"),
        (Some("linux/s390x"), "s390x"),
        (Some("arm64"), "arm64"),
    ] {
        if asked.is_none() && std::env::consts::ARCH != "x86_64" {
            continue;
        }
        let platform = asked.map(|text| text.parse().unwrap());
        let loaded = store
            .load(
                LoadInput::Stream(&mut &*archive),
                platform.as_ref(),
                &silent(),
            )
            .unwrap();
        assert_eq!(loaded[0].names, ["localhost/multi:1"]);
        assert_eq!(loaded[0].image.platform.architecture, expected);
        let layers = store.layers(&loaded[0].image).unwrap();
        assert_eq!(
            fs::read(layers[0].join("arch")).unwrap(),
            expected.as_bytes()
        );
    }
    let platform = "linux/riscv64".parse().unwrap();
    let error = store
        .load(
            LoadInput::Stream(&mut &*archive),
            Some(&platform),
            &silent(),
        )
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not available for linux/riscv64; it is for: linux/arm64, linux/amd64"),
        "{error}"
    );
}

#[test]
fn a_resumed_layer_goes_on_where_it_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let noise: Vec<u8> = (0..2_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let layer = layer("noise", &noise);
    let config = config(&[&layer], json!({}));
    let digest = |bytes: &[u8]| isle_image::Digest::of(bytes);
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": digest(&config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(), "digest": digest(&layer)}],
    }).to_string();
    let begin = |expected_offset: usize, write: &[u8], finish: bool| {
        let ingest = store.ingest().unwrap();
        let plan = ingest.plan(manifest.as_bytes(), &config).unwrap();
        let isle_image::LayerStart::Write(mut writer) = plan.layers[0].start(&silent()).unwrap()
        else {
            panic!("the layer is not here yet");
        };
        assert_eq!(writer.offset(), expected_offset as u64);
        let written = std::io::Write::write_all(&mut writer, write);
        if !finish {
            return written.map_err(|e| e.to_string());
        }
        let stored = writer.finish().map_err(|e| e.to_string())?;
        let name = "resumed".parse().unwrap();
        ingest
            .commit(&plan, vec![stored], &[name], None)
            .map_err(|e| e.to_string())?;
        Ok(())
    };
    begin(0, &layer[..700_000], false).unwrap();
    begin(700_000, &layer[700_000..900_000], false).unwrap();
    // The server sends something else for the rest: all of it is thrown away.
    let mut wrong = layer[900_000..].to_vec();
    wrong[5] ^= 1;
    let error = begin(900_000, &wrong, true).unwrap_err();
    assert!(error.contains("does not have the digest"), "{error}");
    begin(0, &layer[..500_000], false).unwrap();
    let error = begin(500_000, &layer, true).unwrap_err();
    assert!(error.contains("bytes instead of"), "{error}");
    assert!(store.images().unwrap().is_empty());
    let _ = fs::remove_dir_all(folder.path().join("tmp/partial"));
    fs::create_dir(folder.path().join("tmp/partial")).unwrap();
    let store = open_store(folder.path());
    let ingest = store.ingest().unwrap();
    let plan = ingest.plan(manifest.as_bytes(), &config).unwrap();
    let isle_image::LayerStart::Write(mut writer) = plan.layers[0].start(&silent()).unwrap() else {
        panic!("the layer is not here yet");
    };
    std::io::Write::write_all(&mut writer, &layer[..300_000]).unwrap();
    writer.restart().unwrap();
    assert_eq!(writer.offset(), 0);
    std::io::Write::write_all(&mut writer, &layer).unwrap();
    let stored = writer.finish().unwrap();
    let image = ingest
        .commit(&plan, vec![stored], &["resumed".parse().unwrap()], None)
        .unwrap();
    drop(ingest);
    drop(plan);
    assert_eq!(
        fs::read(store.layers(&image).unwrap()[0].join("noise")).unwrap(),
        noise
    );
    is_tidy(folder.path(), &store);
}

#[test]
fn an_ingest_in_progress_keeps_what_it_relies_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let shared = layer("shared", b"x");
    let image = load(&store, &docker_archive(&[&shared], &["first"]))
        .remove(0)
        .image;
    let ingest = store.ingest().unwrap();
    let manifest = store.document(&image.manifest).unwrap();
    let plan = ingest.plan(&manifest, &image.config_bytes).unwrap();
    assert!(plan.layers[0].is_present());
    let other = open_store(folder.path());
    other.remove("first", false).unwrap();
    other
        .prune(&PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .unwrap();
    let isle_image::LayerStart::Done(stored) = plan.layers[0].start(&silent()).unwrap() else {
        panic!("the layer was kept");
    };
    let image = ingest
        .commit(&plan, vec![stored], &["second".parse().unwrap()], None)
        .unwrap();
    assert!(store.layers(&image).unwrap()[0].join("shared").exists());
    drop(plan);
    drop(ingest);
    is_tidy(folder.path(), &store);
}

#[test]
fn many_threads_that_load_and_remove_never_lose_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    open_store(folder.path());
    let shared = layer("shared", &[9; 20_000]);
    let archives: Vec<Vec<u8>> = (0..4_u8)
        .map(|n| docker_archive(&[&shared, &layer("own", &[n])], &[&format!("app:{n}")]))
        .collect();
    let archives = Arc::new(archives);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let archives = Arc::clone(&archives);
            let root = folder.path();
            scope.spawn(move || {
                let store = open_store(root);
                for round in 0..6 {
                    let number = (thread + round) % 4;
                    let loaded = load(&store, &archives[number]).remove(0).image;
                    if let Ok(image) = store.find(&format!("app:{number}")) {
                        assert_eq!(image.id, loaded.id);
                        // Held in one transaction with the look-up of its row, as the engine does.
                        let owner = format!("{thread}-{round}");
                        let held = store
                            .database()
                            .write(|tx| Store::hold(tx, image.id.as_str(), &owner));
                        if held.is_ok() {
                            for layer in store.layers(&image).unwrap() {
                                assert!(
                                    layer.join("shared").exists() || layer.join("own").exists()
                                );
                            }
                            let mut sink = std::io::sink();
                            store
                                .save(
                                    &[image.id.to_string()],
                                    SaveFormat::Oci,
                                    &mut sink,
                                    &silent(),
                                )
                                .unwrap();
                            store
                                .database()
                                .write(|tx| Store::release(tx, &owner))
                                .unwrap();
                        }
                    }
                    let _ = store.remove(&format!("app:{number}"), round % 2 == 0);
                    store.prune(&PruneOptions::default()).unwrap();
                }
            });
        }
    });
    let store = open_store(folder.path());
    store
        .prune(&PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .unwrap();
    is_tidy(folder.path(), &store);
}

#[test]
fn a_directory_without_an_entry_looks_like_the_one_below() {
    if support::skipped("root", support::is_root()) {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open_store(folder.path());
    let base = Tar::default()
        .with(|h| h.mode = 0o1777, "tmp/", b'5')
        .directory("home/")
        .with(
            |h| {
                h.mode = 0o700;
                h.uid = 1000;
                h.gid = 100;
            },
            "home/u/",
            b'5',
        )
        .end();
    let other = Tar::default().directory("etc/").end();
    let middle = Tar::default().file("etc/x", b"x").end();
    let top = Tar::default()
        .file("tmp/file", b"x")
        .file("home/u/file", b"x")
        .file("new/file", b"x")
        .end();
    let looks = |image: &isle_image::Image, path: &str| {
        let layers = store.layers(image).unwrap();
        let metadata = fs::metadata(layers.last().unwrap().join(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let check_app = |image: &isle_image::Image| {
        assert_eq!(looks(image, "tmp"), (0o1777, 0, 0));
        assert_eq!(looks(image, "home/u"), (0o700, 1000, 100));
        assert_eq!(looks(image, "home"), (0o755, 0, 0));
        assert_eq!(looks(image, "new"), (0o755, 0, 0));
    };
    let loaded = |layers: &[&[u8]], name: &str| {
        load(&store, &docker_archive(layers, &[name]))
            .remove(0)
            .image
    };
    // First where nothing is below, then where something is, then again.
    let plain = loaded(&[&other, &top], "plain");
    assert_eq!(looks(&plain, "tmp"), (0o755, 0, 0));
    let app = loaded(&[&base, &middle, &top], "app");
    check_app(&app);
    assert_eq!(looks(&plain, "tmp"), (0o755, 0, 0));
    store.remove("app", false).unwrap();
    let app = loaded(&[&base, &middle, &top], "app");
    check_app(&app);
    let both = loaded(&[&base, &top, &base, &top], "both");
    check_app(&both);
    // Made again after a crash, it looks the same.
    let connection = store.database().connection();
    connection
        .execute("UPDATE layer SET boot = 'another'", [])
        .unwrap();
    for layer in fs::read_dir(folder.path().join("layers")).unwrap() {
        fs::remove_dir_all(layer.unwrap().path()).unwrap();
    }
    let third = loaded(&[&base, &other, &top], "third");
    check_app(&third);
    check_app(&app);
    check_app(&both);
    assert_eq!(looks(&plain, "tmp"), (0o755, 0, 0));
    let committed = store
        .commit_layer(
            Some(&app),
            &mut &*layer("more", b"x"),
            &CommitOptions::default(),
        )
        .unwrap();
    assert_eq!(
        store.layers(&committed).unwrap()[..3],
        store.layers(&app).unwrap()
    );
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    store.prune(&all).unwrap();
    is_tidy(folder.path(), &store);
}
