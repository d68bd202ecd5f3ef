//! Where Isle keeps its things.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use isle_types::InstanceId;

/// Where Isle keeps its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must survive a reboot: `/var/lib/isle`, or `$XDG_DATA_HOME/isle` for a user.
    pub root: PathBuf,
    /// Sockets and locks: `/run/isle`, or `$XDG_RUNTIME_DIR/isle`.
    pub run: PathBuf,
}

impl Paths {
    /// `--root` or `$ISLE_ROOT`, with `$ISLE_RUN` (default: `<root>/run` when a root is given),
    /// else the places above.
    #[must_use]
    pub fn from_environment(root: Option<&Path>) -> Paths {
        let is_root = rustix::process::geteuid().is_root();
        Paths::choose(root, is_root, &|name| {
            std::env::var_os(name).filter(|value| !value.is_empty())
        })
    }

    fn choose(
        root: Option<&Path>,
        is_root: bool,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Paths {
        let given_root = root
            .map(Path::to_owned)
            .or_else(|| variable("ISLE_ROOT").map(PathBuf::from));
        let given_run = variable("ISLE_RUN").map(PathBuf::from);
        let home = || variable("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let default_root = || match is_root {
            true => PathBuf::from("/var/lib/isle"),
            false => variable("XDG_DATA_HOME")
                .map_or_else(|| home().join(".local/share"), PathBuf::from)
                .join("isle"),
        };
        let default_run = || match (is_root, variable("XDG_RUNTIME_DIR")) {
            (true, _) => PathBuf::from("/run/isle"),
            (false, Some(runtime)) => PathBuf::from(runtime).join("isle"),
            (false, None) => default_root().join("run"),
        };
        let run = match (&given_root, given_run) {
            (_, Some(run)) => run,
            (Some(root), None) => root.join("run"),
            (None, None) => default_run(),
        };
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Paths {
            root: absolute(given_root.unwrap_or_else(default_root)),
            run: absolute(run),
        }
    }

    /// Where the user namespace of an ordinary user is kept, one for all roots, see `isle_rootless`.
    #[must_use]
    pub fn house() -> PathBuf {
        Paths::choose(None, false, &|name| {
            let is_given = name != "ISLE_ROOT" && name != "ISLE_RUN";
            std::env::var_os(name).filter(|value| is_given && !value.is_empty())
        })
        .run
        .join("house")
    }

    /// The state file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("isle.db")
    }

    /// What one instance keeps across reboots: writable layer, log, generated files.
    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> PathBuf {
        self.root.join("instances").join(id.to_string())
    }

    /// What one instance has only while the host is up: lock and socket.
    #[must_use]
    pub fn instance_run(&self, id: &InstanceId) -> PathBuf {
        self.run.join("instances").join(id.to_string())
    }

    /// The named and anonymous volumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// For what is written and then renamed into place. On the same file system as all else.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(root: Option<&str>, is_root: bool, variables: &[(&str, &str)]) -> (String, String) {
        let paths = Paths::choose(root.map(Path::new), is_root, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        });
        (
            paths.root.display().to_string(),
            paths.run.display().to_string(),
        )
    }

    fn pair(root: &str, run: &str) -> (String, String) {
        (root.to_owned(), run.to_owned())
    }

    #[test]
    fn a_given_root_keeps_its_run_folder_to_itself() {
        assert_eq!(choose(Some("/a"), true, &[]), pair("/a", "/a/run"));
        let both = [("ISLE_ROOT", "/b"), ("ISLE_RUN", "/c")];
        assert_eq!(choose(None, true, &both), pair("/b", "/c"));
        assert_eq!(choose(Some("/a"), false, &both), pair("/a", "/c"));
    }

    #[test]
    fn root_and_users_have_their_usual_places() {
        assert_eq!(choose(None, true, &[]), pair("/var/lib/isle", "/run/isle"));
        let home = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            choose(None, false, &home),
            pair("/home/u/.local/share/isle", "/run/user/7/isle")
        );
    }
}
