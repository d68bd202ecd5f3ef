//! The rows of instances and events in the state file.
//!
//! One row an instance. What it is asked to be and what it is are JSON documents, so that a new
//! field needs no migration; what is searched for has a column of its own. Who may write a row is
//! decided by the instance's lock ([`crate::lock`]), not here.
//!
//! Nothing here is synced to the disk: after a loss of power the state file is whole, and may lack
//! the last moments. What lives is then found out anew anyway.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use isle_database::{Database, OpenError, Schema};
use isle_types::{InstanceId, InstanceName};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::config::InstanceConfig;
use crate::id_range::{self, IdRange};
use crate::state::{Instance, InstanceState, Status};
use crate::{Event, Paths};

/// The tables of this crate.
pub const SCHEMA: Schema = Schema {
    name: "engine",
    migrations: &[
        "
        CREATE TABLE instance (
            sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
            id         TEXT NOT NULL UNIQUE,
            name       TEXT NOT NULL UNIQUE,
            created_at INTEGER NOT NULL,
            image_id   TEXT NOT NULL,
            layers     TEXT NOT NULL,
            config     TEXT NOT NULL,
            status     TEXT NOT NULL,
            state      TEXT NOT NULL
        ) STRICT;
        CREATE INDEX instance_by_image ON instance (image_id);
        CREATE INDEX instance_alive ON instance (status)
            WHERE status NOT IN ('created', 'exited');
        CREATE TABLE event (
            sequence   INTEGER PRIMARY KEY,
            time       INTEGER NOT NULL,
            kind       TEXT NOT NULL,
            action     TEXT NOT NULL,
            id         TEXT NOT NULL,
            attributes TEXT NOT NULL
        ) STRICT;
        CREATE TABLE volume (
            name         TEXT PRIMARY KEY,
            created_at   INTEGER NOT NULL,
            is_anonymous INTEGER NOT NULL,
            labels       TEXT NOT NULL
        ) STRICT;
        CREATE TABLE host (
            boot_id TEXT NOT NULL
        ) STRICT;
    ",
        "
        CREATE TABLE id_range (
            instance TEXT PRIMARY KEY,
            first    INTEGER NOT NULL,
            size     INTEGER NOT NULL
        ) STRICT;
    ",
        "
        ALTER TABLE volume ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
        ALTER TABLE volume ADD COLUMN is_leaving INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE volume_snapshot (
            volume        TEXT NOT NULL REFERENCES volume (name) ON DELETE CASCADE,
            name          TEXT NOT NULL,
            created_at    INTEGER NOT NULL,
            bytes         INTEGER NOT NULL,
            PRIMARY KEY (volume, name)
        ) STRICT;
    ",
    ],
};

/// So many events are kept at least; twice as many at most.
const EVENTS_KEPT: i64 = 8192;

/// The instances and events of one state file: open here, or by somebody else (`Store<&Database>`).
#[derive(Debug)]
pub struct Store<D = Database> {
    database: D,
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state file could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// SQLite failed.
    #[error("cannot use the state file")]
    Sqlite(#[from] rusqlite::Error),
    /// A row does not hold what this version wrote.
    #[error("the row of instance {id} has a broken {column} column")]
    BrokenRow {
        /// Whose row.
        id: String,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The name belongs to another instance.
    #[error("the name {name:?} is already in use by instance {owner}")]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        owner: InstanceId,
    },
    /// The files that a row stands for cannot be put in their place, or taken away.
    #[error("cannot move or remove files of the state root")]
    Files(#[source] std::io::Error),
    /// There is no row for it.
    #[error("no such instance: {0}")]
    Gone(InstanceId),
}

/// What is to be noted with a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// `container`, `image`, `volume`.
    pub kind: &'static str,
    /// `create`, `start`, `die`, …
    pub action: String,
    /// The id of what it happened to.
    pub id: String,
    /// `name`, `image`, `exitCode`, labels, …
    pub attributes: BTreeMap<String, String>,
}

impl NewEvent {
    /// Something that happened to an instance: with its name, image and labels, as Docker's.
    #[must_use]
    pub fn of_instance(instance: &Instance, action: impl Into<String>) -> NewEvent {
        let mut attributes = instance.config.labels.clone();
        attributes.insert("image".to_owned(), instance.config.image.clone());
        attributes.insert("name".to_owned(), instance.name.to_string());
        NewEvent {
            kind: "container",
            action: action.into(),
            id: instance.id.to_string(),
            attributes,
        }
    }

