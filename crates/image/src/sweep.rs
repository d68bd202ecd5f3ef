//! Clears away what nothing names any more: workspaces of dead processes, blobs and layers of
//! removed images, files without a row.
//!
//! The order keeps what is committed whole at every moment. A row goes first, in a transaction that
//! sees that no image, and no ingest of a living process, needs what it names. The files go after
//! that, in a transaction that sees that no row names them: whoever puts a file in its place does
//! so in the transaction that writes the row.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::decode::unpack_stored;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::failpoint;
use crate::folders::{DIRECTORY, DeadWorkspace, Workspace, random_name};
use crate::implicit::{apply, inherited};
use crate::store::{Store, StoreError, digest_column};
use isle_archive::removal;

/// A download that broke off is kept so long.
const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// Clears away what dead processes have left. Cheap when there is nothing; every operation
    /// that adds or removes images begins with it.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn collect(&self) -> Result<(), StoreError> {
        let dead = self
            .folders
            .dead_workspaces()
            .map_err(self.io("look into", "tmp"))?;
        if dead.is_empty() {
            return Ok(());
        }
        self.end_leases(&dead)?;
        for workspace in &dead {
            removal::remove(self.folders.tmp.as_fd(), &workspace.name)
                .map_err(self.io("clear", "tmp"))?;
        }
        drop(dead);
        self.sweep()?;
        Ok(())
    }

    fn end_leases(&self, dead: &[DeadWorkspace]) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            for workspace in dead {
                let name = workspace.name.to_string_lossy();
                transaction.execute("DELETE FROM image_lease WHERE workspace = ?1", [&*name])?;
            }
            Ok::<_, StoreError>(())
        })
    }

    /// Ends leases of workspaces that are gone altogether.
    fn end_orphaned_leases(&self) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            let mut statement =
                transaction.prepare("SELECT DISTINCT workspace FROM image_lease")?;
            let names: Vec<String> = statement
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for name in names {
                let there =
                    rustix::fs::statat(&self.folders.tmp, &*name, AtFlags::SYMLINK_NOFOLLOW);
                if matches!(there, Err(Errno::NOENT)) {
                    transaction.execute("DELETE FROM image_lease WHERE workspace = ?1", [&name])?;
                }
            }
            Ok::<_, StoreError>(())
        })
    }

    /// Removes blobs and layers that no image and no ingest needs, and files that no row names.
    /// Returns how many bytes of files went.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) fn sweep(&self) -> Result<u64, StoreError> {
        self.end_orphaned_leases()?;
        let unpacked = self.database.write(|transaction| {
            let before: u64 =
                transaction.query_row("SELECT coalesce(sum(size), 0) FROM layer", [], |row| {
                    row.get(0)
                })?;
            transaction.execute(
                "DELETE FROM layer WHERE id NOT IN (SELECT layer FROM image_layer)
                 AND id NOT IN (SELECT layer FROM image_lease WHERE layer IS NOT NULL)",
                [],
            )?;
            transaction.execute(
                "DELETE FROM blob WHERE digest NOT IN (SELECT blob FROM image_blob)
                 AND digest NOT IN (SELECT blob FROM image_lease WHERE blob IS NOT NULL)",
                [],
            )?;
            let after: u64 =
                transaction.query_row("SELECT coalesce(sum(size), 0) FROM layer", [], |row| {
                    row.get(0)
                })?;
            Ok::<_, StoreError>(before - after)
        })?;
        failpoint::hit("sweep").map_err(self.io("clear", "blobs"))?;
        let trash = self
            .folders
            .workspace()
            .map_err(self.io("make a working folder in", "tmp"))?;
        let mut freed = unpacked;
        self.database.write(|transaction| {
            let mut statement = transaction.prepare("SELECT directory FROM layer")?;
            let known: HashSet<String> = statement
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let layers = &self.folders.layers;
            for name in names_in(layers).map_err(self.io("look into", "layers"))? {
                if !known.contains(&*name.to_string_lossy()) {
                    rustix::fs::renameat(layers, &name, &trash.fd, &name)
                        .map_err(|errno| self.io("clear", "layers")(errno.into()))?;
                }
            }
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                freed += self.sweep_blobs(transaction, algorithm)?;
            }
            freed += self.sweep_block_images(transaction)?;
            Ok::<_, StoreError>(())
        })?;
        freed += self
            .sweep_partials()
            .map_err(self.io("clear", "tmp/partial"))?;
        // The directories themselves take longest, and nobody waits for the lock meanwhile.
        drop(trash);
        Ok(freed)
    }

    /// Notes that the layers unpacked in this boot have reached the disk, after making sure of it.
    /// Cheap when there are none, and when the kernel has written them back already.
    ///
    /// # Errors
    /// When the file system cannot be synced or the state file written.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let boot = self.boot()?;
        let layers: Vec<i64> = self
            .database
            .connection()
            .prepare_cached("SELECT id FROM layer WHERE boot = ?1")?
            .query_map([boot], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if layers.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.folders.layers)
            .map_err(|errno| self.io("sync", "layers")(errno.into()))?;
        self.database.write(|transaction| {
            for layer in layers {
                transaction.execute("UPDATE layer SET boot = NULL WHERE id = ?1", [layer])?;
            }
            Ok::<_, StoreError>(())
        })
    }

    fn sweep_blobs(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        algorithm: Algorithm,
    ) -> Result<u64, StoreError> {
        let folder = self.folders.blobs(algorithm);
        let mut known = transaction.prepare_cached("SELECT 1 FROM blob WHERE digest = ?1")?;
        let mut freed = 0;
        for name in names_in(folder).map_err(self.io("look into", "blobs"))? {
            let digest = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
            if known.exists([digest])? {
                continue;
            }
            freed += size_of(folder, &name);
            removal::remove(folder.as_fd(), &name).map_err(self.io("clear", "blobs"))?;
        }
        Ok(freed)
    }

    /// A virtual machine that still reads one has it open.
    fn sweep_block_images(
        &self,
        transaction: &rusqlite::Transaction<'_>,
    ) -> Result<u64, StoreError> {
        let folder = &self.folders.block_images;
        let mut known = transaction.prepare_cached("SELECT 1 FROM block_image WHERE file = ?1")?;
        let mut freed = 0;
        for name in names_in(folder).map_err(self.io("look into", "block-images"))? {
            if known.exists([&*name.to_string_lossy()])? {
                continue;
            }
            freed += size_of(folder, &name);
            removal::remove(folder.as_fd(), &name).map_err(self.io("clear", "block-images"))?;
        }
        Ok(freed)
    }

    fn sweep_partials(&self) -> io::Result<u64> {
        let folder = &self.folders.partial;
        let mut freed = 0;
        for name in names_in(folder)? {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(folder, &name, flags, Mode::empty()) else {
                continue;
            };
            let file = std::fs::File::from(fd);
            let modified = file.metadata()?.modified()?;
            let age = SystemTime::now()
                .duration_since(modified)
                .unwrap_or_default();
            let is_ours =
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_ours && age > PARTIAL_AGE {
                freed += file.metadata()?.len();
                removal::remove(folder.as_fd(), &name)?;
            }
        }
        Ok(freed)
    }

    /// Unpacks a layer again whose directory may not have survived the end of the machine's last
    /// boot; returns its new directory.
    pub(crate) fn restore_layer(
        &self,
        layer: i64,
        image: &Digest,
        below: &[PathBuf],
    ) -> Result<String, StoreError> {
        let (blob, diff_id, key) = self.database.connection().query_row(
            "SELECT blob, diff_id, key FROM image_layer JOIN layer ON layer.id = image_layer.layer
             WHERE layer.id = ?1 AND image = ?2",
            (layer, image.as_str()),
            |row| {
                Ok((
                    digest_column(row, 0)?,
                    digest_column(row, 1)?,
                    digest_column(row, 2)?,
                ))
            },
        )?;
        let workspace = self
            .folders
            .workspace()
            .map_err(self.io("make a working folder in", "tmp"))?;
        let workspace: Arc<Workspace> = Arc::new(workspace);
        let (name, unpacked) =
            unpack_stored(&workspace, &blob, &diff_id, self.limits).map_err(|source| {
                StoreError::Restore {
                    diff_id: diff_id.clone(),
                    source: Box::new(source),
                }
            })?;
        if key != diff_id {
            let settle = || -> io::Result<()> {
                let mut folders = Vec::new();
                for path in below {
                    folders.push(OwnedFd::from(std::fs::File::open(path)?));
                }
                let takes_over = inherited(unpacked.implicit.iter().cloned(), &folders)?;
                let fresh = rustix::fs::openat(&workspace.fd, &name, DIRECTORY, Mode::empty())?;
                apply(&fresh, &takes_over)
            };
            settle().map_err(self.io("set the attributes of", "layers"))?;
        }
        let boot = self.boot()?;
        self.database.write(|transaction| {
            let (directory, found): (String, Option<String>) = transaction.query_row(
                "SELECT directory, boot FROM layer WHERE id = ?1",
                [layer],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if found.is_none() || found.as_deref() == Some(boot) {
                // Another process was faster; what we made goes with the workspace.
                return Ok(directory);
            }
            let new = random_name();
            rustix::fs::renameat(&workspace.fd, &name, &self.folders.layers, &*new)
                .map_err(|errno| self.io("move a layer into", "layers")(errno.into()))?;
            transaction.execute(
                "UPDATE layer SET directory = ?2, boot = ?3 WHERE id = ?1",
                (layer, &new, boot),
            )?;
            // The old directory has no row from now on: the next sweep takes it.
            Ok(new)
        })
    }
}

fn names_in(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn size_of(folder: &OwnedFd, name: &CStr) -> u64 {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
}
