//! What the supervisor writes down, and where: rows of the store.

use std::io;
use std::path::PathBuf;

use isle_database::Database;
use isle_network::{Link, NetworkError, Publication, Publish};
use isle_types::InstanceId;

use crate::config::{InstanceConfig, NetworkAttachment, Resources, RestartPolicy};
use crate::engine::volume_names;
use crate::state::{Instance, InstanceState};
use crate::store::{NewEvent, Store, StoreError};
use crate::wiring::rows::{self, Plan, Port};
use crate::{Paths, backend, volume};

/// Something that happened, for `events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) action: String,
    pub(super) attributes: Vec<(&'static str, String)>,
}

impl Note {
    pub(super) fn new(action: impl Into<String>) -> Note {
        Note {
            action: action.into(),
            attributes: Vec::new(),
        }
    }

    pub(super) fn with(mut self, key: &'static str, value: impl std::fmt::Display) -> Note {
        self.attributes.push((key, value.to_string()));
        self
    }
}

/// Why something could not be written down: the whole chain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct LedgerError(String);

impl From<StoreError> for LedgerError {
    fn from(error: StoreError) -> LedgerError {
        LedgerError(chain(&error))
    }
}

impl From<NetworkError> for LedgerError {
    fn from(error: NetworkError) -> LedgerError {
        match error.hint() {
            Some(hint) => LedgerError(format!("{}; {hint}", chain(&error))),
            None => LedgerError(chain(&error)),
        }
    }
}

impl From<io::Error> for LedgerError {
    fn from(error: io::Error) -> LedgerError {
        LedgerError(error.to_string())
    }
}

/// An error and its causes, outermost first.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Where the supervisor of one instance writes down what becomes of it.
pub(super) trait Ledger {
    /// Writes what the instance is now, and what happened to it, in one step.
    fn save(&mut self, state: &InstanceState, notes: &[Note]) -> Result<(), LedgerError>;

    /// Writes what happened to it.
    fn note(&mut self, notes: &[Note]) -> Result<(), LedgerError>;

    /// Writes new limits and a new restart policy.
    fn update(
        &mut self,
        resources: &Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<(), LedgerError>;

    /// Takes addresses on its networks and ports of the host for a run.
    fn take_networks(&mut self) -> Result<Plan, LedgerError>;

    /// What an earlier supervisor has taken for the run that is on.
    fn taken_networks(&mut self) -> Result<Plan, LedgerError>;

    /// They are being taken away, or one of them is: nobody is to make its link again.
    fn leave_networks(&mut self, network: Option<&str>) -> Result<(), LedgerError>;

    /// Gives them back, after the links are gone; for good if the instance `is_gone`.
    fn give_networks_back(&mut self, is_gone: bool) -> Result<(), LedgerError>;

    /// Takes an address on one network more, for an interface of this name.
    fn take_network(
        &mut self,
        attachment: &NetworkAttachment,
        interface: String,
    ) -> Result<Link, LedgerError>;

    /// It is on this network no more.
    fn give_network_back(&mut self, network: &str) -> Result<(), LedgerError>;

    /// Takes further ports of the host.
    fn take_ports(&mut self, wanted: &[Publish]) -> Result<Vec<Port>, LedgerError>;

    /// Some of its ports are being taken back: nobody is to lead them to it again.
    fn withdraw_ports(&mut self, ports: &[Publication]) -> Result<(), LedgerError>;

    /// Gives some of its ports back.
    fn give_ports_back(&mut self, ports: &[Publication]) -> Result<(), LedgerError>;

    /// Writes which networks and ports it asks for from now on.
    fn set_networks(&mut self, config: &InstanceConfig) -> Result<(), LedgerError>;

    /// Takes the row away: from here on the name is free.
    fn remove(&mut self, notes: &[Note]) -> Result<(), LedgerError>;

    /// Takes away the files that belonged to it, its anonymous volumes too.
    fn remove_files(&mut self) -> Result<(), LedgerError>;

    /// Gives back the memory that it does not need until it writes again.
    fn rest(&mut self);
}

/// The ledger of an instance in the store.
#[derive(Debug)]
pub(super) struct StoreLedger {
    paths: Paths,
    id: InstanceId,
    open: Option<(Store, Instance)>,
}

impl StoreLedger {
    /// Opens the store and reads the row.
    pub(super) fn open(paths: &Paths, id: InstanceId) -> Result<StoreLedger, LedgerError> {
        let mut ledger = StoreLedger {
            paths: paths.clone(),
            id,
            open: None,
        };
        ledger.opened()?;
        Ok(ledger)
    }

    /// The row, as it was when the store was opened.
    pub(super) fn instance(&mut self) -> Result<&Instance, LedgerError> {
        Ok(&self.opened()?.1)
    }

    /// The unpacked layers of its image, topmost first.
    pub(super) fn layers(&mut self) -> Result<Vec<PathBuf>, LedgerError> {
        let id = self.id;
        Ok(self.opened()?.0.layers(&id)?)
    }

