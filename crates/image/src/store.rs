//! [`Store`]: opening it, and finding images in it.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isle_database::Database;
use isle_types::nearest;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::digest::Digest;
use crate::folders::{Folders, Workspace};
use crate::image::{ConfigError, Image, parse_config};
use crate::platform::Platform;
use crate::reference::Reference;
use isle_archive::{LIMITS, Limits};

/// The image store, open on one root. Several processes use one root at the same time.
///
/// Not shared between threads: the threads that download and unpack work on what an
/// [`Ingest`](crate::Ingest) gives them.
#[derive(Debug)]
pub struct Store {
    pub(crate) database: Database,
    pub(crate) folders: Arc<Folders>,
    pub(crate) limits: Limits,
    boot: OnceCell<String>,
}

/// What can go wrong with the store itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state file.
    #[error("cannot use the image tables of the state file")]
    Database(#[from] rusqlite::Error),
    /// A file of the store.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes on the disk are not those that were stored.
    #[error("{what} {digest} is damaged on the disk")]
    Damaged {
        /// Configuration, manifest or layer.
        what: &'static str,
        /// What it should be.
        digest: Digest,
    },
    /// A row says something that this version cannot understand.
    #[error("the image {id} cannot be understood")]
    Config {
        /// The image.
        id: Digest,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A layer had to be unpacked again and could not be.
    #[error("cannot unpack the layer {diff_id} again")]
    Restore {
        /// The layer.
        diff_id: Digest,
        /// Why.
        source: Box<crate::ingest::IngestError>,
    },
}

impl StoreError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::Damaged { .. } => Some(
                "remove the image with `isle rmi -f` and pull or load it again; check the disk"
                    .to_owned(),
            ),
            StoreError::Io { source, .. } => io_hint(source).map(str::to_owned),
            StoreError::Restore { source, .. } => source.hint(),
            StoreError::Database(_) | StoreError::Config { .. } => None,
        }
    }
}

pub(crate) fn io_hint(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "the disk is full: `isle system df` shows what takes room, `isle image prune` makes some",
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("the file system is mounted read-only; another place can be given with --root")
        }
        io::ErrorKind::PermissionDenied => {
            Some("run it as root, or give a place that you may write to with --root")
        }
        _ => None,
    }
}

/// Why no image was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No image has this name, id or prefix.
    #[error("no such image: {name}")]
    NotFound {
        /// What was looked for, as Docker would complete it.
        name: String,
        /// An image whose name is nearly this.
        nearest: Option<String>,
    },
    /// The prefix fits several ids.
    #[error("{prefix:?} fits several images: {}", .candidates.join(", "))]
    Ambiguous {
        /// What was looked for.
        prefix: String,
        /// Short ids of those that it fits.
        candidates: Vec<String>,
    },
    /// Neither a name nor an id.
    #[error(transparent)]
    Reference(#[from] crate::reference::ReferenceError),
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for FindError {
    fn from(error: rusqlite::Error) -> Self {
        FindError::Store(error.into())
    }
}

impl FindError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            FindError::NotFound {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean {nearest}?")),
            FindError::NotFound { name, .. } => Some(format!(
                "`isle pull {name}` gets it from a registry, `isle images` lists what is here"
            )),
            FindError::Ambiguous { .. } => Some("give more digits of the id".to_owned()),
            FindError::Reference(error) => Some(error.hint().to_owned()),
            FindError::Store(error) => error.hint(),
        }
    }
}

/// One unpacked layer of an image, as [`Store::layers`] reads it.
struct LayerRow {
    layer: i64,
    directory: String,
    is_opaque: bool,
    boot: Option<String>,
}

impl Store {
    /// Opens the store in `root` on a state file that was opened with [`SCHEMA`](crate::SCHEMA)
    /// among its schemas. Makes its folders when they are not there. Looks at nothing else: this
    /// is on the way of every command.
    ///
    /// # Errors
    /// When the folders cannot be made or opened.
    pub fn open(root: &Path, database: Database) -> Result<Store, StoreError> {
        let folders = Folders::open(root).map_err(|source| StoreError::Io {
            operation: "open the image store in",
            path: root.to_owned(),
            source,
        })?;
        Ok(Store {
            database,
            folders: Arc::new(folders),
            limits: LIMITS,
            boot: OnceCell::new(),
        })
    }

