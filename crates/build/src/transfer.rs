//! `--cache-to` and `--cache-from`: the steps of a build in a folder, for other machines.
//!
//! The folder holds the intermediate images as one OCI archive, and beside it which key leads to which.

use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use isle_engine::EngineError;
use isle_image::{Digest, LoadInput, SaveFormat};
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::records::Record;
use crate::solve::Worker;

/// The format of the folder.
const VERSION: u32 = 1;
const RECORDS: &str = "isle-cache.json";
const IMAGES: &str = "images.tar";

#[derive(Serialize, Deserialize)]
struct Folder {
    version: u32,
    records: Vec<Step>,
}

#[derive(Serialize, Deserialize)]
struct Step {
    key: String,
    image: String,
    chain: String,
    created: i64,
    description: String,
}

/// Takes in what a folder holds and is not here yet. A folder that is not there holds nothing.
pub(crate) fn import(worker: &Worker, folder: &Path) -> Result<usize, BuildError> {
    let path = folder.join(RECORDS);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        text => text.map_err(BuildError::io("read the cache", &path))?,
    };
    let damaged = |what: &str| {
        BuildError::request(
            format!("the cache {} cannot be used: {what}", folder.display()),
            "write it again with --cache-to",
        )
    };
    let listed: Folder =
        serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
    if listed.version != VERSION {
        return Err(damaged("it is of another version"));
    }
    let mut wanted = Vec::new();
    for step in &listed.records {
        let key: Digest = step
            .key
            .parse()
            .map_err(|_| damaged("a key is not a digest"))?;
        let image: Digest = step
            .image
            .parse()
            .map_err(|_| damaged("an image is not a digest"))?;
        if worker.records.find(&key)?.is_none() {
            wanted.push((key, image, step));
        }
    }
    if wanted.is_empty() {
        return Ok(0);
    }
    let path = folder.join(IMAGES);
    let mut file = File::open(&path).map_err(BuildError::io("open", &path))?;
    // An archive is a stranger's, and must not take names away from images that are here.
    if names_images(&mut file).map_err(BuildError::io("read", &path))? {
        return Err(damaged("its archive names images"));
    }
    let silent: Arc<dyn isle_image::Progress> = Arc::new(isle_image::Silent);
    let loaded = worker.images().load(LoadInput::File(file), None, &silent);
    let loaded = loaded.map_err(|error| damaged(&error.to_string()))?;
    let ids: Vec<Digest> = loaded
        .iter()
        .map(|loaded| loaded.image.id.clone())
        .collect();
    worker.images().mark_intermediate(&ids)?;
    let mut count = 0;
    for (key, image, step) in wanted {
        let Ok(found) = worker.images().find(image.as_str()) else {
            continue;
        };
        let chain = crate::solve::chain_of(&found);
        if !ids.contains(&image) || chain != step.chain {
            continue;
        }
        let record = Record {
            image,
            chain,
            created: step.created,
        };
        worker.records.insert(&key, &record, &step.description)?;
        count += 1;
    }
    Ok(count)
}

/// Whether loading an archive would name images.
fn names_images(file: &mut File) -> io::Result<bool> {
    for entry in tar::Archive::new(&mut *file).entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        if path == "manifest.json" || path == "repositories" {
            return Ok(true);
        }
        if path == "index.json" {
            let index: serde_json::Value = serde_json::from_reader(entry.take(16 << 20))?;
            let manifests = index["manifests"].as_array();
            let has_names = manifests
                .into_iter()
                .flatten()
                .any(|manifest| !manifest["annotations"].is_null());
            if has_names || !index["annotations"].is_null() {
                return Ok(true);
            }
        }
    }
    file.rewind()?;
    Ok(false)
}

/// Writes steps into a folder.
pub(crate) fn export(worker: &Worker, keys: &[Digest], folder: &Path) -> Result<usize, BuildError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(BuildError::io("make", folder))?;
    let mut images: Vec<String> = Vec::new();
    let mut records = Vec::new();
    for (key, record, description, _) in worker.records.all()? {
        // What a base image is by itself comes from its registry.
        if !keys.contains(&key) || worker.images().is_intermediate(&record.image)? != Some(true) {
            continue;
        }
        let id = record.image.to_string();
        if !images.contains(&id) {
            images.push(id.clone());
        }
        records.push(Step {
            key: key.to_string(),
            image: id,
            chain: record.chain,
            created: record.created,
            description,
        });
    }
    let count = records.len();
    let listed = Folder {
        version: VERSION,
        records,
    };
    if !images.is_empty() {
        let path = folder.join(format!("{IMAGES}.new"));
        let mut file = BufWriter::new(File::create(&path).map_err(BuildError::io("write", &path))?);
        let silent: Arc<dyn isle_image::Progress> = Arc::new(isle_image::Silent);
        worker
            .images()
            .save(&images, SaveFormat::Oci, &mut file, &silent)?;
        file.flush().map_err(BuildError::io("write", &path))?;
        let whole = folder.join(IMAGES);
        std::fs::rename(&path, &whole).map_err(BuildError::io("write", &whole))?;
    }
    let text = serde_json::to_vec(&listed).unwrap_or_default();
    let (path, whole) = (folder.join(format!("{RECORDS}.new")), folder.join(RECORDS));
    std::fs::write(&path, text).map_err(BuildError::io("write", &path))?;
    std::fs::rename(&path, &whole).map_err(BuildError::io("write", &whole))?;
    Ok(count)
}

impl From<isle_image::FindError> for BuildError {
    fn from(error: isle_image::FindError) -> Self {
        BuildError::Engine(EngineError::from(error))
    }
}
