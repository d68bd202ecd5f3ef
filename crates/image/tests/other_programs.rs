//! Archives of podman, skopeo, buildah and umoci are loaded, and what `save` writes is read by
//! them. None of them needs a daemon; each works in folders of its own.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test may panic"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use isle_image::{LoadInput, SaveFormat, Store};
use support::{has_program, is_root, open_store, run, silent, skipped};

struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Workshop {
        Workshop {
            folder: tempfile::tempdir_in("/var/tmp").unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// podman, buildah: all their state below our folder.
    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let root = self.path("containers");
        command.args(["--root", root.to_str().unwrap()]);
        command.args(["--runroot", self.path("run").to_str().unwrap()]);
        command.args(["--storage-driver", "vfs"]);
        command.current_dir(self.folder.path());
        command
    }

    /// An image of two layers and a step without one, with a deleted file.
    fn build(&self) {
        let context = self.path("context");
        fs::create_dir_all(context.join("one/etc")).unwrap();
        fs::write(context.join("one/etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::write(context.join("one/gone"), "gone").unwrap();
        fs::write(context.join("two"), "two").unwrap();
        run(self
            .tool("podman")
            .args(["import", "-q"])
            .arg({
                let tar = self.path("one.tar");
                run(Command::new("tar")
                    .arg("-C")
                    .arg(context.join("one"))
                    .arg("-cf")
                    .arg(&tar)
                    .arg("."));
                tar
            })
            .arg("base:1"));
        let container =
            run(self
                .tool("buildah")
                .args(["from", "--pull-never", "localhost/base:1"]));
        let container = container.trim();
        run(self
            .tool("buildah")
            .args(["copy", "-q", container])
            .arg(context.join("two"))
            .arg("/etc/two"));
        let mounted = run(self.tool("buildah").args(["mount", container]));
        fs::remove_file(Path::new(mounted.trim()).join("gone")).unwrap();
        run(self.tool("buildah").args(["umount", container]));
        run(self.tool("buildah").args([
            "config", "--cmd", "/bin/sh", "--env", "A=b", "--label", "l=m", container,
        ]));
        run(self
            .tool("buildah")
            .args(["commit", "-q", container, "app:2"]));
        run(self.tool("buildah").args(["rm", container]));
    }

    fn check(&self, store: &Store, name: &str) {
        let image = store.find(name).unwrap();
        let layers = store.layers(&image).unwrap();
        assert_eq!(layers.len(), 2, "{name}");
        assert_eq!(fs::read(layers[1].join("etc/two")).unwrap(), b"two");
        assert!(
            fs::read_to_string(layers[0].join("etc/passwd"))
                .unwrap()
                .starts_with("root:")
        );
        use std::os::unix::fs::FileTypeExt;
        let gone = fs::symlink_metadata(layers[1].join("gone")).unwrap();
        assert!(gone.file_type().is_char_device());
        assert_eq!(
            image
                .config
                .config()
                .as_ref()
                .unwrap()
                .env()
                .as_ref()
                .unwrap()
                .last()
                .unwrap(),
            "A=b"
        );
        assert_eq!(image.labels()["l"], "m");
    }
}

fn cannot(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|name| !has_program(name)).collect();
    skipped(
        &format!("root and {}", programs.join(", ")),
        is_root() && missing.is_empty(),
    )
}

fn load_file(store: &Store, path: &Path) -> Vec<String> {
    let input = match path.is_dir() {
        true => LoadInput::Directory(path),
        false => LoadInput::File(fs::File::open(path).unwrap()),
    };
    let loaded = store.load(input, None, &silent()).unwrap();
    loaded.into_iter().flat_map(|loaded| loaded.names).collect()
}

#[test]
fn what_podman_skopeo_and_umoci_write_is_loaded() {
    if cannot(&["podman", "buildah", "skopeo", "umoci"]) {
        return;
    }
    let shop = Workshop::new();
    shop.build();
    let mut ids = Vec::new();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = shop.path(format);
        run(shop
            .tool("podman")
            .args(["save", "-q", "--format", format, "-o"])
            .arg(&path)
            .arg("app:2"));
        let store = open_store(&shop.path(&format!("store-{format}")));
        assert_eq!(load_file(&store, &path), ["localhost/app:2"], "{format}");
        shop.check(&store, "localhost/app:2");
        ids.push(store.find("localhost/app:2").unwrap().id);
        // A second time nothing is stored twice, compressed archives are read, and so are pipes.
        assert_eq!(load_file(&store, &path).len(), 1);
        if path.is_file() {
            for (compress, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
                if !has_program(compress) {
                    continue;
                }
                run(Command::new(compress).args(["-k", "-q"]).arg(&path));
                let compressed = path.with_extension(suffix);
                let store = open_store(&shop.path(&format!("store-{format}-{suffix}")));
                let mut pipe = fs::File::open(&compressed).unwrap();
                store
                    .load(LoadInput::Stream(&mut pipe), None, &silent())
                    .unwrap();
                shop.check(&store, "localhost/app:2");
            }
        }
    }
    assert!(
        ids.iter().all(|id| *id == ids[0]),
        "an image has one id: {ids:?}"
    );

    let several = shop.path("several");
    run(shop
        .tool("podman")
        .args(["save", "-q", "-m", "--format", "docker-archive", "-o"])
        .arg(&several)
        .args(["base:1", "app:2"]));
    let store = open_store(&shop.path("store-several"));
    assert_eq!(
        load_file(&store, &several),
        ["localhost/base:1", "localhost/app:2"]
    );
    assert_eq!(
        fs::read_dir(store.root().join("layers")).unwrap().count(),
        2
    );

    let archive = format!("docker-archive:{}", shop.path("docker-archive").display());
    for (target, compression) in [("oci:gzip:x/y:z", "gzip"), ("oci:zstd:x/y:z", "zstd")] {
        run(Command::new("skopeo")
            .current_dir(shop.folder.path())
            .args([
                "copy",
                "-q",
                "--insecure-policy",
                "--dest-compress",
                "--dest-compress-format",
                compression,
                &archive,
                target,
            ]));
        let store = open_store(&shop.path(&format!("store-{compression}")));
        assert_eq!(load_file(&store, &shop.path(compression)), ["x/y:z"]);
        shop.check(&store, "x/y:z");
    }

    let layout = shop.path("umoci");
    run(Command::new("umoci")
        .args(["init", "--layout"])
        .arg(&layout));
    run(Command::new("umoci")
        .args(["new", "--image"])
        .arg(format!("{}:scratch", layout.display())));
    let bundle = shop.path("bundle");
    run(Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:scratch", layout.display()))
        .arg(&bundle));
    fs::write(bundle.join("rootfs/file"), "umoci").unwrap();
    run(Command::new("umoci")
        .args(["repack", "--image"])
        .arg(format!("{}:scratch", layout.display()))
        .arg(&bundle));
    let store = open_store(&shop.path("store-umoci"));
    assert!(
        load_file(&store, &layout).is_empty(),
        "a bare tag is no name"
    );
    let image = store.images().unwrap().remove(0);
    assert_eq!(
        fs::read(store.layers(&image).unwrap().last().unwrap().join("file")).unwrap(),
        b"umoci"
    );
}

