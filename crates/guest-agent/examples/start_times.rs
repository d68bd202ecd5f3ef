//! Where the time goes from a clone's start to the first output of its workload: `start_times [RUNS [COMMAND…]]`, with the variables of
//! tests/support/machine.rs; `CPU` is a model for QEMU, `APPEND` more of the kernel's command line, `MORE` more arguments
//! of the copies' QEMU. With `EXEC` four times `true` is executed in it, too (the command must not end then). Boots a template, copies it, and prints a line a run, in ms since QEMU was started.

#![allow(clippy::unwrap_used, reason = "it measures, and nobody relies on it")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isle_guest::{Connection, Further, Workload};
use support::machine::{counter_khz, fill_root, initramfs, parts, run};
use support::{is_readable, process, seccomp, spec, streams, until, user};

/// With `REHEARSED` the template has run an instance, and the disks of its copies are copies of its disk.
fn is_rehearsed() -> bool {
    std::env::var_os("REHEARSED").is_some()
}

fn format_disk(disk: &Path) {
    let file = std::fs::File::create(disk).unwrap();
    file.set_len(256 << 20).unwrap();
    run(
        "mkfs.ext4",
        &["-q".as_ref(), "-F".as_ref(), disk.as_os_str()],
    );
}

/// What is to be tried instead of what is there.
fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or(otherwise.to_owned())
}

fn qemu(folder: &Path, name: &str, is_shared: bool) -> Command {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("qemu-system-x86_64");
    let share = if is_shared { "on" } else { "off" };
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-M",
            "microvm,acpi=off,accel=tcg,memory-backend=mem",
            "-cpu",
            &variable("CPU", "max"),
            "-m",
            "256M",
        ])
        .args([
            "-object",
            &format!(
                "memory-backend-file,id=mem,size=256M,mem-path={},share={share}",
                path("mem")
            ),
        ])
        .args([
            "-chardev",
            &format!(
                "socket,id=ag,path={},server=on,wait=off",
                path(&format!("{name}.agent"))
            ),
        ])
        .args([
            "-chardev",
            &format!(
                "socket,id=qm,path={},server=on,wait=off",
                path(&format!("{name}.qmp"))
            ),
        ])
        .args(["-mon", "chardev=qm,mode=control"])
        .args(["-device", "virtio-serial-device,id=vs0"])
        .args([
            "-device",
            "virtserialport,bus=vs0.0,chardev=ag,name=isle,nr=1",
        ]);
    for card in 0..number_from("CARDS") {
        command.args(["-netdev", &format!("hubport,id=n{card},hubid={card}")]);
        command.args(["-device", &format!("virtio-net-device,netdev=n{card}")]);
    }
    for (id, file, more) in [
        ("root", "image", "read-only=on,"),
        ("upper", name, "discard=unmap,"),
    ] {
        command.args(match is_shared && !is_rehearsed() {
            true => [
                "-blockdev".to_owned(),
                format!("driver=null-co,node-name={id},size=1099511627776,read-zeroes=on,{more}")
                    .trim_end_matches(',')
                    .replace("discard=unmap", "")
                    .trim_end_matches(',')
                    .to_owned(),
            ],
            false => [
                "-blockdev".to_owned(),
                format!(
                    "driver=raw,node-name={id},{more}file.driver=file,file.filename={}",
                    path(file)
                ),
            ],
        });
        command.args([
            "-device",
            &format!("virtio-blk-device,drive={id},share-rw=on"),
        ]);
    }
    command
}

/// A number in the environment: `CARDS` that the machine has, `NETWORKS` that the instance is on.
fn number_from(variable: &str) -> u8 {
    std::env::var(variable).map_or(0, |text| text.parse().unwrap())
}

