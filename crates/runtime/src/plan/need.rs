//! What the parent opens for the new process, before it is made.

use std::path::PathBuf;

use isle_sys::launch::Slot;
use isle_sys::mount::Attributes;
use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

/// Ids of a user namespace, see user_namespaces(7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMap {
    pub(crate) uids: Vec<LinuxIdMapping>,
    pub(crate) gids: Vec<LinuxIdMapping>,
}

/// One descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Need {
    /// The root file system, a detached mount.
    Root,
    /// `/proc` of the host, verified.
    Proc,
    /// A path of the host as a detached mount.
    Tree {
        path: PathBuf,
        recursive: bool,
        attributes: Attributes,
        recursive_attributes: Attributes,
        propagation: (u64, bool),
        is_id_map_recursive: bool,
        id_map: Option<IdMap>,
    },
    /// The container's control group in one hierarchy, as a detached mount.
    CgroupTree {
        /// Where the hierarchy is mounted.
        mount_point: PathBuf,
        /// A controller of it; empty: version 2.
        controller: String,
        attributes: Attributes,
    },
    /// A namespace.
    Namespace { path: PathBuf, kind: u64 },
}

/// The table of descriptors, as it will be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needs(pub(crate) Vec<Need>);

impl Needs {
    pub(crate) fn add(&mut self, need: Need) -> Slot {
        // the same thing is opened once; trees are used up by being attached
        let shared = matches!(need, Need::Root | Need::Proc | Need::Namespace { .. });
        if shared && let Some(index) = self.0.iter().position(|other| *other == need) {
            return Slot(index);
        }
        self.0.push(need);
        Slot(self.0.len() - 1)
    }
}
