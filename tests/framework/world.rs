//! A state root of its own for one test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::network::OwnHost;
use crate::user::OrdinaryUser;
use crate::{Invocation, Level, leaks};

/// The program under test.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// `isle`, at this path.
    Isle(PathBuf),
    /// The reference.
    Podman,
}

impl Program {
    /// `$ISLE_TEST_REFERENCE`, else `$ISLE_BIN`, else the program beside the test program.
    pub(crate) fn from_environment() -> Program {
        match std::env::var("ISLE_TEST_REFERENCE") {
            Ok(name) if name == "podman" => return Program::Podman,
            Ok(name) if !name.is_empty() => panic!("no reference named {name:?}: podman is one"),
            _ => {}
        }
        Program::Isle(program("isle", "ISLE_BIN"))
    }
}

/// A program of the workspace: what the variable names, else the one beside the test program
/// (`target/debug/deps/../isle`).
pub(crate) fn program(name: &str, variable: &str) -> PathBuf {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe().expect("a program knows where it is");
            let deps = test.parent().expect("a program is in a folder");
            deps.parent().expect("cargo's deps folder").join(name)
        }
    };
    assert!(
        path.is_file(),
        "{} is not there: build it (`cargo build --bins`) or say where it is in ${variable}",
        path.display()
    );
    path
}

/// Everything of one test: its state root, the images in it, the level it runs at.
#[derive(Debug)]
pub struct World {
    level: Level,
    program: Program,
    /// Short, because a Unix socket's path may have no more than 107 bytes.
    folder: TempDir,
    images: RefCell<BTreeSet<String>>,
    /// Where its networks are, if they are not the real host's.
    pub(crate) host: RefCell<Option<OwnHost>>,
    /// Instances are on the default network although the host is the real one.
    has_networks: Cell<bool>,
    /// Who calls the program, if not root.
    user: Option<OrdinaryUser>,
}

impl World {
    pub(crate) fn new(level: Level, is_rootless: bool) -> World {
        let folder = tempfile::Builder::new()
            .prefix("isle-test-")
            .tempdir_in("/var/tmp")
            .expect("/var/tmp can be written");
        for name in ["root", "run", "files"] {
            std::fs::create_dir(folder.path().join(name)).expect("a new folder is empty");
        }
        let program = Program::from_environment();
        if matches!(program, Program::Podman) {
            // Podman's own default exceeds the hard limit of hosts that lower it.
            let limits =
                "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n";
            std::fs::write(folder.path().join("containers.conf"), limits).expect("writable");
        }
        let is_rootless = is_rootless && matches!(program, Program::Isle(_));
        let world = World {
            user: is_rootless.then(|| OrdinaryUser::new(folder.path())),
            level,
            program,
            folder,
            images: RefCell::default(),
            host: RefCell::default(),
            has_networks: Cell::new(false),
        };
        if level == Level::Vm {
            world.use_guest_kernel();
            world.share_templates();
        }
        world
    }

    /// Booting a machine to be cloned takes a second: all tests clone the same one.
    fn share_templates(&self) {
        let kernels = guest_kernels().expect("virtual machines need a guest kernel");
        // What survives a boot, what does not, and the frequency that is part of what a template is of.
        for (name, place) in [
            ("templates", self.root().join("templates")),
            ("checked", self.run().join("templates")),
        ] {
            let shared = match &self.user {
                None => kernels.with_file_name(name),
                Some(_) => kernels.with_file_name(format!("{name}-of-a-user")),
            };
            std::fs::create_dir_all(&shared).expect("the folder beside the kernels can be written");
            if let Some(user) = &self.user {
                user.give(&shared);
            }
            std::os::unix::fs::symlink(shared, place).expect("a new root");
        }
        let frequency = kernels.with_file_name("tsc-khz");
        std::os::unix::fs::symlink(frequency, self.run().join("tsc-khz")).expect("a new root");
    }

