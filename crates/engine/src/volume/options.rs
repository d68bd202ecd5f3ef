//! `--opt` of a volume, in the words of Docker's driver `local`: `type`, `device`, `o`, `size`.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

use isle_types::ByteSize;
use rustix::mount::MountFlags;

use crate::config::ConfigError;

const FIELD: &str = "--opt";

/// What holds the files of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A folder below the state root.
    Folder {
        /// The most that it may hold.
        size: Option<ByteSize>,
    },
    /// A folder of the host.
    Bind {
        /// Its absolute path.
        device: PathBuf,
        /// `o=bind,ro`.
        is_read_only: bool,
    },
    /// A file system that is mounted over the volume's folder while an instance uses it.
    FileSystem(FileSystem),
}

/// The arguments of mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(super) kind: String,
    pub(super) device: String,
    pub(super) flags: MountFlags,
    /// What the file system itself reads, separated by commas.
    pub(super) data: String,
}

impl Backing {
    /// Reads options.
    ///
    /// # Errors
    /// The first that means nothing, or not with the others.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Backing, ConfigError> {
        for key in options.keys() {
            if !matches!(key.as_str(), "type" | "device" | "o" | "size") {
                let hint = "the driver local knows type, device, o and size";
                return Err(refuse(key, "there is no such option", Some(hint)));
            }
        }
        let get = |key: &str| options.get(key).filter(|value| !value.is_empty());
        let size = match get("size") {
            None => None,
            Some(text) => Some(parse_size(text)?),
        };
        let words: Vec<&str> = get("o")
            .map(|text| text.split(',').filter(|word| !word.is_empty()).collect())
            .unwrap_or_default();
        let (kind, device) = (get("type"), get("device"));
        if kind.is_none() && device.is_none() && words.is_empty() {
            return Ok(Backing::Folder { size });
        }
        let is_bind = words.iter().any(|word| matches!(*word, "bind" | "rbind"));
        if is_bind {
            return bind(device, &words, size);
        }
        let Some(kind) = kind else {
            let hint = "add --opt type=tmpfs, type=nfs, or another file system, or o=bind";
            return Err(refuse("type", "it is missing", Some(hint)));
        };
        if kind == "none" {
            let hint = "add --opt o=bind and --opt device=/path";
            return Err(refuse("type=none", "nothing says what it is", Some(hint)));
        }
        let device = match device {
            Some(device) => device.clone(),
            None if kind == "tmpfs" => "tmpfs".to_owned(),
            None => {
                let hint = "add --opt device=…: what mount(8) has before the folder";
                return Err(refuse("device", "it is missing", Some(hint)));
            }
        };
        let mut system = FileSystem {
            kind: kind.clone(),
            device,
            flags: MountFlags::empty(),
            data: String::new(),
        };
        for word in &words {
            system.take(word);
        }
        match size {
            Some(size) if kind == "tmpfs" => {
                system.push_data(&format!("size={}", size.bytes()));
            }
            Some(size) => {
                let reason = format!("a file system of type {kind} has the size that it has");
                let shown = format!("size={size}");
                return Err(refuse(&shown, &reason, Some("leave size out")));
            }
            None => {}
        }
        Ok(Backing::FileSystem(system))
    }
}

fn bind(
    device: Option<&String>,
    words: &[&str],
    size: Option<ByteSize>,
) -> Result<Backing, ConfigError> {
    let Some(device) = device.filter(|device| device.starts_with('/')) else {
        let shown = format!("device={}", device.map_or("", String::as_str));
        let reason = "a bind needs the absolute path of a folder of the host";
        return Err(refuse(&shown, reason, Some("add --opt device=/path")));
    };
    if let Some(size) = size {
        let shown = format!("size={size}");
        let reason = "a folder of the host is not limited by a volume";
        return Err(refuse(&shown, reason, Some("leave size out")));
    }
    let mut is_read_only = false;
    for word in words {
        match *word {
            "bind" | "rbind" | "rw" => {}
            "ro" => is_read_only = true,
            other => {
                let shown = format!("o={other}");
                let hint = "say it where it is mounted, with --mount";
                let reason = "a bind takes ro and rw here";
                return Err(refuse(&shown, reason, Some(hint)));
            }
        }
    }
    Ok(Backing::Bind {
        device: PathBuf::from(device),
        is_read_only,
    })
}

