//! How large a virtual machine is. Pure.
//!
//! Templates are made for a few sizes only; what the user asked for exactly is held inside, by the control group
//! of the instance, and on the host, by that of the hypervisor.

use isle_types::ByteSize;

use crate::Wanted;

const MIB: u64 = 1 << 20;

/// What the guest's kernel and agent need beside the instance, on top of an allowance for the table of pages.
const OF_THE_KERNEL: u64 = 48 * MIB;
/// The kernel has 64 bytes for each page of 4096, and caches that grow with the memory.
const PART_OF_THE_KERNEL: u64 = 48;
/// The least machine that makes sense.
const LEAST: u64 = 128 * MIB;
/// The most that a machine sees of a host when nobody says how much.
const MOST_UNASKED: u64 = 4096 * MIB;

/// A machine's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of memory, one of the sizes that templates are made for.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub vcpus: u32,
}

/// The machine for these limits on a host with so many bytes of memory and processors.
///
/// Without `--memory` it sees a quarter of the host, at most 4 GiB; what it does not use it gives back. Without
/// `--cpus` it has one processor: each further one costs memory and time at every start.
#[must_use]
pub fn of(wanted: &Wanted, host_memory_bytes: u64, host_cpus: u32) -> Size {
    let memory_bytes = match wanted.memory {
        Some(memory) => step_above(with_kernel(memory)),
        None => step_below((host_memory_bytes / 4).min(MOST_UNASKED)),
    };
    let vcpus = match wanted.nano_cpus {
        Some(nano) => u32::try_from(nano.div_ceil(1_000_000_000)).unwrap_or(host_cpus),
        None => 1,
    };
    Size {
        memory_bytes: memory_bytes.max(LEAST),
        vcpus: vcpus.clamp(1, host_cpus.max(1)),
    }
}

/// What a guest has to have so that its instance has this much.
#[must_use]
pub fn with_kernel(memory: ByteSize) -> u64 {
    let asked = memory.bytes();
    (asked + OF_THE_KERNEL + asked / PART_OF_THE_KERNEL).next_multiple_of(MIB)
}

/// The sizes: powers of two and the middle between them, from 64 MiB on.
fn steps() -> impl Iterator<Item = u64> {
    (0..32).flat_map(|power| [(64 * MIB) << power, (96 * MIB) << power])
}

fn step_above(bytes: u64) -> u64 {
    steps()
        .find(|step| *step >= bytes)
        .unwrap_or(bytes.next_multiple_of(MIB))
}

fn step_below(bytes: u64) -> u64 {
    steps()
        .take_while(|step| *step <= bytes)
        .last()
        .unwrap_or(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(memory: Option<u64>, cpus: Option<f64>) -> (u64, u32) {
        let wanted = Wanted {
            memory: memory.map(|mib| ByteSize(mib * MIB)),
            nano_cpus: cpus.map(|cpus| (cpus * 1e9) as u64),
            ..Wanted::default()
        };
        let size = of(&wanted, 24 * 1024 * MIB, 4);
        (size.memory_bytes / MIB, size.vcpus)
    }

    #[test]
    fn the_instance_has_all_that_it_was_promised() {
        assert_eq!(size(Some(64), None), (128, 1));
        assert_eq!(size(Some(100), None), (192, 1));
        assert_eq!(size(Some(256), None), (384, 1));
        assert_eq!(size(Some(1024), None), (1536, 1));
        assert_eq!(size(Some(4096), None), (6144, 1));
    }

    #[test]
    fn fractions_of_a_processor_are_a_processor() {
        assert_eq!(size(None, Some(0.5)).1, 1);
        assert_eq!(size(None, Some(1.5)).1, 2);
        assert_eq!(size(None, Some(64.0)).1, 4);
    }

    #[test]
    fn without_a_limit_it_sees_a_part_of_the_host() {
        assert_eq!(size(None, None), (4096, 1));
        let small = of(&Wanted::default(), 1024 * MIB, 1);
        assert_eq!(small.memory_bytes, 256 * MIB);
    }
}
