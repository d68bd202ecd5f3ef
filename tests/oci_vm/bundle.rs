//! A bundle, and a container that is made from it by hand.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use isle_tests::{Invocation, World, wait_for};
use serde_json::{Value, json};

/// What goes on after a call would hold the pipe of its output open.
pub const ASIDE: [&str; 4] = ["sh", "-c", "exec \"$@\" > /dev/null 2>&1", "sh"];

/// A bundle with busybox.
pub struct Bundle<'a> {
    pub world: &'a World,
    pub folder: PathBuf,
    pub config: RefCell<Value>,
}

/// Of its own for each test.
fn group(world: &World) -> String {
    format!("/{}", world.folder().file_name().unwrap().display())
}

impl<'a> Bundle<'a> {
    pub fn new(world: &'a World) -> Bundle<'a> {
        let folder = world.files().join("bundle");
        fs::create_dir_all(folder.join("rootfs")).unwrap();
        let unpacked = Command::new("tar")
            .args(["-xf", &world.archive("busybox"), "-C"])
            .arg(folder.join("rootfs"))
            .status();
        assert!(unpacked.unwrap().success());
        world
            .oci(["spec", "--bundle"])
            .arguments([&folder])
            .succeeds();
        let text = fs::read(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        let capabilities = json!([
            "CAP_CHOWN",
            "CAP_KILL",
            "CAP_NET_RAW",
            "CAP_NET_BIND_SERVICE",
            "CAP_SETUID",
            "CAP_SETGID"
        ]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = capabilities.clone();
        }
        config["linux"]["cgroupsPath"] = json!(group(world));
        Bundle {
            world,
            folder,
            config: RefCell::new(config),
        }
    }

    pub fn set(&self, pointer: &str, value: Value) {
        let mut config = self.config.borrow_mut();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
    }

    /// The container's network namespace is this one.
    pub fn join_network(&self, path: &str) {
        let mut config = self.config.borrow_mut();
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|one| one["type"] == "network");
        network.unwrap()["path"] = json!(path);
    }

    /// The specification is written with this script as its program.
    pub fn script(&self, script: &str) {
        self.set("/process/args", json!(["sh", "-c", script]));
        fs::write(
            self.folder.join("config.json"),
            self.config.borrow().to_string(),
        )
        .unwrap();
    }

    /// The same for one that goes on after the call, whose output nobody reads.
    pub fn make_detached(&self, verb: &str, flags: &[&str], id: &str) {
        self.make(verb, flags, id).through(&ASIDE).succeeds();
    }

    /// `create` or `run` of this bundle.
    pub fn make(&self, verb: &str, flags: &[&str], id: &str) -> Invocation {
        self.world
            .oci([verb, "--bundle"])
            .arguments([&self.folder])
            .arguments(flags)
            .arguments([id])
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.world.oci(["state", id]).succeeds()).unwrap()
    }

    pub fn wait_for_status(&self, id: &str, status: &str) {
        wait_for(&format!("{id} is {status}"), || {
            self.state(id)["status"] == status
        });
    }

    /// A container that runs, and what is waited for: that it has written its file `up`.
    pub fn background(&self, id: &str, script: &str) {
        self.script(&format!("touch /up; {script}"));
        self.make_detached("run", &["--detach"], id);
        wait_for("it has written a file", || {
            self.folder.join("rootfs/up").exists()
        });
    }

    /// The pids of the container on the host by the names of their programs.
    pub fn pid_of(&self, id: &str, name: &str) -> i32 {
        let pids = self.world.oci(["ps", "--format", "json", id]).succeeds();
        let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
        let named = pids.into_iter().find(|pid| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim_end() == name
        });
        named.unwrap_or_else(|| panic!("no process {name}"))
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let list = self.world.oci(["list", "--quiet"]).run();
        for id in list.stdout().lines() {
            let _ = self.world.oci(["delete", "--force", id]).run();
        }
        let _ = fs::remove_dir(self.world.folder().join("oci"));
    }
}
