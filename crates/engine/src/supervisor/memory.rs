//! Gives memory back to the host. A thousand supervisors stand still most of their time; what
//! they needed for the start they must not keep.

/// Gives back what the allocator holds in reserve.
pub(super) fn give_back() {
    isle_sys::memory::trim();
}
