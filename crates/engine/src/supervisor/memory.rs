//! Gives memory back to the host. A thousand supervisors stand still most of their time; what
//! they needed for the start they must not keep.

/// Gives back what the allocator holds in reserve, and the code that ran for the start: SQLite,
/// JSON, mounts and namespaces.
pub(super) fn give_back() {
    isle_sys::memory::trim();
    // Last, or the code of all that follows comes back at once. When it fails, only more memory is
    // in use than necessary.
    let _ = isle_sys::memory::drop_code();
}
