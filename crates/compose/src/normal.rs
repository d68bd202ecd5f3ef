//! A merged tree made whole: names, default network, environment, implied dependencies, checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use isle_types::nearest;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::LoadError;
use crate::load::{self, Loaded, Request};
use crate::model::{Content, Project, Service};
use crate::yaml::{Entry, Node, Value};
use crate::{check, dotenv};

impl Project {
    /// Reads a project.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(request: Request) -> Result<Project, LoadError> {
        let mut loaded = load::load(request)?;
        let name = load::project_name(&loaded)?;
        let mut tree = std::mem::replace(&mut loaded.tree, Node::new(Value::Null, &placeholder()));
        let root = tree.at.clone();
        for section in ["services", "networks", "volumes", "secrets", "configs"] {
            if tree
                .get(section)
                .is_none_or(|node| node.value == Value::Null)
            {
                tree.set(section, Node::new(Value::Map(Vec::new()), &root));
            }
        }
        tree.set("name", Node::text(&name, &root));
        name_things(&mut tree, &name);
        let disabled = complete_services(&mut tree, &loaded)?;
        default_network(&mut tree, &name);
        check::networks(&tree)?;
        check::services(&tree)?;
        let mut project = Project {
            name,
            folder: loaded.folder,
            files: loaded.files,
            environment: loaded.environment,
            services: typed(&tree, "services")?,
            networks: typed(&tree, "networks")?,
            volumes: typed(&tree, "volumes")?,
            secrets: typed(&tree, "secrets")?,
            configs: typed(&tree, "configs")?,
            disabled: BTreeMap::new(),
            document: tree.to_json(),
            warnings: loaded.warnings,
        };
        hash(&mut project);
        for name in disabled {
            if let Some(service) = project.services.remove(&name) {
                project.disabled.insert(name, service);
            }
        }
        forget_unused_dependencies(&mut project, &tree)?;
        cycles(&project.services)?;
        Ok(project)
    }

    /// Takes services in whose profiles are not wanted, as naming them on the command line does.
    ///
    /// # Errors
    /// [`LoadError::NoSuch`].
    pub fn enable(&mut self, names: &[String]) -> Result<(), LoadError> {
        for name in names {
            if let Some(service) = self.disabled.remove(name) {
                let needed: Vec<String> = service.depends_on.keys().cloned().collect();
                self.services.insert(name.clone(), service);
                let needed: Vec<String> = needed
                    .into_iter()
                    .filter(|name| self.disabled.contains_key(name))
                    .collect();
                self.enable(&needed)?;
            } else if !self.services.contains_key(name) {
                return Err(self.no_such_service(name));
            }
        }
        Ok(())
    }

    /// The complaint about a name that no service has.
    #[must_use]
    pub fn no_such_service(&self, name: &str) -> LoadError {
        let known = self.services.keys().chain(self.disabled.keys());
        LoadError::NoSuch {
            kind: "service",
            name: name.to_owned(),
            meant: nearest(name, known.map(String::as_str)).map(str::to_owned),
        }
    }
}

fn placeholder() -> crate::At {
    crate::At {
        file: Path::new("").into(),
        line: 1,
        column: 1,
    }
}

fn typed<T: DeserializeOwned>(
    tree: &Node,
    section: &str,
) -> Result<BTreeMap<String, T>, LoadError> {
    let entries = tree.get(section).map(Node::entries).unwrap_or_default();
    let entries = entries.iter().filter(|entry| !entry.key.starts_with("x-"));
    let entries = entries.map(|entry| {
        // A key with nothing behind it is as if it were not there.
        let mut json = entry.node.to_json();
        without_nothing(&mut json, true);
        let value = serde_json::from_value(json).map_err(|error| LoadError::Value {
            at: entry.at.clone(),
            path: format!("{section}.{}", entry.key),
            reason: error.to_string(),
            hint: "see the Compose specification for what it takes".into(),
        })?;
        Ok((entry.key.clone(), value))
    });
    entries.collect()
}

fn without_nothing(json: &mut serde_json::Value, is_fields: bool) {
    if let serde_json::Value::Object(map) = json {
        if is_fields {
            map.retain(|_, value| !value.is_null());
        }
        for (key, value) in map.iter_mut() {
            // The keys of these are the user's, and nothing is a value there.
            let is_users = matches!(key.as_str(), "environment" | "networks" | "args");
            without_nothing(value, !is_users);
        }
    }
}

