//! What can go wrong, by the moment at which it does.

use std::fmt;
use std::io;

use isle_sys::launch::{Action, Failure, Step};

/// Why a specification cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A field that the specification must have.
    #[error("the specification has no {field}")]
    Missing {
        /// Its name, like `process.args`.
        field: &'static str,
    },
    /// A field with a value that it cannot have.
    #[error("invalid {field} {value:?}: {reason}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        reason: String,
    },
    /// Something that this host does not have.
    #[error("{field} {value:?} asks for {feature}, which this host does not have")]
    Unavailable {
        /// Its name.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is missing.
        feature: &'static str,
    },
    /// Something of the host that the specification refers to and that cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The seccomp policy.
    #[error("cannot compile the seccomp policy of the specification")]
    Seccomp(#[source] isle_seccomp::CompileError),
}

impl PlanError {
    pub(crate) fn invalid(
        field: &'static str,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> PlanError {
        PlanError::Invalid {
            field,
            value: value.into(),
            reason: reason.into(),
        }
    }
}

/// Why a container or a process in it could not be made. The exit code that Docker gives for it is
/// in [`LaunchError::exit_code`].
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Something that is done before the process is made.
    #[error("cannot {what}")]
    Prepare {
        /// What, as a verb with its object.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The new process failed at a step.
    #[error("cannot {step}")]
    Step {
        /// The step.
        step: String,
        /// Why.
        source: StepError,
    },
    /// The specification of a further process.
    #[error("cannot run the process as it is specified")]
    Invalid(#[source] Box<PlanError>),
    /// The process ended before it was ready.
    #[error("the process was killed while the container was made")]
    Died,
    /// A hook of the runtime specification.
    #[error("the {name} hook {path} failed")]
    Hook {
        /// Its kind.
        name: &'static str,
        /// Its program.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Capabilities that the runtime itself does not have.
    #[error("cannot grant {names}: this process does not have them")]
    Capabilities {
        /// Which.
        names: String,
    },
}

/// Why a step of the new process failed.
#[derive(Debug)]
pub struct StepError {
    action: Action,
    errno: i32,
    text: String,
    is_program: bool,
}

impl StepError {
    /// The error number, see errno(3).
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::HookFailed => return write!(f, "it ended with exit code {}", self.errno),
            Action::HookTimeout => return f.write_str("it took longer than its timeout"),
            Action::Find if self.errno == ENOENT => {
                return f.write_str("executable file not found: no such file or directory");
            }
            Action::Find if self.errno == EACCES => {
                return f.write_str("permission denied: it is no executable file");
            }
            // The program was there a moment ago.
            Action::Execute if self.errno == ENOENT => {
                return f.write_str(
                    "the interpreter that it names is not there: no such file or directory",
                );
            }
            Action::Find | Action::Execute => {}
            Action::Call if self.text.is_empty() => {}
            action => write!(f, "{action}: ")?,
        }
        if !self.text.is_empty() {
            write!(f, "{}: ", self.text)?;
        }
        // "No such file or directory (os error 2)" -> "no such file or directory"
        let text = io::Error::from_raw_os_error(self.errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut letters = text.chars();
        if let Some(first) = letters.next() {
            write!(f, "{}{}", first.to_lowercase(), letters.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for StepError {}

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;

impl LaunchError {
    pub(crate) fn prepare<E>(what: impl Into<String>) -> impl FnOnce(E) -> LaunchError
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let what = what.into();
        move |source| LaunchError::Prepare {
            what,
            source: source.into(),
        }
    }

    pub(crate) fn step(steps: &[Step], failure: Failure) -> LaunchError {
        LaunchError::at(steps.get(failure.step), failure)
    }

    /// For a list of which only the end is known.
    pub(crate) fn step_from_end(steps: &[Step], failure: Failure) -> LaunchError {
        let index = steps.len().checked_sub(failure.from_end);
        LaunchError::at(index.and_then(|index| steps.get(index)), failure)
    }

    fn at(step: Option<&Step>, failure: Failure) -> LaunchError {
        let is_there = !matches!(failure.errno, ENOENT | ENOTDIR);
        LaunchError::Step {
            step: match step {
                // It was found, and is not to be executed.
                Some(Step::FindProgram { name, .. }) if is_there => format!("execute {name:?}"),
                Some(step) => step.to_string(),
                None => "start".to_owned(),
            },
            source: StepError {
                action: failure.action,
                errno: failure.errno,
                text: failure.text,
                is_program: matches!(
                    step,
                    Some(Step::FindProgram { .. } | Step::Execute { .. }) | None
                ),
            },
        }
    }

    /// 127: the program was not found. 126: it cannot be executed. 125: all else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            LaunchError::Step { source, .. } if source.is_program => match source.errno {
                ENOENT | ENOTDIR => 127,
                _ => 126,
            },
            _ => 125,
        }
    }

    /// Whether a control group takes no process.
    pub(crate) fn is_busy(&self) -> bool {
        const EBUSY: i32 = 16;
        let LaunchError::Prepare { source, .. } = self else {
            return false;
        };
        let error = source.downcast_ref::<io::Error>();
        error.and_then(io::Error::raw_os_error) == Some(EBUSY)
    }

    /// What the caller may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LaunchError::Capabilities { .. } => Some(
                "the engine itself runs without them, in a container or virtual machine that \
                 withholds them; ask for fewer capabilities",
            ),
            LaunchError::Step { step, source } if step.starts_with("set RLIMIT_") => {
                (source.errno == 1).then_some(
                    "raising a hard limit needs CAP_SYS_RESOURCE, which this host withholds",
                )
            }
            _ => None,
        }
    }
}