/// Options of mount(8) that the kernel takes as flags, and whether they set or clear them.
const FLAGS: [(&str, MountFlags, bool); 18] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
];

impl FileSystem {
    fn take(&mut self, word: &str) {
        match FLAGS.iter().find(|(name, _, _)| *name == word) {
            Some((_, flag, true)) => self.flags |= *flag,
            Some((_, flag, false)) => self.flags -= *flag,
            None => self.push_data(word),
        }
    }

    fn push_data(&mut self, word: &str) {
        if !self.data.is_empty() {
            self.data.push(',');
        }
        self.data.push_str(word);
    }

    /// The data with host names turned into addresses, which is all that the kernel's clients of
    /// network file systems understand.
    pub(super) fn resolved_data(&self) -> std::io::Result<String> {
        let words = self.data.split(',').map(|word| match word.split_once('=') {
            Some(("addr", host)) => {
                let mut found = (host, 0).to_socket_addrs()?;
                let address = found.next().ok_or_else(|| {
                    std::io::Error::other(format!("the host {host} has no address"))
                })?;
                Ok(format!("addr={}", address.ip()))
            }
            _ => Ok(word.to_owned()),
        });
        Ok(words.collect::<std::io::Result<Vec<_>>>()?.join(","))
    }
}

fn parse_size(text: &str) -> Result<ByteSize, ConfigError> {
    let size = text
        .parse::<ByteSize>()
        .ok()
        .filter(|size| size.bytes() > 0);
    size.ok_or_else(|| {
        let shown = format!("size={text}");
        refuse(
            &shown,
            "it is not a size",
            Some("write for example size=512m"),
        )
    })
}

fn refuse(value: &str, reason: &str, hint: Option<&'static str>) -> ConfigError {
    ConfigError {
        field: FIELD,
        value: value.to_owned(),
        reason: reason.to_owned(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Backing, ConfigError> {
        let options = pairs.iter();
        let options = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Backing::parse(&options.collect())
    }

    #[test]
    fn options_say_what_holds_the_files() {
        assert_eq!(parse(&[]), Ok(Backing::Folder { size: None }));
        assert_eq!(
            parse(&[("size", "1m")]),
            Ok(Backing::Folder {
                size: Some(ByteSize(1 << 20))
            })
        );
        let bind = Backing::Bind {
            device: "/srv".into(),
            is_read_only: true,
        };
        assert_eq!(
            parse(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]),
            Ok(bind)
        );
        let memory = FileSystem {
            kind: "tmpfs".into(),
            device: "tmpfs".into(),
            flags: MountFlags::NOSUID,
            data: "uid=7,size=1048576".into(),
        };
        assert_eq!(
            parse(&[("type", "tmpfs"), ("o", "uid=7,nosuid"), ("size", "1m")]),
            Ok(Backing::FileSystem(memory))
        );
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let cases: [&[(&str, &str)]; 9] = [
            &[("colour", "red")],
            &[("size", "much")],
            &[("size", "0")],
            &[("o", "bind")],
            &[("o", "bind"), ("device", "relative")],
            &[("o", "bind,rshared"), ("device", "/srv")],
            &[("type", "ext4")],
            &[("device", "/dev/sdb")],
            &[("type", "ext4"), ("device", "/dev/sdb"), ("size", "1g")],
        ];
        for case in cases {
            parse(case).expect_err(&format!("{case:?}"));
        }
    }

    #[test]
    fn addresses_are_left_as_they_are() {
        let Ok(Backing::FileSystem(system)) = parse(&[
            ("type", "nfs"),
            ("device", ":/srv"),
            ("o", "addr=127.0.0.1,vers=4"),
        ]) else {
            panic!("a file system");
        };
        assert_eq!(system.resolved_data().unwrap(), "addr=127.0.0.1,vers=4");
    }
}
