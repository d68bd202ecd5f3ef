//! The words that every other crate uses.
//!
//! A value that must not be mixed with another of the same shape has a type of its own here: an
//! [`InstanceId`] is not a name, a [`ByteSize`] is not a count. Each type parses what a user of
//! Docker would type and prints what that user would read.
//!
//! Nothing in here touches the operating system.

#![forbid(unsafe_code)]

mod byte_size;
mod duration;
mod instance;
mod isolation;
mod signal;
mod spelling;

pub use byte_size::{ByteSize, ByteSizeError};
pub use duration::{DurationError, format_duration, parse_duration};
pub use instance::{InstanceId, InstanceIdError, InstanceName, InstanceNameError};
pub use isolation::{Accelerator, Isolation, IsolationError};
pub use signal::{Signal, SignalError};
pub use spelling::nearest;