/// What makes the guest the instance's.
fn prepare() -> isle_guest::Prepare {
    let network = |card: u8| isle_guest::Network {
        card,
        interface: format!("eth{card}"),
        mac: [2, 0, 0, 0, 0, card],
        mtu: None,
        addresses: vec![isle_guest::NetworkAddress {
            address: [10, card, 0, 2].into(),
            prefix: 24,
        }],
        routes: Vec::new(),
    };
    isle_guest::Prepare {
        networks: (0..number_from("NETWORKS")).map(network).collect(),
        ..support::machine::prepare()
    }
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(socket) = UnixStream::connect(path) {
            return socket;
        }
        assert!(Instant::now() < deadline, "{}", path.display());
        std::thread::sleep(Duration::from_micros(200));
    }
}

struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn hear(&mut self, wanted: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "QEMU has ended");
            assert!(!line.contains("\"error\""), "{line}");
            if line.contains(wanted) {
                return line;
            }
        }
    }
}

/// Blocks of guest code that were translated so far: what no load of the host changes.
fn blocks(qmp: &mut Qmp) -> u64 {
    qmp.say(
        "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info jit\"}}",
    );
    let text = qmp.hear("TB count");
    let rest = text.split("TB count").nth(1).unwrap_or_default();
    let digits = rest
        .trim_start_matches(' ')
        .split(|c: char| !c.is_ascii_digit());
    digits
        .into_iter()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn rehearse(guest: &mut Connection) {
    let (spec, seccomp, root) = (spec(&["echo", "here"]), seccomp(), user(""));
    let workload = Workload {
        id: "abc",
        spec: &spec,
        user: Some(&root),
        seccomp: Some(&seccomp),
        root_share: None,
    };
    let (stdio, ends) = streams(false);
    let process = guest.launch(&prepare(), &workload, stdio).unwrap();
    guest
        .started(&process)
        .unwrap_or_else(|error| panic!("{error:?}"));
    support::outcome(guest, &process, ends);
    guest.reset(Some(&["/bin/busybox".to_owned()])).unwrap();
}

const IGNORE_SHARED: &str = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":true},{\"capability\":\"events\",\"state\":true}]}}";

/// CPU time of all threads of a process so far, in ms: what a busy machine does not change much.
fn cpu_ms(child: &Child) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let text =
            std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    tasks.map(of).sum::<f64>() / 1e6
}

