//! System calls, namespaces and file systems.

use std::path::Path;

use isle_sys::features;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};
use rustix::process::PidfdFlags;

use crate::{Check, Section, State};

const SECTION: Section = Section::Kernel;
/// The name of the check that the container level cannot do without.
pub(crate) const OVERLAY: &str = "overlayfs";
const CONTAINER: &[&str] = &["container"];

pub(crate) fn checks() -> Vec<Check> {
    let mut checks = vec![
        Check::there(
            SECTION,
            "openat2(2)",
            rustix::fs::openat2(
                CWD,
                "/",
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            )
            .is_ok(),
        )
        .meaning("paths inside an image cannot lead out of it", CONTAINER)
        .remedy("boot Linux 5.6 or newer"),
        Check::there(
            SECTION,
            "clone3(2) into a control group",
            features::clones_into_cgroup(),
        )
        .meaning("a container starts inside its control group", CONTAINER)
        .remedy("boot Linux 5.7 or newer"),
        Check::there(
            SECTION,
            "pidfd_open(2)",
            rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).is_ok(),
        )
        .meaning(
            "a process is held by descriptor, not by a number that can be reused",
            CONTAINER,
        )
        .remedy("boot Linux 5.3 or newer"),
        Check::there(SECTION, "new mount API", file_system("tmpfs"))
            .meaning(
                "mounts are made without touching the host's mount table",
                CONTAINER,
            )
            .remedy("boot Linux 5.2 or newer"),
        Check::there(
            SECTION,
            "mount_setattr(2), idmapped mounts",
            features::has_mount_setattr(),
        )
        .meaning(
            "read-only trees at once; images shared between user namespaces",
            CONTAINER,
        )
        .remedy("boot Linux 5.12 or newer"),
    ];
    checks.extend(overlay());
    checks.extend(namespaces());
    checks.push(seccomp());
    checks.push(landlock());
    for (name, file_system_name, meaning, needed_by) in [
        (
            "EROFS",
            "erofs",
            "images as read-only block devices",
            &["vm"][..],
        ),
        (
            "FUSE",
            "fuse",
            "file systems by programs (rootless overlay, virtiofs)",
            &["rootless", "vm"][..],
        ),
    ] {
        checks.push(
            Check::there(SECTION, name, registered(file_system_name))
                .meaning(meaning, needed_by)
                .remedy(format!("load the module: modprobe {file_system_name}")),
        );
    }
    checks
}

/// Does the kernel open a context for this file system?
pub(crate) fn file_system(name: &str) -> bool {
    fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).is_ok() || registered(name) && no_right_to_mount()
}

fn no_right_to_mount() -> bool {
    fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
        .is_err_and(|errno| errno == rustix::io::Errno::PERM)
}

/// Is a file system in `/proc/filesystems`, see proc_filesystems(5)?
fn registered(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| {
        text.lines()
            .any(|line| line.split('\t').nth(1) == Some(name))
    })
}

/// overlayfs, and whether its layers can be given one by one.
fn overlay() -> [Check; 2] {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    let (found, is_there) = match &context {
        Ok(_) => ("there".to_owned(), true),
        Err(errno) if *errno == rustix::io::Errno::PERM && registered("overlay") => {
            ("there; not tried without CAP_SYS_ADMIN".to_owned(), true)
        }
        Err(errno) => (format!("fsopen(overlay): {errno}"), false),
    };
    let one_by_one = context
        .as_ref()
        .map_err(|errno| *errno)
        .and_then(|context| fsconfig_set_string(context, "lowerdir+", "/"));
    let layers = match one_by_one {
        Ok(()) => "any number, one by one (lowerdir+)".to_owned(),
        Err(errno) => format!("all paths together in one page (lowerdir+: {errno})"),
    };
    [
        Check::ok(SECTION, OVERLAY, found)
            .or_state(is_there, State::Missing)
            .meaning("an image's layers become a root file system", CONTAINER)
            .remedy("load the module (modprobe overlay), or boot a kernel with CONFIG_OVERLAY_FS"),
        Check::ok(SECTION, "overlay layers", layers)
            .or_state(one_by_one.is_ok(), State::NotNeeded)
            .meaning("images with very many layers", &["optional"]),
    ]
}

fn namespaces() -> Vec<Check> {
    let mut checks: Vec<Check> = [
        (
            "mount, PID, IPC, UTS, network namespaces",
            &["mnt", "pid", "ipc", "uts", "net"][..],
            "",
        ),
        (
            "cgroup namespaces",
            &["cgroup"],
            "boot a kernel with CONFIG_CGROUPS (Linux 4.6)",
        ),
        (
            "time namespaces",
            &["time"],
            "boot a kernel with CONFIG_TIME_NS (Linux 5.6)",
        ),
    ]
    .into_iter()
    .map(|(name, files, remedy)| {
        let missing: Vec<&str> = files
            .iter()
            .copied()
            .filter(|file| !Path::new("/proc/self/ns").join(file).exists())
            .collect();
        let found = if missing.is_empty() {
            "there".to_owned()
        } else {
            format!("missing: {}", missing.join(", "))
        };
        let remedy = match remedy {
            "" => "boot a kernel with CONFIG_NAMESPACES and all namespaces below it",
            other => other,
        };
        let needed_by: &[&str] = if name.starts_with("time") {
            &["--time offsets"]
        } else {
            CONTAINER
        };
        Check::ok(SECTION, name, found)
            .or_state(missing.is_empty(), State::Missing)
            .meaning("a container sees its own", needed_by)
            .remedy(remedy)
    })
    .collect();
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let exists = Path::new("/proc/self/ns/user").exists();
    let (state, found, remedy) = match (exists, limit) {
        (false, _) => (
            State::Missing,
            "not there".to_owned(),
            "boot a kernel with CONFIG_USER_NS",
        ),
        (true, Some(0)) => (
            State::Unusable,
            "user.max_user_namespaces is 0".to_owned(),
            "sysctl user.max_user_namespaces=15000",
        ),
        (true, limit) => (
            State::Ok,
            limit.map_or_else(|| "there".to_owned(), |limit| format!("up to {limit}")),
            "",
        ),
    };
    checks.push(
        Check::ok(SECTION, "user namespaces", found)
            .or_state(state == State::Ok, state)
            .meaning("root inside is nobody outside", &["--userns", "rootless"])
            .remedy(remedy),
    );
    checks
}

fn seccomp() -> Check {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let name = "seccomp filters";
    match actions {
        Ok(actions) => {
            let complete = ["errno", "kill_process", "user_notif", "log"]
                .iter()
                .all(|action| actions.split_whitespace().any(|word| word == *action));
            Check::ok(SECTION, name, actions.trim()).or_state(complete, State::Unusable)
        }
        Err(_) => Check::there(SECTION, name, false),
    }
    .meaning(
        "system calls that no container needs are refused",
        CONTAINER,
    )
    .remedy("boot a kernel with CONFIG_SECCOMP_FILTER (Linux 5.0)")
}

fn landlock() -> Check {
    let name = "Landlock";
    match features::landlock_version() {
        Ok(version) => Check::ok(SECTION, name, format!("version {version} of its interface")),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
            Check::ok(SECTION, name, "switched off at boot").or_state(false, State::Unusable)
        }
        Err(_) => Check::there(SECTION, name, false),
    }
    .meaning(
        "a second wall around files, beside the mount namespace",
        &["optional"],
    )
    .remedy("boot with lsm=landlock,… (CONFIG_SECURITY_LANDLOCK, Linux 5.13)")
}
