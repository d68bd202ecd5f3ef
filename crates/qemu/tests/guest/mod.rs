//! Machines for tests: a small guest, and what it needs of the host.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use isle_qemu::*;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// What tests of real machines need. `None`: it is not there, and why was printed.
pub struct World {
    pub folder: tempfile::TempDir,
    pub program: Program,
    kernel: PathBuf,
}

/// The first file system, made once for all tests of a program.
fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.c");
        let init = folder.path().join("init");
        let compiled = Command::new("cc")
            .args(["-static", "-Os", "-o"])
            .args([&init, &source])
            .status();
        assert!(compiled.unwrap().success(), "cc");
        newc(&fs::read(init).unwrap())
    })
}

/// An archive of `/init` and `/dev/console`, see
/// <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>
fn newc(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, device: (u32, u32), content: &[u8]| {
        let size = content.len();
        let length = name.len() + 1;
        let (major, minor) = device;
        write!(
            archive,
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{length:08x}{:08x}",
            0, 0, 0, 1, 0, 0, 0, 0
        )
        .unwrap();
        archive.extend(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    entry("dev", 0o040_755, (0, 0), &[]);
    entry("dev/console", 0o020_600, (5, 1), &[]);
    entry("init", 0o100_755, (0, 0), init);
    entry("TRAILER!!!", 0, (0, 0), &[]);
    archive
}

/// Of the host's clock, as the guest needs it to trust it when software executes it.
fn tsc_khz() -> Option<u64> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some((mhz * 1000.0) as u64)
}

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {why}");
    None
}

impl World {
    pub fn new() -> Option<World> {
        if !rustix::process::geteuid().is_root() {
            return skipped("QEMU is confined by root");
        }
        let Some(kernel) = std::env::var_os("ISLE_TEST_KERNEL").map(PathBuf::from) else {
            return skipped("no guest kernel: set ISLE_TEST_KERNEL to a vmlinux of kernel/");
        };
        let folder = tempfile::tempdir().unwrap();
        let program = match Program::find(Architecture::of_host(), Accelerator::Tcg, folder.path())
        {
            Ok(program) => program,
            Err(error) => return skipped(&format!("{error}; {}", error.hint())),
        };
        Some(World {
            folder,
            program,
            kernel,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self) -> Store {
        Store {
            directory: self.path("templates"),
            checked: self.path("checked"),
        }
    }

    pub fn machine(&self, memory_mib: u64) -> Machine {
        let initramfs = self.path("guest.cpio");
        if !initramfs.exists() {
            fs::write(&initramfs, archive()).unwrap();
        }
        let clock = tsc_khz().map_or_else(String::new, |khz| {
            format!("tsc_early_khz={khz} tsc=reliable ")
        });
        Machine {
            architecture: Architecture::X86_64,
            profile: Profile::Microvm { acpi: false },
            accelerator: Accelerator::Tcg,
            cpu_model: Architecture::X86_64
                .default_cpu_model(Accelerator::Tcg)
                .to_owned(),
            vcpus: 1,
            memory_bytes: memory_mib << 20,
            boot: Boot {
                kernel: self.kernel.clone(),
                initramfs: vec![initramfs],
                command_line: format!(
                    "{clock}random.trust_cpu=on mitigations=off nokaslr panic=-1 reboot=t \
                     console=ttyS0 quiet"
                ),
            },
            devices: Devices::of_instance(),
        }
    }

    pub fn template(&self, memory_mib: u64) -> Template {
        self.ensure(&self.machine(memory_mib)).unwrap()
    }

    pub fn ensure(&self, machine: &Machine) -> Result<Template, TemplateError> {
        self.ensure_watched(machine, &mut |_| {})
    }

    pub fn ensure_watched(
        &self,
        machine: &Machine,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Template, TemplateError> {
        let making = Making {
            cgroup: None,
            patience: PATIENCE,
        };
        let mut ready = |agent: &UnixStream, deadline: Instant| {
            let mut guest = Guest::new(agent.try_clone()?);
            guest
                .socket
                .set_read_timeout(Some(deadline - Instant::now()))?;
            for _ in 0..2 {
                if guest.try_ask("ping")? != "pong" {
                    return Err("no pong".into());
                }
            }
            Ok(())
        };
        self.store()
            .ensure(&self.program, machine, &making, &mut ready, progress)
    }

    /// How many templates there are.
    pub fn names(&self) -> usize {
        self.store().list().unwrap().len()
    }

    /// A folder for the sockets of one machine.
    pub fn run(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn launch<'a>(&self, run: &'a Path, disks: Vec<OwnedFd>) -> Launch<'a> {
        Launch {
            run_directory: run,
            identity: identity(run),
            cgroup: None,
            disks,
            taps: Vec::new(),
            patience: PATIENCE,
            dies_with_starter: false,
        }
    }

    /// A copy that runs.
    pub fn clone_of(&self, template: &Template, name: &str, disks: Vec<OwnedFd>) -> Running {
        let run = self.run(name);
        let mut starting = Starting::clone_of(template, self.launch(&run, disks)).unwrap();
        let guest = Guest::new(starting.take_agent().unwrap());
        Running::new(starting.finish().unwrap(), guest)
    }
}

pub fn identity(run: &Path) -> Identity {
    let number = run
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(7_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
        });
    Identity {
        id: 0x7000_0000 | (number >> 4),
    }
}

/// The guest behind its first port.
pub struct Guest {
    pub socket: UnixStream,
    from: BufReader<UnixStream>,
}

impl Guest {
    pub fn new(socket: UnixStream) -> Guest {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = BufReader::new(socket.try_clone().unwrap());
        Guest { socket, from }
    }

    pub fn try_ask(&mut self, line: &str) -> io::Result<String> {
        (&self.socket).write_all(format!("{line}\n").as_bytes())?;
        self.answer()
    }

    pub fn answer(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        self.from.by_ref().take(1000).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).unwrap()
    }
}

/// A machine that ends with the test.
pub struct Running {
    pub vm: Vm,
    pub guest: Guest,
    is_abandoned: bool,
}

impl Running {
    pub fn new(vm: Vm, guest: Guest) -> Running {
        Running {
            vm,
            guest,
            is_abandoned: false,
        }
    }

    /// As if its supervisor were killed: the connections end, the machine goes on.
    pub fn abandon(mut self) {
        self.is_abandoned = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_abandoned {
            let _ = self.vm.kill();
            let _ = self.vm.reap();
        }
    }
}
