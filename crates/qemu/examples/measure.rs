//! How long a copy of a template takes, and what memory: `measure KERNEL INITRAMFS FOLDER COPIES [together|pool]`.
//! The guest answers each line on its first port with a line (tests/guest/init.c does).

#![allow(clippy::unwrap_used, reason = "a failed measurement is none")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isle_qemu::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn ask(socket: &UnixStream) -> std::io::Result<()> {
    (&mut &*socket).write_all(b"ping\n")?;
    BufReader::new(socket)
        .read_line(&mut String::new())
        .map(drop)
}

struct Copy {
    vm: Vm,
    started: f64,
    loaded: f64,
    answered: f64,
}

fn copy(template: &Template, run: &Path, number: u32) -> Copy {
    fs::create_dir_all(run).unwrap();
    let begin = Instant::now();
    let ms = || begin.elapsed().as_secs_f64() * 1000.0;
    let launch = Launch {
        run_directory: run,
        identity: Identity {
            id: 0x7100_0000 + number,
        },
        cgroup: None,
        disks: Vec::new(),
        taps: Vec::new(),
        patience: PATIENCE,
        dies_with_starter: false,
    };
    let mut starting = Starting::clone_of(template, launch).unwrap();
    let agent = starting.take_agent().unwrap();
    (&agent).write_all(b"ping\n").unwrap();
    let started = ms();
    let vm = starting.finish().unwrap();
    let loaded = ms();
    BufReader::new(&agent)
        .read_line(&mut String::new())
        .unwrap();
    let answered = ms();
    // The port stays open as long as the copy runs.
    std::mem::forget(agent);
    Copy {
        vm,
        started,
        loaded,
        answered,
    }
}

/// Copies that wait, without and with having answered once before.
fn pooled(template: &Template, folder: &Path, count: u32) {
    let pool = Pool {
        directory: folder.join("pool"),
        cgroups: None,
    };
    let run = folder.join("run");
    fs::create_dir_all(&run).unwrap();
    let mut exercise = |agent: &UnixStream| Ok(ask(agent)?);
    let mut disks = || Ok(Vec::new());
    for is_exercised in [false, true] {
        let (mut claimed, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..count {
            pool.set(template, 1).unwrap();
            let exercise: Option<pool::Exercise<'_>> = match is_exercised {
                true => Some(pool::Exercise {
                    disks: &mut disks,
                    run: &mut exercise,
                }),
                false => None,
            };
            pool.fill(template, PATIENCE, exercise).unwrap();
            let begin = Instant::now();
            let launch = Launch {
                run_directory: &run,
                identity: Identity { id: 0x7100_0000 },
                cgroup: None,
                disks: Vec::new(),
                taps: Vec::new(),
                patience: PATIENCE,
                dies_with_starter: false,
            };
            let mut starting = pool.claim(template, &launch).unwrap();
            let agent = starting.take_agent().unwrap();
            (&agent).write_all(b"ping\n").unwrap();
            let vm = starting.finish().unwrap();
            claimed.push(begin.elapsed().as_secs_f64() * 1000.0);
            BufReader::new(&agent)
                .read_line(&mut String::new())
                .unwrap();
            answered.push(begin.elapsed().as_secs_f64() * 1000.0);
            vm.kill().unwrap();
            vm.reap().unwrap();
        }
        println!("exercised: {is_exercised}");
        line("claimed (ms)", claimed);
        line("answered (ms)", answered);
    }
    pool.remove(&template.key().to_string()).unwrap();
}

fn line(name: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part) as usize];
    println!(
        "{name:24} p50 {:8.2}  p95 {:8.2}  min {:8.2}",
        at(0.5),
        at(0.95),
        values[0]
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, initramfs, folder, copies, rest @ ..] = arguments.as_slice() else {
        panic!("measure KERNEL INITRAMFS FOLDER COPIES [together|pool]");
    };
    let folder = PathBuf::from(folder);
    let program = Program::find(
        Architecture::of_host(),
        Accelerator::Tcg,
        &folder.join("checked"),
    )
    .unwrap();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let mhz = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz\t\t: "))
        .unwrap();
    let khz = mhz.replace('.', "");
    let memory_mib: u64 = std::env::var("MEMORY_MIB").map_or(256, |text| text.parse().unwrap());
    let machine = Machine {
        architecture: Architecture::of_host(),
        profile: Profile::Microvm { acpi: false },
        accelerator: Accelerator::Tcg,
        cpu_model: "max,svm=off".to_owned(),
        vcpus: 1,
        memory_bytes: memory_mib << 20,
        boot: Boot {
            kernel: kernel.into(),
            initramfs: vec![initramfs.into()],
            command_line: format!(
                "tsc_early_khz={khz} tsc=reliable random.trust_cpu=on mitigations=off nokaslr quiet panic=-1 reboot=t scsi_mod.scan=manual"
            ),
        },
        devices: Devices::of_instance(),
    };
    let store = Store {
        directory: folder.join("templates"),
        checked: folder.join("checked"),
    };
    let making = Making {
        cgroup: None,
        patience: PATIENCE,
    };
    let mut marks = Vec::new();
    let begin = Instant::now();
    let template = store
        .ensure(
            &program,
            &machine,
            &making,
            &mut |agent, _| {
                ask(agent)?;
                Ok(ask(agent)?)
            },
            &mut |progress| marks.push((progress, begin.elapsed())),
        )
        .unwrap();
    println!("template: {:?} {marks:?}", begin.elapsed());
    let begin = Instant::now();
    store
        .ensure(&program, &machine, &making, &mut |_, _| Ok(()), &mut |_| {})
        .unwrap();
    println!("found again: {:?}", begin.elapsed());
    for summary in store.list().unwrap() {
        println!("takes {} KiB", summary.bytes >> 10);
    }
    let count: u32 = copies.parse().unwrap();
    let together = rest.iter().any(|word| word == "together");
    let mut kept = Vec::new();
    if rest.iter().any(|word| word == "pool") {
        return pooled(&template, &folder, count);
    }
    let (mut started, mut loaded, mut answered) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let copy = copy(&template, &folder.join(format!("run{number}")), number);
        started.push(copy.started);
        loaded.push(copy.loaded);
        answered.push(copy.answered);
        if together {
            kept.push(copy);
        } else {
            copy.vm.kill().unwrap();
            copy.vm.reap().unwrap();
        }
    }
    line("executed (ms)", started);
    line("loaded (ms)", loaded);
    line("answered (ms)", answered);
    if together {
        std::thread::sleep(Duration::from_secs(2));
        let (mut pss, mut private) = (Vec::new(), Vec::new());
        for copy in &mut kept {
            let memory = copy.vm.memory().unwrap();
            pss.push(memory.proportional_bytes as f64 / 1e6);
            private.push(memory.private_bytes as f64 / 1e6);
        }
        line("PSS (MB)", pss);
        line("private (MB)", private);
        if rest.iter().any(|word| word == "smaps") {
            let pid = kept[0].vm.pid();
            fs::copy(format!("/proc/{pid}/smaps"), folder.join("smaps")).unwrap();
        }
    }
    for copy in kept {
        copy.vm.kill().unwrap();
        copy.vm.reap().unwrap();
    }
}
