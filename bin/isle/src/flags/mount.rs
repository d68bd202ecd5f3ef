//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use isle_engine::config::{Mount, MountSource, VolumeMount};
use isle_types::ByteSize;

use super::{FlagError, csv, switch};

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// `-v [SOURCE:]TARGET[:OPTIONS]`: a source with a slash or a leading dot is a path of the host,
/// another one names a volume.
pub fn volume(text: &str) -> Result<Mount, FlagError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            return Err(FlagError::new(
                format!("{text:?} has too many colons"),
                "write SOURCE:TARGET or SOURCE:TARGET:OPTIONS; use --mount for paths with a colon",
            ));
        }
    };
    let target = self::target(target)?;
    let mut read_only = false;
    let mut no_copy = false;
    let mut propagation = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => no_copy = true,
            // Hints for virtual machines of other systems: without meaning on Linux, as in Docker.
            "cached" | "delegated" | "consistent" => {}
            "z" | "Z" => check_relabel(option)?,
            name if PROPAGATIONS.contains(&name) => propagation = Some(name.to_owned()),
            _ => {
                return Err(FlagError::new(
                    format!("volume option {option:?} is not known"),
                    "known are ro, rw, nocopy, z, Z and [r]private, [r]shared, [r]slave",
                ));
            }
        }
    }
    let source = match source {
        None => MountSource::Volume(VolumeMount {
            no_copy,
            ..VolumeMount::default()
        }),
        Some("") => {
            return Err(FlagError::new(
                format!("{text:?} has an empty source"),
                "write a path of the host or the name of a volume before the colon",
            ));
        }
        Some(path) if path.starts_with(['/', '.', '~']) => MountSource::Bind {
            path: host_path(path)?,
            create_source: true,
            propagation,
            non_recursive: false,
        },
        Some(name) => MountSource::Volume(VolumeMount {
            no_copy,
            ..VolumeMount::named(volume_name(name)?)
        }),
    };
    Ok(Mount {
        source,
        target,
        read_only,
    })
}

/// `--mount type=bind,source=/a,target=/b,readonly`.
pub fn mount(text: &str) -> Result<Mount, FlagError> {
    let mut kind = "volume".to_owned();
    let mut source = None;
    let mut target = None;
    let mut read_only = false;
    let mut propagation = None;
    let mut non_recursive = false;
    let mut create_source = false;
    let mut no_copy = false;
    let mut size = None;
    let mut mode = None;
    let mut only_for: Vec<(&str, String)> = Vec::new();
    for field in csv::fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let needed = || {
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                FlagError::new(
                    format!("{key:?} has no value"),
                    format!("write {key}=VALUE"),
                )
            })
        };
        let flag = || value.map_or(Ok(true), switch);
        match key.as_str() {
            "type" => kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => source = Some(needed()?.to_owned()),
            "target" | "destination" | "dst" => target = Some(self::target(needed()?)?),
            "readonly" | "ro" => read_only = flag()?,
            "rw" => read_only = !flag()?,
            "consistency" => {
                needed()?;
            }
            "bind-propagation" => propagation = Some(self::propagation(needed()?)?),
            "bind-nonrecursive" => non_recursive = flag()?,
            "bind-recursive" => match needed()? {
                "enabled" => non_recursive = false,
                "disabled" => non_recursive = true,
                other => {
                    return Err(FlagError::new(
                        format!("bind-recursive={other} is not supported"),
                        "use enabled or disabled",
                    ));
                }
            },
            "bind-create-src" => create_source = flag()?,
            "volume-nocopy" => no_copy = flag()?,
            "tmpfs-size" => size = Some(tmpfs_size(needed()?)?),
            "tmpfs-mode" => mode = Some(tmpfs_mode(needed()?)?),
            "volume-driver" | "volume-label" | "volume-opt" | "volume-subpath" => {
                return Err(FlagError::new(
                    format!("{key} is not supported in this version"),
                    "volumes have one driver, local, without options",
                ));
            }
            _ => {
                return Err(FlagError::new(
                    format!("unexpected key {key:?} in {text:?}"),
                    "known are type, source, target, readonly, bind-propagation, bind-recursive, \
                     bind-create-src, volume-nocopy, tmpfs-size and tmpfs-mode",
                ));
            }
        }
        if let Some((owner, _)) = key.split_once('-') {
            match owner {
                "bind" => only_for.push(("bind", key)),
                "volume" => only_for.push(("volume", key)),
                "tmpfs" => only_for.push(("tmpfs", key)),
                _ => {}
            }
        }
    }
    if let Some((owner, key)) = only_for.iter().find(|(owner, _)| *owner != kind) {
        return Err(FlagError::new(
            format!("{key} does not go with type={kind}"),
            format!("write type={owner}, or leave {key} out"),
        ));
    }
    let target = target.ok_or_else(|| {
        FlagError::new(
            format!("{text:?} has no target"),
            "add target=/path, the place inside the instance",
        )
    })?;
    let source = match (kind.as_str(), source) {
        ("bind", Some(path)) => MountSource::Bind {
            path: host_path(&path)?,
            create_source,
            propagation,
            non_recursive,
        },
        ("bind", None) => {
            return Err(FlagError::new(
                format!("{text:?} has no source"),
                "add source=/path, the place on the host",
            ));
        }
        ("volume", name) => MountSource::Volume(VolumeMount {
            name: name.map(|name| volume_name(&name)).transpose()?,
            no_copy,
            ..VolumeMount::default()
        }),
        ("tmpfs", None) => MountSource::Tmpfs {
            size,
            mode,
            options: Vec::new(),
        },
        ("tmpfs", Some(_)) => {
            return Err(FlagError::new(
                "a tmpfs has no source",
                "leave source out, or write type=bind",
            ));
        }
        (other, _) => {
            return Err(FlagError::new(
                format!("mount type {other:?} is not known"),
                "use type=bind, type=volume or type=tmpfs",
            ));
        }
    };
    Ok(Mount {
        source,
        target,
        read_only,
    })
}

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