    /// With one attribute more.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and names are given as they are"
    )]
    pub fn with(mut self, key: &str, value: impl ToString) -> NewEvent {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }
}

const COLUMNS: &str = "id, name, created_at, image_id, config, state";

impl Store {
    /// Opens the state file below the root, which must be there.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(paths: &Paths) -> Result<Store, StoreError> {
        let database = Database::open(
            &paths.database(),
            &[isle_image::SCHEMA, isle_network::SCHEMA, SCHEMA],
        )?;
        Ok(Store { database })
    }
}

impl<D: Borrow<Database>> Store<D> {
    /// On a state file that was opened with [`SCHEMA`] and that of the images.
    pub const fn on(database: D) -> Store<D> {
        Store { database }
    }

    /// The row of an id.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        self.one("id = ?1", &id.to_string())
    }

    /// The row of a name.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn by_name(&self, name: &str) -> Result<Option<Instance>, StoreError> {
        self.one("name = ?1", name)
    }

    /// Everything whose id begins so. The prefix must be lower-case hexadecimal digits.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn by_id_prefix(&self, prefix: &str) -> Result<Vec<Instance>, StoreError> {
        // 'g' sorts after every hexadecimal digit: a range of the index, at most a few rows.
        let mut statement = self.database().connection().prepare_cached(&format!(
            "SELECT {COLUMNS} FROM instance WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 10"
        ))?;
        let mut rows = statement.query([prefix])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    fn one(&self, condition: &str, value: &str) -> Result<Option<Instance>, StoreError> {
        let mut statement = self
            .database()
            .connection()
            .prepare_cached(&format!("SELECT {COLUMNS} FROM instance WHERE {condition}"))?;
        let mut rows = statement.query([value])?;
        rows.next()?.map(read).transpose()
    }

    /// All instances, newest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn list(&self) -> Result<Vec<Instance>, StoreError> {
        let mut statement = self.database().connection().prepare_cached(&format!(
            "SELECT {COLUMNS} FROM instance ORDER BY sequence DESC"
        ))?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Names and ids of all instances, newest first: for completions and suggestions.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn names(&self) -> Result<Vec<(InstanceId, String)>, StoreError> {
        let mut statement = self
            .database()
            .connection()
            .prepare_cached("SELECT id, name FROM instance ORDER BY sequence DESC")?;
        let rows = statement.query_map([], |row| Ok((parsed(row, 0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The instances that say that something owns them: all but `created` and `exited`.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn alive(&self) -> Result<Vec<Instance>, StoreError> {
        let mut statement = self.database().connection().prepare_cached(&format!(
            "SELECT {COLUMNS} FROM instance WHERE status NOT IN ('created', 'exited')"
        ))?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Adds a row, and the event `create`. What must come to be together with it (the hold on its
    /// image, its volumes) is done by `also` in the same transaction.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], and what `also` fails with.
    pub fn insert(
        &self,
        instance: &Instance,
        layers: &[PathBuf],
        also: impl FnOnce(&Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let config = document(&instance.id, "config", &instance.config)?;
        let state = document(&instance.id, "state", &instance.state)?;
        let layers = document(&instance.id, "layers", layers)?;
        self.database().write(|transaction| {
            refuse_taken(transaction, &instance.name)?;
            transaction
                .prepare_cached(
                    "INSERT INTO instance
                        (id, name, created_at, image_id, layers, config, status, state)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    instance.id.to_string(),
                    instance.name.as_str(),
                    nanoseconds(instance.created_at),
                    instance.image_id,
                    layers,
                    config,
                    status_name(instance.state.status),
                    state,
                ])?;
            also(transaction)?;
            note(transaction, &NewEvent::of_instance(instance, "create"))
        })
    }

    /// Writes where the layers are now, after the image store had to unpack them again.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn set_layers(&self, id: &InstanceId, layers: &[PathBuf]) -> Result<(), StoreError> {
        let layers = document(id, "layers", layers)?;
        self.database().write(|transaction| {
            transaction.execute(
                "UPDATE instance SET layers = ?2 WHERE id = ?1",
                params![id.to_string(), layers],
            )?;
            Ok(())
        })
    }

    /// The unpacked layers of its image, topmost first, as they were when it was created.
    ///
    /// # Errors
    /// [`StoreError::Gone`].
    pub fn layers(&self, id: &InstanceId) -> Result<Vec<PathBuf>, StoreError> {
        let layers: Option<String> = self
            .database()
            .connection()
            .prepare_cached("SELECT layers FROM instance WHERE id = ?1")?
            .query_row([id.to_string()], |row| row.get(0))
            .optional()?;
        let layers = layers.ok_or(StoreError::Gone(*id))?;
        serde_json::from_str(&layers).map_err(|source| StoreError::BrokenRow {
            id: id.to_string(),
            column: "layers",
            source,
        })
    }

    /// Writes what an instance is now, and what happened to it, in one transaction. Only for who
    /// holds the instance's lock.
    ///
    /// # Errors
    /// [`StoreError::Gone`].
    pub fn set_state(
        &self,
        id: &InstanceId,
        state: &InstanceState,
        events: &[NewEvent],
    ) -> Result<(), StoreError> {
        let document = document(id, "state", state)?;
        self.database().write(|transaction| {
            let changed = transaction
                .prepare_cached("UPDATE instance SET status = ?2, state = ?3 WHERE id = ?1")?
                .execute(params![id.to_string(), status_name(state.status), document])?;
            if changed == 0 {
                return Err(StoreError::Gone(*id));
            }
            events.iter().try_for_each(|event| note(transaction, event))
        })
    }

    /// Writes what an instance is asked to be (`update`).
    ///
    /// # Errors
    /// [`StoreError::Gone`].
    pub fn set_config(
        &self,
        id: &InstanceId,
        config: &InstanceConfig,
        events: &[NewEvent],
    ) -> Result<(), StoreError> {
        let document = document(id, "config", config)?;
        self.database().write(|transaction| {
            let changed = transaction
                .prepare_cached("UPDATE instance SET config = ?2 WHERE id = ?1")?
                .execute(params![id.to_string(), document])?;
            if changed == 0 {
                return Err(StoreError::Gone(*id));
            }
            events.iter().try_for_each(|event| note(transaction, event))
        })
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`StoreError::NameInUse`], [`StoreError::Gone`].
    pub fn rename(
        &self,
        id: &InstanceId,
        name: &InstanceName,
        events: &[NewEvent],
    ) -> Result<(), StoreError> {
        self.database().write(|transaction| {
            refuse_taken(transaction, name)?;
            let changed = transaction.execute(
                "UPDATE instance SET name = ?2 WHERE id = ?1",
                params![id.to_string(), name.as_str()],
            )?;
            if changed == 0 {
                return Err(StoreError::Gone(*id));
            }
            events.iter().try_for_each(|event| note(transaction, event))
        })
    }

    /// Takes a row away, and its hold on the image. Harmless when it is gone already; events are
    /// noted only if it was there.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn remove(&self, id: &InstanceId, events: &[NewEvent]) -> Result<(), StoreError> {
        self.database().write(|transaction| {
            let removed = transaction
                .prepare_cached("DELETE FROM instance WHERE id = ?1")?
                .execute([id.to_string()])?;
            if removed == 0 {
                return Ok(());
            }
            isle_image::Store::release(transaction, &id.to_string())?;
            isle_network::forget_resting(transaction, &id.to_string())?;
            events.iter().try_for_each(|event| note(transaction, event))
        })
    }

    /// The range of ids of an instance's own user namespace, when it has one.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn id_range(&self, id: &InstanceId) -> Result<Option<IdRange>, StoreError> {
        let range = self
            .database()
            .connection()
            .prepare_cached("SELECT first, size FROM id_range WHERE instance = ?1")?
            .query_row([id.to_string()], id_range)
            .optional()?;
        Ok(range)
    }

    /// Gives an instance a range of so many ids, out of a pool, which no other instance has; the
    /// one that it has already when that is of this size. `None` when there is no such range.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn take_id_range(
        &self,
        id: &InstanceId,
        size: u32,
        pool: &[Range<u32>],
    ) -> Result<Option<IdRange>, StoreError> {
        if let Some(range) = self.id_range(id)?.filter(|range| range.size == size) {
            return Ok(Some(range));
        }
        self.database().write(|transaction| {
            // Those of instances that are gone are free; nobody paid for that when they went.
            transaction.execute(
                "DELETE FROM id_range WHERE instance NOT IN (SELECT id FROM instance)",
                [],
            )?;
            let taken: Vec<IdRange> = transaction
                .prepare_cached("SELECT first, size FROM id_range WHERE instance <> ?1")?
                .query_map([id.to_string()], id_range)?
                .collect::<Result<_, _>>()?;
            let Some(range) = id_range::choose(pool, &taken, size) else {
                return Ok(None);
            };
            transaction.execute(
                "INSERT OR REPLACE INTO id_range (instance, first, size) VALUES (?1, ?2, ?3)",
                params![id.to_string(), range.first, range.size],
            )?;
            Ok(Some(range))
        })
    }

    /// Notes something that happened.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn record_event(&self, event: &NewEvent) -> Result<(), StoreError> {
        self.record_events(std::slice::from_ref(event))
    }

    /// Notes what happened, in one transaction.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn record_events(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        self.database()
            .write(|transaction| events.iter().try_for_each(|event| note(transaction, event)))
    }

    /// What happened after `sequence`, oldest first.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn events(&self, after_sequence: u64) -> Result<Vec<Event>, StoreError> {
        let mut statement = self.database().connection().prepare_cached(
            "SELECT sequence, time, kind, action, id, attributes FROM event
             WHERE sequence > ?1 ORDER BY sequence",
        )?;
        let after = i64::try_from(after_sequence).unwrap_or(i64::MAX);
        let mut rows = statement.query([after])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let id: String = row.get(4)?;
            let attributes: String = row.get(5)?;
            found.push(Event {
                sequence: row.get(0)?,
                time: timestamp(row.get(1)?),
                kind: row.get(2)?,
                action: row.get(3)?,
                attributes: serde_json::from_str(&attributes).map_err(|source| {
                    StoreError::BrokenRow {
                        id: id.clone(),
                        column: "attributes",
                        source,
                    }
                })?,
                id,
            });
        }
        Ok(found)
    }

    /// Short ids of the instances made from an image.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn users_of_image(&self, image_id: &str) -> Result<Vec<InstanceId>, StoreError> {
        let mut statement = self
            .database()
            .connection()
            .prepare_cached("SELECT id FROM instance WHERE image_id = ?1 ORDER BY sequence")?;
        let rows = statement.query_map([image_id], |row| parsed(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The boot of the host that the rows were last reconciled with.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub(crate) fn boot_id(&self) -> Result<Option<String>, StoreError> {
        Ok(self
            .database()
            .connection()
            .prepare_cached("SELECT boot_id FROM host")?
            .query_row([], |row| row.get(0))
            .optional()?)
    }

    /// The opposite of [`Store::boot_id`].
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub(crate) fn set_boot_id(&self, boot_id: &str) -> Result<(), StoreError> {
        self.database().write(|transaction| {
            transaction.execute("DELETE FROM host", [])?;
            transaction.execute("INSERT INTO host VALUES (?1)", [boot_id])?;
            Ok(())
        })
    }

    /// The state file itself, for the tables of volumes.
    pub(crate) fn database(&self) -> &Database {
        self.database.borrow()
    }
}

fn id_range(row: &Row<'_>) -> rusqlite::Result<IdRange> {
    Ok(IdRange {
        first: row.get(0)?,
        size: row.get(1)?,
    })
}

fn refuse_taken(transaction: &Transaction<'_>, name: &InstanceName) -> Result<(), StoreError> {
    let owner: Option<InstanceId> = transaction
        .prepare_cached("SELECT id FROM instance WHERE name = ?1")?
        .query_row([name.as_str()], |row| parsed(row, 0))
        .optional()?;
    match owner {
        Some(owner) => Err(StoreError::NameInUse {
            name: name.to_string(),
            owner,
        }),
        None => Ok(()),
    }
}

/// Appends an event, and now and then forgets the oldest.
pub(crate) fn note(transaction: &Transaction<'_>, event: &NewEvent) -> Result<(), StoreError> {
    let attributes =
        serde_json::to_string(&event.attributes).map_err(|source| StoreError::BrokenRow {
            id: event.id.clone(),
            column: "attributes",
            source,
        })?;
    // The highest row is never deleted, so "highest plus one" leaves no gap and repeats nothing.
    transaction
        .prepare_cached(
            "INSERT INTO event (sequence, time, kind, action, id, attributes)
             VALUES ((SELECT coalesce(max(sequence), 0) + 1 FROM event), ?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            nanoseconds(Timestamp::now()),
            event.kind,
            event.action,
            event.id,
            attributes,
        ])?;
    let sequence = transaction.last_insert_rowid();
    if sequence % EVENTS_KEPT == 0 {
        transaction.execute(
            "DELETE FROM event WHERE sequence <= ?1",
            [sequence - EVENTS_KEPT],
        )?;
    }
    Ok(())
}

/// The word that [`Status`] has in its column, the same as in its JSON form.
const fn status_name(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
        Status::Removing => "removing",
    }
}