/// A QEMU that ends with its owner, however that ends.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let Some(parts) = parts() else { return };
    let runs: u32 = std::env::args().nth(1).map_or(10, |n| n.parse().unwrap());
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("initramfs"), initramfs(&parts.1)).unwrap();
    fill_root(&path("root"));
    run(
        "mkfs.erofs",
        &[path("image").as_os_str(), path("root").as_os_str()],
    );

    format_disk(&path("template"));
    let begun = Instant::now();
    let template = qemu(folder.path(), "template", true)
        .arg("-kernel")
        .arg(&parts.0)
        .arg("-initrd")
        .arg(path("initramfs"))
        .args(["-append", &format!("tsc_early_khz={} tsc=reliable random.trust_cpu=on mitigations=off nokaslr quiet panic=-1 reboot=t {}", counter_khz(), variable("APPEND", ""))])
        .stdin(Stdio::null())
        .spawn()
        .map(Qemu)
        .unwrap();
    let mut qmp = Qmp(BufReader::new(connect(&path("template.qmp"))));
    let mut guest = Connection::open(OwnedFd::from(connect(&path("template.agent")))).unwrap();
    guest.welcome().unwrap();
    println!(
        "template: the agent answers after {:.0} ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    if is_rehearsed() {
        rehearse(&mut guest);
    }
    drop(guest);
    std::thread::sleep(Duration::from_millis(300));
    qmp.say(IGNORE_SHARED);
    qmp.say(
        "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":100000000000}}",
    );
    qmp.say(&format!(
        "{{\"execute\":\"migrate\",\"arguments\":{{\"uri\":\"exec:cat > {}\"}}}}",
        path("state").display()
    ));
    qmp.hear("\"completed\"");
    std::thread::sleep(Duration::from_millis(100));
    drop(template);

    let words: Vec<String> = std::env::args().skip(2).collect();
    let words: Vec<&str> = match words.is_empty() {
        true => vec!["echo", "here"],
        false => words.iter().map(String::as_str).collect(),
    };
    let spec = spec(&words);
    let seccomp = seccomp();
    let root = user("");
    println!(
        "ms: resumed, started, output | CPU ms: resumed, prepared, started, output | blocks: the same | ms: exec, again, again…"
    );
    for number in 0..runs {
        let name = format!("clone{number}");
        match is_rehearsed() {
            true => drop(std::fs::copy(path("template"), path(&name)).unwrap()),
            false => format_disk(&path(&name)),
        }
        let state = std::fs::File::open(path("state")).unwrap();
        let begun = Instant::now();
        let since = || begun.elapsed().as_secs_f64() * 1e3;
        let child = qemu(folder.path(), &name, false)
            .args(["-incoming", "defer"])
            .args(variable("MORE", "").split_whitespace())
            .stdin(state)
            .spawn()
            .map(Qemu)
            .unwrap();
        let mut qmp = Qmp(BufReader::new(connect(&path(&format!("{name}.qmp")))));
        let mut guest =
            Connection::open(OwnedFd::from(connect(&path(&format!("{name}.agent"))))).unwrap();
        let (stdio, mut ends) = streams(false);
        let workload = Workload {
            id: "abc",
            spec: &spec,
            user: Some(&root),
            seccomp: Some(&seccomp),
            root_share: None,
        };
        let is_split = std::env::var_os("SPLIT").is_some();
        let mut prepared = 0.0;
        let mut blocks_prepared = 0;
        let process = match is_split {
            true => None,
            false => Some(guest.launch(&prepare(), &workload, stdio).unwrap()),
        };
        qmp.say(IGNORE_SHARED);
        qmp.say("{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:0\"}}");
        qmp.hear("\"RESUME\"");
        let resumed = since();
        let cpu_resumed = cpu_ms(&child.0);
        let blocks_resumed = blocks(&mut qmp);
        let process = process.unwrap_or_else(|| {
            guest.prepare(&prepare()).unwrap();
            prepared = cpu_ms(&child.0);
            blocks_prepared = blocks(&mut qmp);
            let (stdio, new) = streams(false);
            ends = new;
            guest.start(&workload, stdio).unwrap()
        });
        guest
            .started(&process)
            .unwrap_or_else(|error| panic!("{error:?}"));
        let (started, cpu_started) = (since(), cpu_ms(&child.0));
        let blocks_started = blocks(&mut qmp);
        let mut output = Vec::new();
        until(&mut guest, |_| {
            support::read_some(&mut ends.stdout, &mut output);
            !output.is_empty() || is_readable(&process.ended)
        });
        let (output, cpu_output) = (since(), cpu_ms(&child.0));
        let blocks_output = blocks(&mut qmp);

        let mut exec = [0.0; 4];
        if std::env::var_os("EXEC").is_some() {
            for time in &mut exec {
                let begun = Instant::now();
                let process = process_of(&spec);
                let (stdio, _ends) = streams(false);
                let further = Further {
                    spec: &spec,
                    process: &process,
                    user: Some(&root),
                    seccomp: Some(&seccomp),
                };
                let process = guest.exec(&further, stdio).unwrap();
                until(&mut guest, |_| is_readable(&process.ended));
                *time = begun.elapsed().as_secs_f64() * 1e3;
            }
        }
        println!(
            "{resumed:7.1} {started:7.1} {output:7.1} | {cpu_resumed:7.1} {prepared:7.1} {cpu_started:7.1} {cpu_output:7.1} | \
             {blocks_resumed:6} {blocks_prepared:6} {blocks_started:6} {blocks_output:6} | {exec:.1?}"
        );
        drop(child);
        std::fs::remove_file(path(&name)).unwrap();
    }
}

fn process_of(spec: &oci_spec::runtime::Spec) -> oci_spec::runtime::Process {
    process(spec, &["true"])
}