#[test]
fn what_save_writes_is_read_by_podman_skopeo_and_buildah() {
    if cannot(&["podman", "buildah", "skopeo"]) {
        return;
    }
    let shop = Workshop::new();
    shop.build();
    let source = shop.path("source");
    run(shop
        .tool("podman")
        .args(["save", "-q", "--format", "oci-archive", "-o"])
        .arg(&source)
        .arg("app:2"));
    let store = open_store(&shop.path("store"));
    load_file(&store, &source);
    let image = store.find("localhost/app:2").unwrap();
    for (format, transport) in [
        (SaveFormat::Docker, "docker-archive"),
        (SaveFormat::Oci, "oci-archive"),
    ] {
        let path = shop.path(&format!("saved-{transport}"));
        let mut file = fs::File::create(&path).unwrap();
        store
            .save(
                &["localhost/app:2".to_owned()],
                format,
                &mut file,
                &silent(),
            )
            .unwrap();
        let mut again = Vec::new();
        store
            .save(
                &["localhost/app:2".to_owned()],
                format,
                &mut again,
                &silent(),
            )
            .unwrap();
        assert!(
            fs::read(&path).unwrap() == again,
            "the same image gives the same bytes"
        );

        let inspected = run(Command::new("skopeo")
            .args(["inspect", "--config"])
            .arg(format!("{transport}:{}", path.display())));
        assert!(inspected.contains("A=b"), "{inspected}");
        let copy = format!("dir:{}", shop.path(&format!("dir-{transport}")).display());
        run(Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy"])
            .arg(format!("{transport}:{}", path.display()))
            .arg(copy));

        let other = Workshop::new();
        run(other.tool("podman").args(["load", "-q", "-i"]).arg(&path));
        let listed = run(other.tool("podman").args([
            "images",
            "--no-trunc",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.Id}}",
        ]));
        assert!(listed.contains("localhost/app:2"), "{listed}");
        assert!(listed.contains(image.id.hex()), "{listed}");
        let other = Workshop::new();
        run(other
            .tool("buildah")
            .args(["pull", "-q"])
            .arg(format!("{transport}:{}", path.display())));
        let listed = run(other.tool("buildah").args(["images", "--no-trunc", "-q"]));
        assert!(listed.contains(image.id.hex()), "{listed}");

        // And by ourselves, exactly as it was.
        let back = open_store(&shop.path(&format!("back-{transport}")));
        assert_eq!(load_file(&back, &path), ["localhost/app:2"]);
        assert_eq!(
            back.find("localhost/app:2").unwrap().manifest,
            image.manifest
        );
        shop.check(&back, "localhost/app:2");
    }
}

#[test]
fn the_archive_format_before_manifests_is_loaded() {
    if cannot(&["podman", "buildah"]) {
        return;
    }
    // podman still writes the old files beside the new ones: without the new, they must do.
    let shop = Workshop::new();
    shop.build();
    let archive = shop.path("archive");
    run(shop
        .tool("podman")
        .args(["save", "-q", "--format", "docker-archive", "-o"])
        .arg(&archive)
        .arg("app:2"));
    let files = shop.path("files");
    fs::create_dir(&files).unwrap();
    run(Command::new("tar")
        .arg("-C")
        .arg(&files)
        .arg("-xf")
        .arg(&archive));
    fs::remove_file(files.join("manifest.json")).unwrap();
    let old = shop.path("old.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&files)
        .arg("-cf")
        .arg(&old)
        .arg("."));
    let store = open_store(&shop.path("store"));
    assert_eq!(load_file(&store, &old), ["localhost/app:2"]);
    let image = store.find("localhost/app:2").unwrap();
    let layers = store.layers(&image).unwrap();
    assert_eq!(fs::read(layers[1].join("etc/two")).unwrap(), b"two");
}
