//! Manifests and indexes of registries and archives.
#![no_main]

use isle_image::{Digest, Document, Platform, choose, parse_manifest};
use libfuzzer_sys::fuzz_target;

const MEDIA_TYPES: [Option<&str>; 5] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json"),
    Some("application/vnd.docker.distribution.manifest.list.v2+json"),
];

fuzz_target!(|bytes: &[u8]| {
    for media_type in MEDIA_TYPES {
        match parse_manifest(bytes, media_type) {
            Ok(Document::Manifest(manifest)) => {
                for descriptor in manifest.layers().iter().chain([manifest.config()]) {
                    // What names a file of the store holds no path.
                    if let Ok(digest) = Digest::try_from(descriptor.digest()) {
                        assert!(!digest.as_str().contains(['/', '.', '\0']), "{digest}");
                    }
                }
            }
            Ok(Document::Index(index)) => {
                let _ = choose(&index, &Platform::host());
            }
            Err(error) => drop(error.to_string()),
        }
    }
});
