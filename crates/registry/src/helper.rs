//! Credential helpers: `docker-credential-<name>` programs that keep secrets in a keychain.
//!
//! Protocol: <https://github.com/docker/docker-credential-helpers#development>. One action is the
//! first argument, its input comes on standard input, its answer on standard output. A helper
//! reports a failure on standard *output* with a non-zero exit.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::credentials::{Credential, Secret};
use crate::location::printable;

/// As long as a user needs to unlock a keychain, and no longer.
const PATIENCE: Duration = Duration::from_secs(120);
const LARGEST_ANSWER: u64 = 1 << 20;
/// The user name under which helpers keep identity tokens.
const TOKEN_USER: &str = "<token>";

/// Why a credential helper gave no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HelperError {
    /// It could not be started.
    #[error("start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be talked to.
    #[error("talk to {program}")]
    Talk {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("{program} {action} failed: {said}")]
    Failed {
        /// The program.
        program: String,
        /// `get`, `store` or `erase`.
        action: String,
        /// What it said.
        said: String,
    },
    /// Its answer is not what the protocol says.
    #[error("malformed answer of {program}")]
    Malformed {
        /// The program.
        program: String,
    },
    /// It did not answer in time, and was stopped.
    #[error("no answer of {program} in {} s", PATIENCE.as_secs())]
    TimedOut {
        /// The program.
        program: String,
    },
    /// It keeps user names and tokens, not bare registry tokens.
    #[error("{program} cannot keep a registry token")]
    Unsupported {
        /// The program.
        program: String,
    },
}

impl HelperError {
    /// What the user can do about it, where known.
    pub fn hint(&self) -> Option<String> {
        match self {
            HelperError::Start { program, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!(
                    "install {program} on the PATH, or take it out of credsStore and credHelpers in config.json"
                ))
            }
            _ => None,
        }
    }
}

/// One helper program.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Deposit<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

impl Helper {
    /// `None` when the name would lead out of the PATH.
    pub(crate) fn named(name: &str) -> Option<Helper> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (!name.is_empty() && name.chars().all(is_plain)).then(|| Helper { name: name.into() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    /// What the helper keeps for `server`; `None` when it knows nothing of it.
    pub(crate) fn get(&self, server: &str) -> Result<Option<Credential>, HelperError> {
        let said = match self.call("get", server.as_bytes()) {
            Err(HelperError::Failed { said, .. }) if is_nothing_found(&said) => return Ok(None),
            other => other?,
        };
        let Answer { username, secret } =
            serde_json::from_slice(&said).map_err(|_| HelperError::Malformed {
                program: self.program(),
            })?;
        let secret = Secret::new(secret);
        Ok(match username.as_str() {
            "" if secret.reveal().is_empty() => None,
            TOKEN_USER => Some(Credential::IdentityToken {
                username: String::new(),
                token: secret,
            }),
            _ => Some(Credential::Password {
                username,
                password: secret,
            }),
        })
    }

    pub(crate) fn store(&self, server: &str, credential: &Credential) -> Result<(), HelperError> {
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::IdentityToken { token, .. } => (TOKEN_USER, token),
            Credential::RegistryToken(_) => {
                return Err(HelperError::Unsupported {
                    program: self.program(),
                });
            }
        };
        let deposit = Deposit {
            server_url: server,
            username,
            secret: secret.reveal(),
        };
        let deposit = serde_json::to_vec(&deposit).map_err(|error| HelperError::Talk {
            program: self.program(),
            source: error.into(),
        })?;
        self.call("store", &deposit).map(drop)
    }

    /// `false` when the helper kept nothing for `server`.
    pub(crate) fn erase(&self, server: &str) -> Result<bool, HelperError> {
        match self.call("erase", server.as_bytes()) {
            Err(HelperError::Failed { said, .. }) if is_nothing_found(&said) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn call(&self, action: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
        let program = self.program();
        let mut child = Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|source| HelperError::Start {
                program: program.clone(),
                source,
            })?;
        let talk = |source| HelperError::Talk {
            program: program.clone(),
            source,
        };
        let pid = Pid::from_child(&child);
        let (done, watch) = mpsc::channel::<()>();
        // The child is killed by its number, which is sound: it is reaped only after the watchman
        // has been told to go (or has done its work).
        let watchman = thread::spawn(move || {
            let is_late = watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
            if is_late {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            is_late
        });
        let wrote = match child.stdin.take() {
            Some(mut stdin) => stdin.write_all(input),
            None => Ok(()),
        };
        let mut said = Vec::new();
        let read = match child.stdout.take() {
            Some(stdout) => stdout.take(LARGEST_ANSWER).read_to_end(&mut said).map(drop),
            None => Ok(()),
        };
        drop(done);
        let is_late = watchman.join().unwrap_or(false);
        let status = child.wait().map_err(talk)?;
        if is_late {
            return Err(HelperError::TimedOut { program });
        }
        read.map_err(talk)?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said);
            let said = match said.trim() {
                "" => status.to_string(),
                said => printable(said, 300),
            };
            return Err(HelperError::Failed {
                program,
                action: action.into(),
                said,
            });
        }
        match wrote {
            // A helper need not read what it does not want.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(talk(error)),
            _ => Ok(said),
        }
    }
}

/// The words of docker-credential-helpers' `ErrCredentialsNotFound`, which all helpers share.
fn is_nothing_found(said: &str) -> bool {
    said.contains("credentials not found in native keychain")
}
