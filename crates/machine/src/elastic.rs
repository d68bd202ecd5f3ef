//! How much of its machine's memory a guest is left, when nobody has said how much it gets.
//!
//! What a guest does not use comes back to the host by itself (free page reporting). What it keeps in case, its cache of
//! files above all, it lets go when its balloon grows; so that is what the balloon is for, while the host is short. A
//! guest that would have to kill something takes its memory back by itself (`deflate-on-oom`).

use std::time::{Duration, Instant};

use crate::host::HostMemory;

const MIB: u64 = 1 << 20;

/// How often the host is looked at while nothing is the matter, and while something is.
const CALM: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(1);
/// The host is short with less than this part of its memory available, and at ease with more than that.
const SHORT: u64 = 10;
const AT_EASE: u64 = 5;
/// Smaller steps are not worth a word.
const LEAST_STEP: u64 = 16 * MIB;
/// A guest keeps this much, or an eighth of its machine, whatever the host needs.
const LEAST: u64 = 128 * MIB;

/// What a machine that gives memory back has and leaves its guest.
#[derive(Clone, Debug)]
pub struct Elastic {
    machine_bytes: u64,
    /// What the guest is left.
    target_bytes: u64,
    next: Instant,
}

/// Whether the host needs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// It lacks so many bytes.
    Short(u64),
    /// It has what it needs.
    Enough,
    /// It has so many bytes to give away.
    AtEase(u64),
}

impl Host {
    fn of(memory: HostMemory) -> Host {
        let (low, high) = (memory.total / SHORT, memory.total / AT_EASE);
        match memory.available {
            available if available < low => Host::Short((low + high) / 2 - available),
            available if available > high => Host::AtEase(available - high),
            _ => Host::Enough,
        }
    }
}

impl Elastic {
    /// Of a machine with so much memory, whose guest is left that much now.
    #[must_use]
    pub fn new(machine_bytes: u64, target_bytes: u64) -> Elastic {
        Elastic {
            machine_bytes,
            target_bytes: target_bytes.min(machine_bytes),
            next: Instant::now() + CALM,
        }
    }

    /// When the host is to be looked at.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// What the guest is to be left from now on, when that changes. `available`: how much of its memory the guest could
    /// do without; it is only asked when it matters, and `None` when it does not answer.
    pub fn look(
        &mut self,
        host: HostMemory,
        available: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        let is_whole = self.target_bytes == self.machine_bytes;
        let (target, is_calm) = match Host::of(host) {
            Host::Short(lacking) => {
                let target = available().map(|free| self.taken(lacking, free));
                // One that does not answer is not asked all the time.
                (target, target.is_none())
            }
            Host::AtEase(spare) => (Some(self.given(spare)), is_whole),
            Host::Enough => (None, is_whole),
        };
        self.next = Instant::now() + if is_calm { CALM } else { BUSY };
        target.filter(|target| *target != self.target_bytes)
    }

    /// Half of what the guest could do without, as long as the host lacks as much.
    fn taken(&self, lacking: u64, free: u64) -> u64 {
        let least = LEAST.max(self.machine_bytes / 8).min(self.machine_bytes);
        let step = (free / 2).min(lacking) / MIB * MIB;
        match step < LEAST_STEP {
            true => self.target_bytes,
            false => self
                .target_bytes
                .saturating_sub(step)
                .max(least.min(self.target_bytes)),
        }
    }

    /// Half of what the host can give away: others want some, too.
    fn given(&self, spare: u64) -> u64 {
        let step = (spare / 2).max(LEAST_STEP) / MIB * MIB;
        (self.target_bytes + step).min(self.machine_bytes)
    }

    /// That the guest is left this much now.
    pub fn set(&mut self, target_bytes: u64) {
        self.target_bytes = target_bytes;
        self.next = Instant::now() + BUSY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(available_percent: u64) -> HostMemory {
        HostMemory {
            total: 16 * GIB,
            available: 16 * GIB * available_percent / 100,
        }
    }

    #[test]
    fn while_the_host_has_enough_nothing_is_asked() {
        let mut machine = Elastic::new(4 * GIB, 4 * GIB);
        for percent in [90, 30, 15] {
            let target = machine.look(host(percent), || panic!("the guest was asked"));
            assert_eq!(target, None, "{percent} %");
        }
    }

    #[test]
    fn a_short_host_gets_half_of_what_the_guest_can_do_without() {
        let mut machine = Elastic::new(4 * GIB, 4 * GIB);
        assert_eq!(machine.look(host(1), || Some(2 * GIB)), Some(3 * GIB));
        machine.set(3 * GIB);
        assert_eq!(machine.look(host(1), || Some(GIB)), Some(2560 * MIB));
        // No more than it lacks: it is short below 10 % and had enough with 15 %.
        let lacking = machine.look(host(9), || Some(4 * GIB)).expect("a target");
        assert_eq!(3 * GIB - lacking, (16 * GIB * 6 / 100) / MIB * MIB);
        assert_eq!(machine.look(host(1), || Some(20 * MIB)), None);
        assert_eq!(machine.look(host(1), || None), None);
    }

    #[test]
    fn what_a_guest_needs_it_keeps() {
        let mut machine = Elastic::new(4 * GIB, GIB);
        for _ in 0..10 {
            if let Some(target) = machine.look(host(1), || Some(8 * GIB)) {
                machine.set(target);
            }
        }
        assert_eq!(machine.target_bytes, GIB / 2);
        let mut small = Elastic::new(96 * MIB, 96 * MIB);
        assert_eq!(small.look(host(1), || Some(80 * MIB)), None);
    }

    #[test]
    fn it_comes_back_when_the_host_is_at_ease() {
        let mut machine = Elastic::new(4 * GIB, GIB);
        assert_eq!(machine.look(host(15), || None), None);
        let mut looks = 0;
        while let Some(target) = machine.look(host(40), || None) {
            assert!(target > machine.target_bytes);
            machine.set(target);
            looks += 1;
        }
        assert_eq!(machine.target_bytes, 4 * GIB);
        assert!(looks < 10, "{looks}");
    }
}
