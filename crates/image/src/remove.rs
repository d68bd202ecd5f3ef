//! `rmi` and `image prune`: names go, and images when nothing needs them any more.

use jiff::Timestamp;
use rusqlite::Transaction;

use crate::digest::Digest;
use crate::image::Image;
use crate::reference::Reference;
use crate::store::{FindError, Store, StoreError, familiar};

/// What went, in the order in which Docker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name, or what a registry calls the image.
    Untagged(String),
    /// An image.
    Deleted(Digest),
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// No such image.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Instances need it.
    #[error("cannot remove image {image}: it is used by {}", .holders.join(", "))]
    Held {
        /// As the user called it.
        image: String,
        /// The instances, by short id.
        holders: Vec<String>,
        /// `force` takes at least its names away.
        can_force: bool,
    },
    /// The id of an image with names in several repositories.
    #[error("cannot remove image {image}: it has several names: {}", .names.join(", "))]
    SeveralNames {
        /// As the user called it.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
}

impl From<rusqlite::Error> for RemoveError {
    fn from(error: rusqlite::Error) -> Self {
        RemoveError::Find(error.into())
    }
}

impl From<StoreError> for RemoveError {
    fn from(error: StoreError) -> Self {
        RemoveError::Find(error.into())
    }
}

impl RemoveError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            RemoveError::Find(error) => error.hint(),
            RemoveError::Held { can_force, .. } => Some(match can_force {
                true => {
                    "remove the instances first with `isle rm`, or take only the name away with -f"
                        .to_owned()
                }
                false => "remove the instances first with `isle rm`".to_owned(),
            }),
            RemoveError::SeveralNames { .. } => {
                Some("remove it by each name, or all at once with -f".to_owned())
            }
        }
    }
}

/// Which images `prune` takes.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also those with a name, when no instance needs them.
    pub all: bool,
    /// Only those built before.
    pub until: Option<Timestamp>,
    /// Only those with (or without) these labels.
    pub labels: Vec<LabelFilter>,
}

/// `label=key`, `label=key=value`, `label!=…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    /// The label's name.
    pub key: String,
    /// The label's value; any when not given.
    pub value: Option<String>,
    /// Those that do not have it.
    pub is_negated: bool,
}

impl LabelFilter {
    /// Whether an image passes.
    #[must_use]
    pub fn passes(&self, image: &Image) -> bool {
        let labels = image.labels();
        let found = labels.get(&*self.key);
        let has = match &self.value {
            Some(value) => found == Some(&&**value),
            None => found.is_some(),
        };
        has != self.is_negated
    }
}

/// What `prune` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What went.
    pub removed: Vec<Removed>,
    /// Bytes of blobs and unpacked layers that went.
    pub reclaimed_bytes: u64,
}

/// How the user called the image.
enum Called {
    Name(String),
    RepoDigest(String, String),
    Id,
}

impl Store {
    /// Removes a name, and the image when it was its last one. An id removes all names.
    ///
    /// With `force`, names go although instances need the image (it stays without a name until
    /// they are gone), and several names go at once.
    ///
    /// # Errors
    /// [`RemoveError`]; nothing is changed then.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removed>, RemoveError> {
        self.collect()?;
        let removed = self.remove_rows(name, force)?;
        if removed
            .iter()
            .any(|step| matches!(step, Removed::Deleted(_)))
        {
            self.sweep()?;
        }
        Ok(removed)
    }

    fn remove_rows(&self, name: &str, force: bool) -> Result<Vec<Removed>, RemoveError> {
        self.database.durably(|transaction| {
            // Inside the transaction: a name that somebody takes away between the look and the act
            // would be taken for an id, and every other name would go with it.
            let id = self.find_id(name)?;
            let names = names(transaction, &id)?;
            let repo_digests = repo_digests(transaction, &id)?;
            let called = called(name, &names, &repo_digests);
            let holders = holders(transaction, &id)?;
            match called {
                Called::Name(called) if names.len() > 1 => {
                    transaction.execute("DELETE FROM image_name WHERE name = ?1", [&called])?;
                    return Ok(vec![Removed::Untagged(familiar(&called))]);
                }
                Called::RepoDigest(repository, digest)
                    if !names.is_empty() || repo_digests.len() > 1 =>
                {
                    transaction.execute(
                        "DELETE FROM image_digest WHERE repository = ?1 AND digest = ?2",
                        [&repository, &digest],
                    )?;
                    let gone = format!("{repository}@{digest}");
                    return Ok(vec![Removed::Untagged(familiar(&gone))]);
                }
                Called::Name(_) | Called::RepoDigest(..) => {
                    if !holders.is_empty() && !force {
                        return Err(held(name, &holders, true));
                    }
                }
                Called::Id => {
                    if !holders.is_empty() {
                        return Err(held(name, &holders, false));
                    }
                    let mut repositories: Vec<_> =
                        names.iter().filter_map(|n| repository(n)).collect();
                    repositories.sort();
                    repositories.dedup();
                    if repositories.len() > 1 && !force {
                        return Err(RemoveError::SeveralNames {
                            image: name.to_owned(),
                            names: names.iter().map(|name| familiar(name)).collect(),
                        });
                    }
                }
            }
            Ok(take_away(transaction, &id, holders.is_empty())?)
        })
    }

    /// Removes images that nothing needs: those without a name, with `all` those without an
    /// instance.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        self.collect()?;
        self.settle()?;
        let mut pruned = Pruned::default();
        for image in self.images()? {
            let is_wanted = (options.all || image.is_dangling())
                && options
                    .until
                    .is_none_or(|until| image.created.unwrap_or(image.added) < until)
                && options.labels.iter().all(|label| label.passes(&image));
            if !is_wanted {
                continue;
            }
            let removed = self.database.durably(|transaction| {
                // Somebody may have taken hold of it, or named it, since it was listed.
                let is_free = holders(transaction, &image.id)?.is_empty()
                    && (options.all || names(transaction, &image.id)?.is_empty());
                match is_free {
                    true => take_away(transaction, &image.id, true),
                    false => Ok(Vec::new()),
                }
            })?;
            pruned.removed.extend(removed);
        }
        pruned.reclaimed_bytes = self.sweep()?;
        Ok(pruned)
    }
}

