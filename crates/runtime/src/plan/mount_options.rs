//! The mount options of the runtime specification.
//!
//! See [config.md, "Linux mount options"](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options).

use std::ffi::CString;

use isle_sys::mount::{self, Attributes};

use crate::PlanError;

/// What the options of one mount say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// `bind` or `rbind`
    pub bind: bool,
    /// `rbind`
    pub recursive: bool,
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// `rro` and its kin: of the mount and all below.
    pub recursive_attributes: Attributes,
    /// Propagation of the mount, and whether of all below.
    pub propagation: Option<(u64, bool)>,
    /// `tmpcopyup`
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true)
    pub id_map: Option<bool>,
    /// `remount`
    pub remount: bool,
    /// What is left for the file system.
    pub data: Vec<(CString, Option<CString>)>,
}

/// Attributes by name: bits to set, bits to clear.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (mount::RDONLY, 0),
        "rw" => (0, mount::RDONLY),
        "nosuid" => (mount::NOSUID, 0),
        "suid" => (0, mount::NOSUID),
        "nodev" => (mount::NODEV, 0),
        "dev" => (0, mount::NODEV),
        "noexec" => (mount::NOEXEC, 0),
        "exec" => (0, mount::NOEXEC),
        "nodiratime" => (mount::NODIRATIME, 0),
        "diratime" => (0, mount::NODIRATIME),
        "nosymfollow" => (mount::NOSYMFOLLOW, 0),
        "symfollow" => (0, mount::NOSYMFOLLOW),
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (mount::RELATIME, mount::ATIME),
        "noatime" => (mount::NOATIME, mount::ATIME),
        "strictatime" => (mount::STRICTATIME, mount::ATIME),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<(u64, bool)> {
    let (kind, recursive) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let kind = match kind {
        "private" => mount::PRIVATE,
        "shared" => mount::SHARED,
        "slave" => mount::SLAVE,
        "unbindable" => mount::UNBINDABLE,
        _ => return None,
    };
    Some((kind, recursive))
}

fn apply(to: &mut Attributes, (set, clear): (u64, u64)) {
    to.set = (to.set & !clear) | set;
    to.clear = (to.clear & !(set & !mount::ATIME)) | clear;
}

/// Reads the options of a mount.
pub(super) fn parse(options: &[String]) -> Result<MountOptions, PlanError> {
    let mut parsed = MountOptions::default();
    for option in options {
        let option = option.as_str();
        if let Some(bits) = attribute(option) {
            apply(&mut parsed.attributes, bits);
            continue;
        }
        if let Some(bits) = option.strip_prefix('r').and_then(attribute) {
            apply(&mut parsed.recursive_attributes, bits);
            continue;
        }
        if let Some(kind) = propagation(option) {
            parsed.propagation = Some(kind);
            continue;
        }
        match option {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "idmap" => parsed.id_map = Some(false),
            "ridmap" => parsed.id_map = Some(true),
            "tmpcopyup" => parsed.copy_up = true,
            "remount" => parsed.remount = true,
            // What these say is so, or means nothing any more (mount(8)).
            "defaults" | "async" | "loud" | "silent" | "nolazytime" | "nomand" | "noiversion" => {}
            "iversion" => {
                return Err(PlanError::invalid(
                    "mounts.options",
                    option,
                    "the kernel has no such flag for mounts made with fsopen(2)",
                ));
            }
            "" => return Err(PlanError::invalid("mounts.options", option, "it is empty")),
            _ => {
                let (key, value) = match option.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (option, None),
                };
                let c = |text: &str| {
                    CString::new(text).map_err(|_| {
                        PlanError::invalid("mounts.options", option, "it holds a NUL byte")
                    })
                };
                parsed.data.push((c(key)?, value.map(c).transpose()?));
            }
        }
    }
    Ok(parsed)
}

/// Every option that [`parse`] knows, for `features`.
pub(crate) const KNOWN: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
        parse(&options).unwrap()
    }

    #[test]
    fn recursive_attributes_are_apart_from_those_of_the_mount() {
        let options = parsed(&["rbind", "ro", "rnosuid", "rprivate"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.attributes, Attributes::new(mount::RDONLY, 0, 0));
        assert_eq!(
            options.recursive_attributes,
            Attributes::new(mount::NOSUID, 0, 0)
        );
        assert_eq!(options.propagation, Some((mount::PRIVATE, true)));
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        let options = parsed(&["ro", "rw", "exec", "noexec", "noatime", "strictatime"]);
        assert_eq!(
            options.attributes,
            Attributes::new(
                mount::NOEXEC | mount::STRICTATIME,
                mount::RDONLY | mount::ATIME,
                0
            )
        );
    }

    #[test]
    fn what_is_not_a_flag_is_for_the_file_system() {
        let options = parsed(&["size=64k", "sync"]);
        assert_eq!(
            options.data,
            [
                (c"size".to_owned(), Some(c"64k".to_owned())),
                (c"sync".to_owned(), None)
            ]
        );
    }

    #[test]
    fn every_known_option_is_taken() {
        for option in KNOWN {
            let options = parsed(&[option]);
            let leaves = !["dirsync", "lazytime", "mand", "sync"].contains(option);
            assert_eq!(options.data.is_empty(), leaves, "{option}");
        }
    }
}
