//! `--tmpfs`.

use isle_engine::config::{Mount, MountSource};

use super::{FlagError, target, tmpfs_mode, tmpfs_size};

/// `--tmpfs TARGET[:OPTIONS]`, options as mount(8) takes them for a tmpfs.
pub fn tmpfs(text: &str) -> Result<Mount, FlagError> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = Mount {
        source: MountSource::Tmpfs {
            size: None,
            mode: None,
            options: Vec::new(),
        },
        target: target(path)?,
        read_only: false,
    };
    let MountSource::Tmpfs {
        size,
        mode,
        options: others,
    } = &mut mount.source
    else {
        return Ok(mount);
    };
    const PLAIN: [&str; 14] = [
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
    ];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            None if option == "ro" => mount.read_only = true,
            None if option == "rw" => mount.read_only = false,
            None if PLAIN.contains(&option) => others.push(option.to_owned()),
            Some(("size", value)) => *size = Some(tmpfs_size(value)?),
            Some(("mode", value)) => *mode = Some(tmpfs_mode(value)?),
            Some(("uid" | "gid" | "nr_inodes" | "nr_blocks", value))
                if value
                    .trim_end_matches(['k', 'm', 'g'])
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                    && !value.is_empty() =>
            {
                others.push(option.to_owned());
            }
            _ => {
                return Err(FlagError::new(
                    format!("tmpfs option {option:?} is not known"),
                    "known are ro, rw, [no]exec, [no]suid, [no]dev, size=, mode=, uid=, gid=, nr_inodes=, nr_blocks=",
                ));
            }
        }
    }
    Ok(mount)
}