fn target(path: &str) -> Result<String, FlagError> {
    if !path.starts_with('/') {
        return Err(FlagError::new(
            format!("the place inside, {path:?}, is not absolute"),
            "write a path that starts with /",
        ));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    if clean == Path::new("/") {
        return Err(FlagError::new(
            "the place inside cannot be /",
            "mount to a directory below /; the root file system comes from the image",
        ));
    }
    Ok(clean.display().to_string())
}

/// Absolute, relative to the working directory, or below the home directory.
fn host_path(path: &str) -> Result<PathBuf, FlagError> {
    if path.starts_with('~') {
        return Err(FlagError::new(
            format!("{path:?} starts with a ~ that the shell has left as it is"),
            "write $HOME, or the whole path",
        ));
    }
    std::path::absolute(path)
        .map(|path| normal(&path))
        .map_err(|error| FlagError::new(format!("path {path:?}: {error}"), "write a whole path"))
}

/// Without `.` and `..`, by text alone, as Go's `filepath.Clean`.
fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// `--driver`, `--volume-driver`: there is one.
pub fn driver(name: &str) -> Result<String, FlagError> {
    match name {
        "local" => Ok(name.to_owned()),
        _ => Err(FlagError::new(
            format!("there is no volume driver {name:?}"),
            "use local: with the options type, device and o it mounts what mount(8) can",
        )),
    }
}

/// `--opt KEY=VALUE`.
pub fn volume_option(text: &str) -> Result<(String, String), FlagError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(FlagError::new(
            format!("volume option {text:?} has no KEY=VALUE form"),
            "write for example size=512m or type=tmpfs",
        )),
    }
}

fn volume_name(name: &str) -> Result<String, FlagError> {
    match isle_engine::is_volume_name(name) {
        true => Ok(name.to_owned()),
        false => Err(FlagError::new(
            format!("{name:?} is neither a path nor the name of a volume"),
            "names of volumes are [a-zA-Z0-9][a-zA-Z0-9_.-]*; for a directory of the host write a path that starts with / or ./",
        )),
    }
}

fn propagation(text: &str) -> Result<String, FlagError> {
    match PROPAGATIONS.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("propagation {text:?} is not known"),
            "use [r]private, [r]shared or [r]slave",
        )),
    }
}

fn tmpfs_size(text: &str) -> Result<ByteSize, FlagError> {
    text.parse()
        .map_err(|_| FlagError::new(format!("size {text:?} is not a size"), "write size=64m"))
}

fn tmpfs_mode(text: &str) -> Result<u32, FlagError> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(FlagError::new(
            format!("mode {text:?} is not an octal mode"),
            "write mode=1777",
        )),
    }
}

