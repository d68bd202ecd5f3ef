//! The table of snapshots. Their files lie beside those of the volume, `<root>/volumes/<name>/snapshots/<snapshot>`.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::rows::event;
use crate::store::{StoreError, nanoseconds, note};

/// A copy of a volume as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Of which volume.
    pub volume: String,
    /// Its name, among those of the volume.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Bytes on the disk; what it shares with the volume, on file systems that can share, counts too.
    pub bytes: u64,
}

const COLUMNS: &str = "volume, name, created_at, bytes";

fn read(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    let created_at: i64 = row.get(2)?;
    Ok(Snapshot {
        volume: row.get(0)?,
        name: row.get(1)?,
        created_at: Timestamp::from_nanosecond(created_at.into()).unwrap_or(Timestamp::UNIX_EPOCH),
        bytes: row.get(3)?,
    })
}

/// The snapshots of one volume, or of all, oldest first.
pub(crate) fn list_snapshots(
    connection: &Connection,
    volume: Option<&str>,
) -> Result<Vec<Snapshot>, StoreError> {
    let query = format!(
        "SELECT {COLUMNS} FROM volume_snapshot WHERE ?1 IS NULL OR volume = ?1
         ORDER BY volume, created_at, name"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let snapshots = statement.query_map([volume], read)?;
    Ok(snapshots.collect::<Result<_, _>>()?)
}

/// One snapshot.
pub(crate) fn get_snapshot(
    connection: &Connection,
    volume: &str,
    name: &str,
) -> Result<Option<Snapshot>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM volume_snapshot WHERE volume = ?1 AND name = ?2");
    let mut statement = connection.prepare_cached(&query)?;
    Ok(statement.query_row([volume, name], read).optional()?)
}

/// Notes a snapshot whose files are in their place.
pub(crate) fn add_snapshot(
    transaction: &Transaction<'_>,
    snapshot: &Snapshot,
) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO volume_snapshot (volume, name, created_at, bytes) VALUES (?1, ?2, ?3, ?4)",
        params![
            snapshot.volume,
            snapshot.name,
            nanoseconds(snapshot.created_at),
            snapshot.bytes,
        ],
    )?;
    note_about(transaction, &snapshot.volume, "snapshot", &snapshot.name)
}

/// Takes a row away; the files are garbage from then on.
pub(crate) fn forget_snapshot(
    transaction: &Transaction<'_>,
    volume: &str,
    name: &str,
) -> Result<(), StoreError> {
    transaction.execute(
        "DELETE FROM volume_snapshot WHERE volume = ?1 AND name = ?2",
        [volume, name],
    )?;
    note_about(transaction, volume, "snapshot_destroy", name)
}

/// Notes what was done with a volume and one of its snapshots.
pub(crate) fn note_about(
    transaction: &Transaction<'_>,
    volume: &str,
    action: &str,
    snapshot: &str,
) -> Result<(), StoreError> {
    note(
        transaction,
        &event(volume, action).with("snapshot", snapshot),
    )
}
