//! What is wanted: which engine, on which host, with which runtimes.

use std::fmt;
use std::path::{Path, PathBuf};

/// An engine that can use Isle as its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker Engine, and with it Docker Swarm.
    Docker,
    /// Podman.
    Podman,
    /// containerd and its CRI plug-in.
    Containerd,
    /// A node of Kubernetes: containerd or CRI-O, and the manifests of its `RuntimeClass`es.
    Kubernetes,
}

impl Engine {
    /// As it is typed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
            Engine::Containerd => "containerd",
            Engine::Kubernetes => "kubernetes",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What runs containers on a node of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
}

/// Whose files they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Stands for `/`.
    root: PathBuf,
    /// The configuration folder of an ordinary user, who has no `/etc`: `~/.config`.
    user: Option<PathBuf>,
}

impl Host {
    /// The host whose root folder this is: `/`, or one that is being made.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>) -> Host {
        Host {
            root: root.into(),
            user: None,
        }
    }

    /// An ordinary user's part of this host; the folder is `$XDG_CONFIG_HOME` or `~/.config`.
    #[must_use]
    pub fn user(config: impl Into<PathBuf>) -> Host {
        Host {
            root: "/".into(),
            user: Some(config.into()),
        }
    }

    /// A file or folder of `/etc`, or the user's own of that name.
    #[must_use]
    pub fn etc(&self, name: &str) -> PathBuf {
        match &self.user {
            Some(config) => config.join(name),
            None => self.root.join("etc").join(name),
        }
    }
}

/// One runtime, as engines name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// `isle` or `isle-vm`.
    pub name: &'static str,
    /// The program, as the engine will find it.
    pub program: PathBuf,
}

/// The runtimes that the engine gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtimes {
    pub(crate) list: Vec<Runtime>,
}

/// All names that runtimes of ours have had.
pub(crate) const NAMES: [&str; 2] = ["isle", "isle-vm"];

impl Runtimes {
    /// `isle`, for containers.
    #[must_use]
    pub fn container(program: impl Into<PathBuf>) -> Runtimes {
        Runtimes {
            list: vec![Runtime {
                name: NAMES[0],
                program: program.into(),
            }],
        }
    }

    /// And `isle-vm`, for the same images as virtual machines.
    #[must_use]
    pub fn and_vm(mut self, program: impl Into<PathBuf>) -> Runtimes {
        self.list.push(Runtime {
            name: NAMES[1],
            program: program.into(),
        });
        self
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Runtime> {
        self.list.iter()
    }
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The engine.
    pub engine: Engine,
    /// Whose files they are.
    pub host: Host,
    /// The runtimes.
    pub runtimes: Runtimes,
    /// The name of the runtime that the engine takes when it is told none; `None` leaves what is.
    pub default: Option<&'static str>,
    /// The engine's configuration file, when it is not where the engine looks first.
    pub config: Option<PathBuf>,
    /// For Kubernetes: what runs containers on the node. `None`: CRI-O where it has a folder in `/etc`, else containerd.
    pub node: Option<Node>,
}

impl Wish {
    /// An engine, set up where it looks first, with its default left as it is.
    #[must_use]
    pub fn new(engine: Engine, host: Host, runtimes: Runtimes) -> Wish {
        Wish {
            engine,
            host,
            runtimes,
            default: None,
            config: None,
            node: None,
        }
    }

    /// The configuration file, which is this one unless another was named.
    pub(crate) fn file(&self, usual: &str) -> PathBuf {
        match &self.config {
            Some(path) => path.clone(),
            None => self.host.etc(usual),
        }
    }
}

/// A path as text of a configuration file.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
