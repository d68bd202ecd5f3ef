//! From the text of a flag to a value of the engine: one small, pure function a concept.
//!
//! Every function refuses what it does not understand, with the reason and the remedy.

pub mod block_io;
pub mod capability;
pub mod csv;
pub mod detach_keys;
pub mod device;
pub mod environment;
pub mod filter;
pub mod health;
pub mod instance;
pub mod labels;
pub mod log;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod pause;
pub mod publish;
pub mod resources;
pub mod restart;
pub mod security;
pub mod time;
pub mod ulimit;

/// Why the text of a flag is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FlagError {
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

impl FlagError {
    /// An error of this reason, with what to do.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> FlagError {
        FlagError {
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// A switch as Go's flag parser reads it: `--rm`, `--rm=false`, `-t=0`.
pub fn switch(text: &str) -> Result<bool, FlagError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(FlagError::new(
            format!("{text:?} is neither true nor false"),
            "write the flag alone, or =true or =false behind it",
        )),
    }
}

/// `KEY=value` of `--sysctl` and `--annotation`.
pub fn key_value(text: &str) -> Result<(String, String), FlagError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(FlagError::new(
            format!("{text:?} has no KEY=value form"),
            "write KEY=value",
        )),
    }
}

/// `--sysctl`: Docker allows those that a namespace keeps apart, the kernel checks the rest.
pub fn sysctl(text: &str) -> Result<(String, String), FlagError> {
    let (key, value) = key_value(text)?;
    let is_plain = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    if !is_plain || key.contains("..") || key.starts_with('/') {
        return Err(FlagError::new(
            format!("{key:?} is not the name of a sysctl"),
            "write a name like net.core.somaxconn",
        ));
    }
    const NAMESPACED: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let dotted = key.replace('/', ".");
    let is_namespaced = dotted.starts_with("net.")
        || dotted.starts_with("fs.mqueue.")
        || NAMESPACED.contains(&dotted.as_str());
    match is_namespaced {
        true => Ok((dotted, value)),
        false => Err(FlagError::new(
            format!("sysctl {key:?} belongs to the whole host, not to one instance"),
            "set it on the host with sysctl(8); an instance can have net.*, fs.mqueue.* and kernel.{msg*,sem,shm*}",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_read_as_gos() {
        assert_eq!(switch("true"), Ok(true));
        assert_eq!(switch("0"), Ok(false));
        switch("yes").unwrap_err();
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        assert_eq!(
            sysctl("net.core.somaxconn=1024"),
            Ok(("net.core.somaxconn".into(), "1024".into()))
        );
        assert_eq!(sysctl("kernel.msgmax=65536").unwrap().1, "65536");
        for bad in [
            "",
            "net",
            "=1",
            "vm.swappiness=1",
            "net/../../x=1",
            "kernel.core_pattern=|x",
        ] {
            sysctl(bad).expect_err(bad);
        }
    }
}