fn held(name: &str, holders: &[String], can_force: bool) -> RemoveError {
    RemoveError::Held {
        image: name.to_owned(),
        holders: holders.to_vec(),
        can_force,
    }
}

/// Takes all names away, and the image itself when nobody holds it.
fn take_away(
    transaction: &Transaction<'_>,
    id: &Digest,
    is_free: bool,
) -> rusqlite::Result<Vec<Removed>> {
    let mut removed = Vec::new();
    for name in names(transaction, id)? {
        removed.push(Removed::Untagged(familiar(&name)));
    }
    transaction.execute("DELETE FROM image_name WHERE image = ?1", [id.as_str()])?;
    if !is_free {
        return Ok(removed);
    }
    for (repository, digest) in repo_digests(transaction, id)? {
        let name = format!("{repository}@{digest}");
        removed.push(Removed::Untagged(familiar(&name)));
    }
    // Names, digests, layers and blobs of the image go with it by their foreign keys.
    if transaction.execute("DELETE FROM image WHERE id = ?1", [id.as_str()])? > 0 {
        removed.push(Removed::Deleted(id.clone()));
    }
    Ok(removed)
}

fn called(name: &str, names: &[String], repo_digests: &[(String, String)]) -> Called {
    if name.parse::<Digest>().is_ok() {
        return Called::Id;
    }
    let Ok(reference) = name.parse::<Reference>() else {
        return Called::Id;
    };
    match reference.digest() {
        Some(digest) => {
            let pair = (reference.name(), digest.to_string());
            match repo_digests.contains(&pair) {
                true => Called::RepoDigest(pair.0, pair.1),
                false => Called::Id,
            }
        }
        None => {
            let full = reference.to_string();
            match names.contains(&full) {
                true => Called::Name(full),
                false => Called::Id,
            }
        }
    }
}

fn repository(name: &str) -> Option<String> {
    name.parse::<Reference>().ok().map(|name| name.name())
}

fn names(transaction: &Transaction<'_>, id: &Digest) -> rusqlite::Result<Vec<String>> {
    transaction
        .prepare_cached("SELECT name FROM image_name WHERE image = ?1 ORDER BY name")?
        .query_map([id.as_str()], |row| row.get(0))?
        .collect()
}

fn repo_digests(
    transaction: &Transaction<'_>,
    id: &Digest,
) -> rusqlite::Result<Vec<(String, String)>> {
    transaction
        .prepare_cached(
            "SELECT repository, digest FROM image_digest WHERE image = ?1 ORDER BY 1, 2",
        )?
        .query_map([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn holders(transaction: &Transaction<'_>, id: &Digest) -> rusqlite::Result<Vec<String>> {
    transaction
        .prepare_cached("SELECT owner FROM image_hold WHERE image = ?1 ORDER BY owner")?
        .query_map([id.as_str()], |row| {
            row.get::<_, String>(0)
                .map(|owner| owner.chars().take(12).collect())
        })?
        .collect()
}
