//! The agent as the first process of a virtual machine.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs::File;
use std::time::{Duration, Instant};

use isle_guest::{
    ChangeKind, Clock, Connection, End, Further, Network, NetworkAddress, OutOfMemory, Prepare,
    RemoteProcess, Tree, UserRequest, WORKLOAD, Workload, Writable,
};
use isle_types::Signal;
use oci_spec::runtime::{LinuxMemory, LinuxPids, LinuxResources, Spec};
use support::machine::{Machine, parts, prepare};
use support::{
    Ends, is_readable, outcome, process, read_some, seccomp, spec, streams, until, user,
};

/// A machine in which something runs.
struct Scene {
    machine: Machine,
    guest: Connection,
    spec: Spec,
    process: RemoteProcess,
    ends: Ends,
}

fn boot(prepare: &Prepare, spec: Spec, user: &UserRequest) -> Option<Scene> {
    let machine = Machine::boot(&parts()?);
    let mut guest = Connection::open(machine.connect()).unwrap();
    let (stdio, ends) = streams(false);
    let workload = Workload {
        id: "abc",
        spec: &spec,
        user: Some(user),
        seccomp: Some(&seccomp()),
        root_share: None,
    };
    let process = guest.launch(prepare, &workload, stdio).unwrap();
    assert_eq!(process.id, WORKLOAD);
    if let Err(error) = guest.started(&process) {
        panic!("{error:?}\n{}", machine.console());
    }
    Some(Scene {
        machine,
        guest,
        spec,
        process,
        ends,
    })
}

fn sleeping(prepare: &Prepare) -> Option<Scene> {
    boot(prepare, spec(&["sleep", "1000"]), &user(""))
}

impl Scene {
    fn run(&mut self, script: &str) -> (End, String) {
        let process = process(&self.spec, &["sh", "-c", script]);
        let (stdio, ends) = streams(false);
        let further = Further {
            spec: &self.spec,
            process: &process,
            user: Some(&user("")),
            seccomp: Some(&seccomp()),
        };
        let process = self.guest.exec(&further, stdio).unwrap();
        let (ended, out, err) = outcome(&mut self.guest, &process, ends);
        (ended.end, out + &err)
    }

    fn says(&mut self, script: &str) -> String {
        let (end, out) = self.run(script);
        assert_eq!(end, End::Code(0), "{script}: {out}");
        out
    }
}

