//! Clocks of the processor.

use std::time::{Duration, Instant};

/// So long is counted: an error of a microsecond in it is one of 50 millionths.
const WHILE: Duration = Duration::from_millis(20);

/// The frequency of the time stamp counter in kHz, measured beside the monotonic clock for 20 ms. See the
/// description of `RDTSC` in Intel's and AMD's manuals.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn counter_khz() -> u64 {
    let read = || {
        // SAFETY: reads a register; every x86-64 processor has it, and Linux does not take it from processes
        // unless they ask (prctl(2), PR_SET_TSC).
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    let (clock, counter) = (Instant::now(), read());
    std::thread::sleep(WHILE);
    let (counted, lasted) = (read().wrapping_sub(counter), clock.elapsed());
    let nanoseconds = lasted.as_nanos().max(1);
    u64::try_from(u128::from(counted) * 1_000_000 / nanoseconds).unwrap_or(0)
}

/// Other processors' counters say their frequency themselves.
#[cfg(not(target_arch = "x86_64"))]
#[must_use]
pub fn counter_khz() -> u64 {
    0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn a_counter_is_as_fast_as_a_processor() {
        let khz = super::counter_khz();
        assert!((100_000..20_000_000).contains(&khz), "{khz} kHz");
    }
}
