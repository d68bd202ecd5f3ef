//! What client and keeper say to each other over a Unix stream.
//!
//! The keeper speaks first: [`MAP`] and its pid (whoever hears it is outside, and gives the new user namespace its maps), then
//! [`READY`] and its pid, or [`FAILED`] with a text. After that each line of the client is a [`Request`], and each gets one [`Answer`] as a line; a socket
//! comes with its line.

use std::net::IpAddr;

use crate::Claim;

/// "Give me my maps."
pub(crate) const MAP: u8 = b'M';
/// "Come in."
pub(crate) const READY: u8 = b'R';
/// "There will be no house", and why.
pub(crate) const FAILED: u8 = b'E';
/// Of the client: "you have them".
pub(crate) const MAPPED: u8 = b'm';
/// Longer lines there are none.
pub(crate) const LONGEST: usize = 4096;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The house's network, and its way out.
    Network,
    /// A socket in the host's network.
    Bind(Claim, Port),
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    /// Else UDP.
    pub(crate) is_stream: bool,
    pub(crate) address: IpAddr,
    pub(crate) number: u16,
}

impl Request {
    pub(crate) fn line(&self) -> String {
        match self {
            Request::Network => "network\n".to_owned(),
            Request::Bind(claim, port) => {
                let verb = match claim {
                    Claim::Owner => "bind",
                    Claim::Servant => "share",
                };
                let kind = if port.is_stream { "tcp" } else { "udp" };
                format!("{verb} {kind} {} {}\n", port.address, port.number)
            }
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Request> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["network"] => Some(Request::Network),
            [
                verb @ ("bind" | "share"),
                kind @ ("tcp" | "udp"),
                address,
                number,
            ] => {
                let claim = match *verb {
                    "bind" => Claim::Owner,
                    _ => Claim::Servant,
                };
                let port = Port {
                    is_stream: *kind == "tcp",
                    address: address.parse().ok()?,
                    number: number.parse().ok()?,
                };
                Some(Request::Bind(claim, port))
            }
            _ => None,
        }
    }
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// The number of the error, see errno(3).
    Errno(i32),
    /// pasta is not installed.
    NoPasta,
    Failed(String),
}

impl Answer {
    pub(crate) fn line(&self) -> String {
        match self {
            Answer::Done => "done\n".to_owned(),
            Answer::Errno(number) => format!("errno {number}\n"),
            Answer::NoPasta => "no-pasta\n".to_owned(),
            Answer::Failed(text) => {
                let mut text = text.replace('\n', " ");
                text.truncate(text.floor_char_boundary(LONGEST / 2));
                format!("failed {text}\n")
            }
        }
    }

    pub(crate) fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), ""));
        match word {
            "done" => Some(Answer::Done),
            "errno" => Some(Answer::Errno(rest.parse().ok()?)),
            "no-pasta" => Some(Answer::NoPasta),
            "failed" => Some(Answer::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        for request in [
            Request::Network,
            Request::Bind(
                Claim::Servant,
                Port {
                    is_stream: false,
                    address: "::".parse().unwrap(),
                    number: 53,
                },
            ),
        ] {
            assert_eq!(Request::parse(&request.line()), Some(request));
        }
        for answer in [
            Answer::Done,
            Answer::Errno(98),
            Answer::NoPasta,
            Answer::Failed("no such thing".into()),
        ] {
            assert_eq!(Answer::parse(&answer.line()), Some(answer));
        }
        assert_eq!(Request::parse("bind tcp nowhere 1"), None);
    }
}
