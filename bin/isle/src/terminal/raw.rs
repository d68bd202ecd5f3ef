//! Raw mode, which is given back however we end.

use std::io::{self, Stdin};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings to give back, for the panic hook too: a release build aborts without unwinding.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// While this lives, the terminal on standard input hands every key through.
#[derive(Debug)]
pub struct RawMode {
    stdin: Stdin,
}

impl RawMode {
    /// Switches standard input to raw mode; `None` when it is no terminal.
    pub fn enter() -> io::Result<Option<RawMode>> {
        let stdin = io::stdin();
        if !rustix::termios::isatty(&stdin) {
            return Ok(None);
        }
        let settings = tcgetattr(&stdin)?;
        let mut raw = settings.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(RawMode { stdin }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore(&self.stdin);
    }
}

fn restore(stdin: &Stdin) {
    // In the panic hook the lock may be ours already: better a raw terminal than a deadlock.
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(settings) = saved.take()
    {
        // Nothing better can be done when the terminal itself has gone.
        let _ = tcsetattr(stdin, OptionalActions::Drain, &settings);
    }
}

/// Gives the terminal back before the words of a panic are printed.
pub fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore(&io::stdin());
        print(panic);
    }));
}
