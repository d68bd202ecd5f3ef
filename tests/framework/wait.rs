//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// How long a state may take to come on a slow, busy machine before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `is_reached` says so.
///
/// # Panics
/// When that takes longer than [`PATIENCE`].
pub fn wait_for(state: &str, mut is_reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_reached() {
        assert!(
            begin.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for: {state}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
