//! What [`Kernels`] promises to those who use it, on kernels that nobody has to build.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use isle_kernel::{KernelError, Kernels};
use serde_json::json;

/// `sha256:` of "kernel" and of "modules".
const IMAGE: &str = "sha256:dd2be9b69f01bd37f8aacfbc87a0b4feb24d3e9ee3bef85d18ad9e0d5a5d9a4a";

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Root {
        Root(tempfile::tempdir().unwrap())
    }

    fn kernels(&self) -> Kernels {
        Kernels::new(self.0.path())
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.path().join("kernels").join(name)
    }

    /// A kernel as `install` leaves it.
    fn add(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) -> PathBuf {
        let folder = self.folder(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("vmlinux"), "kernel").unwrap();
        fs::write(folder.join("modules.cpio"), "modules").unwrap();
        let mut description = json!({
            "format": 1,
            "name": name,
            "release": "6.1.0-test",
            "architecture": std::env::consts::ARCH,
            "origin": {"kind": "distribution", "package": "linux-image", "version": "1"},
            "image": {"file": "vmlinux", "bytes": 6, "digest": digest("kernel")},
            "modules": {"file": "modules.cpio", "bytes": 7, "digest": digest("modules")},
            "machine": {"acpi": true},
            "commandLine": "quiet",
            "features": ["9p"],
            "created": "2026-01-01T00:00:00Z",
        });
        change(&mut description);
        fs::write(folder.join("kernel.json"), description.to_string()).unwrap();
        folder
    }
}

fn digest(text: &str) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    format!("sha256:{}", &String::from_utf8(output).unwrap()[..64])
}

fn hint(error: &KernelError) -> String {
    error.hint().unwrap()
}

#[test]
fn without_a_kernel_the_remedy_is_named() {
    let root = Root::new();
    let error = root.kernels().current().unwrap_err();
    assert!(matches!(error, KernelError::NoneInstalled));
    assert!(hint(&error).contains("isle kernel install"));
    assert_eq!(root.kernels().list().unwrap().len(), 0);
    root.add("a", |_| {});
    let error = root.kernels().current().unwrap_err();
    assert!(hint(&error).contains("isle kernel use a"), "{error}");
}

#[test]
fn the_one_that_was_chosen_is_the_current_one() {
    let root = Root::new();
    root.add("a", |_| {});
    root.add("b", |_| {});
    let kernels = root.kernels();
    kernels.choose("b").unwrap();
    let current = kernels.current().unwrap();
    assert_eq!(current.description.name, "b");
    assert_eq!(current.image(), root.folder("b").join("vmlinux"));
    assert!(current.has("9p") && !current.has("virtiofs"));
    assert!(
        current
            .command_line(true)
            .starts_with("quiet mitigations=off ")
    );
    assert_eq!(current.command_line(false), "quiet");
    current.verify().unwrap();
    let list = kernels.list().unwrap();
    let chosen: Vec<_> = list
        .iter()
        .map(|one| (&*one.name, one.is_current))
        .collect();
    assert_eq!(chosen, [("a", false), ("b", true)]);
    kernels.remove("b").unwrap();
    assert!(matches!(
        kernels.current(),
        Err(KernelError::NoneChosen { .. })
    ));
    let error = kernels.choose("b").unwrap_err();
    assert!(hint(&error).contains("there are: a"));
}