    /// The level that instances run at.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether an ordinary user calls the program.
    #[must_use]
    pub fn is_rootless(&self) -> bool {
        self.user.is_some()
    }

    /// `$XDG_RUNTIME_DIR/isle/house` of the ordinary user: where the user namespace is kept.
    ///
    /// # Panics
    /// When root calls the program.
    #[must_use]
    pub fn house(&self) -> PathBuf {
        let user = self.user.as_ref().expect("an ordinary user");
        user.runtime().join("isle/house")
    }

    /// `ISLE_ROOT`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// `ISLE_RUN`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Gives this world the guest kernel of all tests: it is not the test's own, and must be left as it is.
    ///
    /// # Panics
    /// When there is none: the test has to say that it needs one, see [`Need::GuestKernel`](crate::Need).
    pub fn use_guest_kernel(&self) {
        let kernels = guest_kernels().expect("the test needs a guest kernel");
        let kernels = match &self.user {
            None => kernels,
            Some(user) => user.kernels(&kernels),
        };
        std::os::unix::fs::symlink(kernels, self.root().join("kernels")).expect("a new root");
    }

    /// A folder for the test's own files, gone when it ends.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// Writes one of the test's own files and returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.files().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the test's own folder can be written");
        }
        std::fs::write(&path, content).expect("the test's own folder can be written");
        if let Some(user) = &self.user {
            let above = path.ancestors().take_while(|path| **path != self.files());
            above.for_each(|path| user.give(path));
        }
        path.to_string_lossy().into_owned()
    }

    /// `isle` with these arguments. `run` and `create` get `--isolation`.
    pub fn isle<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Invocation {
        let mut command = self.command();
        let mut arguments = arguments.into_iter();
        if let Some(verb) = arguments.next() {
            command.arg(verb.as_ref());
            let makes_instance = verb.as_ref() == "run" || verb.as_ref() == "create";
            if makes_instance && matches!(self.program, Program::Isle(_)) {
                command.args(["--isolation", self.level.word()]);
            }
        }
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        Invocation::new(command)
    }

    /// The same, called by root in a world of an ordinary user.
    ///
    /// # Panics
    /// With the reference.
    pub fn isle_as_root<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Invocation {
        let Program::Isle(path) = &self.program else {
            panic!("only Isle has ordinary users here")
        };
        let mut command = Command::new(path);
        command
            .env("ISLE_ROOT", self.root())
            .env("ISLE_RUN", self.run());
        Invocation::new(command).arguments(arguments)
    }

    /// Instances of an ordinary user have networks of the user's own, which disturb nobody: this world has them.
    ///
    /// # Panics
    /// When root calls the program: its networks would be the host's.
    pub fn use_host_network(&self) {
        assert!(self.is_rootless(), "root needs a host of its own");
        self.has_networks.set(true);
    }

    /// Starts an instance of busybox in the background.
    ///
    /// # Panics
    /// When it does not start.
    pub fn background(&self, name: &str, flags: &[&str], command: &[&str]) {
        self.isle(["run", "-d", "--name", name])
            .arguments(flags)
            .arguments([&self.busybox()])
            .arguments(command)
            .succeeds();
    }

    /// `run` of a shell script in busybox, in the foreground unless the flags say otherwise.
    #[must_use]
    pub fn script(&self, flags: &[&str], script: &str) -> Invocation {
        self.isle(["run"])
            .arguments(flags)
            .arguments([self.busybox().as_str(), "sh", "-c", script])
    }

    /// The program and its global options.
    fn command(&self) -> Command {
        let mut command = match &self.program {
            Program::Isle(path) => {
                let host = self.host.borrow();
                let on_host = |program: &OsStr| match &*host {
                    Some(host) => host.command(program),
                    None => Command::new(program),
                };
                let mut command = match &self.user {
                    Some(user) => user.command(on_host, path),
                    None => on_host(path.as_os_str()),
                };
                command
                    .env("ISLE_ROOT", self.root())
                    .env("ISLE_RUN", self.run());
                // Who tells of networks has a host of its own for them, see `network`.
                if self.host.borrow().is_none() && !self.has_networks.get() {
                    command.env("ISLE_NETWORK", "none");
                }
                command
            }
            Program::Podman => {
                let mut command = Command::new("podman");
                command
                    .arg("--root")
                    .arg(self.root())
                    .arg("--runroot")
                    .arg(self.run())
                    .arg("--tmpdir")
                    .arg(self.folder.path().join("podman"))
                    .args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"])
                    .args(["--events-backend", "file"])
                    .env(
                        "CONTAINERS_CONF",
                        self.folder.path().join("containers.conf"),
                    );
                command
            }
        };
        // The user's own settings and registries must not matter.
        command
            .env("HOME", self.files())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG")
            .stdin(Stdio::null());
        command
    }

    /// The smallest image, made by `examples/busybox`.
    pub fn busybox(&self) -> String {
        self.image("busybox")
    }

    /// An image of `examples/`, in this world's store; returns its name.
    ///
    /// # Panics
    /// When it cannot be made or imported.
    pub fn image(&self, name: &str) -> String {
        if self.images.borrow_mut().insert(name.to_owned()) {
            let example = Example::get(name);
            let mut arguments = vec!["import".to_owned()];
            for change in example.changes {
                let is_known =
                    matches!(self.program, Program::Isle(_)) || !change.starts_with("HEALTHCHECK");
                if is_known {
                    arguments.extend(["--change".to_owned(), change]);
                }
            }
            arguments.extend([example.rootfs, name.to_owned()]);
            self.isle(arguments).succeeds();
        }
        name.to_owned()
    }

    /// The root file system of an image of `examples/` under another name, with one change to its configuration.
    ///
    /// # Panics
    /// When it cannot be made or imported.
    pub fn changed_image(&self, example: &str, change: &str, name: &str) {
        let rootfs = Example::get(example).rootfs;
        self.isle(["import", "--change", change, &rootfs, name])
            .succeeds();
    }

    /// The root file system of an image of `examples/`, a tar archive.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn archive(&self, name: &str) -> String {
        Example::get(name).rootfs
    }

    /// The OCI runtime of the workspace, with this world's kernel and templates: `$ISLE_OCI_BIN`, else the program beside the test
    /// program.
    #[must_use]
    pub fn oci<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Invocation {
        let mut command = Command::new(program("isle-oci", "ISLE_OCI_BIN"));
        command
            .env("ISLE_ROOT", self.root())
            .env("ISLE_RUN", self.run())
            .args(["--isolation", self.level.word()])
            .arg("--root")
            .arg(self.folder.path().join("oci"))
            .args(arguments)
            .stdin(Stdio::null());
        Invocation::new(command)
    }

    /// A program that other engines can be given as their runtime: it calls [`World::oci`]'s as they call it, and makes containers of
    /// the world's level.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn oci_for_engines(&self) -> String {
        let runtime = program("isle-oci", "ISLE_OCI_BIN");
        let script = format!(
            "#!/bin/sh\nISLE_ROOT={} ISLE_RUN={} exec {} --isolation {} \"$@\"\n",
            self.root().display(),
            self.run().display(),
            runtime.display(),
            self.level.word(),
        );
        let path = self.file("isle-runtime", script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("its own file");
        path
    }

    /// What `inspect` says of an instance or image.
    ///
    /// # Panics
    /// When there is none, or the answer is not JSON.
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.isle(["inspect", name]).succeeds();
        let value: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        value[0].clone()
    }

    /// The namespaces of running instances that are not ours, as links in `/proc/<pid>/ns` name
    /// them: `net:[4026532008]`.
    ///
    /// # Panics
    /// When `inspect` fails.
    #[must_use]
    pub fn namespaces_of(&self, names: &[String]) -> BTreeSet<String> {
        let pids = self
            .isle(["inspect", "--format", "{{.State.Pid}}"])
            .arguments(names)
            .succeeds();
        let mut namespaces: BTreeSet<String> = pids
            .lines()
            .flat_map(|pid| leaks::namespaces(pid).collect::<Vec<_>>())
            .collect();
        for own in leaks::namespaces("self") {
            namespaces.remove(&own);
        }
        namespaces
    }

    /// `{{.State.Status}}` of an instance; empty when there is none.
    #[must_use]
    pub fn status(&self, name: &str) -> String {
        let outcome = self
            .isle(["inspect", "--format", "{{.State.Status}}", name])
            .run();
        outcome.stdout().trim().to_owned()
    }

    /// Waits until an instance has this status.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_status(&self, name: &str, status: &str) {
        crate::wait_for(&format!("{name} is {status}"), || {
            self.status(name) == status
        });
    }

    /// Waits until the log of an instance contains this text.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_log(&self, name: &str, text: &str) {
        crate::wait_for(&format!("{text:?} in the log of {name}"), || {
            let outcome = self.isle(["logs", name]).run();
            outcome.stdout().contains(text) || outcome.stderr().contains(text)
        });
    }

    /// Removes all instances, then the root; returns what was left behind.
    pub(crate) fn end(self) -> Vec<String> {
        let list = self.isle(["ps", "-aq", "--no-trunc"]).run();
        let ids: Vec<String> = list.stdout().lines().map(str::to_owned).collect();
        let mut left = Vec::new();
        if !ids.is_empty() {
            let mut arguments = vec!["rm".to_owned(), "-f".to_owned(), "-v".to_owned()];
            arguments.extend(ids.iter().cloned());
            let outcome = self.isle(&arguments).run();
            if outcome.code() != 0 {
                left.push(format!(
                    "instances: rm -f -v failed: {}",
                    outcome.stderr().trim()
                ));
            }
        }
        if matches!(self.program, Program::Podman) {
            let _ = self.isle(["system", "reset", "--force"]).run();
            return left;
        }
        left.extend(leaks::after(self.folder.path(), &ids));
        left.extend(self.network_left());
        left
    }

    /// The world's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The folder of guest kernels that `cargo xtask kernel` has made: `$ISLE_TEST_KERNELS`, or