/// `PROJECT_key` for what has no name of its own.
fn name_things(tree: &mut Node, project: &str) {
    for section in ["networks", "volumes", "secrets", "configs"] {
        let Some(Node {
            value: Value::Map(entries),
            ..
        }) = tree.get_mut(section)
        else {
            continue;
        };
        for Entry { key, at, node } in entries
            .iter_mut()
            .filter(|entry| !entry.key.starts_with("x-"))
        {
            if node.get("name").is_none() {
                let is_external = node
                    .get("external")
                    .is_some_and(|node| node.value == Value::Bool(true));
                let name = match is_external {
                    true => key.clone(),
                    false => format!("{project}_{key}"),
                };
                node.set("name", Node::text(name, at));
            }
        }
    }
}

/// Environment, builds and implied dependencies of all services. Returns those whose profiles are not wanted.
fn complete_services(tree: &mut Node, loaded: &Loaded) -> Result<BTreeSet<String>, LoadError> {
    let wanted: BTreeSet<&str> = loaded.request.profiles.iter().map(String::as_str).collect();
    let mut disabled = BTreeSet::new();
    let Some(Node {
        value: Value::Map(entries),
        ..
    }) = tree.get_mut("services")
    else {
        return Ok(disabled);
    };
    for entry in entries
        .iter_mut()
        .filter(|entry| !entry.key.starts_with("x-"))
    {
        let service = &mut entry.node;
        let profiles: Vec<String> = service
            .get("profiles")
            .map(|profiles| profiles.items().iter().filter_map(Node::scalar).collect())
            .unwrap_or_default();
        let is_wanted = profiles.is_empty()
            || wanted.contains("*")
            || profiles
                .iter()
                .any(|profile| wanted.contains(profile.as_str()));
        if !is_wanted {
            disabled.insert(entry.key.clone());
        }
        if let Some(build) = service.get_mut("build") {
            let at = build.at.clone();
            if build.get("context").is_none() {
                build.set(
                    "context",
                    Node::text(loaded.folder.display().to_string(), &at),
                );
            }
            if let Some(platforms) = build.get("platforms").filter(|node| node.items().len() > 1) {
                return Err(LoadError::Value {
                    at: platforms.at.clone(),
                    path: format!("services.{}.build.platforms", entry.key),
                    reason: "an image is built for one platform".into(),
                    hint: "name one of them".into(),
                });
            }
            if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
                build.set("dockerfile", Node::text("Dockerfile", &at));
            }
        } else if service.get("image").is_none() {
            return Err(LoadError::Value {
                at: entry.at.clone(),
                path: format!("services.{}", entry.key),
                reason: "it has neither an image nor a build".into(),
                hint: "write image: NAME, or build: FOLDER".into(),
            });
        }
        implied_dependencies(service);
        if !loaded.request.keeps_environment {
            environment(service, &entry.key, loaded, is_wanted)?;
        }
    }
    Ok(disabled)
}

/// `links`, `volumes_from` and shared namespaces need the other service.
fn implied_dependencies(service: &mut Node) {
    let mut needed: Vec<(String, Node)> = Vec::new();
    let items = |service: &Node, key: &str| {
        service
            .get(key)
            .map(|node| node.items().to_vec())
            .unwrap_or_default()
    };
    for link in items(service, "links") {
        let text = link.scalar().unwrap_or_default();
        needed.push((text.split(':').next().unwrap_or_default().to_owned(), link));
    }
    for from in items(service, "volumes_from") {
        let text = from.scalar().unwrap_or_default();
        if !text.starts_with("container:") {
            needed.push((text.split(':').next().unwrap_or_default().to_owned(), from));
        }
    }
    for key in ["network_mode", "pid", "ipc"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node
                .as_text()
                .and_then(|text| text.strip_prefix("service:"))
        {
            needed.push((name.to_owned(), node.clone()));
        }
    }
    for (name, node) in needed {
        let mut depends_on = service
            .take("depends_on")
            .filter(|node| node.value != Value::Null)
            .unwrap_or_else(|| Node::new(Value::Map(Vec::new()), &node.at));
        if depends_on.get(&name).is_none() {
            let dependency = Node::map(
                [
                    ("condition", Some(Value::Text("service_started".into()))),
                    ("restart", Some(Value::Bool(true))),
                    ("required", Some(Value::Bool(true))),
                ],
                &node.at,
            );
            depends_on.set(&name, dependency);
        }
        service.set("depends_on", depends_on);
    }
}

