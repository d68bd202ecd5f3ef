//! What would change; shown, done, recorded.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use similar::TextDiff;

use crate::record::{self, Entry, Record};
use crate::{Engine, Host, Node, SetupError, Wish, containerd, crio, docker, kubernetes, podman};

/// Files that are Isle's alone begin with this.
pub(crate) const OURS: &str =
    "# Written by `isle setup`, which also takes it away: `isle setup --help`.\n";

/// One file that becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// Its text now; `None`: it is not there.
    pub before: Option<String>,
    /// Its text then; `None`: it is removed.
    pub after: Option<String>,
}

/// What would change. Files that stay as they are are not in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The files.
    pub changes: Vec<Change>,
    /// What the user should know or do besides.
    pub remarks: Vec<String>,
    /// What takes the change to a running engine, a command; `None`: nothing has to.
    pub next: Option<&'static str>,
    record: PathBuf,
    /// The record afterwards; `None`: there is none any more.
    recorded: Option<Record>,
    /// Folders of an undone change, which go when they are empty.
    emptied: Vec<PathBuf>,
}

/// What setting up an engine would change. Nothing is written.
///
/// # Errors
/// When a file cannot be read, is not what the engine could read, or is not ours to write.
pub fn plan(wish: &Wish) -> Result<Plan, SetupError> {
    let Wish {
        runtimes, default, ..
    } = wish;
    let mut files = Vec::new();
    let mut remarks = Vec::new();
    let mut in_containerd = |path: PathBuf| {
        let before = read(&path)?;
        remarks.extend(containerd::remarks(
            &path,
            before.as_deref().unwrap_or_default(),
        ));
        let after = containerd::add(&path, before.as_deref(), runtimes, *default)?;
        Ok::<_, SetupError>((path, before, after))
    };
    let next = match wish.engine {
        Engine::Docker => {
            let path = wish.file(docker::FILE);
            let before = read(&path)?;
            let after = docker::add(&path, before.as_deref(), runtimes, *default)?;
            files.push((path, before, after));
            Some("systemctl reload docker")
        }
        Engine::Podman => {
            files.push(own(
                wish.file(podman::FILE),
                podman::file(runtimes, *default),
            )?);
            None
        }
        Engine::Containerd => {
            files.push(in_containerd(wish.file(containerd::FILE))?);
            Some("systemctl restart containerd")
        }
        Engine::Kubernetes => {
            let has_crio = wish.host.etc("crio").is_dir();
            let node = wish.node.unwrap_or(match has_crio {
                true => Node::CriO,
                false => Node::Containerd,
            });
            let manifests = own(
                wish.host.etc(kubernetes::FILE),
                kubernetes::manifests(runtimes),
            )?;
            let next = match node {
                Node::Containerd => {
                    files.push(in_containerd(wish.file(containerd::FILE))?);
                    "systemctl restart containerd"
                }
                Node::CriO => {
                    files.push(own(wish.file(crio::FILE), crio::file(runtimes, *default))?);
                    "systemctl reload crio"
                }
            };
            remarks.push(format!(
                "once for the cluster: kubectl apply -f {}",
                manifests.0.display()
            ));
            files.push(manifests);
            Some(next)
        }
    };
    let record = record::path(&wish.host, wish.engine);
    let old = Record::read(&record)?.unwrap_or_default();
    let changes: Vec<Change> = files
        .into_iter()
        .filter(|(_, before, after)| before.as_ref() != Some(after))
        .map(|(path, before, after)| Change {
            path,
            before,
            after: Some(after),
        })
        .collect();
    let recorded = recorded(old, &changes, &record);
    Ok(Plan {
        changes,
        remarks,
        next,
        record,
        recorded: Some(recorded),
        emptied: Vec::new(),
    })
}

/// What it takes to have an engine's files as they were. Nothing is written.
///
/// # Errors
/// When the engine was not set up, or a file cannot be read or taken apart.
pub fn undo(engine: Engine, host: &Host) -> Result<Plan, SetupError> {
    let path = record::path(host, engine);
    let Some(old) = Record::read(&path)? else {
        return Err(SetupError::NoRecord { engine });
    };
    let mut changes = Vec::new();
    let mut remarks = Vec::new();
    for Entry {
        path,
        before,
        after,
    } in old.files.iter().rev()
    {
        let now = read(path)?;
        let then = match &now {
            Some(now) if now == after => before.clone(),
            // Never written, or taken back by hand.
            now if now == before => continue,
            None => {
                remarks.push(format!("{} is gone already", path.display()));
                continue;
            }
            Some(now) => {
                remarks.push(format!(
                    "{} has been changed since: what Isle added is taken out, the rest stays",
                    path.display()
                ));
                without_ours(path, now, before.as_deref())?
            }
        };
        changes.push(Change {
            path: path.clone(),
            before: now,
            after: then,
        });
    }
    let next = match engine {
        // What a reload does not find in the file it leaves as it was.
        Engine::Docker => Some("systemctl restart docker"),
        Engine::Podman => None,
        Engine::Containerd => Some("systemctl restart containerd"),
        Engine::Kubernetes => Some("systemctl restart containerd (or crio)"),
    };
    Ok(Plan {
        changes,
        remarks,
        next,
        record: path,
        recorded: None,
        emptied: old.folders,
    })
}