fn document<T: serde::Serialize + ?Sized>(
    id: &InstanceId,
    column: &'static str,
    value: &T,
) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::BrokenRow {
        id: id.to_string(),
        column,
        source,
    })
}

fn read(row: &Row<'_>) -> Result<Instance, StoreError> {
    fn json<T: serde::de::DeserializeOwned>(
        row: &Row<'_>,
        index: usize,
        column: &'static str,
    ) -> Result<T, StoreError> {
        let text = row
            .get_ref(index)?
            .as_bytes()
            .map_err(rusqlite::Error::from)?;
        serde_json::from_slice(text).map_err(|source| StoreError::BrokenRow {
            id: row.get(0).unwrap_or_default(),
            column,
            source,
        })
    }
    Ok(Instance {
        id: parsed(row, 0)?,
        name: parsed(row, 1)?,
        created_at: timestamp(row.get(2)?),
        image_id: row.get(3)?,
        config: json(row, 4, "config")?,
        state: json(row, 5, "state")?,
    })
}

fn parsed<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(index)?.as_str()?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    // Until the year 2262.
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .expect("64 bits of nanoseconds are within jiff's range")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().to_owned(),
            run: folder.path().join("run"),
        };
        (folder, Store::open(&paths).unwrap())
    }

    pub(crate) fn instance(number: u16, name: &str) -> Instance {
        let mut bytes = [0xaa; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Instance {
            id: InstanceId::from_bytes(bytes),
            name: name.parse().unwrap(),
            created_at: Timestamp::now(),
            image_id: "sha256:1".to_owned(),
            config: InstanceConfig::default(),
            state: InstanceState::created(),
        }
    }

    #[test]
    fn a_row_comes_back_as_it_was_written() {
        let (_folder, store) = store();
        let mut web = instance(1, "web");
        let layers = [PathBuf::from("layers/b"), PathBuf::from("layers/a")];
        store.insert(&web, &layers, |_| Ok(())).unwrap();
        assert_eq!(store.get(&web.id).unwrap(), Some(web.clone()));
        assert_eq!(store.by_name("web").unwrap(), Some(web.clone()));
        assert_eq!(store.layers(&web.id).unwrap(), layers);
        web.state.status = Status::Running;
        web.state.pid = Some(7);
        store.set_state(&web.id, &web.state, &[]).unwrap();
        assert_eq!(store.alive().unwrap(), [web.clone()]);
        web.config.hostname = Some("h".to_owned());
        store.set_config(&web.id, &web.config, &[]).unwrap();
        assert_eq!(store.list().unwrap(), [web]);
    }

    #[test]
    fn a_taken_name_is_refused_with_its_owner() {
        let (_folder, store) = store();
        let first = instance(1, "web");
        store.insert(&first, &[], |_| Ok(())).unwrap();
        let second = instance(2, "web");
        let error = store.insert(&second, &[], |_| Ok(())).unwrap_err();
        let expected = format!(
            "the name \"web\" is already in use by instance {}",
            first.id
        );
        assert_eq!(error.to_string(), expected);
        store.insert(&instance(3, "db"), &[], |_| Ok(())).unwrap();
        let name = "web".parse().unwrap();
        let error = store.rename(&instance(3, "db").id, &name, &[]).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_id_is_found_by_its_prefix() {
        let (_folder, store) = store();
        for number in [0x1000, 0x1f00, 0x2000] {
            let name = format!("n{number}");
            store
                .insert(&instance(number, &name), &[], |_| Ok(()))
                .unwrap();
        }
        assert_eq!(store.by_id_prefix("1").unwrap().len(), 2);
        assert_eq!(store.by_id_prefix("1f").unwrap().len(), 1);
        assert_eq!(store.by_id_prefix("3").unwrap().len(), 0);
    }

    #[test]
    fn changes_of_what_is_gone_are_refused() {
        let (_folder, store) = store();
        let web = instance(1, "web");
        store.insert(&web, &[], |_| Ok(())).unwrap();
        store.remove(&web.id, &[]).unwrap();
        store.remove(&web.id, &[]).unwrap();
        let error = store.set_state(&web.id, &web.state, &[]).unwrap_err();
        assert!(matches!(error, StoreError::Gone(_)));
    }

    #[test]
    fn events_have_no_gaps_and_the_oldest_are_forgotten() {
        let (_folder, store) = store();
        let event = NewEvent::of_instance(&instance(1, "web"), "start").with("exitCode", 3);
        store
            .database
            .write(|transaction| (0..20_000).try_for_each(|_| note(transaction, &event)))
            .unwrap();
        let events = store.events(0).unwrap();
        assert!((8192..=16384).contains(&events.len()), "{}", events.len());
        assert!(
            events
                .windows(2)
                .all(|w| w[1].sequence == w[0].sequence + 1)
        );
        let last = events.last().unwrap();
        assert_eq!(last.sequence, 20_000);
        assert_eq!(last.attributes["exitCode"], "3");
        assert_eq!(store.events(19_999).unwrap().len(), 1);
    }

    #[test]
    fn many_writers_at_once_lose_nothing() {
        let (_folder, store) = store();
        let paths = Paths {
            root: store.database.path().parent().unwrap().to_owned(),
            run: PathBuf::new(),
        };
        std::thread::scope(|scope| {
            for writer in 0..4_u16 {
                let paths = &paths;
                scope.spawn(move || {
                    let store = Store::open(paths).unwrap();
                    for number in 0..25 {
                        let number = writer * 100 + number;
                        let name = format!("n{number}");
                        store
                            .insert(&instance(number, &name), &[], |_| Ok(()))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(store.list().unwrap().len(), 100);
        assert_eq!(store.events(0).unwrap().len(), 100);
    }
}