/// `env_file` under `environment`, variables that are passed on filled in; `label_file` under `labels`.
fn environment(
    service: &mut Node,
    name: &str,
    loaded: &Loaded,
    is_wanted: bool,
) -> Result<(), LoadError> {
    let outer = |name: &str| loaded.environment.get(name).cloned();
    let mut merged: Vec<(String, Node)> = Vec::new();
    let mut put = |key: String, node: Node| match merged.iter_mut().find(|(other, _)| *other == key)
    {
        Some((_, old)) => *old = node,
        None => merged.push((key, node)),
    };
    let files = service.take("env_file");
    for file in files.iter().flat_map(|files| files.items()) {
        let path = file.get("path").and_then(Node::scalar).unwrap_or_default();
        let is_required = file
            .get("required")
            .is_none_or(|node| node.value != Value::Bool(false));
        let is_raw = file.get("format").is_some();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(_) if !is_required || !is_wanted => continue,
            Err(source) => {
                return Err(LoadError::ReadNamed {
                    at: file.at.clone(),
                    key: format!("services.{name}.env_file"),
                    path: path.into(),
                    source,
                });
            }
        };
        let variables = match is_raw {
            false => dotenv::parse(&text, Path::new(&path), &outer)?,
            true => {
                let lines = text
                    .lines()
                    .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
                let pairs = lines.map(|line| match line.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (line.to_owned(), None),
                });
                pairs.collect()
            }
        };
        for (key, value) in variables {
            if let Some(value) = value.or_else(|| outer(&key)) {
                put(key, Node::text(value, &file.at));
            }
        }
    }
    if let Some(own) = service.take("environment") {
        for Entry { key, node, .. } in own.entries() {
            let node = match &node.value {
                Value::Null => match outer(key) {
                    Some(value) => Node::text(value, &node.at),
                    None => node.clone(),
                },
                _ => node.clone(),
            };
            put(key.clone(), node);
        }
    }
    if !merged.is_empty() {
        let at = service.at.clone();
        let mut map = Node::new(Value::Map(Vec::new()), &at);
        for (key, node) in merged {
            map.set(&key, node);
        }
        service.set("environment", map);
    }
    if let Some(files) = service.take("label_file") {
        let mut labels = Node::new(Value::Map(Vec::new()), &files.at);
        for file in files.items() {
            let path = loaded.folder.join(file.scalar().unwrap_or_default());
            let text = std::fs::read_to_string(&path).map_err(|source| LoadError::ReadNamed {
                at: file.at.clone(),
                key: format!("services.{name}.label_file"),
                path: path.clone(),
                source,
            })?;
            for (key, value) in dotenv::parse(&text, &path, &outer)? {
                labels.set(&key, Node::text(value.unwrap_or_default(), &file.at));
            }
        }
        for Entry { key, node, .. } in service.take("labels").iter().flat_map(Node::entries) {
            labels.set(key, node.clone());
        }
        service.set("labels", labels);
    }
    Ok(())
}

/// Who is on no network of its own choice is on `default`.
fn default_network(tree: &mut Node, project: &str) {
    let mut is_used = false;
    if let Some(Node {
        value: Value::Map(entries),
        ..
    }) = tree.get_mut("services")
    {
        for Entry { key, node, at } in entries.iter_mut() {
            if key.starts_with("x-") || node.get("network_mode").is_some() {
                continue;
            }
            if node
                .get("networks")
                .is_none_or(|networks| networks.entries().is_empty())
            {
                let mut networks = Node::new(Value::Map(Vec::new()), at);
                networks.set("default", Node::new(Value::Null, at));
                node.set("networks", networks);
            }
            is_used |= node
                .get("networks")
                .is_some_and(|networks| networks.get("default").is_some());
        }
    }
    if let Some(networks) = tree.get_mut("networks")
        && is_used
        && networks.get("default").is_none()
    {
        let at = networks.at.clone();
        let name = Value::Text(format!("{project}_default"));
        networks.set("default", Node::map([("name", Some(name))], &at));
    }
}

/// Dependencies on services that are not wanted: an error where they are required.
fn forget_unused_dependencies(project: &mut Project, tree: &Node) -> Result<(), LoadError> {
    let disabled: BTreeSet<String> = project.disabled.keys().cloned().collect();
    for (name, service) in &mut project.services {
        for (other, dependency) in service.depends_on.clone() {
            if !disabled.contains(&other) {
                continue;
            }
            if dependency.required {
                let at = tree
                    .get("services")
                    .and_then(|services| services.get(name)?.get("depends_on")?.get(&other))
                    .map_or_else(placeholder, |node| node.at.clone());
                return Err(LoadError::Missing {
                    at,
                    path: format!("services.{name}.depends_on"),
                    kind: "wanted service",
                    name: other,
                    hint: "add --profile for it, or say required: false".into(),
                });
            }
            service.depends_on.remove(&other);
        }
    }
    Ok(())
}

