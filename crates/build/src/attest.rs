//! Attestations: how an image was made (SLSA provenance) and what is in it (SPDX), as in-toto statements.
//!
//! <https://slsa.dev/spec/v1.0/provenance>, <https://spdx.github.io/spdx-spec/v2.3/>, <https://github.com/in-toto/attestation>

use std::collections::BTreeMap;

use isle_image::Digest;
use serde_json::{Value, json};

use crate::config::rfc3339;
use crate::place::Below;

/// What is told of a build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) dockerfile: String,
    /// With [`Provenance::Max`](crate::Provenance::Max): values of `--build-arg`, labels, the text.
    pub(crate) parameters: Option<Value>,
    pub(crate) target: Option<String>,
    pub(crate) platform: String,
    /// Images that were built upon, and the digests of their manifests.
    pub(crate) bases: BTreeMap<String, Digest>,
    pub(crate) begun: i64,
    pub(crate) ended: i64,
}

/// One attestation, ready to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) predicate_type: &'static str,
    pub(crate) file: &'static str,
    predicate: Value,
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

impl Statement {
    pub(crate) fn provenance(story: &Story) -> Statement {
        let dependencies = story.bases.iter().map(|(name, digest)| {
            json!({
                "uri": format!("pkg:docker/{name}?platform={}", story.platform.replace('/', "%2F")),
                "digest": { "sha256": digest.hex() },
            })
        });
        let mut request = json!({ "frontend": "dockerfile.v0" });
        if let Some(target) = &story.target {
            request["target"] = target.clone().into();
        }
        if let Some(parameters) = &story.parameters {
            request["args"] = parameters.clone();
        }
        Statement {
            predicate_type: PROVENANCE,
            file: "provenance.json",
            predicate: json!({
                "buildDefinition": {
                    "buildType": "https://github.com/isle-engine/isle/blob/main/docs/howto/build.md",
                    "externalParameters": {
                        "configSource": { "path": story.dockerfile },
                        "request": request,
                    },
                    "internalParameters": { "builderPlatform": isle_image::Platform::host().to_string() },
                    "resolvedDependencies": dependencies.collect::<Vec<_>>(),
                },
                "runDetails": {
                    "builder": { "id": "" },
                    "metadata": {
                        "startedOn": rfc3339(story.begun),
                        "finishedOn": rfc3339(story.ended),
                    },
                },
            }),
        }
    }

    /// The packages that the image's own package manager knows.
    pub(crate) fn sbom(name: &str, below: Below<'_>, created: i64) -> Statement {
        let packages = packages(below);
        let listed = packages.iter().enumerate().map(|(index, package)| {
            json!({
                "name": package.name,
                "SPDXID": format!("SPDXRef-Package-{index}"),
                "versionInfo": package.version,
                "downloadLocation": "NOASSERTION",
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": "NOASSERTION",
                "copyrightText": "NOASSERTION",
                "filesAnalyzed": false,
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": format!(
                        "pkg:{}/{}@{}?arch={}",
                        package.kind, package.name, package.version.replace('+', "%2B"), package.architecture
                    ),
                }],
            })
        });
        let listed: Vec<Value> = listed.collect();
        let related = listed.iter().map(|package| {
            json!({
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": package["SPDXID"],
            })
        });
        let related: Vec<Value> = related.collect();
        let content = Digest::of(json!(listed).to_string().as_bytes());
        Statement {
            predicate_type: SPDX,
            file: "sbom.spdx.json",
            predicate: json!({
                "spdxVersion": "SPDX-2.3",
                "dataLicense": "CC0-1.0",
                "SPDXID": "SPDXRef-DOCUMENT",
                "name": name,
                "documentNamespace": format!("urn:sha256:{}", content.hex()),
                "creationInfo": {
                    "creators": [format!("Tool: isle-{}", env!("CARGO_PKG_VERSION"))],
                    "created": rfc3339(created),
                },
                "packages": listed,
                "relationships": related,
            }),
        }
    }

    /// The whole statement, about an image's manifest, or about files when there is none.
    pub(crate) fn about(&self, name: &str, manifest: Option<&Digest>) -> Value {
        let subject = match manifest {
            Some(manifest) => json!([{ "name": name, "digest": { "sha256": manifest.hex() } }]),
            None => json!([]),
        };
        json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "subject": subject,
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    kind: String,
    name: String,
    version: String,
    architecture: String,
}

fn packages(below: Below<'_>) -> Vec<Package> {
    let mut found = Vec::new();
    let distribution = below
        .read("/etc/os-release")
        .or_else(|| below.read("/usr/lib/os-release"))
        .and_then(|text| {
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("ID="))?
                .trim_matches('"')
                .to_owned();
            Some(id)
        });
    if let Some(text) = below.read("/var/lib/dpkg/status") {
        found.extend(dpkg(&text, distribution.as_deref().unwrap_or("debian")));
    }
    if let Some(text) = below.read("/lib/apk/db/installed") {
        found.extend(apk(&text, distribution.as_deref().unwrap_or("alpine")));
    }
    found
}

fn dpkg(text: &str, distribution: &str) -> Vec<Package> {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| {
            let lines = paragraph.lines().filter_map(|line| line.split_once(": "));
            lines
                .into_iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let is_installed = field("Status").is_some_and(|status| status.ends_with(" installed"));
        is_installed.then_some(())?;
        Some(Package {
            kind: format!("deb/{distribution}"),
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture").unwrap_or_default(),
        })
    });
    paragraphs.collect()
}

fn apk(text: &str, distribution: &str) -> Vec<Package> {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
        };
        Some(Package {
            kind: format!("apk/{distribution}"),
            name: field("P:")?,
            version: field("V:")?,
            architecture: field("A:").unwrap_or_default(),
        })
    });
    paragraphs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_databases_are_read() {
        let text = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1+b1\nDescription: x\n y\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        let found = dpkg(text, "debian");
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, &*found[0].version), ("bash", "5.2-1+b1"));
        assert_eq!(
            apk("P:musl\nV:1.2\nA:x86_64\n\nP:x\nV:2\n", "alpine").len(),
            2
        );
    }
}
