//! The user's terminal, and the streams between it and an instance.

mod detach;
mod raw;
mod relay;
mod signals;

pub use raw::{RawMode, restore_on_panic};
pub use relay::{Outcome, Relay};
pub use signals::{Received, SignalQueue};

use std::os::fd::AsFd;

use isle_engine::WindowSize;

use crate::failure::{Failure, Result};

/// Size of the terminal on standard output, when there is one.
pub fn window_size() -> Option<WindowSize> {
    window_size_of(std::io::stdout()).or_else(|| window_size_of(std::io::stdin()))
}

fn window_size_of(terminal: impl AsFd) -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(std::io::stdin())
}

/// `-i -t` with something else than a terminal on standard input: Docker's words.
pub fn check_tty(attaches_stdin: bool, tty: bool) -> Result<()> {
    match attaches_stdin && tty && !stdin_is_terminal() {
        false => Ok(()),
        true => Err(Failure::new("the input device is not a TTY")
            .hint("leave out -t when standard input is a pipe or a file")
            .code(1)
            .into()),
    }
}