#[test]
fn a_kernel_that_runs_is_not_removed() {
    let root = Root::new();
    root.add("a", |_| {});
    let kernels = root.kernels();
    let hold = kernels.hold("a").unwrap();
    let second = kernels.hold("a").unwrap();
    drop(hold);
    let error = kernels.remove("a").unwrap_err();
    assert!(matches!(error, KernelError::InUse { .. }), "{error}");
    kernels.get("a").unwrap();
    drop(second);
    // A process that another test of this program has just made has the lock until it executes its own.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = kernels.remove("a") {
        assert!(matches!(error, KernelError::InUse { .. }), "{error}");
        assert!(std::time::Instant::now() < patience, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(matches!(
        kernels.remove("a"),
        Err(KernelError::NotFound { .. })
    ));
    assert!(matches!(
        kernels.hold("a"),
        Err(KernelError::NotFound { .. })
    ));
    let left: Vec<_> = fs::read_dir(root.folder("")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

type Change<'a> = &'a dyn Fn(&Path);

fn damage(change: impl FnOnce(&Path)) -> KernelError {
    let root = Root::new();
    let folder = root.add("a", |_| {});
    change(&folder);
    let kernels = root.kernels();
    let result = kernels.get("a").and_then(|kernel| kernel.verify());
    // Listed, and removable, all the same.
    assert_eq!(kernels.list().unwrap().len(), 1);
    kernels.remove("a").unwrap();
    result.unwrap_err()
}

#[test]
fn damaged_kernels_are_named_with_the_remedy() {
    let cases: [(Change<'_>, &str); 7] = [
        (
            &|a| fs::write(a.join("vmlinux"), "kerne").unwrap(),
            "has 5 bytes",
        ),
        (
            &|a| fs::write(a.join("vmlinux"), "kernal").unwrap(),
            "has the digest",
        ),
        (
            &|a| fs::remove_file(a.join("vmlinux")).unwrap(),
            "vmlinux is missing",
        ),
        (
            &|a| fs::remove_file(a.join("modules.cpio")).unwrap(),
            "modules.cpio is missing",
        ),
        (
            &|a| fs::remove_file(a.join("kernel.json")).unwrap(),
            "kernel.json is missing",
        ),
        (
            &|a| fs::write(a.join("kernel.json"), "{\"format\":1").unwrap(),
            "EOF",
        ),
        (
            &|a| fs::write(a.join("kernel.json"), "{\"format\":1}").unwrap(),
            "missing field",
        ),
    ];
    for (change, expected) in cases {
        let error = damage(change);
        assert!(matches!(error, KernelError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(hint(&error).contains("isle kernel rm a"));
    }
}

#[test]
fn a_description_cannot_lead_out_of_its_folder_or_pose_as_another() {
    for (key, value) in [
        ("name", json!("b")),
        (
            "image",
            json!({"file": "../b", "bytes": 6, "digest": IMAGE}),
        ),
        ("image", json!({"file": "", "bytes": 6, "digest": IMAGE})),
        (
            "modules",
            json!({"file": "/etc/passwd", "bytes": 6, "digest": IMAGE}),
        ),
    ] {
        let root = Root::new();
        root.add("a", |description| description[key] = value);
        let error = root.kernels().get("a").unwrap_err();
        assert!(matches!(error, KernelError::Damaged { .. }), "{error}");
    }
    let root = Root::new();
    root.add("a", |description| {
        description["architecture"] = json!("vax")
    });
    let error = root.kernels().get("a").unwrap_err();
    assert!(matches!(error, KernelError::Architecture { .. }), "{error}");
    let root = Root::new();
    root.add("a", |description| description["format"] = json!(99));
    let error = root.kernels().get("a").unwrap_err();
    assert!(matches!(error, KernelError::TooNew { .. }), "{error}");
    for name in [
        "", ".", "..", "../a", "a/b", ".new-x", "current", "-a", "a b", "é",
    ] {
        let error = root.kernels().get(name).unwrap_err();
        assert!(
            matches!(error, KernelError::Name { .. }),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn what_a_guest_can_tell_changes_the_digest() {
    let root = Root::new();
    root.add("a", |_| {});
    root.add("b", |_| {});
    root.add("c", |description| {
        description["commandLine"] = json!("loud")
    });
    let digest = |name: &str| root.kernels().get(name).unwrap().description.digest();
    assert_eq!(digest("a"), digest("b"));
    assert_ne!(digest("a"), digest("c"));
}

fn agent(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join("isle-guest");
    let new = folder.join("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

#[test]
fn an_initramfs_is_made_once_for_a_kernel_and_an_agent() {
    let root = Root::new();
    root.add("a", |_| {});
    let kernels = root.kernels();
    let kernel = kernels.get("a").unwrap();
    let first = kernels
        .initramfs(&kernel, &agent(root.0.path(), "agent 1"))
        .unwrap();
    let bytes = fs::read(&first.path).unwrap();
    assert!(
        bytes.starts_with(b"modules070701"),
        "modules first, then the agent"
    );
    assert_eq!(
        fs::metadata(&first.path).unwrap().permissions().mode() & 0o777,
        0o644
    );
    first.verify().unwrap();
    let path = root.0.path().join("isle-guest");
    assert_eq!(kernels.initramfs(&kernel, &path).unwrap(), first);
    let second = kernels
        .initramfs(&kernel, &agent(root.0.path(), "agent 2"))
        .unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(kernels.initramfs(&kernel, &path).unwrap(), second);
    // One that is cut short is made again, one that is changed is found out.
    fs::write(&second.path, "short").unwrap();
    let third = kernels.initramfs(&kernel, &path).unwrap();
    assert_eq!(third, second);
    third.verify().unwrap();
    let mut bytes = fs::read(&third.path).unwrap();
    bytes[20] ^= 1;
    fs::write(&third.path, bytes).unwrap();
    third.verify().unwrap_err();
    kernels.initramfs(&kernel, &path).unwrap().verify().unwrap();
    for number in 3..12 {
        let path = agent(root.0.path(), &format!("agent {number}"));
        kernels.initramfs(&kernel, &path).unwrap();
    }
    let count = fs::read_dir(root.folder("a")).unwrap().count();
    assert_eq!(count, 3 + 4);
    let error = kernels.initramfs(&kernel, "/nowhere".as_ref()).unwrap_err();
    assert!(hint(&error).contains("isle-guest"), "{error}");
}

#[test]
fn a_kernel_is_read_again_when_its_files_have_changed() {
    let root = Root::new();
    let folder = root.add("a", |_| {});
    let marks = root.0.path().join("run/kernels");
    let kernel = root.kernels().get("a").unwrap();
    kernel.verify_once(&marks).unwrap();
    kernel.verify_once(&marks).unwrap();
    fs::write(folder.join("vmlinux"), "kernal").unwrap();
    let error = kernel.verify_once(&marks).unwrap_err();
    assert!(matches!(error, KernelError::Damaged { .. }), "{error}");
    kernel.verify_once(&marks).unwrap_err();
    fs::write(folder.join("vmlinux"), "kernel").unwrap();
    kernel.verify_once(&marks).unwrap();
}

#[test]
fn what_a_dead_process_has_left_is_collected() {
    let root = Root::new();
    root.add("a", |_| {});
    root.add("b", |_| {});
    let left = root.folder(".new-abandoned");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("vmlinux"), "half").unwrap();
    root.kernels().remove("a").unwrap();
    assert!(!left.exists());
    root.kernels().get("b").unwrap();
}

#[test]
fn kernels_are_chosen_held_and_removed_by_many_at_once() {
    let root = Root::new();
    for number in 0..8 {
        root.add(&format!("k{number}"), |_| {});
    }
    std::thread::scope(|scope| {
        for number in 0..8 {
            let kernels = root.kernels();
            scope.spawn(move || {
                let name = format!("k{number}");
                let hold = kernels.hold(&name).unwrap();
                kernels.choose(&name).unwrap();
                assert!(matches!(
                    kernels.remove(&name),
                    Err(KernelError::InUse { .. })
                ));
                drop(hold);
                // A program that another test is just starting has the lock too, until it is executed.
                let begin = std::time::Instant::now();
                while let Err(error) = kernels.remove(&name) {
                    let is_held = matches!(error, KernelError::InUse { .. });
                    assert!(is_held && begin.elapsed().as_secs() < 10, "{error}");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
        }
    });
    assert_eq!(root.kernels().list().unwrap().len(), 0);
}
