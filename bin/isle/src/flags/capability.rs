//! `--cap-add`, `--cap-drop`.

use isle_types::nearest;

use super::FlagError;

/// capabilities(7) of Linux 6.
const NAMES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The name of a capability, upper case, without `CAP_`; `ALL` for all.
pub fn capability(text: &str) -> Result<String, FlagError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" || NAMES.contains(&name) {
        return Ok(name.to_owned());
    }
    let holds = |known: &&str| known.contains(name) && name.len() > 2;
    let near = NAMES
        .into_iter()
        .find(holds)
        .or_else(|| nearest(name, NAMES));
    Err(FlagError::new(
        format!("capability {text:?} is not known"),
        match near {
            Some(near) => format!("did you mean {near}?"),
            None => "see capabilities(7); ALL is allowed".to_owned(),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_their_prefix() {
        assert_eq!(capability("cap_net_admin"), Ok("NET_ADMIN".into()));
        assert_eq!(capability("NET_ADMIN"), Ok("NET_ADMIN".into()));
        assert_eq!(capability("all"), Ok("ALL".into()));
        let error = capability("PTRACE").unwrap_err();
        assert!(error.remedy.contains("SYS_PTRACE"));
        capability("").unwrap_err();
        let error = capability("NET_ADMIM").unwrap_err();
        assert!(error.remedy.contains("NET_ADMIN"));
    }
}
