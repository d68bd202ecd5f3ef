//! Files to one tree: read, filled in, checked, extended, included, merged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::dotenv;
use crate::error::{At, LoadError};
use crate::interpolate;
use crate::merge::{merge, settle};
use crate::schema::{PROJECT, Reader, SERVICE, Warning, clean, read};
use crate::yaml::{self, Entry, Node, Value};

/// The most files of one project, included and extended ones too.
const MAX_FILES: usize = 200;
/// How deep files include and extend each other.
const MAX_DEPTH: usize = 32;

/// What decides how a project is read: the command line and the environment, gathered.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--file`, in order; `-` is standard input. Searched for when there is none.
    pub files: Vec<PathBuf>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `--project-name`.
    pub project_name: Option<String>,
    /// `--env-file`, in order; `.env` of the project's folder when there is none.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `*` is all.
    pub profiles: Vec<String>,
    /// Files whose text is known already, by their absolute paths: they are not read.
    pub given: BTreeMap<PathBuf, String>,
    /// The environment of the process.
    pub environment: BTreeMap<String, String>,
    /// The folder that the process is in.
    pub working_directory: PathBuf,
    /// `config --no-interpolate`.
    pub keeps_variables: bool,
    /// `config --no-path-resolution`.
    pub keeps_paths: bool,
    /// `config --no-env-resolution`: `env_file` and variables that are passed on stay as they are.
    pub keeps_environment: bool,
}

/// The merged tree, and what was found on the way.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub tree: Node,
    pub files: Vec<PathBuf>,
    pub folder: PathBuf,
    /// Of the process, over those of environment files.
    pub environment: BTreeMap<String, String>,
    pub warnings: Vec<Warning>,
    pub request: Request,
}

const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The files that are meant when none is named: in this folder, or the nearest above.
fn search(from: &Path) -> Result<Vec<PathBuf>, LoadError> {
    for folder in from.ancestors() {
        let Some(found) = NAMES
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.exists())
        else {
            continue;
        };
        let over = OVERRIDES
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.exists());
        return Ok([Some(found), over].into_iter().flatten().collect());
    }
    Err(LoadError::NoFile {
        folder: from.to_owned(),
    })
}

fn read_file(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let limit = yaml::MAX_BYTES as u64 + 1;
    match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut text)
            .map_err(failed)?,
        false => std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut text))
            .map_err(failed)?,
    };
    String::from_utf8(text)
        .map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// The values of environment files under those of the process.
fn environment(
    files: &[PathBuf],
    process: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, LoadError> {
    let mut found = BTreeMap::new();
    for path in files {
        let text = read_file(path)?;
        let variables = {
            let outer = |name: &str| process.get(name).or_else(|| found.get(name)).cloned();
            dotenv::parse(&text, path, &outer)?
        };
        found.extend(
            variables
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?))),
        );
    }
    found.extend(process.clone());
    Ok(found)
}

