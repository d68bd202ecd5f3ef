//! Finding, making and naming instances.

use isle_types::{InstanceId, InstanceName};
use jiff::Timestamp;

use super::{CreateRequest, Engine, EngineError};
use crate::names;
use crate::state::{Instance, InstanceState, Status};
use crate::store::NewEvent;

/// So many random names are tried before one gets a number behind it.
const RANDOM_NAMES_TRIED: usize = 6;

impl Engine {
    /// Finds an instance by name, id, or unique prefix of an id.
    ///
    /// # Errors
    /// [`EngineError::NoSuchInstance`] (its hint holds the nearest name), [`EngineError::AmbiguousId`].
    pub fn find(&self, name_or_id: &str) -> Result<Instance, EngineError> {
        let wanted = name_or_id.strip_prefix('/').unwrap_or(name_or_id);
        if let Ok(id) = wanted.parse::<InstanceId>() {
            return match self.store.get(&id)? {
                Some(instance) => Ok(instance),
                None => Err(self.nothing_like(wanted)?),
            };
        }
        if let Some(instance) = self.store.by_name(wanted)? {
            return Ok(instance);
        }
        let is_prefix = !wanted.is_empty()
            && wanted.len() < 64
            && wanted
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut found = match is_prefix {
            true => self.store.by_id_prefix(wanted)?,
            false => Vec::new(),
        };
        match found.len() {
            0 => Err(self.nothing_like(wanted)?),
            1 => Ok(found.remove(0)),
            _ => Err(EngineError::AmbiguousId {
                prefix: wanted.to_owned(),
                candidates: found.iter().map(|instance| instance.id.short()).collect(),
            }),
        }
    }

    /// All instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Instance>, EngineError> {
        Ok(self.store.list()?)
    }

    /// Names and ids of all instances, newest first, without the rest: for completions.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn names(&self) -> Result<Vec<(InstanceId, String)>, EngineError> {
        Ok(self.store.names()?)
    }

    fn nothing_like(&self, wanted: &str) -> Result<EngineError, EngineError> {
        let names = self.store.names()?;
        let nearest = names
            .into_iter()
            .map(|(_, name)| (distance(wanted, &name), name))
            .filter(|(distance, name)| *distance <= 1 + name.len().min(wanted.len()) / 4)
            .min();
        Ok(EngineError::NoSuchInstance {
            name: wanted.to_owned(),
            nearest: nearest.map(|(_, name)| name),
        })
    }

    /// Makes an instance. Nothing runs yet.
    ///
    /// # Errors
    /// When the configuration is invalid, the name taken, the image missing.
    pub fn create(&self, request: CreateRequest) -> Result<Instance, EngineError> {
        let config = request.config;
        let layers = Vec::new();
        let mut instance = Instance {
            id: names::random_id().map_err(no_randomness)?,
            name: match request.name {
                Some(ref name) => name.clone(),
                None => names::random_name(false).map_err(no_randomness)?,
            },
            created_at: Timestamp::now(),
            image_id: request.image_id,
            config,
            state: InstanceState {
                status: Status::Created,
                pid: None,
                started_at: None,
                finished_at: None,
                exit: None,
                restart_count: 0,
                is_stopped_by_user: false,
                health: None,
            },
        };
        let mut tries = 0;
        loop {
            match self
                .store
                .insert(&instance, &layers)
                .map_err(EngineError::from)
            {
                Ok(()) => return Ok(instance),
                Err(EngineError::NameInUse { .. }) if request.name.is_none() => {
                    tries += 1;
                    instance.name =
                        names::random_name(tries >= RANDOM_NAMES_TRIED).map_err(no_randomness)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn rename(&self, id: &InstanceId, name: &InstanceName) -> Result<(), EngineError> {
        let mut instance = self.get(id)?;
        let old = std::mem::replace(&mut instance.name, name.clone());
        let event = NewEvent::of_instance(&instance, "rename").with("oldName", old);
        Ok(self.store.rename(id, name, &[event])?)
    }

    /// The row of an id that the caller has got from [`Engine::find`].
    pub(crate) fn get(&self, id: &InstanceId) -> Result<Instance, EngineError> {
        self.store.get(id)?.ok_or_else(|| EngineError::gone(id))
    }
}

fn no_randomness(error: std::io::Error) -> EngineError {
    EngineError::io("get random bytes from", "/dev/urandom")(error)
}

/// How many letters must be changed, added or left out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_letters() {
        for (a, b, expected) in [
            ("", "", 0),
            ("web", "web", 0),
            ("wbe", "web", 2),
            ("a", "", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
