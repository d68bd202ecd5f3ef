//! A host of its own for a test's networks: bridges, tables and ports of one test are nobody else's.
//!
//! It is a network namespace, and a mount namespace with an `/etc/resolv.conf` of its own; `isle` and all that it
//! starts are in it. The processes and files are those of the real host.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Invocation;

/// So long what has ended may take to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// The host.
#[derive(Debug)]
pub(crate) struct OwnHost {
    /// Sleeps in the namespaces.
    holder: Child,
    /// Sleeps in the network of another host, on the same wire.
    neighbour: Option<Child>,
}

/// The addresses of the host on the wire to its neighbour, and the neighbour's, of which it has two.
pub const ON_WIRE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// See [`ON_WIRE`].
pub const NEIGHBOUR: [&str; 3] = ["192.0.2.2", "192.0.2.3", "2001:db8::2"];

impl OwnHost {
    /// A host with a loopback interface. The file takes the place of its `/etc/resolv.conf`.
    pub(crate) fn new(resolv_conf: &Path) -> OwnHost {
        let script = r#"ip link set lo up && mount --bind "$0" /etc/resolv.conf && echo ready && exec sleep 100000"#;
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", script])
            .arg(resolv_conf)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is there");
        let mut line = String::new();
        let output = holder.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)
            .expect("the host says that it is ready");
        assert_eq!(line, "ready\n", "a host of its own needs iproute2");
        OwnHost {
            holder,
            neighbour: None,
        }
    }

    /// Puts another host on a wire to this one.
    fn add_neighbour(&mut self) {
        let child = self
            .command("unshare")
            .args(["--net", "sleep", "100000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("util-linux is there");
        let pid = child.id();
        self.neighbour = Some(child);
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        crate::wait_for("the neighbour's network", || {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name == "sleep\n" && namespace(pid) != namespace(self.holder.id())
        });
        let [v4, v6] = ON_WIRE;
        let ours = format!(
            "ip link add wire type veth peer name wire netns {pid} &&
             ip addr add {v4}/24 dev wire && ip addr add {v6}/64 dev wire nodad && ip link set wire up"
        );
        let [first, second, third] = NEIGHBOUR;
        let theirs = format!(
            "ip addr add {first}/24 dev wire && ip addr add {second}/24 dev wire &&
             ip addr add {third}/64 dev wire nodad && ip link set wire up && ip link set lo up"
        );
        let mut there = self.at_neighbour("sh");
        for command in [
            self.command("sh").args(["-c", &ours]),
            there.args(["-c", &theirs]),
        ] {
            let status = command.status().expect("a shell is there");
            assert!(status.success(), "iproute2 makes the wire");
        }
    }

    fn at_neighbour(&self, program: impl AsRef<OsStr>) -> Command {
        let neighbour = self.neighbour.as_ref().expect("there is a neighbour");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", neighbour.id()))
            .arg("--")
            .arg(program);
        command
    }

    fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.holder.id())
    }

    /// A program in it.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace("net")))
            .arg(format!("--mount={}", self.namespace("mnt")))
            .arg("--")
            .arg(program);
        command
    }

    /// What networks have left in it: links and tables.
    pub(crate) fn left(&self) -> Vec<String> {
        let lines = |program: &str, arguments: &[&str], prefix: &str| -> Vec<String> {
            let output = self.command(program).args(arguments).output();
            let output = output.expect("iproute2 and nftables are there");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines = text.lines().map(str::trim);
            lines
                .filter(|line| line.contains(prefix))
                .map(str::to_owned)
                .collect()
        };
        let mut left = lines("ip", &["-brief", "link"], "isl");
        left.extend(lines("ip", &["-brief", "link"], "ie"));
        left.extend(lines("nft", &["list", "tables"], "isle"));
        left
    }

    /// Runs something in a thread that is in its network: what it opens there stays there.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        enter(self.namespace("net"), act)
    }
}

fn enter<T: Send>(path: String, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let file = std::fs::File::open(path).expect("the host is there");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).expect("root");
            act()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for OwnHost {
    fn drop(&mut self) {
        for child in self.neighbour.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl crate::World {
    /// Gives this world a host of its own for its networks, and the default network to those who ask for none. `isle`
    /// runs on it from now on.
    ///
    /// # Panics
    /// When there can be none.
    pub fn use_own_host(&self, resolv_conf: &str) {
        let path = self.file("resolv.conf", resolv_conf);
        self.host.replace(Some(OwnHost::new(Path::new(&path))));
    }

    /// Another program on the world's own host.
    ///
    /// # Panics
    /// Without [`World::use_own_host`](crate::World::use_own_host).
    pub fn on_host<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Invocation {
        let host = self.host.borrow();
        let host = host.as_ref().expect("the world has a host of its own");
        let mut words = words.into_iter();
        let mut command = host.command(words.next().expect("a program"));
        command.args(words).stdin(Stdio::null());
        Invocation::new(command)
    }

    /// Runs something in a thread that is on another host, which a wire ([`ON_WIRE`], [`NEIGHBOUR`]) connects to the
    /// world's own.
    ///
    /// # Panics
    /// Without [`World::use_own_host`](crate::World::use_own_host).
    pub fn in_neighbour<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let mut host = self.host.borrow_mut();
        let host = host.as_mut().expect("the world has a host of its own");
        if host.neighbour.is_none() {
            host.add_neighbour();
        }
        let neighbour = host.neighbour.as_ref().expect("added above");
        enter(format!("/proc/{}/ns/net", neighbour.id()), act)
    }

    /// Runs something in a thread that is on the network of the world's own host.
    ///
    /// # Panics
    /// Without [`World::use_own_host`](crate::World::use_own_host).
    pub fn in_host<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let host = self.host.borrow();
        let host = host.as_ref().expect("the world has a host of its own");
        host.enter(act)
    }

    /// What its networks have left, when nobody is on them any more.
    pub(crate) fn network_left(&self) -> Vec<String> {
        let host = self.host.borrow();
        let Some(host) = host.as_ref() else {
            return Vec::new();
        };
        let begin = Instant::now();
        loop {
            let left = host.left();
            if left.is_empty() || begin.elapsed() > GRACE {
                return left;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
