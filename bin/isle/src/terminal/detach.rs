//! Finding the detach keys in what is typed.

use crate::flags::detach_keys::DetachKeys;

/// Holds back what may be the start of the detach keys.
#[derive(Debug)]
pub struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    pub fn new(keys: DetachKeys) -> DetachFilter {
        DetachFilter {
            keys: keys.0,
            matched: 0,
        }
    }

    /// What to pass on of the bytes typed, and whether the keys were among them.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        if self.keys.is_empty() {
            passed.extend_from_slice(typed);
            return (passed, false);
        }
        for byte in typed {
            if *byte != self.keys[self.matched] {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            match *byte == self.keys[self.matched] {
                true => self.matched += 1,
                false => passed.push(*byte),
            }
            if self.matched == self.keys.len() {
                self.matched = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_across_reads_and_the_rest_is_passed_on() {
        let mut filter = DetachFilter::new(DetachKeys::default());
        assert_eq!(filter.feed(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(filter.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(filter.feed(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(filter.feed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(filter.feed(b"\x11rest"), (b"".to_vec(), true));
    }

    #[test]
    fn without_keys_everything_is_passed_on() {
        let mut filter = DetachFilter::new(DetachKeys(Vec::new()));
        assert_eq!(filter.feed(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