/// On a host without SELinux, relabelling has nothing to do, as in Docker.
fn check_relabel(option: &str) -> Result<(), FlagError> {
    match Path::new("/sys/fs/selinux/enforce").exists() {
        false => Ok(()),
        true => Err(FlagError::new(
            format!(
                "volume option {option:?}: relabelling for SELinux is not supported in this version"
            ),
            "label the directory with chcon -t container_file_t, and leave the option out",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &str, target: &str) -> Mount {
        Mount {
            source: MountSource::Bind {
                path: path.into(),
                create_source: true,
                propagation: None,
                non_recursive: false,
            },
            target: target.into(),
            read_only: false,
        }
    }

    #[test]
    fn volumes_are_paths_names_or_anonymous() {
        assert_eq!(volume("/a:/b"), Ok(bind("/a", "/b")));
        assert_eq!(volume("/a/../c/:/b/./d/"), Ok(bind("/c", "/b/d")));
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            volume("./x:/b"),
            Ok(bind(&here.join("x").display().to_string(), "/b"))
        );
        let read_only = volume("/a:/b:ro,rslave").unwrap();
        assert!(read_only.read_only);
        let MountSource::Bind { propagation, .. } = read_only.source else {
            panic!("not a bind");
        };
        assert_eq!(propagation.as_deref(), Some("rslave"));
        let named = volume("data:/b:nocopy").unwrap().source;
        assert_eq!(
            named,
            MountSource::Volume(VolumeMount {
                no_copy: true,
                ..VolumeMount::named("data")
            })
        );
        let anonymous = volume("/only").unwrap();
        assert_eq!(anonymous.target, "/only");
    }

    #[test]
    fn malformed_volumes_are_refused() {
        for text in [
            "",
            "a",
            "a:b",
            "/a:b",
            "/a:/",
            "/a:/b/..",
            ":/b",
            "/a:/b:what",
            "/a:/b:ro:x",
            "a/b:/c",
            "~/x:/y",
            "-x:/y",
        ] {
            volume(text).expect_err(text);
        }
    }

    #[test]
    fn mounts_are_read_from_keys_and_values() {
        let mount = mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rshared").unwrap();
        assert!(mount.read_only);
        assert_eq!(mount.target, "/b");
        let MountSource::Bind {
            create_source,
            propagation,
            ..
        } = mount.source
        else {
            panic!("not a bind");
        };
        assert!(!create_source, "--mount refuses a missing source");
        assert_eq!(propagation.as_deref(), Some("rshared"));
        assert_eq!(
            self::mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700")
                .unwrap()
                .source,
            MountSource::Tmpfs {
                size: Some(ByteSize(1 << 20)),
                mode: Some(0o700),
                options: vec![]
            }
        );
        assert_eq!(
            self::mount("\"source=data\",target=/d,volume-nocopy=true")
                .unwrap()
                .source,
            MountSource::Volume(VolumeMount {
                no_copy: true,
                ..VolumeMount::named("data")
            })
        );
    }

    #[test]
    fn malformed_mounts_are_refused() {
        for text in [
            "",
            "type=bind,source=/a",
            "type=bind,target=/b",
            "type=disk,target=/b",
            "type=tmpfs,source=/a,target=/b",
            "type=bind,source=/a,target=b",
            "type=bind,source=/a,target=/b,ro=maybe",
            "type=bind,source=/a,target=/b,tmpfs-size=1m",
            "type=volume,target=/b,bind-propagation=shared",
            "type=bind,source=/a,target=/b,bind-propagation=odd",
            "type=bind,source=/a,target=/b,colour=red",
            "type=tmpfs,target=/b,tmpfs-mode=9",
            "type=volume,source=data,target=/b,volume-driver=nfs",
            "type=,target=/b",
        ] {
            mount(text).expect_err(text);
        }
    }

    #[test]
    fn tmpfs_takes_the_options_of_mount_8() {
        let mount = tmpfs("/run:ro,noexec,size=64m,mode=755,uid=33").unwrap();
        assert!(mount.read_only);
        assert_eq!(
            mount.source,
            MountSource::Tmpfs {
                size: Some(ByteSize(64 << 20)),
                mode: Some(0o755),
                options: vec!["noexec".into(), "uid=33".into()]
            }
        );
        for text in [
            "",
            "run",
            "/run:size=x",
            "/run:odd",
            "/:ro",
            "/run:uid=",
            "/run:mode=8",
        ] {
            tmpfs(text).expect_err(text);
        }
    }
}
