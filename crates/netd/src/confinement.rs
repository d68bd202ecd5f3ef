//! The rights that the keeper does without: it reads what instances send.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// Links and tables, port 53, and sockets that belong to a bridge.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW);

/// Keeps what is needed and was there. Files that root does not own, signals to others, mounts, modules: no more.
///
/// Errors are not told: less is taken away then, and the keeper works.
pub(crate) fn shed_rights() {
    let _ = set_no_new_privs(true);
    let Ok(had) = capabilities(None) else {
        return;
    };
    let kept = had.permitted & NEEDED;
    let _ = set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    );
}
