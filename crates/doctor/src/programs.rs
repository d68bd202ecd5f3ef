//! Programs that Isle drives.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Check, Section, State};

const SECTION: Section = Section::Programs;

struct Program {
    names: &'static [&'static str],
    /// Places beside `PATH`.
    places: &'static [&'static str],
    version: &'static [&'static str],
    meaning: &'static str,
    needed_by: &'static [&'static str],
    remedy: &'static str,
}

pub(crate) const QEMU: &str = if cfg!(target_arch = "aarch64") {
    "qemu-system-aarch64"
} else {
    "qemu-system-x86_64"
};

const PROGRAMS: &[Program] = &[
    Program {
        names: &[QEMU],
        places: &["/usr/libexec/qemu-kvm"],
        version: &["--version"],
        meaning: "runs virtual machines, with KVM or in software",
        needed_by: &["vm"],
        remedy: "apt install qemu-system-x86 (qemu-system-arm on aarch64)",
    },
    Program {
        names: &["qemu-img"],
        places: &[],
        version: &["--version"],
        meaning: "makes and converts disk images",
        needed_by: &["machines"],
        remedy: "apt install qemu-utils",
    },
    Program {
        names: &["virtiofsd"],
        places: &[
            "/usr/libexec/virtiofsd",
            "/usr/lib/qemu/virtiofsd",
            "/usr/lib/virtiofsd",
        ],
        version: &["--version"],
        meaning: "shares directories with a virtual machine",
        needed_by: &["vm with bind mounts"],
        remedy: "apt install virtiofsd (in Debian 12: qemu-system-common)",
    },
    Program {
        names: &["mkfs.erofs"],
        places: &["/sbin/mkfs.erofs", "/usr/sbin/mkfs.erofs"],
        // 1.5 has no way to ask for it.
        version: &[],
        meaning: "makes images into disks of virtual machines",
        needed_by: &["vm"],
        remedy: "apt install erofs-utils",
    },
    Program {
        names: &["mke2fs"],
        places: &["/sbin/mke2fs", "/usr/sbin/mke2fs"],
        // It prints it as an error.
        version: &[],
        meaning: "formats the writable disks of virtual machines",
        needed_by: &["vm"],
        remedy: "apt install e2fsprogs",
    },
    Program {
        names: &["runsc"],
        places: &[],
        version: &["--version"],
        meaning: "a kernel in user space (gVisor)",
        needed_by: &["sandbox"],
        remedy: "install gVisor: https://gvisor.dev/docs/user_guide/install/",
    },
    Program {
        names: &["criu"],
        places: &["/usr/sbin/criu"],
        version: &["--version"],
        meaning: "checkpoints running containers",
        needed_by: &["checkpoints"],
        remedy: "apt install criu",
    },
    Program {
        names: &["pasta"],
        places: &[],
        version: &["--version"],
        meaning: "network for users without privileges",
        needed_by: &["rootless"],
        remedy: "apt install passt",
    },
    Program {
        names: &["newuidmap"],
        places: &[],
        version: &[],
        meaning: "ids for user namespaces of users without privileges",
        needed_by: &["rootless"],
        remedy: "apt install uidmap",
    },
];

pub(crate) fn checks() -> Vec<Check> {
    let run = |program: &Program, path: &Path| first_line(path, program.version);
    PROGRAMS
        .iter()
        .map(|program| check(program, Some(&run)))
        .collect()
}

/// The same by their files alone.
pub(crate) fn presence() -> Vec<Check> {
    PROGRAMS
        .iter()
        .map(|program| check(program, None))
        .collect()
}

/// Asks a program for its version.
type Ask<'a> = &'a dyn Fn(&Program, &Path) -> std::io::Result<String>;

fn check(program: &Program, ask: Option<Ask<'_>>) -> Check {
    let name = program.names[0];
    let is_for_users = program.needed_by == ["rootless"];
    let check = match find(program) {
        None if is_for_users && rustix::process::geteuid().is_root() => {
            Check::there(SECTION, name, false).or_state(false, State::NotNeeded)
        }
        None => Check::there(SECTION, name, false),
        Some(path) => match ask.filter(|_| !program.version.is_empty()) {
            None => Check::ok(SECTION, name, path.display().to_string()),
            Some(ask) => match ask(program, &path) {
                Ok(version) => Check::ok(SECTION, name, format!("{}: {version}", path.display())),
                Err(error) => Check::ok(SECTION, name, format!("{}: {error}", path.display()))
                    .or_state(false, State::Unusable),
            },
        },
    };
    check
        .meaning(program.meaning, program.needed_by)
        .remedy(program.remedy)
}

fn find(program: &Program) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .flat_map(|directory| program.names.iter().map(move |name| directory.join(name)))
        .chain(program.places.iter().map(PathBuf::from))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The first line that a program prints. It gets two seconds.
fn first_line(path: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(2);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // What fits into the pipe is there; a version is no longer.
        stdout.take(4096).read_to_end(&mut output)?;
    }
    let output = String::from_utf8_lossy(&output);
    match output.lines().next() {
        Some(line) if status.success() => Ok(line.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("ended with {status}"))),
    }
}