/// Services that wait for each other could never start.
fn cycles(services: &BTreeMap<String, Service>) -> Result<(), LoadError> {
    fn visit<'s>(
        name: &'s str,
        services: &'s BTreeMap<String, Service>,
        chain: &mut Vec<&'s str>,
        done: &mut BTreeSet<&'s str>,
    ) -> Result<(), LoadError> {
        if let Some(start) = chain.iter().position(|other| *other == name) {
            let members = chain[start..].iter().chain([&name]);
            return Err(LoadError::Cycle {
                what: "dependencies",
                members: members.map(|name| (*name).to_owned()).collect(),
            });
        }
        if !done.insert(name) {
            return Ok(());
        }
        chain.push(name);
        for other in services
            .get(name)
            .iter()
            .flat_map(|service| service.depends_on.keys())
        {
            visit(other, services, chain, done)?;
        }
        chain.pop();
        Ok(())
    }
    let mut done = BTreeSet::new();
    for name in services.keys() {
        // Who was seen on another way is done; a circle is found from its first member on.
        if !done.contains(name.as_str()) {
            visit(name, services, &mut Vec::new(), &mut done)?;
        }
    }
    Ok(())
}

fn digest(json: &serde_json::Value) -> String {
    let digest = Sha256::digest(crate::print::sorted(json).to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What instances, networks and volumes are made from, as one number each.
fn hash(project: &mut Project) {
    let document = project.document.clone();
    let contents = [(&project.secrets, "secrets"), (&project.configs, "configs")];
    let of = |section: &str, name: &str| {
        document
            .get(section)
            .and_then(|of| of.get(name))
            .cloned()
            .unwrap_or_default()
    };
    for (name, service) in &mut project.services {
        service.name.clone_from(name);
        let mut json = of("services", name);
        if let Some(map) = json.as_object_mut() {
            // What decides when and how many, but not what.
            for key in [
                "build",
                "pull_policy",
                "scale",
                "depends_on",
                "profiles",
                "develop",
                "attach",
            ] {
                map.remove(key);
            }
            if let Some(deploy) = map
                .get_mut("deploy")
                .and_then(serde_json::Value::as_object_mut)
            {
                deploy.remove("replicas");
            }
            for (all, key) in &contents {
                let grants = if *key == "secrets" {
                    &service.secrets
                } else {
                    &service.configs
                };
                let told: Vec<_> = grants
                    .iter()
                    .filter_map(|grant| all.get(&grant.source))
                    .map(|content| told(content, &project.environment))
                    .collect();
                if !told.is_empty() {
                    map.insert(format!("{key} told"), json!(told));
                }
            }
        }
        service.hash = digest(&json);
    }
    for (name, network) in &mut project.networks {
        network.hash = digest(&of("networks", name));
    }
    for (name, volume) in &mut project.volumes {
        volume.hash = digest(&of("volumes", name));
    }
}

/// What a secret or config says, where the file does not: a change of it changes the instance.
fn told(content: &Content, environment: &BTreeMap<String, String>) -> String {
    let of_environment = content
        .environment
        .as_ref()
        .and_then(|name| environment.get(name));
    content
        .content
        .as_ref()
        .or(of_environment)
        .map(|text| digest(&json!(text)))
        .unwrap_or_default()
}

/// Services in an order in which each comes after what it depends on.
pub(crate) fn order(services: &BTreeMap<String, Service>) -> Vec<&Service> {
    fn visit<'s>(
        name: &str,
        services: &'s BTreeMap<String, Service>,
        done: &mut BTreeSet<String>,
        order: &mut Vec<&'s Service>,
    ) {
        if !done.insert(name.to_owned()) {
            return;
        }
        if let Some(service) = services.get(name) {
            for other in service.depends_on.keys() {
                visit(other, services, done, order);
            }
            order.push(service);
        }
    }
    let mut found = Vec::new();
    let mut done = BTreeSet::new();
    for name in services.keys() {
        visit(name, services, &mut done, &mut found);
    }
    found
}

#[cfg(test)]
#[path = "normal_tests.rs"]
mod tests;