#[test]
fn a_workload_runs_in_a_machine_of_its_own() {
    let script = "id; uname -r; cat /etc/hostname; hostname; env; grep Seccomp: /proc/self/status; echo oops >&2; exit 7";
    let Some(mut scene) = boot(&prepare(), spec(&["sh", "-c", script]), &user("ann")) else {
        return;
    };
    let (ended, out, err) = outcome(&mut scene.guest, &scene.process, scene.ends);
    assert_eq!(ended.end, End::Code(7), "{out}{err}");
    assert!(
        out.starts_with("uid=1000(ann) gid=100(users) groups=10(wheel)"),
        "{out}"
    );
    assert!(out.contains("hostname of the host\n"), "{out}");
    assert!(out.contains("HOME=/home/ann\n"), "{out}");
    assert_eq!(err, "oops\n");
    let mut process = scene.machine;
    scene.guest.shut_down().unwrap();
    // The guest has switched itself off, and QEMU has ended with it.
    let deadline = Instant::now() + Duration::from_secs(20);
    while process.process.try_wait().unwrap().is_none() {
        assert!(
            Instant::now() < deadline,
            "QEMU goes on after the guest has ended"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_tells_what_runs_what_was_used_and_what_differs() {
    let Some(mut scene) = sleeping(&prepare()) else {
        return;
    };
    let out = scene.says("echo new > /tmp/new; rm /etc/group; echo x >> /etc/passwd; mkdir /tmp/folder; sync; cat /proc/1/comm");
    assert_eq!(out, "sleep\n");
    let changes = scene.guest.changes().unwrap();
    let of = |path: &str| {
        let found = changes
            .iter()
            .find(|change| change.path.0 == path.as_bytes());
        found.map(|change| change.kind)
    };
    assert_eq!(of("/tmp/new"), Some(ChangeKind::Added), "{changes:?}");
    assert_eq!(of("/etc/group"), Some(ChangeKind::Deleted));
    assert_eq!(of("/etc/passwd"), Some(ChangeKind::Changed));
    assert_eq!((of("/etc/hosts"), of("/dev")), (None, None), "{changes:?}");

    let processes = scene.guest.processes().unwrap();
    let commands: Vec<_> = processes
        .iter()
        .map(|process| process.command.escape_ascii().to_string())
        .collect();
    assert_eq!(commands, ["sleep 1000"]);
    assert!(
        processes[0].resident_bytes > 0 && processes[0].started > 1_700_000_000,
        "{processes:?}"
    );

    let stats = scene.guest.stats().unwrap();
    assert!(
        stats.cpu_ns > 0 && stats.memory_usage > 0 && stats.pids == 1,
        "{stats:?}"
    );
    assert!(
        stats.guest_memory > 100 << 20 && stats.online_cpus == 1,
        "{stats:?}"
    );

    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let task = scene.guest.read_tree(Tree::Layer, writer).unwrap();
    let (mut reader, mut bytes) = (File::from(reader), Vec::new());
    until(&mut scene.guest, |_| {
        read_some(&mut reader, &mut bytes);
        is_readable(&task.ended)
    });
    read_some(&mut reader, &mut bytes);
    scene.guest.reap_task(task.id).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("tmp/new") && text.contains("etc/.wh.group"),
        "{} bytes",
        bytes.len()
    );
    assert!(!text.contains("etc/hosts"));
}

#[test]
fn limits_hold_and_lack_of_memory_is_told_with_its_place() {
    let Some(mut scene) = sleeping(&prepare()) else {
        return;
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(40 << 20));
    let mut pids = LinuxPids::default();
    pids.set_limit(20);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_pids(Some(pids));
    scene.guest.set_limits(&resources).unwrap();
    assert_eq!(scene.guest.stats().unwrap().memory_limit, Some(40 << 20));
    let process = process(
        &scene.spec,
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"],
    );
    let (stdio, ends) = streams(false);
    let further = Further {
        spec: &scene.spec,
        process: &process,
        user: None,
        seccomp: None,
    };
    let process = scene.guest.exec(&further, stdio).unwrap();
    let (ended, ..) = outcome(&mut scene.guest, &process, ends);
    assert_eq!(
        (ended.end, ended.out_of_memory),
        (End::Signal(9), Some(OutOfMemory::Instance))
    );
    assert!(scene.guest.oom_kills() >= 1);
    let (_, out) = scene.run("i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done; echo all");
    assert!(out.contains("fork"), "{out}");
    // What was left behind is the instance's, and ends with it.
    scene.guest.kill_all().unwrap();
    until(&mut scene.guest, |_| is_readable(&scene.process.ended));
    assert_eq!(scene.guest.reap(WORKLOAD).unwrap().end, End::Signal(9));
}

#[test]
fn a_guest_is_given_its_network_its_time_and_its_entropy() {
    let mut prepare = prepare();
    prepare.networks.push(Network {
        card: 0,
        interface: "eth0".to_owned(),
        mac: [2, 0, 0, 0, 0, 9],
        mtu: Some(1400),
        addresses: vec![NetworkAddress {
            address: "10.9.8.7".parse().unwrap(),
            prefix: 24,
        }],
        routes: vec![isle_guest::NetworkRoute {
            destination: NetworkAddress {
                address: "0.0.0.0".parse().unwrap(),
                prefix: 0,
            },
            gateway: Some("10.9.8.1".parse().unwrap()),
        }],
    });
    let Some(mut scene) = sleeping(&prepare) else {
        return;
    };
    let out = scene.says("ip address show dev eth0; ip route; ip address show dev lo");
    for expected in [
        "02:00:00:00:00:09",
        "10.9.8.7/24",
        "mtu 1400",
        "default via 10.9.8.1",
        "127.0.0.1/8",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let inside: u64 = scene.says("date +%s").trim().parse().unwrap();
    assert!(inside.abs_diff(now()) < 30, "{inside}");
    scene.guest.set_clock(Clock {
        seconds: 2_000_000_000,
        nanoseconds: 0,
    });
    let inside: u64 = scene.says("date +%s").trim().parse().unwrap();
    assert!(inside >= 2_000_000_000);
}

#[test]
fn networks_come_and_go_by_the_cards_that_are_meant() {
    let Some(mut scene) = sleeping(&prepare()) else {
        return;
    };
    let network = |card: u8, interface: &str, address: &str| Network {
        card,
        interface: interface.to_owned(),
        mac: [2, 0, 0, 0, 0, card + 9],
        mtu: None,
        addresses: vec![NetworkAddress {
            address: address.parse().unwrap(),
            prefix: if address.contains(':') { 64 } else { 24 },
        }],
        routes: Vec::new(),
    };
    let links = |scene: &mut Scene| -> Vec<String> {
        let names = scene.says("ls /sys/class/net");
        names.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(links(&mut scene), ["lo"]);
    // The second card first: the kernel would call it eth0.
    let second = network(1, "eth1", "10.1.0.2");
    scene.guest.connect(&second).unwrap();
    assert_eq!(links(&mut scene), ["eth1", "lo"]);
    assert_eq!(
        scene.says("cat /sys/class/net/eth1/address").trim(),
        "02:00:00:00:00:0a"
    );
    let first = network(0, "eth0", "fd00::2");
    scene.guest.connect(&first).unwrap();
    assert_eq!(links(&mut scene), ["eth0", "eth1", "lo"]);
    let out = scene.says("ip -6 address show; cat /proc/sys/net/ipv6/conf/eth0/accept_ra");
    assert!(out.contains("fd00::2/64") && out.ends_with("0\n"), "{out}");
    assert!(
        !out.contains("eth1"),
        "IPv6 is off where there is no address of it: {out}"
    );
    scene.guest.disconnect(1).unwrap();
    assert_eq!(links(&mut scene), ["eth0", "lo"]);
    scene.guest.disconnect(1).unwrap();
    scene.guest.connect(&second).unwrap();
    assert_eq!(links(&mut scene), ["eth0", "eth1", "lo"]);
    let third = network(2, "eth2", "10.2.0.2");
    let error = scene.guest.connect(&third).unwrap_err();
    assert!(
        format!("{error:?}").contains("no such network card"),
        "{error:?}"
    );
}

#[test]
fn without_a_disk_writes_go_to_memory_and_end_with_it() {
    let mut prepare = prepare();
    prepare.root.as_mut().unwrap().writable = Writable::Memory {
        size: Some(8 << 20),
    };
    let Some(mut scene) = sleeping(&prepare) else {
        return;
    };
    scene.says("echo fits > /tmp/file");
    let (end, out) = scene.run("dd if=/dev/zero of=/tmp/big bs=1M count=20");
    assert_eq!(end, End::Code(1), "{out}");
    assert!(out.contains("No space left"), "{out}");
}

#[test]
fn a_host_end_that_is_replaced_finds_its_machine_as_it_was() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 5";
    let Some(mut scene) = boot(&prepare(), spec(&["sh", "-c", script]), &user("")) else {
        return;
    };
    let mut read = Vec::new();
    until(&mut scene.guest, |guest| {
        read_some(&mut scene.ends.stdout, &mut read);
        guest.tend().unwrap();
        read.len() > 3000
    });
    drop(scene.guest);
    let mut guest = Connection::resume(scene.machine.connect()).unwrap();
    let (stdio, mut ends) = streams(false);
    let process = guest.adopt(WORKLOAD, stdio).unwrap();
    until(&mut guest, |_| {
        read_some(&mut ends.stdout, &mut read);
        is_readable(&process.ended)
    });
    read_some(&mut ends.stdout, &mut read);
    let expected: String = (0..3000).map(|n| format!("line {n}\n")).collect();
    assert!(
        read == expected.as_bytes(),
        "{} of {} bytes",
        read.len(),
        expected.len()
    );
    assert_eq!(guest.reap(process.id).unwrap().end, End::Code(5));
}

#[test]
fn signals_reach_the_first_process_and_a_disk_that_is_not_there_is_named() {
    let Some(mut scene) = sleeping(&prepare()) else {
        return;
    };
    scene.guest.signal(WORKLOAD, Signal::KILL);
    until(&mut scene.guest, |_| is_readable(&scene.process.ended));
    let ended = scene.guest.reap(WORKLOAD).unwrap();
    assert_eq!((ended.end, ended.out_of_memory), (End::Signal(9), None));
    drop(scene);

    let Some(parts) = parts() else { return };
    let machine = Machine::boot(&parts);
    let mut guest = Connection::open(machine.connect()).unwrap();
    let mut prepare = prepare();
    prepare.root.as_mut().unwrap().image.device = "vdz".to_owned();
    let error = guest.prepare(&prepare).unwrap_err().to_string();
    assert!(error.contains("vdz") && error.contains("erofs"), "{error}");
}

#[test]
fn a_guest_is_nobodys_after_a_rehearsal_with_its_root_or_without() {
    const SCRIPT: &str = "while [ ! -s /kept ]; do sleep 0.05; done";
    for keeps_root in [true, false] {
        let Some(mut scene) = boot(&prepare(), spec(&["sh", "-c", SCRIPT]), &user("")) else {
            return;
        };
        scene.guest.reset(None).unwrap_err();
        // The instance ends once this is there, and ends with it what may just be ending by itself.
        let (end, _) = scene.run("echo one > /kept");
        assert!(matches!(end, End::Code(0) | End::Signal(9)), "{end:?}");
        let guest = &mut scene.guest;
        let (ended, _, err) = outcome(guest, &scene.process, scene.ends);
        assert_eq!(ended.end, End::Code(0), "{err}");
        let read = ["/bin/busybox".to_owned(), "/not/there".to_owned()];
        guest.reset(keeps_root.then_some(&read)).unwrap();
        // Nobody's it is already.
        guest.reset(None).unwrap_err();
        let (stdio, ends) = streams(false);
        let spec = spec(&["cat", "/kept", "/etc/hostname"]);
        let workload = Workload {
            id: "def",
            spec: &spec,
            user: Some(&user("")),
            seccomp: Some(&seccomp()),
            root_share: None,
        };
        let process = guest.launch(&prepare(), &workload, stdio).unwrap();
        guest.started(&process).unwrap();
        let (_, out, err) = outcome(guest, &process, ends);
        assert!(out.starts_with("one\n"), "{out}{err}");
        assert_eq!(guest.tasks().len(), 0);
    }
}
