//! What the allocator holds: malloc_trim(3).

/// Gives the memory that the allocator holds in reserve back to the kernel, see malloc_trim(3).
/// Does nothing where the C library has no such call.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
