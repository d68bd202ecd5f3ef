//! Everything that the supervisor waits for.

use isle_sys::poller;

pub(super) use isle_sys::poller::Interest;

pub(super) type Poller = poller::Poller<Token>;
pub(super) type Ready = poller::Ready<Token>;

/// What a descriptor is to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// New clients.
    Listener,
    /// SIGTERM and its like.
    Signals,
    /// The instance's process has ended.
    Ended,
    /// Its standard output, or terminal.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Its standard input takes more.
    Stdin,
    /// The health check has ended.
    CheckEnded,
    /// The health check says something.
    CheckOutput,
    /// The back end has something to do.
    Backend,
    /// The keeper of networks tells something.
    Keeper,
    /// A client.
    Client(u32),
    /// The process of an exec has ended.
    SessionEnded(u32),
    /// Output of an exec that nobody listens to: standard output, or terminal.
    SessionStdout(u32),
    /// Its standard error.
    SessionStderr(u32),
}

impl Token {
    const SIMPLE: [Token; 10] = [
        Token::Listener,
        Token::Signals,
        Token::Ended,
        Token::Stdout,
        Token::Stderr,
        Token::Stdin,
        Token::CheckEnded,
        Token::CheckOutput,
        Token::Backend,
        Token::Keeper,
    ];
}

impl poller::Token for Token {
    fn encode(self) -> u64 {
        let with = |kind: u64, number: u32| (kind << 32) | u64::from(number);
        match self {
            Token::Client(number) => with(1, number),
            Token::SessionEnded(number) => with(2, number),
            Token::SessionStdout(number) => with(3, number),
            Token::SessionStderr(number) => with(4, number),
            simple => {
                let at = Token::SIMPLE.iter().position(|known| *known == simple);
                at.expect("all others are simple") as u64
            }
        }
    }

    fn decode(data: u64) -> Token {
        let number = data as u32;
        match data >> 32 {
            0 => Token::SIMPLE[number as usize % Token::SIMPLE.len()],
            1 => Token::Client(number),
            2 => Token::SessionEnded(number),
            3 => Token::SessionStdout(number),
            _ => Token::SessionStderr(number),
        }
    }
}
