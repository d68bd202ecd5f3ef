//! From the kernel's first process to the loop.
//!
//! All of this happens once for a template, and clones begin after it; in a guest that is booted for one instance it is
//! on the way, so it does only what is needed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isle_guest_protocol::PORT;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use crate::prepare::FOLDERS;
use crate::{Agent, Place, control_group, helper, last_words, network, network_card};

/// The agent's own folder, as the host's specifications name it.
const RUN: &str = "/run/isle";
/// Where it is while the new root is not the root yet.
const NEW_ROOT: &str = "/isle-root";
/// Where the kernel has found this program.
const PROGRAM: &str = "/init";
/// How long the port may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program: the first process of a guest, or one of its helpers.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == helper::WORD) {
        return helper::main(&words[1..]);
    }
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        eprintln!("isle-guest: this is the first process of a virtual machine, and no command");
        return ExitCode::from(2);
    }
    last_words::catch_panics();
    let reason = match boot() {
        Ok(mut agent) => match agent.run() {
            Ok(()) => "the agent has ended".to_owned(),
            Err(error) => format!("the agent cannot wait: {error}"),
        },
        Err(error) => error.to_string(),
    };
    last_words::speak(&reason)
}

fn failed<E: Into<io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}

fn mounted(
    kind: &str,
    at: &str,
    flags: MountFlags,
    options: Option<&std::ffi::CStr>,
) -> io::Result<()> {
    fs::create_dir_all(at).map_err(failed(at))?;
    match mount(kind, at, kind, flags, options) {
        // The kernel has mounted /dev itself.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(failed(format!("cannot mount {kind} on {at}"))(errno)),
    }
}

fn boot() -> io::Result<Agent> {
    rustix::process::umask(Mode::empty());
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mounted("proc", "/proc", quiet, None)?;
    // What runs in a container must never write to this program, see the module.
    isle_runtime::own_binary::execute_read_only()
        .map_err(failed("cannot execute itself from a read-only mount"))?;
    mounted("sysfs", "/sys", quiet, None)?;
    mounted("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=755"))?;
    mounted(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"mode=620,ptmxmode=666"),
    )?;
    mounted("tmpfs", "/dev/shm", quiet, Some(c"mode=1777"))?;
    mounted("cgroup2", control_group::MOUNT_POINT, quiet, None)?;
    load_modules()?;
    new_root()?;
    let cgroup = control_group::make().map_err(failed("cannot make the control group"))?;
    // Lack of memory ends other processes: the kernel never kills the first one, and what it set for itself its children
    // would inherit.
    network::loopback_up().map_err(failed("cannot bring the loopback interface up"))?;
    network_card::put_away().map_err(failed("cannot put the network card away"))?;
    let port = port(PORT, OFlags::NONBLOCK)?;
    last_words::set_port(port.try_clone()?);
    let place = Place {
        run: PathBuf::from(RUN),
        cgroup: Some(cgroup),
        is_guest: true,
    };
    Agent::new(port, place)
}

/// The file system that the kernel was started from cannot be moved away by pivot_root(2), which the workload's mount
/// namespace wants to do. So everything moves to a file system of memory that lies over it, once, at boot.
fn new_root() -> io::Result<()> {
    mounted(
        "tmpfs",
        NEW_ROOT,
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=755,size=64m"),
    )?;
    move_root().map_err(failed("cannot make the root of the agent"))
}

fn move_root() -> io::Result<()> {
    let inside = |path: &str| format!("{NEW_ROOT}{path}");
    for path in ["/proc", "/sys", "/dev"] {
        fs::create_dir(inside(path))?;
        mount_move(path, inside(path))?;
    }
    for folder in FOLDERS {
        fs::create_dir_all(inside(RUN) + "/" + folder)?;
    }
    // This program is also that of `--init`.
    let init = inside(RUN) + "/init";
    fs::write(&init, b"")?;
    mount_bind(PROGRAM, &init)?;
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// Loads the modules of a distribution's kernel: `/modules/order` names them in the order in which they need each
/// other.
fn load_modules() -> io::Result<()> {
    let order = match fs::read_to_string("/modules/order") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        order => order.map_err(failed("/modules/order"))?,
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = Path::new("/modules").join(name);
        let file = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(format!("module {name}")))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            // For hardware that is not there, like crc32c-intel.
            Err(Errno::NODEV) => {}
            Err(errno) => return Err(failed(format!("cannot load module {name}"))(errno)),
        }
    }
    Ok(())
}

/// Opens a port by its name. Nothing makes links by name here; the kernel tells the names in /sys.
pub(crate) fn port(wanted: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() != wanted {
                continue;
            }
            let device = Path::new("/dev").join(entry.file_name());
            let flags = OFlags::RDWR | OFlags::CLOEXEC | flags;
            return openat(CWD, &device, flags, Mode::empty())
                .map_err(failed(format!("cannot open {}", device.display())));
        }
        if Instant::now() >= deadline {
            let message = format!("there is no virtio-serial port with the name {wanted}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
