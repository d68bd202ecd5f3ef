//! The configuration with which other engines use Isle as their runtime.
//!
//! [`plan`] reads the files of an engine and says which of them would become what ([`Plan`], a list of [`Change`]s); it
//! writes nothing. [`Plan::apply`] writes them, and keeps a [record](record) of how they were, from which [`undo`] makes
//! the plan back: byte for byte where nobody has touched a file since, else by taking out what is ours and no more.
//!
//! Where an engine reads folders of small files (Podman, CRI-O), Isle adds one of its own. Docker's `daemon.json` and
//! containerd's `config.toml` are edited in place: order, comments and spaces of what was there stay.
//!
//! ```
//! use isle_setup::{Engine, Host, Runtimes, Wish, plan};
//!
//! let folder = tempfile::tempdir()?;
//! let wish = Wish::new(Engine::Docker, Host::below(folder.path()), Runtimes::container("/usr/bin/isle-oci"));
//! let plan = plan(&wish)?;
//! assert!(plan.diff().contains(r#"+    "isle": {"#));
//! plan.apply()?;
//! isle_setup::undo(Engine::Docker, &wish.host)?.apply()?;
//! assert!(!folder.path().join("etc/docker/daemon.json").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: [daemon.json](https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file),
//! [containers.conf(5)](https://github.com/containers/common/blob/main/docs/containers.conf.5.md),
//! [containerd's CRI plug-in](https://github.com/containerd/containerd/blob/main/docs/cri/config.md),
//! [crio.conf(5)](https://github.com/cri-o/cri-o/blob/main/docs/crio.conf.5.md),
//! [RuntimeClass](https://kubernetes.io/docs/concepts/containers/runtime-class/).

#![forbid(unsafe_code)]

mod containerd;
mod crio;
mod docker;
mod error;
mod kubernetes;
mod plan;
mod podman;
pub mod record;
mod wish;

pub use error::SetupError;
pub use plan::{Change, Plan, plan, undo};
pub use wish::{Engine, Host, Node, Runtime, Runtimes, Wish};
