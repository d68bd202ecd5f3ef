//! Ctrl-c: the first asks for an orderly end, the second for one at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, poll};

use crate::failure::Result;
use crate::terminal::{Received, SignalQueue};

/// How often the user has asked us to end.
#[derive(Clone, Default)]
pub struct Interrupts(Arc<AtomicUsize>);

impl Interrupts {
    /// From now on, signals that would end us are counted, and told to `tell`.
    pub fn watch(tell: impl Fn(usize) + Send + 'static) -> Result<Interrupts> {
        let count = Interrupts::default();
        let mut queue = SignalQueue::new(false)?;
        let counter = count.clone();
        std::thread::spawn(move || {
            loop {
                let fd = queue.fd();
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                if poll(&mut fds, None).is_err() {
                    continue;
                }
                for received in queue.take() {
                    if let Received::Signal(_) = received {
                        let count = counter.0.fetch_add(1, Ordering::SeqCst) + 1;
                        tell(count);
                    }
                }
            }
        });
        Ok(count)
    }

    /// For work that is given up in good order at the first, and at once at the second.
    pub fn of_work() -> Result<Interrupts> {
        Interrupts::watch(|count| {
            if count > 1 {
                std::process::exit(130);
            }
        })
    }

    /// So often until now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
