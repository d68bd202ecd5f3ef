//! What the user who asks may do.

use rustix::process::{Resource, getrlimit};

use crate::{Check, Section, State};

const SECTION: Section = Section::Privileges;

/// In the order of their numbers, linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Without these no container starts: namespaces and mounts, identities, the default set.
const NEEDED: [&str; 9] = [
    "SYS_ADMIN",
    "SETUID",
    "SETGID",
    "SETPCAP",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "MKNOD",
    "KILL",
];

pub(crate) fn checks() -> Vec<Check> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    vec![
        user(),
        capabilities(&status),
        open_files(),
        processes(),
        subordinate_ids(),
    ]
}

fn user() -> Check {
    let uid = rustix::process::geteuid();
    let found = if uid.is_root() {
        "root".to_owned()
    } else {
        format!("user {}", uid.as_raw())
    };
    Check::ok(SECTION, "user", found)
        .or_state(uid.is_root(), State::Unusable)
        .meaning(
            "making namespaces, mounts and control groups",
            &["container"],
        )
        .remedy("run isle as root (sudo isle …)")
}

/// The mask after `CapEff:`, proc_pid_status(5).
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn capabilities(status: &str) -> Check {
    let mask = effective(status);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| mask & (1 << number) == 0)
        .map(|(_, name)| *name)
        .collect();
    let is_enough = NEEDED.iter().all(|name| !missing.contains(name));
    let found = match missing.len() {
        0 => "all".to_owned(),
        count if count == CAPABILITIES.len() => "none".to_owned(),
        _ => format!("all but {}", missing.join(", ")),
    };
    Check::ok(SECTION, "capabilities", found)
        .or_state(is_enough, State::Missing)
        .meaning(
            "what is missing here cannot be given to a container either (--cap-add, --privileged)",
            &["container"],
        )
        .remedy("run as root on the host, not inside a restricted container")
}

fn limit(resource: Resource) -> (Option<u64>, String) {
    let limit = getrlimit(resource);
    let word = |value: Option<u64>| {
        value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string())
    };
    let text = format!(
        "{} now, at most {}",
        word(limit.current),
        word(limit.maximum)
    );
    (limit.maximum, text)
}

fn open_files() -> Check {
    let (maximum, found) = limit(Resource::Nofile);
    Check::ok(SECTION, "open files", found)
        .or_state(
            maximum.is_none_or(|maximum| maximum >= 4096),
            State::Unusable,
        )
        .meaning(
            "descriptors of the engine, and the most that --ulimit nofile can give",
            &["container"],
        )
        .remedy("raise the hard limit: ulimit -Hn 1048576, or LimitNOFILE= in the unit")
}

fn processes() -> Check {
    let (maximum, found) = limit(Resource::Nproc);
    Check::ok(SECTION, "processes", found)
        .or_state(
            maximum.is_none_or(|maximum| maximum >= 4096),
            State::Unusable,
        )
        .meaning(
            "processes of one user, those of containers included",
            &["container"],
        )
        .remedy("raise the hard limit: ulimit -Hu, or LimitNPROC= in the unit")
}

fn subordinate_ids() -> Check {
    let count = |path: &str| {
        std::fs::read_to_string(path).map_or(0, |text| {
            text.lines()
                .filter(|line| !line.starts_with('#') && line.split(':').count() == 3)
                .count()
        })
    };
    let (users, groups) = (count("/etc/subuid"), count("/etc/subgid"));
    let is_root = rustix::process::geteuid().is_root();
    let state = if is_root {
        State::NotNeeded
    } else {
        State::Missing
    };
    Check::ok(
        SECTION,
        "subordinate ids",
        format!("{users} ranges in /etc/subuid, {groups} in /etc/subgid"),
    )
    .or_state(users > 0 && groups > 0, state)
    .meaning(
        "ids for the users inside a user namespace, see subuid(5)",
        &["rootless"],
    )
    .remedy("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let check = capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n");
        assert_eq!(check.found, "all but SYS_RESOURCE");
        assert_eq!(check.state, State::Ok);
        let check = capabilities("CapEff:\t0000000000000000\n");
        assert_eq!(
            (check.found.as_str(), check.state),
            ("none", State::Missing)
        );
        assert!(check.remedy.is_some());
    }
}