/// Reads all files of a project.
pub(crate) fn load(mut request: Request) -> Result<Loaded, LoadError> {
    let cwd = request.working_directory.clone();
    let absolute = |path: &Path| match path.as_os_str() == "-" {
        true => path.to_owned(),
        false => clean(&cwd.join(path)),
    };
    // The environment may name the files, and the folder of the files has the environment.
    let named_folder = request.project_directory.as_deref().map(absolute);
    let early = match request.files.first() {
        Some(path) if path.as_os_str() != "-" => absolute(path).parent().map(Path::to_owned),
        _ => None,
    };
    let early = named_folder.clone().or(early).unwrap_or_else(|| {
        let found = search(&cwd).ok();
        found
            .and_then(|files| files.first()?.parent().map(Path::to_owned))
            .unwrap_or_else(|| cwd.clone())
    });
    let env_files = match request.env_files.is_empty() {
        false => request
            .env_files
            .iter()
            .map(|path| absolute(path))
            .collect(),
        true => [early.join(".env")]
            .into_iter()
            .filter(|path| path.is_file())
            .collect::<Vec<_>>(),
    };
    let environment = environment(&env_files, &request.environment)?;
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if request.files.is_empty()
        && let Some(files) = variable("COMPOSE_FILE")
    {
        let separator = variable("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        request.files = files.split(separator).map(PathBuf::from).collect();
    }
    if request.project_name.is_none() {
        request.project_name = variable("COMPOSE_PROJECT_NAME").cloned();
    }
    if request.profiles.is_empty()
        && let Some(profiles) = variable("COMPOSE_PROFILES")
    {
        request.profiles = profiles
            .split(',')
            .map(|profile| profile.trim().to_owned())
            .collect();
    }
    let files = match request.files.is_empty() {
        true => search(named_folder.as_deref().unwrap_or(&cwd))?,
        false => request.files.iter().map(|path| absolute(path)).collect(),
    };
    let of_first = files
        .first()
        .filter(|path| path.as_os_str() != "-")
        .and_then(|path| path.parent())
        .map_or_else(|| cwd.clone(), Path::to_owned);
    let folder = named_folder.unwrap_or(of_first);
    let warnings = RefCell::new(Vec::new());
    let loader = Loader {
        given: &request.given,
        home: request.environment.get("HOME").map(PathBuf::from),
        keeps_paths: request.keeps_paths,
        keeps_variables: request.keeps_variables,
        warnings: &warnings,
        files_read: RefCell::new(0),
        unset: RefCell::new(BTreeSet::new()),
        name: RefCell::new(
            request
                .project_name
                .clone()
                .unwrap_or_else(|| folder_name(&folder)),
        ),
    };
    let mut tree = loader.project(&files, &folder, &environment, &mut Vec::new())?;
    settle(&mut tree);
    let unset = loader.unset.into_inner();
    let mut warnings = warnings.into_inner();
    warnings.extend(unset.into_iter().map(|name| Warning {
        at: None,
        text: format!("The {name:?} variable is not set. Defaulting to a blank string."),
    }));
    Ok(Loaded {
        tree,
        files,
        folder,
        environment,
        warnings,
        request,
    })
}

struct Loader<'a> {
    given: &'a BTreeMap<PathBuf, String>,
    home: Option<PathBuf>,
    keeps_paths: bool,
    keeps_variables: bool,
    warnings: &'a RefCell<Vec<Warning>>,
    files_read: RefCell<usize>,
    unset: RefCell<BTreeSet<String>>,
    /// What `${COMPOSE_PROJECT_NAME}` stands for, as far as it is known.
    name: RefCell<String>,
}

