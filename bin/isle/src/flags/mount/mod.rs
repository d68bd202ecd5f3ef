//! `-v`, `--mount` and `--tmpfs`.

mod by_colons;
mod by_keys;
mod memory;

use std::path::{Component, Path, PathBuf};

use isle_types::ByteSize;

use super::FlagError;

pub use by_colons::volume;
pub use by_keys::mount;
pub use memory::tmpfs;

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

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
    use isle_engine::config::{Mount, MountSource, VolumeMount};

    use super::*;

    fn bind(path: &str, target: &str) -> Mount {
        Mount {
            source: MountSource::Bind {
                path: path.into(),
                create_source: true,
                propagation: None,
                non_recursive: false,
                writable_below: false,
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
            "a:/b:rshared",
            "/a:/b:nocopy",
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
    fn volumes_take_what_they_are_made_with() {
        let text = "src=data,dst=/d,volume-driver=local,volume-opt=type=tmpfs,volume-opt=o=size=1m,\
                    volume-label=a=1,volume-subpath=deep/er,consistency=cached";
        let MountSource::Volume(volume) = mount(text).unwrap().source else {
            panic!("not a volume");
        };
        assert_eq!(volume.subpath.as_deref(), Some("deep/er"));
        assert_eq!(volume.options["o"], "size=1m");
        assert_eq!(volume.labels["a"], "1");
        let text = "type=bind,src=/a,dst=/b,ro,bind-recursive=writable";
        let MountSource::Bind { writable_below, .. } = mount(text).unwrap().source else {
            panic!("not a bind");
        };
        assert!(writable_below);
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
            "type=image,source=busybox,target=/b",
            "type=volume,source=a,target=/b,volume-opt=novalue",
            "type=tmpfs,target=/b,subpath=c",
            "type=bind,source=/a,target=/b,bind-recursive=readonly",
            "type=bind,source=/a,target=/b,consistency=odd",
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
