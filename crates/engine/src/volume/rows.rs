//! The table of volumes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use isle_database::Database;
use isle_types::InstanceId;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::mount::{UnmountFlags, unmount};

use super::{DRIVER, backing};
use crate::backend::container::Limit;
use crate::config::{InstanceConfig, MountSource};
use crate::state::Instance;
use crate::store::{NewEvent, StoreError, nanoseconds, note};
use crate::{Paths, failpoint, names};

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name; 64 hexadecimal digits when nobody gave it one.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Nobody gave it a name: it goes with `rm --volumes`, `--rm` and `volume prune`.
    pub is_anonymous: bool,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--opt`
    pub options: BTreeMap<String, String>,
}

/// What [`declare`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Declaration {
    /// It is new.
    Made,
    /// It was there.
    Known(Volume),
}

const COLUMNS: &str = "name, created_at, is_anonymous, labels, options";

/// Notes that a volume is there; its folder is made when it is first mounted. One that was there
/// stays as it is.
pub(crate) fn declare(
    transaction: &Transaction<'_>,
    paths: &Paths,
    volume: &Volume,
) -> Result<Declaration, StoreError> {
    if let Some(known) = get(transaction, &volume.name)? {
        return Ok(Declaration::Known(known));
    }
    // One that is on its way out goes now, so that the new one is empty.
    let is_leaving = transaction
        .prepare_cached("DELETE FROM volume WHERE name = ?1")?
        .execute([&volume.name])?
        > 0;
    if is_leaving {
        set_aside(paths, &volume.name).map_err(StoreError::Files)?;
        note(transaction, &event(&volume.name, "destroy"))?;
    }
    let json = |map: &BTreeMap<String, String>| serde_json::json!(map).to_string();
    transaction
        .prepare_cached(
            "INSERT INTO volume (name, created_at, is_anonymous, labels, options)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            volume.name,
            nanoseconds(volume.created_at),
            volume.is_anonymous,
            json(&volume.labels),
            json(&volume.options),
        ])?;
    note(transaction, &event(&volume.name, "create"))?;
    Ok(Declaration::Made)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Volume> {
    let map = |index: usize| -> rusqlite::Result<BTreeMap<String, String>> {
        let text: String = row.get(index)?;
        serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                index,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })
    };
    let created_at: i64 = row.get(1)?;
    Ok(Volume {
        name: row.get(0)?,
        created_at: Timestamp::from_nanosecond(created_at.into()).unwrap_or(Timestamp::UNIX_EPOCH),
        is_anonymous: row.get(2)?,
        labels: map(3)?,
        options: map(4)?,
    })
}

/// The volume of a name.
pub(crate) fn get(connection: &Connection, name: &str) -> Result<Option<Volume>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM volume WHERE name = ?1 AND NOT is_leaving");
    let mut statement = connection.prepare_cached(&query)?;
    Ok(statement.query_row([name], read).optional()?)
}

/// All volumes, by name.
pub(crate) fn list(connection: &Connection) -> Result<Vec<Volume>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM volume WHERE NOT is_leaving ORDER BY name");
    let mut statement = connection.prepare_cached(&query)?;
    let volumes = statement.query_map([], read)?;
    Ok(volumes.collect::<Result<_, _>>()?)
}

/// The names of all volumes.
pub(crate) fn names(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM volume WHERE NOT is_leaving ORDER BY name")?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// The instances that mount a volume: id and name.
pub(crate) fn users(
    connection: &Connection,
    volume: &str,
) -> Result<Vec<(InstanceId, String)>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT id, name, config FROM instance WHERE instr(config, ?1)")?;
    let quoted = serde_json::json!(volume).to_string();
    let mut rows = statement.query([quoted])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, name, config): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // A row that cannot be read may mean it.
        let mounts_it = serde_json::from_str::<InstanceConfig>(&config).map_or(true, |config| {
            mounted_by(&config).any(|name| name == volume)
        });
        if mounts_it && let Ok(id) = id.parse() {
            found.push((id, name));
        }
    }
    Ok(found)
}

fn mounted_by(config: &InstanceConfig) -> impl Iterator<Item = &str> {
    config
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Volume(volume) => volume.name.as_deref(),
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
        })
}

/// How a removal went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RemovalOutcome {
    /// It is gone.
    Removed,
    /// There is none.
    Missing,
    /// These instances mount it: their names.
    InUse(Vec<String>),
}

/// Takes a volume away if no instance mounts it, but for one that is about to go itself.
///
/// # Errors
/// When the state file cannot be written, or the files not be removed.
pub(crate) fn remove_unused(
    database: &Database,
    paths: &Paths,
    name: &str,
    owner: Option<&InstanceId>,
) -> Result<RemovalOutcome, StoreError> {
    let begun = database.write(|transaction| {
        let mut users = users(transaction, name)?;
        users.retain(|(id, _)| owner != Some(id));
        if !users.is_empty() {
            let names = users.into_iter().map(|(_, name)| name).collect();
            return Ok::<_, StoreError>(RemovalOutcome::InUse(names));
        }
        // From here on it is not there any more, whatever happens to us.
        let marked = transaction
            .prepare_cached("UPDATE volume SET is_leaving = 1 WHERE name = ?1")?
            .execute([name])?;
        Ok(match marked {
            0 => RemovalOutcome::Missing,
            _ => RemovalOutcome::Removed,
        })
    })?;
    if begun == RemovalOutcome::Removed {
        failpoint::hit("leaving").map_err(StoreError::Files)?;
        finish(database, paths, name)?;
    }
    Ok(begun)
}

/// The second step: the files, then the row. Somebody else may have done it meanwhile.
fn finish(database: &Database, paths: &Paths, name: &str) -> Result<(), StoreError> {
    let aside = database.write(|transaction| {
        let gone = transaction
            .prepare_cached("DELETE FROM volume WHERE name = ?1 AND is_leaving")?
            .execute([name])?;
        if gone == 0 {
            return Ok::<_, StoreError>(None);
        }
        let aside = set_aside(paths, name).map_err(StoreError::Files)?;
        note(transaction, &event(name, "destroy"))?;
        Ok(aside)
    })?;
    match aside {
        None => Ok(()),
        Some(aside) => remove_aside(paths, &aside).map_err(StoreError::Files),
    }
}

/// Finishes the removals that were begun and broke off.
///
/// # Errors
/// When the files cannot be removed.
pub(crate) fn finish_all(database: &Database, paths: &Paths) -> Result<(), StoreError> {
    let connection = database.connection();
    let mut statement = connection.prepare_cached("SELECT name FROM volume WHERE is_leaving")?;
    let names = statement.query_map([], |row| row.get(0))?;
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    names
        .iter()
        .try_for_each(|name| finish(database, paths, name))
}

/// After a restart of the host: finishes removals, and looks for folders without a row. The row of a
/// volume that was made by the way (`run -v`) may be lost with the power when its files are not:
/// such a volume gets a row again. Those that nobody has named go.
///
/// # Errors
/// When the folders cannot be read, or the state file not be written.
pub(crate) fn reconcile(database: &Database, paths: &Paths) -> Result<(), StoreError> {
    finish_all(database, paths)?;
    let known = names(database.connection())?;
    let entries = match std::fs::read_dir(paths.volumes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(StoreError::Files)?,
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if known.contains(&name) || !super::is_name(&name) {
            continue;
        }
        if name.parse::<InstanceId>().is_ok() {
            let aside = set_aside(paths, &name).map_err(StoreError::Files)?;
            if let Some(aside) = aside {
                remove_aside(paths, &aside).map_err(StoreError::Files)?;
            }
            continue;
        }
        let volume = Volume {
            name,
            created_at: Timestamp::now(),
            is_anonymous: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        };
        database.durably(|transaction| declare(transaction, paths, &volume).map(drop))?;
    }
    Ok(())
}

/// Takes a volume away if it is an anonymous one and no other instance than its owner mounts it.
///
/// # Errors
/// As [`remove_unused`].
pub(crate) fn remove_anonymous(
    database: &Database,
    paths: &Paths,
    name: &str,
    owner: &InstanceId,
) -> Result<(), StoreError> {
    match get(database.connection(), name)? {
        Some(volume) if volume.is_anonymous => {
            remove_unused(database, paths, name, Some(owner)).map(drop)
        }
        _ => Ok(()),
    }
}

/// Moves the files of a volume to where what is to go away lies; returns under which name.
fn set_aside(paths: &Paths, name: &str) -> io::Result<Option<CString>> {
    let folder = paths.volumes().join(name);
    let data = folder.join("_data");
    // What is mounted there is not the volume's to remove.
    while backing::is_mounted(&data)? {
        unmount(&data, UnmountFlags::empty())?;
    }
    let aside = format!("volume-{}", names::random_id()?);
    match std::fs::rename(&folder, paths.temporary().join(&aside)) {
        // It was never mounted.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        moved => {
            moved?;
            Ok(Some(CString::new(aside).expect("digits and letters")))
        }
    }
}

/// Removes what lies there. Should that break off, it is collected as what images leave there is.
fn remove_aside(paths: &Paths, name: &CString) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(paths.temporary(), flags, Mode::empty())?;
    let data = openat(
        &folder,
        Path::new(name.to_str().unwrap_or_default()).join("_data"),
        flags,
        Mode::empty(),
    );
    let limit = data.ok().and_then(|data| Limit::of(data.as_fd()));
    isle_archive::removal::remove(folder.as_fd(), name)?;
    limit.map_or(Ok(()), |limit| limit.lift(paths))
}

pub(super) fn event(name: &str, action: &str) -> NewEvent {
    NewEvent {
        kind: "volume",
        action: action.to_owned(),
        id: name.to_owned(),
        attributes: [("driver".to_owned(), DRIVER.to_owned())].into(),
    }
}

/// What happens to the volumes of an instance when this happens to the instance: they are mounted
/// before it starts, and unmounted when it has ended.
pub(crate) fn events_of_use(instance: &Instance, action: &str) -> Vec<NewEvent> {
    let is_start = match action {
        "start" => true,
        "die" => false,
        _ => return Vec::new(),
    };
    let mut events = Vec::new();
    for mount in &instance.config.mounts {
        let MountSource::Volume(volume) = &mount.source else {
            continue;
        };
        let name = volume.name.as_deref().unwrap_or_default();
        let action = if is_start { "mount" } else { "unmount" };
        let mut event = event(name, action).with("container", instance.id);
        if is_start {
            event = event
                .with("destination", &mount.target)
                .with("propagation", "")
                .with("read/write", !mount.read_only);
        }
        events.push(event);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mount, VolumeMount};
    use crate::volume::Backing;

    const FOLDER: Backing = Backing::Folder { size: None };

    fn volume(name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            is_anonymous: false,
            labels: [("a".to_owned(), "1".to_owned())].into(),
            options: BTreeMap::new(),
        }
    }

    fn place() -> (tempfile::TempDir, Paths, Database) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().to_owned(),
            run: folder.path().join("run"),
        };
        std::fs::create_dir(paths.temporary()).unwrap();
        let schemas = [isle_image::SCHEMA, crate::SCHEMA];
        let database = Database::open(&paths.database(), &schemas).unwrap();
        (folder, paths, database)
    }

    fn declared(database: &Database, paths: &Paths, volume: &Volume) -> Declaration {
        database
            .write(|transaction| declare(transaction, paths, volume))
            .unwrap()
    }

    #[test]
    fn a_volume_is_made_once_and_goes_with_its_files() {
        let (_folder, paths, database) = place();
        let data = volume("data");
        assert_eq!(declared(&database, &paths, &data), Declaration::Made);
        let again = Volume {
            labels: BTreeMap::new(),
            ..data.clone()
        };
        assert_eq!(
            declared(&database, &paths, &again),
            Declaration::Known(data.clone())
        );
        let folder = super::super::make_data(&paths, "data", &FOLDER).unwrap();
        std::fs::write(folder.join("file"), "x").unwrap();
        let removed = remove_unused(&database, &paths, "data", None).unwrap();
        assert_eq!(removed, RemovalOutcome::Removed);
        assert!(!paths.volumes().join("data").exists());
        assert_eq!(std::fs::read_dir(paths.temporary()).unwrap().count(), 0);
        let missing = remove_unused(&database, &paths, "data", None).unwrap();
        assert_eq!(missing, RemovalOutcome::Missing);
    }

    #[test]
    fn a_removal_that_broke_off_is_finished_by_whoever_comes_next() {
        let (_folder, paths, database) = place();
        for finishes in [true, false] {
            declared(&database, &paths, &volume("data"));
            let folder = super::super::make_data(&paths, "data", &FOLDER).unwrap();
            std::fs::write(folder.join("old"), "x").unwrap();
            let mark = "UPDATE volume SET is_leaving = 1";
            database.connection().execute(mark, []).unwrap();
            assert!(get(database.connection(), "data").unwrap().is_none());
            assert!(names(database.connection()).unwrap().is_empty());
            match finishes {
                true => finish_all(&database, &paths).unwrap(),
                false => {
                    let made = declared(&database, &paths, &volume("data"));
                    assert_eq!(made, Declaration::Made);
                }
            }
            assert!(!paths.volumes().join("data/_data/old").exists());
        }
    }

    #[test]
    fn after_a_restart_named_folders_have_a_row_again_and_others_go() {
        let (_folder, paths, database) = place();
        let anonymous = "ab".repeat(32);
        for name in ["kept", anonymous.as_str()] {
            super::super::make_data(&paths, name, &FOLDER).unwrap();
        }
        reconcile(&database, &paths).unwrap();
        assert_eq!(names(database.connection()).unwrap(), ["kept"]);
        assert!(paths.volumes().join("kept/_data").is_dir());
        assert!(!paths.volumes().join(anonymous).exists());
    }

    #[test]
    fn uses_are_told_with_the_instance_that_uses() {
        let mut instance = crate::store::tests::instance(1, "n");
        instance.config.mounts.push(Mount {
            source: MountSource::Volume(VolumeMount::named("data")),
            target: "/d".into(),
            read_only: true,
        });
        let told = events_of_use(&instance, "start");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].action, "mount");
        assert_eq!(told[0].attributes["read/write"], "false");
        assert_eq!(events_of_use(&instance, "die")[0].action, "unmount");
        assert!(events_of_use(&instance, "kill").is_empty());
    }
}
