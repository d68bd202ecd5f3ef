//! The cache: which step led to which image, by what the step reads.
//!
//! A key is a digest of everything that a step depends upon: the layers below it, what it says, and the content of the
//! files that it takes. What it led to is an intermediate image of the store. When that image goes, its records go.

use std::path::Path;

use isle_database::{Database, Schema};
use isle_image::Digest;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row};

use crate::error::BuildError;

/// The cache's tables, beside those of the image store.
pub(crate) const SCHEMA: Schema = Schema {
    name: "build",
    migrations: &["
CREATE TABLE build_record (
    key TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    -- A digest of the image's layers.
    chain TEXT NOT NULL,
    description TEXT NOT NULL,
    -- Seconds since 1970.
    created INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX build_record_image ON build_record (image);

-- What files of an image have for content, so that they need not be read again.
CREATE TABLE build_content (
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    selection TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (image, selection)
) STRICT, WITHOUT ROWID;
"],
};

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The image.
    pub(crate) image: Digest,
    /// A digest of its layers.
    pub(crate) chain: String,
    /// When, in seconds since 1970.
    pub(crate) created: i64,
}

/// The cache, open. Not shared between threads.
#[derive(Debug)]
pub(crate) struct Records {
    database: Database,
}

fn record(row: &Row<'_>) -> rusqlite::Result<(String, String, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

impl Records {
    pub(crate) fn open(path: &Path) -> Result<Records, BuildError> {
        let database = Database::open(path, &[isle_image::SCHEMA, SCHEMA])?;
        Ok(Records { database })
    }

    pub(crate) fn find(&self, key: &Digest) -> Result<Option<Record>, BuildError> {
        let found = self
            .database
            .connection()
            .prepare_cached("SELECT image, chain, created FROM build_record WHERE key = ?1")?
            .query_row([key.as_str()], record)
            .optional()?;
        Ok(found.and_then(|(image, chain, created)| {
            Some(Record {
                image: image.parse().ok()?,
                chain,
                created,
            })
        }))
    }

    pub(crate) fn insert(
        &self,
        key: &Digest,
        record: &Record,
        description: &str,
    ) -> Result<(), BuildError> {
        let description: String = description.chars().take(500).collect();
        let now = Timestamp::now().as_second();
        self.database.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO build_record (key, image, chain, description, created, used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    key.as_str(),
                    record.image.as_str(),
                    &record.chain,
                    &description,
                    record.created,
                    now,
                ),
            )
        })?;
        Ok(())
    }

    /// Notes that these were of use.
    pub(crate) fn touch(&self, keys: &[Digest]) -> Result<(), BuildError> {
        if keys.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_second();
        self.database.write(|transaction| {
            let mut statement =
                transaction.prepare_cached("UPDATE build_record SET used = ?2 WHERE key = ?1")?;
            for key in keys {
                statement.execute((key.as_str(), now))?;
            }
            Ok::<_, rusqlite::Error>(())
        })?;
        Ok(())
    }

    pub(crate) fn content(
        &self,
        image: &Digest,
        selection: &Digest,
    ) -> Result<Option<Digest>, BuildError> {
        let found: Option<String> = self
            .database
            .connection()
            .prepare_cached("SELECT digest FROM build_content WHERE image = ?1 AND selection = ?2")?
            .query_row([image.as_str(), selection.as_str()], |row| row.get(0))
            .optional()?;
        Ok(found.and_then(|text| text.parse().ok()))
    }

    pub(crate) fn set_content(
        &self,
        image: &Digest,
        selection: &Digest,
        digest: &Digest,
    ) -> Result<(), BuildError> {
        self.database.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO build_content (image, selection, digest) VALUES (?1, ?2, ?3)",
                [image.as_str(), selection.as_str(), digest.as_str()],
            )
        })?;
        Ok(())
    }

    /// All records with description and last use (in seconds since 1970), the one that was of use last first.
    pub(crate) fn all(&self) -> Result<Vec<(Digest, Record, String, i64)>, BuildError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT image, chain, created, description, used, key FROM build_record
             ORDER BY used DESC, created DESC, key",
        )?;
        let rows = statement.query_map([], |row| {
            let (description, used, key): (String, i64, String) =
                (row.get(3)?, row.get(4)?, row.get(5)?);
            Ok((record(row)?, description, used, key))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let ((image, chain, created), description, used, key) = row?;
            if let (Ok(image), Ok(key)) = (image.parse(), key.parse()) {
                let record = Record {
                    image,
                    chain,
                    created,
                };
                all.push((key, record, description, used));
            }
        }
        Ok(all)
    }

    /// Intermediate images that no record leads to.
    pub(crate) fn orphans(&self) -> Result<Vec<Digest>, BuildError> {
        let mut statement = self.database.connection().prepare_cached(
            "SELECT image FROM intermediate_image WHERE image NOT IN (SELECT image FROM build_record)",
        )?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
        Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }

    pub(crate) fn remove(&self, keys: &[Digest]) -> Result<(), BuildError> {
        self.database.durably(|transaction| {
            for key in keys {
                transaction.execute("DELETE FROM build_record WHERE key = ?1", [key.as_str()])?;
            }
            Ok::<_, rusqlite::Error>(())
        })?;
        Ok(())
    }
}

/// Collects what a key is made of: each part with its length, so that no two lists read the same.
#[derive(Debug)]
pub(crate) struct KeyMaker {
    hasher: isle_image::Hasher,
}

/// Changed when steps come to do something else.
const VERSION: &str = "1";

impl KeyMaker {
    pub(crate) fn new(kind: &str) -> KeyMaker {
        let mut maker = KeyMaker {
            hasher: isle_image::Hasher::new(isle_image::Algorithm::Sha256),
        };
        maker.part(VERSION).part(kind);
        maker
    }

    pub(crate) fn part(&mut self, part: impl AsRef<[u8]>) -> &mut KeyMaker {
        let part = part.as_ref();
        self.hasher.update(&(part.len() as u64).to_le_bytes());
        self.hasher.update(part);
        self
    }

    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}
