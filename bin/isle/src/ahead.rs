//! Verbs for many instances whose first half takes long to take effect: it is begun for some names
//! ahead of the one whose turn it is, so that they stop at the same time, as under Docker.

use std::collections::VecDeque;
use std::slice::Iter;

use crate::failure::Result;

/// So many at a time: each may hold a connection open.
const AT_ONCE: usize = 64;

/// What was begun for the names that come next.
pub struct Ahead<'n, T> {
    names: Iter<'n, String>,
    begun: VecDeque<Result<T>>,
}

impl<'n, T> Ahead<'n, T> {
    /// Nothing is begun yet.
    pub fn new(names: &'n [String]) -> Ahead<'n, T> {
        Ahead {
            names: names.iter(),
            begun: VecDeque::new(),
        }
    }

    /// What was begun for the next name, in the order of the names.
    pub fn next(&mut self, begin: impl Fn(&str) -> Result<T>) -> Result<T> {
        if self.begun.is_empty() {
            let next = self.names.by_ref().take(AT_ONCE);
            self.begun.extend(next.map(|name| begin(name)));
        }
        self.begun
            .pop_front()
            .expect("it is asked once a name, so one is left")
    }
}
