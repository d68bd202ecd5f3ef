//! Why there is no house.

use std::io;
use std::path::PathBuf;

/// Why a user's house cannot be built or entered, or its keeper cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum HouseError {
    /// `isle-house` is nowhere to be found.
    #[error("cannot find isle-house, which an ordinary user needs to run anything")]
    NoProgram,
    /// The keeper's folder, lock or socket cannot be used, or the program cannot be executed.
    #[error("cannot start the keeper of your user namespace in {folder}")]
    Start {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The host lets users make no user namespaces.
    #[error("cannot make a user namespace")]
    Namespace(#[source] io::Error),
    /// newuidmap or newgidmap is not there.
    #[error("cannot map your subordinate ids: {program} is not installed")]
    NoMapper {
        /// Which one.
        program: &'static str,
    },
    /// It refused.
    #[error("cannot map your subordinate ids: {program} says: {said}")]
    Mapper {
        /// Which one.
        program: &'static str,
        /// In its words.
        said: String,
    },
    /// The user's own id alone cannot be mapped either.
    #[error("cannot map your user id")]
    Map(#[source] io::Error),
    /// The keeper has ended, or does not answer.
    #[error("the keeper of your user namespace does not answer")]
    Silent(#[source] io::Error),
    /// The namespaces cannot be entered.
    #[error("cannot enter your user namespace")]
    Enter(#[source] io::Error),
    /// It says that it cannot.
    #[error("{0}")]
    Refused(String),
    /// Without pasta there is no way out.
    #[error("cannot connect to networks as an ordinary user: pasta is not installed")]
    NoPasta,
    /// It did not come up.
    #[error("cannot connect your network namespace with the host: pasta says: {0}")]
    Pasta(String),
    /// Something that does not fail.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl HouseError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            HouseError::NoProgram => "put isle-house beside isle, or into /usr/libexec/isle",
            HouseError::Namespace(_) => {
                "ask for it: sysctl user.max_user_namespaces=15000; on Debian also \
                 kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
            }
            HouseError::NoMapper { .. } => "install the package uidmap (shadow-utils on Fedora)",
            HouseError::Mapper { .. } => {
                "see subuid(5): a line `NAME:FIRST:65536` in /etc/subuid and one in /etc/subgid that nobody else has \
                 (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME)"
            }
            HouseError::NoPasta => {
                "install the package passt (it has pasta), or use --network none or --network host"
            }
            HouseError::Start { .. } => {
                "set XDG_RUNTIME_DIR to a folder of your own on a local file system"
            }
            HouseError::Map(_)
            | HouseError::Silent(_)
            | HouseError::Enter(_)
            | HouseError::Refused(_)
            | HouseError::Pasta(_)
            | HouseError::System { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// An error and its causes in one line: it goes over a connection.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
