//! Signals that the command line receives, as something that poll(2) can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use isle_types::Signal;
use signal_hook::consts::signal::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// Those that end us when they are not passed on.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
/// Those that are passed on beside them. SIGTTIN and SIGTTOU are between us and our terminal.
const OTHERS: [i32; 10] = [
    SIGALRM, SIGCONT, SIGIO, SIGPROF, SIGTSTP, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
];

/// Signals that have arrived and were not looked at yet.
pub struct SignalQueue {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

/// What a signal means for the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The window has another size.
    Resized,
    /// To be passed on, or to end us.
    Signal(Signal),
}

impl SignalQueue {
    /// Catches window changes and the signals that end us; with `all` everything that can be
    /// passed on.
    pub fn new(all: bool) -> io::Result<SignalQueue> {
        let (read, write) = UnixStream::pair()?;
        let others = OTHERS.iter().filter(|_| all);
        let signals: Vec<i32> = ENDING
            .iter()
            .chain(others)
            .chain([&SIGWINCH])
            .copied()
            .collect();
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, signals)?;
        delivery.get_read().set_nonblocking(true)?;
        Ok(SignalQueue { delivery })
    }

    /// Readable when something has arrived.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    /// What has arrived.
    pub fn take(&mut self) -> Vec<Received> {
        let numbers: Vec<i32> = self.delivery.pending().collect();
        numbers
            .into_iter()
            .filter_map(|number| match number {
                SIGWINCH => Some(Received::Resized),
                number => Signal::from_number(number).ok().map(Received::Signal),
            })
            .collect()
    }
}
