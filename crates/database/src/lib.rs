//! Opens the one SQLite file that holds Isle's state, and brings its schema up to date.
//!
//! Several processes use the file at once: every command line, every supervisor. So it runs in
//! write-ahead mode, waits for a writer instead of failing, and never checkpoints on close (the
//! last process to close the file would otherwise pay for all the others).
//!
//! Each crate that keeps tables here owns a [`Schema`]: a name and a list of migrations that is
//! only ever appended to.
//!
//! A plain transaction survives the death of a process. One that must survive the death of the
//! machine is made with [`Database::durably`].

#![forbid(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

/// The tables that one crate owns.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Whose tables these are.
    pub name: &'static str,
    /// SQL that leads from version `n` to `n + 1`; only ever appended to.
    pub migrations: &'static [&'static str],
}

/// An open connection to the state file. Not shared between threads: open one a thread.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
}

/// Why the state file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite could not open, read or write the file.
    #[error("cannot open the state file {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A newer version of Isle has changed the file.
    #[error(
        "the state file {path} has version {found} of the {schema} tables, this program knows {known}"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Whose tables.
        schema: &'static str,
        /// The version in the file.
        found: u64,
        /// The newest version that this program knows.
        known: u64,
    },
}

impl OpenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            OpenError::TooNew { .. } => {
                Some("use the version of isle that last wrote it, or newer")
            }
            OpenError::Sqlite { .. } => None,
        }
    }
}

/// How long a writer waits for another one before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

impl Database {
    /// Opens the file, makes it if it is not there, and applies the migrations that it lacks.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used or is from a newer version.
    pub fn open(path: &Path, schemas: &[Schema]) -> Result<Database, OpenError> {
        let sqlite = |source| OpenError::Sqlite {
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(sqlite)?;
        configure(&connection).map_err(sqlite)?;
        for schema in schemas {
            migrate(&mut connection, path, schema)?;
        }
        Ok(Database {
            connection,
            path: path.to_owned(),
        })
    }

    /// The connection, for reading and for single statements.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one transaction that takes the write lock at its start. It is committed
    /// when `work` returns `Ok` and undone otherwise. Survives the death of the process.
    ///
    /// # Errors
    /// What `work` returned, or SQLite's error of the transaction itself.
    pub fn write<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Like [`Database::write`], and what was committed survives the loss of power.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn durably<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.connection.execute_batch("PRAGMA synchronous = FULL")?;
        let result = self.write(work);
        self.connection
            .execute_batch("PRAGMA synchronous = NORMAL")?;
        result
    }
}

/// So many pages may wait in the write-ahead log before [`settle`] writes them to their place.
///
/// Whoever opens the file first, after nobody had it open, reads and checks all of them: some 3 µs
/// each. Writing them to their place costs two syncs.
const UNSETTLED_PAGES: u32 = 250;

/// Brings the write-ahead log back into the file, and empties it, if much is in it and nobody else
/// is at work. For processes that end and that nobody waits for; costs one small read otherwise.
///
/// Not left to SQLite's own checkpoints: those would come in the middle of a command, and cannot
/// empty a log that every command finds, checks and continues.
pub fn settle(path: &Path) {
    if unsettled_pages(path).is_none_or(|pages| pages < UNSETTLED_PAGES) {
        return;
    }
    let Ok(connection) = Connection::open(path) else {
        return;
    };
    // Without a busy timeout: who finds others at work leaves it to them. Nothing is lost when this
    // fails; the next one tries again.
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    let _ = connection.busy_timeout(Duration::ZERO);
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// How many pages of the log have not been brought back, from the log's index
/// (<https://sqlite.org/walformat.html>, "The WAL-Index File Format": `mxFrame` at 16, `nBackfill`
/// at 96).
fn unsettled_pages(path: &Path) -> Option<u32> {
    let mut index = path.as_os_str().to_owned();
    index.push("-shm");
    let mut header = [0; 100];
    std::fs::File::open(index)
        .ok()?
        .read_exact(&mut header)
        .ok()?;
    let field = |at: usize| {
        let bytes = header.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    Some(field(16)?.saturating_sub(field(96)?))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
    )
}

fn version(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let version = connection
        .query_row(
            "SELECT version FROM schema_version WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional();
    match version {
        Ok(found) => Ok(found.unwrap_or(0)),
        // The table itself is made by the first migration of a new file.
        Err(error) if error.to_string().contains("no such table") => Ok(0),
        Err(error) => Err(error),
    }
}

fn migrate(connection: &mut Connection, path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let known = schema.migrations.len() as u64;
    if version(connection, schema.name).map_err(sqlite)? == known {
        return Ok(());
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite)?;
    transaction
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                 name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT",
        )
        .map_err(sqlite)?;
    // Another process may have been faster: look again under the lock.
    let found = version(&transaction, schema.name).map_err(sqlite)?;
    if found > known {
        return Err(OpenError::TooNew {
            path: path.to_owned(),
            schema: schema.name,
            found,
            known,
        });
    }
    for migration in &schema.migrations[found as usize..] {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction
        .execute(
            "INSERT INTO schema_version VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            (schema.name, known),
        )
        .map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Schema = Schema {
        name: "test",
        migrations: &["CREATE TABLE thing (id INTEGER) STRICT"],
    };
    const TWO: Schema = Schema {
        name: "test",
        migrations: &[ONE.migrations[0], "ALTER TABLE thing ADD COLUMN name TEXT"],
    };

    #[test]
    fn an_old_file_is_brought_up_to_date_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("isle.db");
        let old = Database::open(&path, &[ONE]).unwrap();
        old.connection()
            .execute("INSERT INTO thing VALUES (7)", [])
            .unwrap();
        drop(old);
        let new = Database::open(&path, &[TWO]).unwrap();
        let row: (i64, Option<String>) = new
            .connection()
            .query_row("SELECT id, name FROM thing", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(row, (7, None));
    }

    #[test]
    fn a_file_of_a_newer_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("isle.db");
        drop(Database::open(&path, &[TWO]).unwrap());
        let error = Database::open(&path, &[ONE]).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::TooNew {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("isle.db"), &[ONE]).unwrap();
        let result: rusqlite::Result<()> = database.write(|transaction| {
            transaction.execute("INSERT INTO thing VALUES (1)", [])?;
            Err(rusqlite::Error::InvalidQuery)
        });
        result.unwrap_err();
        let count: i64 = database
            .connection()
            .query_row("SELECT count(*) FROM thing", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 0);
    }

    #[test]
    fn a_long_log_is_settled_and_a_short_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("isle.db");
        let log = folder.path().join("isle.db-wal");
        let write = |count| {
            let database = Database::open(&path, &[ONE]).unwrap();
            for _ in 0..count {
                database
                    .connection()
                    .execute("INSERT INTO thing VALUES (1)", [])
                    .unwrap();
            }
        };
        write(10);
        settle(&path);
        assert!(std::fs::metadata(&log).unwrap().len() > 0);
        write(300);
        settle(&path);
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        let database = Database::open(&path, &[ONE]).unwrap();
        let count: i64 = database
            .connection()
            .query_row("SELECT count(*) FROM thing", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 310);
    }

    #[test]
    fn many_first_openers_at_once_all_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("isle.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Database::open(&path, &[TWO]).unwrap());
            }
        });
    }
}
