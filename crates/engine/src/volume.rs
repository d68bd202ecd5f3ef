//! Volumes: folders that outlive the instances that mount them, `<root>/volumes/<name>/_data`.
//!
//! A volume that is still empty when it is first mounted is filled with what the image has at that
//! place, with owners and modes, as Docker does. An anonymous one is named by 64 hexadecimal
//! digits, and goes with its instance on `rm --volumes` and `--rm`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use isle_database::Database;
use isle_types::InstanceId;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags, flock, openat2};
use rustix::io::Errno;

use crate::store::{NewEvent, StoreError, note};
use crate::{Paths, tree};

/// Is there while a volume is being filled: a later mount begins again.
const FILLING: &str = "filling";

/// Whether a text can name a volume: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as Docker's.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Notes that a volume is there; its folder is made when it is first mounted. Harmless when it was
/// there before.
pub(crate) fn declare(
    transaction: &Transaction<'_>,
    name: &str,
    is_anonymous: bool,
) -> Result<(), StoreError> {
    let added = transaction
        .prepare_cached(
            "INSERT INTO volume (name, created_at, is_anonymous, labels)
             VALUES (?1, ?2, ?3, '{}') ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            name,
            i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX),
            is_anonymous,
        ])?;
    match added {
        0 => Ok(()),
        _ => note(transaction, &event(name, "create")),
    }
}

/// Takes a volume away if it is an anonymous one and no other instance than its owner mounts it;
/// files first, so that a row never lacks them unnoticed.
pub(crate) fn remove_anonymous(
    database: &Database,
    paths: &Paths,
    name: &str,
    owner: &InstanceId,
) -> io::Result<()> {
    let is_anonymous: Option<bool> = database
        .connection()
        .query_row(
            "SELECT is_anonymous FROM volume WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()
        .map_err(io::Error::other)?;
    if is_anonymous != Some(true) {
        return Ok(());
    }
    // Its name is 64 random digits: where they stand in a configuration, the volume is meant.
    let is_shared: bool = database
        .connection()
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM instance WHERE id <> ?2 AND instr(config, ?1))",
            params![name, owner.to_string()],
            |row| row.get(0),
        )
        .map_err(io::Error::other)?;
    if is_shared {
        return Ok(());
    }
    match fs::remove_dir_all(paths.volumes().join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    database
        .write(|transaction| {
            transaction.execute("DELETE FROM volume WHERE name = ?1", [name])?;
            note(transaction, &event(name, "destroy"))
        })
        .map_err(io::Error::other)
}

fn event(name: &str, action: &str) -> NewEvent {
    NewEvent {
        kind: "volume",
        action: action.to_owned(),
        id: name.to_owned(),
        attributes: [("driver".to_owned(), "local".to_owned())].into(),
    }
}

/// Makes the folder of a volume, fills it from a place of a root file system if it is empty, and
/// returns the folder to bind.
pub(crate) fn prepare(
    paths: &Paths,
    name: &str,
    fill_from: Option<(BorrowedFd<'_>, &str)>,
) -> io::Result<PathBuf> {
    let folder = paths.volumes().join(name);
    let data = folder.join("_data");
    if !data.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&folder)?;
        match DirBuilder::new().mode(0o755).create(&data) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if let Some((rootfs, target)) = fill_from {
        fill(&folder, &data, rootfs, target)?;
    }
    Ok(data)
}

fn fill(folder: &Path, data: &Path, rootfs: BorrowedFd<'_>, target: &str) -> io::Result<()> {
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mark = folder.join(FILLING);
    let is_empty = fs::read_dir(data)?.next().is_none();
    if !is_empty && !mark.exists() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let source = match openat2(rootfs, target, flags, Mode::empty(), resolve) {
        // The image has nothing there, or no folder.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        source => source?,
    };
    File::create(&mark)?;
    let destination = File::open(data)?;
    tree::copy(source.as_fd(), destination.as_fd())?;
    fs::remove_file(&mark)
}