/// `target/guest/kernels`.
#[must_use]
pub fn guest_kernels() -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let kernels = match std::env::var_os("ISLE_TEST_KERNELS") {
        Some(folder) => checkout.join(folder),
        None => checkout.join("target/guest/kernels"),
    };
    kernels.join("current").is_file().then_some(kernels)
}

/// An image of `examples/`, as `cargo xtask images` made it.
struct Example {
    rootfs: String,
    changes: Vec<String>,
}

impl Example {
    fn get(name: &str) -> Example {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("tests/ is a folder of the checkout");
        let cache = match std::env::var_os("ISLE_EXAMPLES_CACHE") {
            Some(folder) => checkout.join(folder),
            None => checkout.join("target/examples-cache"),
        };
        let description = cache.join(format!("{name}.json"));
        if !is_made(&description) {
            make(checkout, name);
        }
        let text = std::fs::read(&description)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", description.display()));
        let value: Value = serde_json::from_slice(&text).expect("xtask writes JSON");
        let text = |value: &Value| value.as_str().expect("xtask writes text").to_owned();
        Example {
            rootfs: text(&value["rootfs"]),
            changes: value["changes"]
                .as_array()
                .expect("xtask writes a list")
                .iter()
                .map(text)
                .collect(),
        }
    }
}

/// Whether the description is there, and the root file system that it names.
fn is_made(description: &Path) -> bool {
    std::fs::read(description)
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .and_then(|value| value["rootfs"].as_str().map(PathBuf::from))
        .is_some_and(|rootfs| rootfs.is_file())
}

/// `cargo test` alone makes the images that `make test` makes beforehand.
fn make(checkout: &Path, name: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let status = Command::new("cargo")
        .args(["xtask", "images", name])
        .current_dir(checkout)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "`cargo xtask images {name}` failed"
    );
}