    /// The state file, for whoever keeps tables of its own there.
    #[must_use]
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// A folder for one operation that makes something below the same root: gone when it is dropped, and
    /// collected when its process dies before. Clears away first what dead processes have left.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        self.collect()?;
        self.folders
            .workspace()
            .map_err(self.io("make a folder in", "tmp"))
    }

    /// Where the store is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.folders.path
    }

    /// Finds an image by reference (`alpine`, `ghcr.io/owner/name:tag`, `name@sha256:…`), id, or
    /// unique prefix of an id. As in Docker a name wins over a prefix of an id.
    ///
    /// # Errors
    /// [`FindError`]; its hint holds the nearest name.
    pub fn find(&self, name: &str) -> Result<Image, FindError> {
        let id = self.find_id(name)?;
        Ok(self.image(&id)?)
    }

    pub(crate) fn find_id(&self, name: &str) -> Result<Digest, FindError> {
        let connection = self.database.connection();
        if let Ok(digest) = name.parse::<Digest>() {
            let found: Option<String> = connection
                .prepare_cached("SELECT id FROM image WHERE id = ?1")?
                .query_row([digest.as_str()], |row| row.get(0))
                .optional()?;
            return match found {
                Some(_) => Ok(digest),
                None => Err(self.not_found(name.to_owned())?),
            };
        }
        let parsed = name.parse::<Reference>();
        if let Ok(reference) = &parsed {
            let found: Option<String> = match reference.digest() {
                Some(digest) => connection
                    .prepare_cached(
                        "SELECT image FROM image_digest WHERE repository = ?1 AND digest = ?2",
                    )?
                    .query_row([&reference.name(), digest.as_str()], |row| row.get(0))
                    .optional()?,
                None => connection
                    .prepare_cached("SELECT image FROM image_name WHERE name = ?1")?
                    .query_row([reference.to_string()], |row| row.get(0))
                    .optional()?,
            };
            if let Some(id) = found {
                return Ok(stored_digest(&id)?);
            }
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = !digits.is_empty()
            && digits.len() <= 64
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_prefix {
            let mut statement = connection
                .prepare_cached("SELECT id FROM image WHERE id >= ?1 AND id < ?2 LIMIT 6")?;
            let from = format!("sha256:{digits}");
            let candidates: Vec<String> = statement
                .query_map([&from, &format!("{from}g")], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            match &*candidates {
                [] => {}
                [id] => return Ok(stored_digest(id)?),
                several => {
                    return Err(FindError::Ambiguous {
                        prefix: name.to_owned(),
                        candidates: several.iter().map(|id| id[7..19].to_owned()).collect(),
                    });
                }
            }
            if digits.len() == 64 || name.starts_with("sha256:") {
                return Err(self.not_found(name.to_owned())?);
            }
        }
        let reference = parsed?;
        Err(self.not_found(reference.familiar())?)
    }

    fn not_found(&self, name: String) -> Result<FindError, StoreError> {
        let mut statement = self
            .database
            .connection()
            .prepare_cached("SELECT name FROM image_name")?;
        let names: Vec<String> = statement
            .query_map([], |row| row.get::<_, String>(0))?
            .map(|name| name.map(|name| familiar(&name)))
            .collect::<Result<_, _>>()?;
        // A tag that nobody typed is not what was typed rightly.
        fn typed(name: &str) -> &str {
            name.strip_suffix(":latest").unwrap_or(name)
        }
        let nearest = nearest(typed(&name), names.iter().map(|name| typed(name)));
        Ok(FindError::NotFound {
            nearest: nearest.map(str::to_owned),
            name,
        })
    }

    /// All images but the steps of builds, newest first.
    ///
    /// # Errors
    /// When the state file cannot be read, or a configuration is damaged.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT id FROM image WHERE id NOT IN (SELECT image FROM intermediate_image)
                 ORDER BY created DESC, added DESC, id",
        )?;
        let ids: Vec<String> = statement
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut images = Vec::with_capacity(ids.len());
        for id in ids {
            match self.image(&stored_digest(&id)?) {
                Ok(image) => images.push(image),
                // Removed by another process in between.
                Err(StoreError::Database(rusqlite::Error::QueryReturnedNoRows)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    /// The image of an id that is known to be in the store.
    pub(crate) fn image(&self, id: &Digest) -> Result<Image, StoreError> {
        let connection = self.database.connection();
        let (manifest, config_bytes, size, added): (String, Vec<u8>, u64, i64) = connection
            .prepare_cached("SELECT manifest, config, size, added FROM image WHERE id = ?1")?
            .query_row([id.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        if !id.matches(&config_bytes) {
            return Err(StoreError::Damaged {
                what: "the configuration",
                digest: id.clone(),
            });
        }
        let (config, docker) =
            parse_config(&config_bytes).map_err(|source| StoreError::Config {
                id: id.clone(),
                source,
            })?;
        let repo_tags = connection
            .prepare_cached("SELECT name FROM image_name WHERE image = ?1 ORDER BY name")?
            .query_map([id.as_str()], |row| {
                row.get::<_, String>(0).map(|name| familiar(&name))
            })?
            .collect::<Result<_, _>>()?;
        let repo_digests = connection
            .prepare_cached(
                "SELECT repository, digest FROM image_digest WHERE image = ?1 ORDER BY 1, 2",
            )?
            .query_map([id.as_str()], |row| {
                let (repository, digest): (String, String) = (row.get(0)?, row.get(1)?);
                Ok(familiar(&format!("{repository}@{digest}")))
            })?
            .collect::<Result<_, _>>()?;
        Ok(Image {
            id: id.clone(),
            manifest: stored_digest(&manifest)?,
            repo_tags,
            repo_digests,
            size,
            created: config
                .created()
                .as_deref()
                .and_then(|text| text.parse().ok()),
            added: Timestamp::from_second(added).unwrap_or_default(),
            platform: Platform::of(&config),
            config,
            docker,
            config_bytes,
        })
    }

    /// The directories of the image's unpacked layers, lowest first, in overlayfs format.
    ///
    /// A layer that was unpacked before the machine went down, and that is not known to have
    /// reached the disk, is unpacked again from its blob first.
    ///
    /// # Errors
    /// When the state file cannot be read, or such a layer cannot be unpacked.
    pub fn layers(&self, image: &Image) -> Result<Vec<PathBuf>, StoreError> {
        let mut rows = self.layer_rows(&image.id)?;
        let mut below = Vec::new();
        for row in &mut rows {
            if let Some(boot) = &row.boot
                && boot != self.boot()?
            {
                row.directory = self.restore_layer(row.layer, &image.id, &below)?;
            }
            below.push(self.folders.layer_path(&row.directory));
        }
        // Nothing below an opaque root is seen; overlayfs itself would merge it.
        let first = rows.iter().rposition(|row| row.is_opaque).unwrap_or(0);
        below.drain(..first);
        // A layer that comes twice (that of two steps without files, say) hides its lower self wholly, and overlayfs
        // refuses to have it twice.
        let mut seen = std::collections::HashSet::new();
        let mut kept: Vec<PathBuf> = below
            .into_iter()
            .rev()
            .filter(|path| seen.insert(path.clone()))
            .collect();
        kept.reverse();
        Ok(kept)
    }

    fn layer_rows(&self, id: &Digest) -> Result<Vec<LayerRow>, StoreError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT layer.id, directory, is_opaque, boot FROM image_layer
             JOIN layer ON layer.id = image_layer.layer
             WHERE image = ?1 ORDER BY position",
        )?;
        let rows = statement.query_map([id.as_str()], |row| {
            Ok(LayerRow {
                layer: row.get(0)?,
                directory: row.get(1)?,
                is_opaque: row.get(2)?,
                boot: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Which boot of the machine this is.
    pub(crate) fn boot(&self) -> Result<&str, StoreError> {
        if let Some(boot) = self.boot.get() {
            return Ok(boot);
        }
        let path = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(path).map_err(|source| StoreError::Io {
            operation: "read",
            path: path.into(),
            source,
        })?;
        Ok(self.boot.get_or_init(|| boot.trim().to_owned()))
    }

    /// Notes that `owner` (the id of an instance) needs the image: it cannot be removed until
    /// [`Store::release`]. Called within a transaction on the state file, so that the holder and
    /// the hold come to be together.
    ///
    /// # Errors
    /// When the image is not (or no more) there: the foreign key of the row fails.
    pub fn hold(connection: &Connection, image_id: &str, owner: &str) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR IGNORE INTO image_hold (image, owner) VALUES (?1, ?2)")?
            .execute([image_id, owner])?;
        Ok(())
    }

    /// Takes all holds of `owner` back.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn release(connection: &Connection, owner: &str) -> rusqlite::Result<()> {
        connection
            .prepare_cached("DELETE FROM image_hold WHERE owner = ?1")?
            .execute([owner])?;
        Ok(())
    }

    /// Gives an image a further name; takes the name from the image that had it. Returns that one.
    ///
    /// # Errors
    /// When there is no such image, or the name is none or has a digest.
    pub fn tag(&self, image: &str, name: &str) -> Result<Option<Digest>, TagError> {
        let reference: Reference = name.parse().map_err(FindError::Reference)?;
        if reference.digest().is_some() {
            return Err(TagError::Digest {
                name: name.to_owned(),
            });
        }
        let id = self.find_id(image)?;
        self.database.durably(|transaction| {
            let exists = transaction
                .query_row("SELECT 1 FROM image WHERE id = ?1", [id.as_str()], |_| {
                    Ok(())
                })
                .optional()?;
            if exists.is_none() {
                return Err(TagError::Find(FindError::NotFound {
                    name: image.to_owned(),
                    nearest: None,
                }));
            }
            Ok(set_name(transaction, &reference, &id)?)
        })
    }

    pub(crate) fn io(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> StoreError {
        let path = self.folders.path.join(path);
        move |source| StoreError::Io {
            operation,
            path,
            source,
        }
    }
}

/// Why an image could not be tagged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// No such image, or no such name.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The new name has a digest.
    #[error(
        "cannot tag an image as {name:?}: a digest cannot be given, it is what the content has"
    )]
    Digest {
        /// The name.
        name: String,
    },
}

impl From<rusqlite::Error> for TagError {
    fn from(error: rusqlite::Error) -> Self {
        TagError::Find(error.into())
    }
}

impl TagError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            TagError::Find(error) => error.hint(),
            TagError::Digest { .. } => Some("leave the part from the @ on out".to_owned()),
        }
    }
}

/// Points a name at an image; returns the image that it pointed at before, if another.
pub(crate) fn set_name(
    connection: &Connection,
    reference: &Reference,
    id: &Digest,
) -> rusqlite::Result<Option<Digest>> {
    let name = match reference.tag() {
        Some(_) => reference.to_string(),
        None => format!("{}:latest", reference.name()),
    };
    let before: Option<String> = connection
        .query_row(
            "SELECT image FROM image_name WHERE name = ?1",
            [&name],
            |row| row.get(0),
        )
        .optional()?;
    connection.execute(
        "INSERT INTO image_name (name, image) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET image = excluded.image",
        [&name, id.as_str()],
    )?;
    Ok(before
        .filter(|before| before != id.as_str())
        .and_then(|before| before.parse().ok()))
}

/// A full name as Docker shows it.
pub(crate) fn familiar(full: &str) -> String {
    match full.strip_prefix("docker.io/") {
        None => full.to_owned(),
        Some(rest) => match rest.strip_prefix("library/") {
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => rest.to_owned(),
        },
    }
}

/// A digest that the store itself has written.
pub(crate) fn stored_digest(text: &str) -> rusqlite::Result<Digest> {
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            rusqlite::types::Type::Text,
            Box::<crate::digest::DigestError>::from(error),
        )
    })
}

/// A column that holds a digest.
pub(crate) fn digest_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    stored_digest(&row.get::<_, String>(column)?)
}
