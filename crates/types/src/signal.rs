//! Signals by name or number, see signal(7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal number of Linux on x86-64 and arm64, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// Why a text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal {text:?}: expected a name like SIGTERM or TERM, or a number from 1 to 64")]
pub struct SignalError {
    text: String,
}

const NAMES: [(&str, u8); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

impl Signal {
    /// Hang-up.
    pub const HUP: Signal = Signal(1);
    /// Interrupt from the keyboard.
    pub const INT: Signal = Signal(2);
    /// Quit from the keyboard.
    pub const QUIT: Signal = Signal(3);
    /// The signal that cannot be caught.
    pub const KILL: Signal = Signal(9);
    /// Termination, the default of `stop`.
    pub const TERM: Signal = Signal(15);
    /// Window size changed.
    pub const WINCH: Signal = Signal(28);

    /// A signal by number.
    ///
    /// # Errors
    /// [`SignalError`] outside 1 to 64.
    pub fn from_number(number: i32) -> Result<Self, SignalError> {
        match u8::try_from(number) {
            Ok(n @ 1..=64) => Ok(Signal(n)),
            _ => Err(SignalError {
                text: number.to_string(),
            }),
        }
    }

    /// The number, as kill(2) takes it.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0 as i32
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || SignalError {
            text: text.to_owned(),
        };
        if let Ok(number) = text.parse::<i32>() {
            return Signal::from_number(number).map_err(|_| fail());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Signal(*number));
        }
        let real_time = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(offset), _) => offset.parse::<u8>().ok().and_then(|o| 34_u8.checked_add(o)),
            (_, Some(offset)) => offset.parse::<u8>().ok().and_then(|o| 64_u8.checked_sub(o)),
            _ => None,
        };
        match real_time {
            Some(number @ 34..=64) => Ok(Signal(number)),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "SIGRTMIN+{}", self.0.saturating_sub(34)),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_goes_both_ways() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
    }

    #[test]
    fn names_come_with_and_without_prefix() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse(), Ok(Signal::TERM));
        }
        for text in ["", "0", "65", "-9", "SIG", "RTMIN+31", "RTMAX-31", "FOO"] {
            text.parse::<Signal>().expect_err(text);
        }
    }
}
