//! What exists of a project, by its labels.

use std::collections::BTreeMap;

use isle_compose::words::label;
use isle_compose::{Existing, ExistingInstance};
use isle_engine::Volume;
use isle_engine::state::{Instance, Status};
use isle_network::Network;

use super::session::{is_one_off, number_of, service_of};
use crate::context::Context;
use crate::failure::Result;

/// All that exists: the instances of the project, and every network and volume, as those of others may be external ones.
#[derive(Debug, Default)]
pub struct Observed {
    /// Newest first.
    pub instances: Vec<Instance>,
    /// All networks.
    pub networks: Vec<Network>,
    /// All volumes.
    pub volumes: Vec<Volume>,
}

/// Looks at everything once.
pub fn project(context: &Context, name: &str) -> Result<Observed> {
    let engine = context.engine()?;
    let mut instances = engine.list()?;
    instances.retain(|instance| {
        instance
            .config
            .labels
            .get(label::PROJECT)
            .is_some_and(|of| of == name)
    });
    Ok(Observed {
        instances,
        networks: engine.networks()?,
        volumes: engine.volumes()?,
    })
}

impl Observed {
    /// As a plan takes it.
    pub fn existing(&self) -> Existing {
        let instances = self
            .instances
            .iter()
            .filter(|instance| !is_one_off(instance));
        let hash = |labels: &BTreeMap<String, String>| labels.get(label::HASH).cloned();
        Existing {
            instances: instances.map(instance).collect(),
            networks: self
                .networks
                .iter()
                .map(|network| (network.name.clone(), hash(&network.spec.labels)))
                .collect(),
            volumes: self
                .volumes
                .iter()
                .map(|volume| (volume.name.clone(), hash(&volume.labels)))
                .collect(),
        }
    }

    /// The networks of a project.
    pub fn networks_of(&self, project: &str) -> Vec<&Network> {
        let is_own = |network: &&Network| {
            network
                .spec
                .labels
                .get(label::PROJECT)
                .is_some_and(|of| of == project)
        };
        self.networks.iter().filter(is_own).collect()
    }

    /// The volumes of a project.
    pub fn volumes_of(&self, project: &str) -> Vec<&Volume> {
        let is_own = |volume: &&Volume| {
            volume
                .labels
                .get(label::PROJECT)
                .is_some_and(|of| of == project)
        };
        self.volumes.iter().filter(is_own).collect()
    }
}

/// Whether its processes are there.
pub fn is_up(instance: &Instance) -> bool {
    matches!(
        instance.state.status,
        Status::Running | Status::Paused | Status::Restarting
    )
}

fn instance(instance: &Instance) -> ExistingInstance {
    let labels = &instance.config.labels;
    ExistingInstance {
        id: instance.id.to_string(),
        name: instance.name.to_string(),
        service: service_of(instance).to_owned(),
        number: number_of(instance),
        hash: labels.get(label::HASH).cloned().unwrap_or_default(),
        image_id: instance.image_id.clone(),
        is_running: is_up(instance),
        has_run: instance.state.started_at.is_some(),
        is_unfinished: labels.contains_key(REPLACES)
            && instance.state.started_at.is_none()
            && super::names::is_temporary(instance.name.as_str()),
    }
}

/// The label of an instance that was made to take the place of another one: its id.
pub const REPLACES: &str = "com.docker.compose.replace";
