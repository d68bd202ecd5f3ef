//! What a build is asked to do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isle_engine::config::{HostAddress, NetworkMode, Ulimit};
use isle_image::{Platform, Reference};
use isle_types::{ByteSize, Isolation};

/// One build.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// The files that `COPY` and `ADD` take from.
    pub context: Context,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// `--target`: the stage to build; the last one when not given.
    pub target: Option<String>,
    /// `--build-arg`
    pub args: BTreeMap<String, String>,
    /// `--tag`: names of the image.
    pub tags: Vec<Reference>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--annotation`, of the manifest, where an archive is written.
    pub annotations: BTreeMap<String, String>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`: sockets of agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// `--platform`; the host's when not given.
    pub platform: Option<Platform>,
    /// `--no-cache`
    pub no_cache: bool,
    /// `--no-cache-filter`: stages that are built anew.
    pub no_cache_filter: Vec<String>,
    /// `--pull`: asks the registry for images that are here too.
    pub pull: bool,
    /// What `RUN` reaches when it does not say; nothing by default.
    pub network: NetworkMode,
    /// The level that each `RUN` runs at.
    pub isolation: Isolation,
    /// `--add-host`
    pub extra_hosts: Vec<(String, HostAddress)>,
    /// `--shm-size`
    pub shm_size: Option<ByteSize>,
    /// `--ulimit`
    pub ulimits: Vec<Ulimit>,
    /// `--memory`: the most that one `RUN` may use.
    pub memory: Option<ByteSize>,
    /// `--build-context`
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--allow network.host`: `RUN --network=host` may.
    pub allows_host_network: bool,
    /// `--allow security.insecure`: `RUN --security=insecure` may.
    pub allows_insecure: bool,
    /// `--output`; the store of images when empty.
    pub outputs: Vec<Output>,
    /// `--cache-from`: folders.
    pub cache_from: Vec<PathBuf>,
    /// `--cache-to`: folders.
    pub cache_to: Vec<PathBuf>,
    /// `--provenance`
    pub provenance: Option<Provenance>,
    /// `--sbom`
    pub sbom: bool,
}

/// How much is told of how an image was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// What it was built upon, and when.
    Min,
    /// Also the values of arguments, labels, and the Dockerfile. Not secrets.
    Max,
}

/// Files for `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Context {
    /// A folder of the host.
    Directory(PathBuf),
    /// An archive: tar, also gzip or zstd.
    Archive(PathBuf),
    /// An archive that was read from somewhere already: standard input.
    Stdin(Vec<u8>),
    /// A git repository, `address[#branch[:folder]]`.
    Git(String),
    /// No files at all.
    Empty,
}

impl Default for Context {
    fn default() -> Context {
        Context::Directory(PathBuf::from("."))
    }
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    #[default]
    Default,
    /// A file, below the context unless it is absolute.
    Path(PathBuf),
    /// The text itself: `-f -`, `dockerfile_inline` of Compose.
    Text(String),
}

/// `--build-context NAME=…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// Files.
    Files(Context),
    /// `docker-image://REFERENCE`
    Image(String),
}

/// `--secret`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// What the file holds.
    File(PathBuf),
    /// What the variable of the environment holds.
    Environment(String),
}

/// `--output`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The store of images.
    Image,
    /// The store of images, and the registry of each tag.
    Registry,
    /// The files, below a folder.
    Local(PathBuf),
    /// The files, as a tar archive; `None` is standard output.
    Tar(Option<PathBuf>),
    /// An OCI image layout, as a tar archive.
    Oci(Option<PathBuf>),
    /// Docker's image archive.
    Docker(Option<PathBuf>),
}

/// Stops a build, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the build to stop. It leaves nothing.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// What is set when it was asked to: for those who catch signals.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether it was asked to.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What a build has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The image's id, when an image was made.
    pub image_id: Option<String>,
    /// The digest of its manifest.
    pub manifest: Option<String>,
    /// `--metadata-file`: what BuildKit tells of a build, as far as it applies.
    pub metadata: BTreeMap<String, serde_json::Value>,
}
