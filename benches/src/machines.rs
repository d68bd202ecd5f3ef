//! P3, P4, P5, P7 and P8 of level `vm`: the same command in a container and in a machine of its own.

use std::cell::RefCell;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::engines::{Engine, Engines};
use crate::harness::{Benchmark, Column, Settings, measure};

/// Machines of P7.
const CLONES: usize = 100;

/// Gives Isle the guest kernel that `cargo xtask kernel` has made, and says where it is. `None`, said aloud: there is
/// none.
pub fn kernel(engines: &Engines) -> Result<Option<PathBuf>> {
    let kernels = std::env::var_os("ISLE_TEST_KERNELS").map(PathBuf::from);
    let kernels = kernels.unwrap_or_else(|| "target/guest/kernels".into());
    let Ok(name) = fs::read_to_string(kernels.join("current")) else {
        println!("\nLeft out: level vm: there is no guest kernel (cargo xtask kernel makes one)");
        return Ok(None);
    };
    let kernels = fs::canonicalize(kernels)?;
    let place = engines.folder().join("isle/kernels");
    if fs::symlink_metadata(&place).is_err() {
        std::os::unix::fs::symlink(&kernels, place)?;
    }
    Ok(Some(kernels.join(name.trim()).join("vmlinux")))
}

fn first_output(mut command: Command) -> Result<Child> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.as_mut().context("standard output is a pipe")?;
    let mut byte = [0];
    stdout
        .read_exact(&mut byte)
        .context("it ended without a word")?;
    Ok(child)
}

/// A column that is timed until the first byte of output, and waits for the end untimed.
fn until_first_output<'a>(
    name: &str,
    make: impl Fn() -> Command + 'a,
    children: &'a RefCell<Vec<Child>>,
) -> Column<'a> {
    Column::new(name, move || {
        children.borrow_mut().push(first_output(make())?);
        Ok(())
    })
    .after(move || {
        wait_for_all(children);
        Ok(())
    })
}

/// Waits for their ends. One that has ended the harness may have collected, with everything else that ends.
fn wait_for_all(children: &RefCell<Vec<Child>>) {
    for mut child in children.borrow_mut().drain(..) {
        let _ = child.wait();
    }
}

