//! The archive format before Docker 1.10: a folder a layer with `json` and `layer.tar`, and
//! `repositories` with the names.
//!
//! <https://github.com/moby/docker-image-spec/blob/main/v1.md>

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::compression::{Compression, Decoder};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::load::{ArchiveImage, LoadError};
use crate::source::{Source, SourceError};
use isle_archive::LIMITS;

/// The part of a layer's `json` that we look at; the rest is carried over.
#[derive(Deserialize)]
struct LegacyLayer {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container_config: Option<LegacyCommand>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LegacyCommand {
    cmd: Option<Vec<String>>,
}

/// The images of such an archive, each with a configuration of today's form.
pub(crate) fn legacy_images(source: &Source) -> Result<Vec<(ArchiveImage, Vec<u8>)>, LoadError> {
    let Some(bytes) = source.document("repositories")? else {
        return Err(LoadError::NotAnImage);
    };
    let names: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&bytes)
        .map_err(|source| LoadError::Json {
            file: "repositories".to_owned(),
            source,
        })?;
    let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (repository, of_repository) in names {
        for (tag, id) in of_repository {
            tags.entry(id)
                .or_default()
                .push(format!("{repository}:{tag}"));
        }
    }
    if tags.len() > LIMITS.images {
        return Err(LoadError::TooMany(tags.len(), LIMITS.images));
    }
    tags.into_iter()
        .map(|(id, names)| legacy_image(source, &id, names))
        .collect()
}

fn legacy_image(
    source: &Source,
    top: &str,
    names: Vec<String>,
) -> Result<(ArchiveImage, Vec<u8>), LoadError> {
    let mut chain: Vec<(String, LegacyLayer)> = Vec::new();
    let mut top_json: Option<Map<String, Value>> = None;
    let mut next = Some(top.to_owned());
    while let Some(id) = next {
        // The id becomes the name of a file in the archive.
        if id.len() != 64 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SourceError::Missing(id.chars().take(300).collect()).into());
        }
        if chain.len() >= LIMITS.layers {
            return Err(SourceError::Loop(id).into());
        }
        let file = format!("{id}/json");
        let bytes = source
            .document(&file)?
            .ok_or_else(|| SourceError::Missing(file.clone()))?;
        let json = |source| LoadError::Json {
            file: file.clone(),
            source,
        };
        let layer: LegacyLayer = serde_json::from_slice(&bytes).map_err(json)?;
        if top_json.is_none() {
            top_json = Some(serde_json::from_slice(&bytes).map_err(json)?);
        }
        next = layer.parent.clone().filter(|parent| !parent.is_empty());
        chain.push((id, layer));
    }
    chain.reverse();
    let mut diff_ids = Vec::new();
    let mut history = Vec::new();
    let mut files = Vec::new();
    for (id, layer) in &chain {
        let file = format!("{id}/layer.tar");
        diff_ids.push(diff_id(source, &file)?.to_string());
        files.push(file);
        let command = layer.container_config.as_ref().and_then(|c| c.cmd.as_ref());
        history.push(serde_json::json!({
            "created": layer.created,
            "author": layer.author,
            "comment": layer.comment,
            "created_by": command.map(|words| words.join(" ")),
        }));
    }
    let mut config = top_json.unwrap_or_default();
    for key in ["id", "parent", "Size", "layer_id", "throwaway", "parent_id"] {
        config.remove(key);
    }
    config.insert(
        "rootfs".to_owned(),
        serde_json::json!({ "type": "layers", "diff_ids": diff_ids }),
    );
    config.insert("history".to_owned(), Value::Array(history));
    config.entry("os").or_insert_with(|| "linux".into());
    config
        .entry("architecture")
        .or_insert_with(|| "amd64".into());
    let bytes = serde_json::to_vec(&config).map_err(|source| LoadError::Json {
        file: format!("{top}/json"),
        source,
    })?;
    let image = ArchiveImage {
        config: String::new(),
        repo_tags: Some(names),
        layers: Some(files),
    };
    Ok((image, bytes))
}

/// These archives say nothing about the digests of layers, so they are computed first.
fn diff_id(source: &Source, file: &str) -> Result<Digest, LoadError> {
    let member = source.require(file)?;
    let start = member.start().map_err(SourceError::Io)?;
    let compression = Compression::detect(&start).map_err(SourceError::Compression)?;
    let buffered = std::io::BufReader::with_capacity(256 << 10, member.reader());
    let mut decoder = Decoder::new(compression, buffered, LIMITS).map_err(SourceError::Io)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match std::io::Read::read(&mut decoder, &mut buffer).map_err(SourceError::Io)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