    fn opened(&mut self) -> Result<&mut (Store, Instance), LedgerError> {
        if self.open.is_none() {
            let store = Store::open(&self.paths)?;
            let instance = store.get(&self.id)?.ok_or(StoreError::Gone(self.id))?;
            self.open = Some((store, instance));
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    /// Acts on the rows of its networks, which may outlive its own.
    fn on_rows<T>(
        &mut self,
        act: impl FnOnce(&Database, &str) -> Result<T, NetworkError>,
    ) -> Result<T, LedgerError> {
        let id = self.id.to_string();
        match &self.open {
            Some((store, _)) => Ok(act(store.database(), &id)?),
            None => Ok(act(Store::open(&self.paths)?.database(), &id)?),
        }
    }

    fn events(instance: &Instance, notes: &[Note]) -> Vec<NewEvent> {
        notes
            .iter()
            .flat_map(|note| {
                let event = NewEvent::of_instance(instance, note.action.clone());
                let attributes = note.attributes.iter();
                let event = attributes.fold(event, |event, (key, value)| event.with(key, value));
                let mut events = volume::events_of_use(instance, &note.action);
                // They are mounted before it starts.
                let place = if note.action == "start" {
                    events.len()
                } else {
                    0
                };
                events.insert(place, event);
                events
            })
            .collect()
    }
}

impl Ledger for StoreLedger {
    fn save(&mut self, state: &InstanceState, notes: &[Note]) -> Result<(), LedgerError> {
        let id = self.id;
        let (store, instance) = self.opened()?;
        Ok(store.set_state(&id, state, &StoreLedger::events(instance, notes))?)
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), LedgerError> {
        let (store, instance) = self.opened()?;
        Ok(store.record_events(&StoreLedger::events(instance, notes))?)
    }

    fn update(
        &mut self,
        resources: &Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<(), LedgerError> {
        // The row as it is now: a rename may have come between.
        self.open = None;
        let id = self.id;
        let (store, instance) = self.opened()?;
        let mut config = instance.config.clone();
        config.resources.merge(resources);
        if let Some(restart) = restart {
            config.restart = restart;
        }
        let events = StoreLedger::events(instance, &[Note::new("update")]);
        store.set_config(&id, &config, &events)?;
        instance.config = config;
        Ok(())
    }

    fn take_networks(&mut self) -> Result<Plan, LedgerError> {
        let (store, instance) = self.opened()?;
        Ok(rows::take(store.database(), instance)?)
    }

    fn taken_networks(&mut self) -> Result<Plan, LedgerError> {
        self.on_rows(rows::taken)
    }

    fn leave_networks(&mut self, network: Option<&str>) -> Result<(), LedgerError> {
        self.on_rows(|database, id| rows::leave(database, id, network))
    }

    fn give_networks_back(&mut self, is_gone: bool) -> Result<(), LedgerError> {
        self.on_rows(|database, id| rows::give_back(database, id, is_gone))
    }

    fn take_network(
        &mut self,
        attachment: &NetworkAttachment,
        interface: String,
    ) -> Result<Link, LedgerError> {
        // The row as it is now: a rename may have come between.
        self.open = None;
        let (store, instance) = self.opened()?;
        Ok(rows::take_one(
            store.database(),
            instance,
            attachment,
            interface,
        )?)
    }

    fn give_network_back(&mut self, network: &str) -> Result<(), LedgerError> {
        self.on_rows(|database, id| {
            database.write(|transaction| isle_network::forget(transaction, id, Some(network)))
        })
    }

    fn take_ports(&mut self, wanted: &[Publish]) -> Result<Vec<Port>, LedgerError> {
        self.on_rows(|database, id| rows::take_ports(database, id, wanted))
    }

    fn withdraw_ports(&mut self, ports: &[Publication]) -> Result<(), LedgerError> {
        self.on_rows(|database, id| {
            database.write(|transaction| isle_network::withdraw(transaction, id, ports))
        })
    }

    fn give_ports_back(&mut self, ports: &[Publication]) -> Result<(), LedgerError> {
        self.on_rows(|database, id| {
            database.write(|transaction| isle_network::unpublish(transaction, id, Some(ports)))
        })
    }

    fn set_networks(&mut self, config: &InstanceConfig) -> Result<(), LedgerError> {
        self.open = None;
        let id = self.id;
        let (store, instance) = self.opened()?;
        let mut changed = instance.config.clone();
        changed.network = config.network.clone();
        changed.publish = config.publish.clone();
        store.set_config(&id, &changed, &[])?;
        instance.config = changed;
        Ok(())
    }

    fn remove(&mut self, notes: &[Note]) -> Result<(), LedgerError> {
        let id = self.id;
        let (store, instance) = self.opened()?;
        Ok(store.remove(&id, &StoreLedger::events(instance, notes))?)
    }

    fn remove_files(&mut self) -> Result<(), LedgerError> {
        if let Some((store, instance)) = self.open.take() {
            for name in volume_names(&instance) {
                volume::remove_anonymous(store.database(), &self.paths, name, &self.id)?;
            }
            return Ok(backend::remove_storage(&instance, &self.paths)?);
        }
        match std::fs::remove_dir_all(self.paths.instance(&self.id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn rest(&mut self) {
        self.open = None;
    }
}
