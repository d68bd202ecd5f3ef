//! Who may have how much at once, so that one who asks without end takes nothing from the others.

use std::collections::BTreeMap;

/// How many of something each has, and all together.
#[derive(Debug)]
pub(crate) struct Shares<Who> {
    /// The most that one can have.
    each: usize,
    /// The most that there can be.
    all: usize,
    held: BTreeMap<Who, usize>,
    total: usize,
}

/// May one have one more?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<Who> {
    /// Yes.
    Yes,
    /// Yes, once this one has let go of its oldest: there are no more, and it has the most.
    After(Who),
    /// No.
    No,
}

impl<Who: Ord + Copy> Shares<Who> {
    pub(crate) fn new(each: usize, all: usize) -> Shares<Who> {
        Shares {
            each,
            all,
            held: BTreeMap::new(),
            total: 0,
        }
    }

    /// Asks; nothing is taken.
    pub(crate) fn ask(&self, who: Who) -> Verdict<Who> {
        let own = self.held.get(&who).copied().unwrap_or(0);
        if own >= self.each {
            return Verdict::No;
        }
        if self.total < self.all {
            return Verdict::Yes;
        }
        let most = self.held.iter().max_by_key(|(_, count)| **count);
        match most {
            Some((heaviest, count)) if *count > own + 1 => Verdict::After(*heaviest),
            _ => Verdict::No,
        }
    }

    /// One more.
    pub(crate) fn take(&mut self, who: Who) {
        *self.held.entry(who).or_default() += 1;
        self.total += 1;
    }

    /// One less.
    pub(crate) fn release(&mut self, who: Who) {
        let Some(count) = self.held.get_mut(&who) else {
            return;
        };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.held.remove(&who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_has_the_most_makes_room() {
        let mut shares = Shares::new(3, 4);
        for _ in 0..3 {
            assert_eq!(shares.ask('a'), Verdict::Yes);
            shares.take('a');
        }
        assert_eq!(shares.ask('a'), Verdict::No);
        shares.take('b');
        assert_eq!(shares.ask('c'), Verdict::After('a'));
        shares.release('a');
        assert_eq!(shares.ask('c'), Verdict::Yes);
    }

    proptest! {
        #[test]
        fn everybody_gets_something(requests in prop::collection::vec(0_u8..6, 0..200)) {
            let mut shares = Shares::new(8, 16);
            for who in requests {
                match shares.ask(who) {
                    Verdict::Yes => shares.take(who),
                    Verdict::After(other) => {
                        prop_assert_ne!(who, other);
                        shares.release(other);
                        shares.take(who);
                    }
                    Verdict::No => {}
                }
                // Sixteen for six: whoever has asked has one.
                prop_assert!(shares.held.contains_key(&who));
                prop_assert!(shares.total <= 16);
                prop_assert_eq!(shares.total, shares.held.values().sum::<usize>());
            }
        }
    }
}