/// The text of a file that somebody else has changed, without what is ours.
fn without_ours(
    path: &Path,
    now: &str,
    original: Option<&str>,
) -> Result<Option<String>, SetupError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => docker::remove(path, now, original).map(Some),
        Some("toml") => containerd::remove(path, now, original).map(Some),
        // A file of our own in which somebody else has written: only who wrote there knows what to keep.
        _ => Err(SetupError::NotOurs {
            path: path.to_owned(),
        }),
    }
}

impl Plan {
    /// Nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What would change, as diff(1) shows it with `-u`.
    #[must_use]
    pub fn diff(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let name = change.path.display().to_string();
            let side = |text: &Option<String>| match text {
                Some(_) => name.clone(),
                None => "/dev/null".to_owned(),
            };
            let before = change.before.as_deref().unwrap_or_default();
            let after = change.after.as_deref().unwrap_or_default();
            let diff = TextDiff::from_lines(before, after);
            let mut unified = diff.unified_diff();
            let unified = unified.header(&side(&change.before), &side(&change.after));
            text.push_str(&unified.to_string());
        }
        text
    }

    /// Does it.
    ///
    /// # Errors
    /// When a file has changed since the plan was made, or cannot be written.
    pub fn apply(&self) -> Result<(), SetupError> {
        for change in &self.changes {
            if read(&change.path)? != change.before {
                return Err(SetupError::Changed {
                    path: change.path.clone(),
                });
            }
        }
        if let (Some(recorded), false) = (&self.recorded, self.changes.is_empty()) {
            // It may hold what the files that it is about keep from others.
            write(&self.record, &recorded.text(), Some(0o600))?;
        }
        for change in &self.changes {
            match &change.after {
                Some(text) => write(&change.path, text, None)?,
                None => remove(&change.path)?,
            }
        }
        if self.recorded.is_none() {
            remove(&self.record)?;
            for folder in self.emptied.iter().rev() {
                // Somebody else's files may be in it by now.
                let _ = fs::remove_dir(folder);
            }
        }
        Ok(())
    }
}

/// The record after these changes: of a file that was changed before, how it was at first.
fn recorded(mut record: Record, changes: &[Change], path: &Path) -> Record {
    let mut paths = vec![path];
    for change in changes {
        let after = change.after.clone().unwrap_or_default();
        let before = match record.entry(&change.path) {
            Some(old) if change.before.as_ref() == Some(&old.after) => old.before.clone(),
            _ => change.before.clone(),
        };
        record.files.retain(|entry| entry.path != change.path);
        record.files.push(Entry {
            path: change.path.clone(),
            before,
            after,
        });
        paths.push(&change.path);
    }
    for path in paths {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .map(Path::to_owned)
            .collect();
        for folder in missing.into_iter().rev() {
            if !record.folders.contains(&folder) {
                record.folders.push(folder);
            }
        }
    }
    record
}

/// A file that is ours as a whole, if it is.
fn own(path: PathBuf, after: String) -> Result<(PathBuf, Option<String>, String), SetupError> {
    let before = read(&path)?;
    match &before {
        Some(text) if !text.starts_with(OURS) => Err(SetupError::NotOurs { path }),
        _ => Ok((path, before, after)),
    }
}

