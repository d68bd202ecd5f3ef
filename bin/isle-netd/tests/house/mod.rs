//! A host of its own for a test: a network namespace with bridges and instances, a state file, a `resolv.conf` that
//! nobody else sees. All of it goes with the test.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use isle_database::Database;
use isle_dataplane::Dataplane;
use isle_netd::{AttachError, Attachment, Home};
use isle_network::{Egress, Endpoint, Join, Link, Network, NewNetwork, SubnetRequest, wanted};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// The host, as the calling thread sees it from now on.
pub struct House {
    folder: TempDir,
    pub database: Database,
    pub dataplane: Dataplane,
    _namespace: Namespace,
}

/// A network namespace, kept by a process that sleeps.
pub struct Namespace(Child);

impl Namespace {
    pub fn new() -> Namespace {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .spawn()
            .expect("util-linux is there");
        let namespace = Namespace(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for("a network namespace", || {
            std::fs::read_link(namespace.path()).is_ok_and(|other| other != own)
        });
        namespace
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) {
        let file = std::fs::File::open(self.path()).unwrap();
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An instance: its place on its networks, and its supervisor's connection.
pub struct Instance {
    pub id: String,
    pub endpoints: Vec<Endpoint>,
    pub attachment: Attachment,
    namespace: Namespace,
}

/// Tests that need root say so and pass nothing.
pub fn is_skipped() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    !is_root
}

/// Waits for a state.
pub fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_there() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program where the calling thread is.
pub fn run(command: &mut Command) {
    let status = command.status().expect("the program is there");
    assert!(status.success(), "{command:?}");
}

impl House {
    /// With this as its `/etc/resolv.conf`.
    pub fn new(resolv_conf: &str) -> House {
        let namespace = Namespace::new();
        let folder = tempfile::tempdir().unwrap();
        isle_sys::namespace::unshare_mounts().unwrap();
        namespace.enter();
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        std::fs::write(folder.path().join("resolv.conf"), resolv_conf).unwrap();
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        let mut bind = Command::new("mount");
        run(bind
            .arg("--bind")
            .arg(folder.path().join("resolv.conf"))
            .arg("/etc/resolv.conf"));
        let database =
            Database::open(&folder.path().join("isle.db"), &[isle_network::SCHEMA]).unwrap();
        House {
            dataplane: Dataplane::new(wanted::realm(folder.path())),
            database,
            folder,
            _namespace: namespace,
        }
    }

    /// Changes it in place.
    pub fn write_resolv_conf(&self, text: &str) {
        std::fs::write(self.folder.path().join("resolv.conf"), text).unwrap();
    }

    pub fn home(&self) -> Home {
        Home {
            root: self.folder.path().to_owned(),
            run: self.folder.path().join("run"),
            program: Some(env!("CARGO_BIN_EXE_isle-netd").into()),
        }
    }

    pub fn network(&mut self, name: &str, subnets: &[&str], internal: bool) -> Network {
        let subnets = subnets.iter().map(|subnet| SubnetRequest {
            subnet: subnet.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Default::default(),
        });
        let new = NewNetwork {
            name: name.to_owned(),
            internal,
            subnets: subnets.collect(),
            ..NewNetwork::default()
        };
        let network = isle_network::create(&self.database, &new).unwrap();
        let bridge = wanted::bridge(&network).unwrap();
        self.dataplane.ensure_bridge(&bridge).unwrap();
        network
    }

    pub fn join(
        &self,
        id: &str,
        network: &Network,
        interface: &str,
        names: &[&str],
        egress: &Egress,
    ) -> Endpoint {
        let join = Join {
            network: network.id.clone(),
            interface: interface.to_owned(),
            names: names.iter().map(ToString::to_string).collect(),
            egress: egress.clone(),
            ..Join::default()
        };
        let joined = self
            .database
            .write(|transaction| isle_network::join(transaction, id, &join));
        joined.unwrap().1
    }

    pub fn release(&self, id: &str) {
        let released = self
            .database
            .write(|transaction| isle_network::release(transaction, id));
        released.unwrap();
    }

    /// An instance on networks, under names that are the same on all.
    pub fn instance(&mut self, number: u8, networks: &[&Network], names: &[&str]) -> Instance {
        self.instance_with(number, networks, names, &[], &Egress::Allow)
            .unwrap()
    }

    pub fn instance_with(
        &mut self,
        number: u8,
        networks: &[&Network],
        names: &[&str],
        servers: &[IpAddr],
        egress: &Egress,
    ) -> Result<Instance, AttachError> {
        let id = format!("{number:02x}").repeat(32);
        let namespace = Namespace::new();
        let mut endpoints = Vec::new();
        for (place, network) in networks.iter().enumerate() {
            let interface = format!("eth{place}");
            endpoints.push(self.join(&id, network, &interface, names, egress));
        }
        let links: Vec<Link> = networks
            .iter()
            .zip(&endpoints)
            .map(|(network, endpoint)| Link {
                network: (*network).clone(),
                endpoint: endpoint.clone(),
            })
            .collect();
        let file = std::fs::File::open(namespace.path()).unwrap();
        for link in &links {
            if let Some(guard) = wanted::guard(link) {
                self.dataplane.guard(&guard).unwrap();
            }
            let endpoint = wanted::endpoint(link, &links);
            let inside = std::os::fd::AsFd::as_fd(&file);
            self.dataplane.attach_namespace(&endpoint, inside).unwrap();
        }
        let mut attachment = Attachment::begin(self.home(), id.clone(), servers.to_vec())?;
        attachment.wait()?;
        Ok(Instance {
            id,
            endpoints,
            attachment,
            namespace,
        })
    }

    /// The keeper's process id.
    pub fn keeper(&self) -> Option<i32> {
        let root = self.folder.path().as_os_str().as_encoded_bytes().to_vec();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.into_iter().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0);
            (words.next()? == b"isle-netd" && words.next()? == root).then_some(pid)
        })
    }

    /// What a program says, on the host.
    pub fn prints(words: &[&str]) -> String {
        let output = Command::new(words[0]).args(&words[1..]).output();
        String::from_utf8(output.expect("the program is there").stdout).unwrap()
    }

    pub fn run_folder_is_gone(&self) -> bool {
        !self.folder.path().join("run/network").exists()
    }
}

impl Instance {
    /// Moves the calling thread into its network namespace.
    pub fn enter(&self) {
        self.namespace.enter();
    }

    /// Runs a program on the instance's networks.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.path().display()))
            .args(words);
        command
            .stdin(Stdio::null())
            .output()
            .expect("nsenter is there")
    }

    /// What dig(1) prints with `+short`, in order, or the code when there is no answer.
    pub fn dig(&self, server: IpAddr, words: &[&str]) -> Vec<String> {
        let at = format!("@{server}");
        let output = self.run(&[&["dig", &at, "+tries=1", "+time=8"], words].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text
            .split("status: ")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        match code {
            Some("NOERROR") => {}
            Some(code) => return vec![code.to_owned()],
            None => return vec![format!("no answer: {text}")],
        }
        let answers = text.split("ANSWER SECTION:\n").nth(1).unwrap_or_default();
        let lines = answers.lines().take_while(|line| !line.is_empty());
        lines
            .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
            .collect()
    }

    /// The gateway of its first network.
    pub fn gateway(&self, network: &Network) -> IpAddr {
        network.gateways().next().unwrap().addr()
    }
}
