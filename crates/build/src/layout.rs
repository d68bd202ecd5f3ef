//! An OCI image layout with more than the image: annotations, and attestations beside it in an index.
//!
//! As BuildKit: `index.json` leads to an index, that to the image and to a manifest for the platform `unknown/unknown` whose layers are
//! the statements. <https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md>

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

use isle_image::{Digest, Platform};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::attest::Statement;

/// What is added.
#[derive(Debug)]
pub(crate) struct Additions<'a> {
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) statements: &'a [Statement],
    pub(crate) name: &'a str,
    pub(crate) platform: &'a Platform,
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Copies a layout of one image with additions.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn add(
    mut from: impl Read + Seek,
    to: &mut dyn Write,
    additions: &Additions<'_>,
) -> io::Result<()> {
    // What has to be known first stands anywhere in the archive.
    let mut index: Option<Value> = None;
    let mut documents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(&mut from).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if path == "index.json" || (path.starts_with("blobs/") && entry.size() < 1 << 20) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            match path.as_str() {
                "index.json" => index = Some(serde_json::from_slice(&bytes)?),
                _ => {
                    documents.insert(path, bytes);
                }
            }
        }
    }
    from.rewind()?;
    let mut index = index.ok_or_else(|| invalid("the layout has no index.json"))?;
    let descriptor = index["manifests"][0].clone();
    let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
    let bytes = documents
        .get(&path_of(&digest))
        .ok_or_else(|| invalid("the layout has no manifest"))?;
    let mut manifest: Value = serde_json::from_slice(bytes)?;
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let mut image = json!({
        "mediaType": MANIFEST,
        "digest": digest,
        "size": bytes.len(),
        "platform": platform_of(additions.platform),
    });
    if !additions.annotations.is_empty() {
        manifest["annotations"] = json!(additions.annotations);
        let bytes = serde_json::to_vec(&manifest)?;
        image["digest"] = json!(Digest::of(&bytes));
        image["size"] = bytes.len().into();
        blobs.push(bytes);
    }
    let subject: Digest = image["digest"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .map_err(io::Error::other)?;
    let mut manifests = vec![image];
    if !additions.statements.is_empty() {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for statement in additions.statements {
            let bytes = serde_json::to_vec(&statement.about(additions.name, Some(&subject)))?;
            let digest = Digest::of(&bytes);
            layers.push(json!({
                "mediaType": IN_TOTO,
                "digest": digest,
                "size": bytes.len(),
                "annotations": { "in-toto.io/predicate-type": statement.predicate_type },
            }));
            diff_ids.push(digest);
            blobs.push(bytes);
        }
        let config = serde_json::to_vec(&json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let attestation = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len() },
            "layers": layers,
        }))?;
        manifests.push(json!({
            "mediaType": MANIFEST,
            "digest": Digest::of(&attestation),
            "size": attestation.len(),
            "annotations": {
                "vnd.docker.reference.digest": subject,
                "vnd.docker.reference.type": "attestation-manifest",
            },
            "platform": { "architecture": "unknown", "os": "unknown" },
        }));
        blobs.push(config);
        blobs.push(attestation);
    }
    let inner = serde_json::to_vec(
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }),
    )?;
    let mut outer =
        json!({ "mediaType": INDEX, "digest": Digest::of(&inner), "size": inner.len() });
    if let Some(annotations) = descriptor.get("annotations") {
        outer["annotations"] = annotations.clone();
    }
    blobs.push(inner);
    index["manifests"] = json!([outer]);
    let mut builder = Builder::new(to);
    for entry in tar::Archive::new(&mut from).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.as_os_str() != "index.json" {
            let mut header = entry.header().clone();
            builder.append_data(&mut header, path, &mut entry)?;
        }
    }
    for blob in &blobs {
        let path = path_of(Digest::of(blob).as_str());
        if !documents.contains_key(&path) {
            append(&mut builder, &path, blob)?;
        }
    }
    append(&mut builder, "index.json", &serde_json::to_vec(&index)?)?;
    builder.into_inner()?.flush()
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn platform_of(platform: &Platform) -> Value {
    let mut value = json!({ "architecture": platform.architecture, "os": platform.os });
    if let Some(variant) = &platform.variant {
        value["variant"] = variant.clone().into();
    }
    value
}

fn append(builder: &mut Builder<&mut dyn Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, bytes)
}