/// Waits until the machine that was taken has been replaced, and a moment more: who has replaced it ends.
fn wait_for_pool(engines: &Engines) -> Result<()> {
    let begin = Instant::now();
    loop {
        let ready = ["pool", "ls", "--format", "{{.Ready}}"];
        let ready = engines.command(Engine::Isle, ready).output()?.stdout;
        if ready.starts_with(b"1") {
            std::thread::sleep(Duration::from_millis(200));
            return Ok(());
        }
        anyhow::ensure!(
            begin.elapsed() < Duration::from_secs(30),
            "the pool stays empty"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

const HELLO: [&str; 3] = ["busybox", "echo", "hello"];

/// P3 and P4.
pub fn first_words(engines: &Engines, settings: &Settings) -> Result<()> {
    if kernel(engines)?.is_none() {
        return Ok(());
    }
    let children = RefCell::default();
    let isle = |level: &'static str| {
        let flags = ["run", "--rm", "--network", "none", "--isolation", level];
        move || engines.command(Engine::Isle, flags.into_iter().chain(HELLO))
    };
    let mut columns = vec![
        until_first_output("isle vm", isle("vm"), &children),
        until_first_output("isle container", isle("container"), &children),
    ];
    for engine in engines.list(settings) {
        if engine != Engine::Isle {
            let flags = ["run", "--rm", "--network", "none"];
            let make = move || engines.command(engine, flags.into_iter().chain(HELLO));
            columns.push(
                until_first_output(&format!("{} container", engine.name()), make, &children)
                    .daemons(engines.daemons(engine)),
            );
        }
    }
    measure(
        settings,
        Benchmark {
            id: "P3",
            title: "engine, `run --rm busybox echo hello` from a template, beside containers",
            span: "From before the command's process is made to the first byte of the program's output. The end is waited for \
                   untimed.",
            warm_up: 3,
            runs: settings.runs,
            columns,
        },
    )?;
    let pool = |size: &str| engines.quietly(Engine::Isle, &["pool", "set", size]);
    pool("1")?;
    let waits = until_first_output("isle vm, pool", isle("vm"), &children).after(|| {
        wait_for_all(&children);
        wait_for_pool(engines)
    });
    measure(
        settings,
        Benchmark {
            id: "P3-pool",
            title: "the same, from a pool of one machine",
            span: "As P3; between runs, untimed, the pool is filled again.",
            warm_up: 3,
            runs: settings.runs,
            columns: vec![waits],
        },
    )?;
    let memory = ["pool", "ls", "--format", "{{.PSS}}"];
    let memory = engines.command(Engine::Isle, memory).output()?.stdout;
    let memory = String::from_utf8(memory)?;
    println!(
        "\nMemory of the one that waits, alone of its template (PSS): {}",
        memory.trim()
    );
    pool("0")?;
    let stores =
        ["templates", "image-templates"].map(|name| engines.folder().join("isle").join(name));
    let cold = until_first_output("isle vm, no template", isle("vm"), &children);
    let forget = || {
        wait_for_all(&children);
        let mut removed = stores.iter().map(fs::remove_dir_all);
        removed.try_for_each(|result| match result {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.context("a template cannot be removed"),
        })
    };
    measure(
        settings,
        Benchmark {
            id: "P4",
            title: "the same, when the template has to be made first",
            span: "As P3; the template is removed between runs, untimed.",
            warm_up: 1,
            runs: settings.runs.min(10),
            columns: vec![cold.after(forget)],
        },
    )
}

/// P5.
pub fn exec(engines: &Engines, settings: &Settings) -> Result<()> {
    if kernel(engines)?.is_none() {
        return Ok(());
    }
    for level in ["container", "vm"] {
        let flags = ["run", "-d", "--network", "none", "--isolation", level];
        let rest = ["--name", level, "busybox", "sleep", "3600"];
        let words: Vec<&str> = flags.into_iter().chain(rest).collect();
        engines.quietly(Engine::Isle, &words)?;
    }
    let columns = ["vm", "container"].map(|level| {
        Column::new(format!("isle {level}"), move || {
            engines.quietly(Engine::Isle, &["exec", level, "true"])
        })
    });
    let result = measure(
        settings,
        Benchmark {
            id: "P5-vm",
            title: "engine, `exec true` in a running virtual machine and container",
            span: "From before the command's process is made to its end.",
            warm_up: 10,
            runs: settings.runs,
            columns: columns.into(),
        },
    );
    engines.quietly(Engine::Isle, &["rm", "-f", "container", "vm"])?;
    result
}

/// P7.
pub fn clones(engines: &Engines, settings: &Settings) -> Result<()> {
    if kernel(engines)?.is_none() {
        return Ok(());
    }
    let memory = ["--isolation", "vm", "-m", "128m", "--network", "none"];
    // The first makes the template of the machine, the second that of the image for those that stay.
    for flags in [["run", "--rm"], ["run", "--name=first"]] {
        let hello = flags.into_iter().chain(memory).chain(HELLO);
        engines.quietly(Engine::Isle, &hello.collect::<Vec<_>>())?;
    }
    engines.quietly(Engine::Isle, &["rm", "first"])?;
    let names: Vec<String> = (0..CLONES).map(|number| format!("c{number}")).collect();
    let begin = Instant::now();
    for pair in names.chunks(2) {
        let mut starting = Vec::new();
        for name in pair {
            let flags = ["run", "-d", "--name", name.as_str()];
            let program = ["busybox", "sleep", "3600"];
            let words = flags.into_iter().chain(memory).chain(program);
            starting.push(
                engines
                    .command(Engine::Isle, words)
                    .stdout(Stdio::null())
                    .spawn()?,
            );
        }
        for mut child in starting {
            anyhow::ensure!(child.wait()?.success(), "a machine did not start");
        }
    }
    for name in &names {
        engines.quietly(Engine::Isle, &["exec", name, "true"])?;
    }
    let took = begin.elapsed();
    std::thread::sleep(Duration::from_secs(3));
    let mut private_kb = 0;
    let mut beside_kb = 0;
    for name in &names {
        let words = ["inspect", "--format", "{{.State.Pid}}", name];
        let pid = engines.command(Engine::Isle, words).output()?.stdout;
        let process = Path::new("/proc").join(String::from_utf8(pid)?.trim());
        private_kb += private_memory_kb(&process)?;
        beside_kb += memory_beside_the_guests_kb(&process)?;
    }
    println!(
        "\n### P7: {CLONES} machines of one template, each answering\n\n\
         Two `run -d` at a time, then `exec true` in each; 128 MiB each. Private memory: Private_Clean and Private_Dirty of QEMU \
         (/proc/<pid>/smaps_rollup), 3 s later.\n\n\
         P8: the part of QEMU in what it maps but for the guest's memory (Pss, /proc/<pid>/smaps); the supervisor is as a \
         container's.\n\n\
         | column | machines | up and answering | private memory of QEMU, each | P8, each |\n|---|---|---|---|---|\n\
         | isle vm | {CLONES} | {:.1} s | {:.1} MB | {:.1} MB |",
        took.as_secs_f64(),
        private_kb as f64 / 1024.0 / CLONES as f64,
        beside_kb as f64 / 1024.0 / CLONES as f64
    );
    fs::write(
        settings.output.join("P7.csv"),
        format!(
            "machines,up_ms,private_kb,beside_guest_pss_kb\n{CLONES},{},{private_kb},{beside_kb}\n",
            took.as_millis()
        ),
    )?;
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    engines.quietly(Engine::Isle, &remove)
}

fn private_memory_kb(process: &Path) -> Result<u64> {
    let rollup = fs::read_to_string(process.join("smaps_rollup"))?;
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let numbers = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(numbers.sum())
}

fn memory_beside_the_guests_kb(process: &Path) -> Result<u64> {
    let mut is_guests = false;
    let mut total = 0;
    for line in fs::read_to_string(process.join("smaps"))?.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if !is_guests => {
                total += words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            }
            // The first line of a mapping has its addresses and, last, its file.
            Some(first) if !first.ends_with(':') => is_guests = line.ends_with("/memory"),
            _ => {}
        }
    }
    Ok(total)
}