/// The text of a file; `None` when there is none.
fn read(path: &Path) -> Result<Option<String>, SetupError> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_symlink() => {
            return Err(SetupError::SymbolicLink {
                path: path.to_owned(),
            });
        }
        _ => {}
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SetupError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Puts a text in the place of a file, whose owner and mode it keeps.
fn write(path: &Path, text: &str, mode: Option<u32>) -> Result<(), SetupError> {
    let put = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(".isle-setup-")
            .tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        let (mode, owner) = match (fs::metadata(path), mode) {
            (Ok(about), _) => (about.mode() & 0o7777, Some((about.uid(), about.gid()))),
            (Err(_), mode) => (mode.unwrap_or(0o644), None),
        };
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(file.as_file(), Some(uid), Some(gid))?;
        }
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    };
    put().map_err(|source| SetupError::Write {
        path: path.to_owned(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), SetupError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SetupError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Runtimes;

    fn wish(folder: &Path, engine: Engine) -> Wish {
        let runtimes = Runtimes::container("/usr/bin/isle-oci").and_vm("/usr/bin/isle-oci-vm");
        Wish::new(engine, Host::below(folder), runtimes)
    }

    const ENGINES: [Engine; 4] = [
        Engine::Docker,
        Engine::Podman,
        Engine::Containerd,
        Engine::Kubernetes,
    ];

    /// Every file and folder below, with its text and mode.
    fn tree(folder: &Path) -> Vec<(PathBuf, u32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().mode();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.is_dir() {
                found.extend(tree(&path));
            }
            found.push((path, mode, text));
        }
        found.sort();
        found
    }

    #[test]
    fn what_was_set_up_is_undone_byte_for_byte() {
        for engine in ENGINES {
            let folder = tempfile::tempdir().unwrap();
            let etc = folder.path().join("etc");
            for (name, text) in [
                ("docker/daemon.json", "{\"debug\":true}"),
                ("containerd/config.toml", "version=2 # odd\n[plugins]\n"),
            ] {
                fs::create_dir_all(etc.join(name).parent().unwrap()).unwrap();
                fs::write(etc.join(name), text).unwrap();
                fs::set_permissions(etc.join(name), fs::Permissions::from_mode(0o640)).unwrap();
            }
            let before = tree(folder.path());
            let mut wish = wish(folder.path(), engine);
            plan(&wish).unwrap().apply().unwrap();
            assert_ne!(tree(folder.path()), before, "{engine}");
            assert!(plan(&wish).unwrap().is_empty(), "{engine}");
            // A second change does not make the first one how it was.
            wish.runtimes = Runtimes::container("/opt/isle-oci");
            plan(&wish).unwrap().apply().unwrap();
            let undo = undo(engine, &wish.host).unwrap();
            assert!(undo.diff().contains("-"), "{engine}");
            undo.apply().unwrap();
            assert_eq!(tree(folder.path()), before, "{engine}");
            let again = super::undo(engine, &wish.host);
            assert!(
                matches!(again, Err(SetupError::NoRecord { .. })),
                "{engine}"
            );
        }
    }

    #[test]
    fn a_host_without_any_file_is_empty_again() {
        for engine in ENGINES {
            let folder = tempfile::tempdir().unwrap();
            let wish = wish(folder.path(), engine);
            plan(&wish).unwrap().apply().unwrap();
            undo(engine, &wish.host).unwrap().apply().unwrap();
            assert_eq!(tree(folder.path()), [], "{engine}");
        }
    }

    #[test]
    fn the_plan_writes_nothing_and_shows_what_it_would() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(&wish(folder.path(), Engine::Podman)).unwrap();
        assert_eq!(tree(folder.path()), []);
        let path = folder
            .path()
            .join("etc/containers/containers.conf.d/isle.conf");
        let expected = format!(
            "--- /dev/null\n+++ {}\n@@ -0,0 +1,4 @@\n+{OURS}+[engine.runtimes]\n+isle = [\"/usr/bin/isle-oci\"]\n+isle-vm = [\"/usr/bin/isle-oci-vm\"]\n",
            path.display()
        );
        assert_eq!(plan.diff(), expected);
    }

    #[test]
    fn what_others_have_changed_since_stays() {
        let folder = tempfile::tempdir().unwrap();
        let wish = wish(folder.path(), Engine::Docker);
        let path = folder.path().join("etc/docker/daemon.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\n  \"debug\": true\n}\n").unwrap();
        plan(&wish).unwrap().apply().unwrap();
        let set = fs::read_to_string(&path).unwrap();
        fs::write(&path, set.replace("true", "false")).unwrap();
        let undo = undo(Engine::Docker, &wish.host).unwrap();
        assert!(undo.remarks[0].contains("has been changed since"));
        undo.apply().unwrap();
        let left = fs::read_to_string(&path).unwrap();
        assert_eq!(left, "{\n  \"debug\": false\n}\n");
    }

    #[test]
    fn what_is_not_ours_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let wish = wish(folder.path(), Engine::Podman);
        let path = folder
            .path()
            .join("etc/containers/containers.conf.d/isle.conf");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "[engine]\n").unwrap();
        assert!(matches!(plan(&wish), Err(SetupError::NotOurs { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(plan(&wish), Err(SetupError::SymbolicLink { .. })));
        fs::remove_file(&path).unwrap();
        let shown = plan(&wish).unwrap();
        fs::write(&path, "[engine]\n").unwrap();
        assert!(matches!(shown.apply(), Err(SetupError::Changed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[engine]\n");
    }

    #[test]
    fn who_was_interrupted_can_undo() {
        let folder = tempfile::tempdir().unwrap();
        let wish = wish(folder.path(), Engine::Kubernetes);
        let shown = plan(&wish).unwrap();
        shown.apply().unwrap();
        // As if it had ended between the first file and the second.
        fs::remove_file(&shown.changes[1].path).unwrap();
        undo(Engine::Kubernetes, &wish.host)
            .unwrap()
            .apply()
            .unwrap();
        assert_eq!(tree(folder.path()), []);
    }
}
