//! `--pid`, `--ipc`, `--uts`, `--cgroupns`, `--userns`.

use isle_engine::config::{NamespaceMode, UserNamespace};

use super::FlagError;

/// `host`, `private`, `container:NAME`.
pub fn namespace(text: &str) -> Result<NamespaceMode, FlagError> {
    match text {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        _ => match text.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Instance(name.to_owned())),
            _ => Err(FlagError::new(
                format!("namespace mode {text:?} is not known"),
                "use private, host or container:NAME",
            )),
        },
    }
}

/// `--ipc`: `shareable` is what `private` is here, since any instance can be joined.
pub fn ipc(text: &str) -> Result<NamespaceMode, FlagError> {
    match text {
        "shareable" => Ok(NamespaceMode::Private),
        "none" => Err(FlagError::new(
            "an instance without /dev/shm (--ipc none) is not available in this version",
            "use private",
        )),
        _ => namespace(text),
    }
}

/// `--uts` and `--cgroupns`: nobody else's can be joined.
pub fn host_or_private(text: &str) -> Result<NamespaceMode, FlagError> {
    match namespace(text)? {
        NamespaceMode::Instance(_) => Err(FlagError::new(
            format!("{text:?}: this namespace cannot be another instance's"),
            "use private or host",
        )),
        mode => Ok(mode),
    }
}

/// `host`, `auto`, `auto:size=N`.
pub fn user(text: &str) -> Result<UserNamespace, FlagError> {
    match text {
        "" => Ok(UserNamespace::Default),
        "host" => Ok(UserNamespace::Host),
        "auto" => Ok(UserNamespace::Auto { size: None }),
        _ => {
            let size = text
                .strip_prefix("auto:size=")
                .and_then(|size| size.parse::<u32>().ok())
                .filter(|size| *size > 0);
            match size {
                Some(size) => Ok(UserNamespace::Auto { size: Some(size) }),
                None => Err(FlagError::new(
                    format!("user namespace mode {text:?} is not known"),
                    "use host, auto or auto:size=65536",
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_private_the_hosts_or_anothers() {
        assert_eq!(namespace("host"), Ok(NamespaceMode::Host));
        assert_eq!(
            namespace("container:web"),
            Ok(NamespaceMode::Instance("web".into()))
        );
        assert_eq!(ipc("shareable"), Ok(NamespaceMode::Private));
        assert_eq!(user("auto"), Ok(UserNamespace::Auto { size: None }));
        assert_eq!(
            user("auto:size=1000"),
            Ok(UserNamespace::Auto { size: Some(1000) })
        );
        namespace("container:").unwrap_err();
        namespace("vm").unwrap_err();
        ipc("none").unwrap_err();
        host_or_private("container:web").unwrap_err();
        for text in ["auto:size=0", "auto:size=x", "keep-id", "1000:1000"] {
            user(text).expect_err(text);
        }
    }
}