impl Loader<'_> {
    /// Several files that are one project, with what they include.
    fn project(
        &self,
        files: &[PathBuf],
        folder: &Path,
        environment: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Result<Node, LoadError> {
        let mut merged: Option<Node> = None;
        for path in files {
            if stack.contains(path) {
                let members = stack
                    .iter()
                    .chain([path])
                    .map(|path| path.display().to_string());
                return Err(LoadError::Cycle {
                    what: "included files",
                    members: members.collect(),
                });
            }
            stack.push(path.clone());
            let tree = self.file(path, folder, environment, stack)?;
            stack.pop();
            merged = Some(match merged {
                Some(base) => merge(base, tree, &PROJECT),
                None => tree,
            });
        }
        Ok(merged.unwrap_or_else(|| {
            let at = At {
                file: folder.into(),
                line: 1,
                column: 1,
            };
            Node::new(Value::Map(Vec::new()), &at)
        }))
    }

    /// One file, with variables filled in and short forms written out.
    fn tree(
        &self,
        path: &Path,
        folder: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Node, LoadError> {
        let text = match self.given.get(path) {
            Some(text) => text.clone(),
            None => read_file(path)?,
        };
        let mut tree = yaml::parse(&text, path)?;
        let at = tree.at.clone();
        *self.files_read.borrow_mut() += 1;
        if *self.files_read.borrow() > MAX_FILES {
            return Err(LoadError::Limit {
                at,
                what: "files",
                limit: MAX_FILES,
            });
        }
        if !self.keeps_variables {
            let own = self.name.borrow().clone();
            let lookup = |name: &str| match environment.get(name) {
                None if name == "COMPOSE_PROJECT_NAME" => Some(own.clone()),
                value => value.cloned(),
            };
            interpolate::tree(&mut tree, "", &lookup, &mut self.unset.borrow_mut())?;
        }
        let reader = Reader::new(
            folder,
            self.home.as_deref(),
            self.warnings,
            self.keeps_paths,
        );
        if tree.value == Value::Null {
            return Err(LoadError::Value {
                at,
                path: "the project".into(),
                reason: "the file is empty".into(),
                hint: "write `services:` and what belongs to it".into(),
            });
        }
        read(tree, &PROJECT, &reader)
    }

    fn file(
        &self,
        path: &Path,
        folder: &Path,
        environment: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Result<Node, LoadError> {
        let mut tree = self.tree(path, folder, environment)?;
        let names: Vec<String> = tree
            .get("services")
            .map(|services| {
                services
                    .entries()
                    .iter()
                    .map(|entry| entry.key.clone())
                    .collect()
            })
            .unwrap_or_default();
        for name in names {
            let whole = self.extended(&tree, &name, path, folder, environment, &mut Vec::new())?;
            if let (Some(whole), Some(services)) = (whole, tree.get_mut("services")) {
                services.set(&name, whole);
            }
        }
        if let Some(includes) = tree.take("include") {
            for include in includes.items() {
                let other = self.included(include, folder, environment, stack)?;
                import(&mut tree, other)?;
            }
        }
        Ok(tree)
    }

    /// A service on top of what it extends; `None` when it extends nothing.
    fn extended(
        &self,
        tree: &Node,
        name: &str,
        path: &Path,
        folder: &Path,
        environment: &BTreeMap<String, String>,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Result<Option<Node>, LoadError> {
        let Some(service) = tree.get("services").and_then(|services| services.get(name)) else {
            return Ok(None);
        };
        let Some(extends) = service.get("extends") else {
            return Ok(None);
        };
        let own = (path.to_owned(), name.to_owned());
        if chain.contains(&own) || chain.len() > MAX_DEPTH {
            let members = chain.iter().chain([&own]).map(|(_, name)| name.clone());
            return Err(LoadError::Cycle {
                what: "services that extend each other",
                members: members.collect(),
            });
        }
        chain.push(own);
        let text = |key| extends.get(key).and_then(Node::scalar);
        let wanted = text("service").unwrap_or_default();
        let missing = || LoadError::Missing {
            at: extends.at.clone(),
            path: format!("services.{name}.extends"),
            kind: "service",
            name: wanted.clone(),
            hint: "name a service of that file".into(),
        };
        let base = match text("file") {
            None => {
                let base = tree
                    .get("services")
                    .and_then(|services| services.get(&wanted));
                let base = base.ok_or_else(missing)?.clone();
                self.extended(tree, &wanted, path, folder, environment, chain)?
                    .unwrap_or(base)
            }
            Some(file) => {
                let file = clean(&folder.join(&file));
                let own_folder = file
                    .parent()
                    .map_or_else(|| folder.to_owned(), Path::to_owned);
                let other = self
                    .tree(&file, &own_folder, environment)
                    .map_err(|error| {
                        named(error, &extends.at, &format!("services.{name}.extends"))
                    })?;
                let base = other
                    .get("services")
                    .and_then(|services| services.get(&wanted));
                let base = base.ok_or_else(missing)?.clone();
                self.extended(&other, &wanted, &file, &own_folder, environment, chain)?
                    .unwrap_or(base)
            }
        };
        chain.pop();
        let mut over = service.clone();
        over.take("extends");
        Ok(Some(merge(base, over, &SERVICE)))
    }

    fn included(
        &self,
        include: &Node,
        folder: &Path,
        outer: &BTreeMap<String, String>,
        stack: &mut Vec<PathBuf>,
    ) -> Result<Node, LoadError> {
        let texts = |key| -> Vec<PathBuf> {
            let items = include.get(key).map(Node::items).unwrap_or_default();
            items
                .iter()
                .filter_map(Node::scalar)
                .map(PathBuf::from)
                .collect()
        };
        let files: Vec<PathBuf> = texts("path")
            .iter()
            .map(|path| clean(&folder.join(path)))
            .collect();
        let own_folder = match include.get("project_directory").and_then(Node::scalar) {
            Some(directory) => clean(&folder.join(directory)),
            None => files
                .first()
                .and_then(|path| path.parent())
                .map_or_else(|| folder.to_owned(), Path::to_owned),
        };
        let env_files = match texts("env_file") {
            files if files.is_empty() => {
                let own = own_folder.join(".env");
                [own].into_iter().filter(|path| path.is_file()).collect()
            }
            files => files
                .iter()
                .map(|path| clean(&folder.join(path)))
                .collect::<Vec<_>>(),
        };
        // What surrounds it counts more.
        let environment = environment(&env_files, outer)?;
        if stack.len() > MAX_DEPTH {
            return Err(LoadError::Limit {
                at: include.at.clone(),
                what: "files that include each other",
                limit: MAX_DEPTH,
            });
        }
        let mut tree = self
            .project(&files, &own_folder, &environment, stack)
            .map_err(|error| named(error, &include.at, "include"))?;
        tree.take("name");
        Ok(tree)
    }
}

/// Says who named a file that cannot be read.
fn named(error: LoadError, at: &At, key: &str) -> LoadError {
    match error {
        LoadError::Read { path, source } => LoadError::ReadNamed {
            at: at.clone(),
            key: key.to_owned(),
            path,
            source,
        },
        error => error,
    }
}

/// Adds what an included project has. The same name for two things is refused.
fn import(tree: &mut Node, other: Node) -> Result<(), LoadError> {
    let Value::Map(sections) = other.value else {
        return Ok(());
    };
    for Entry { key, at, node } in sections {
        let Value::Map(entries) = node.value else {
            continue;
        };
        if tree
            .get(&key)
            .is_none_or(|section| section.value == Value::Null)
        {
            tree.set(&key, Node::new(Value::Map(Vec::new()), &at));
        }
        let Some(section) = tree.get_mut(&key) else {
            continue;
        };
        for entry in entries {
            match section.get(&entry.key) {
                Some(own) if *own != entry.node && !key.starts_with("x-") => {
                    return Err(LoadError::Value {
                        at: own.at.clone(),
                        path: format!("{key}.{}", entry.key),
                        reason: format!("the included {} has something else of that name", entry.at),
                        hint: "rename one of them, or change the included one in an override file beside it: `path: [a.yaml, b.yaml]`".into(),
                    });
                }
                Some(_) => {}
                None => section.set(&entry.key, entry.node),
            }
        }
    }
    Ok(())
}

/// The project's name: the command line's, the environment's, the file's, that of its folder.
pub(crate) fn project_name(loaded: &Loaded) -> Result<String, LoadError> {
    let of_file = || {
        loaded
            .tree
            .get("name")
            .and_then(Node::scalar)
            .filter(|name| !name.is_empty())
    };
    let name = match loaded.request.project_name.clone().or_else(of_file) {
        Some(name) => name,
        None => folder_name(&loaded.folder),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    match is_name {
        true => Ok(name),
        false => Err(LoadError::ProjectName { name }),
    }
}

/// The name of a folder, as far as it can be that of a project.
fn folder_name(folder: &Path) -> String {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let kept: String = name
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}
