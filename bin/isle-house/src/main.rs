//! The keeper of the house of one ordinary user.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    match isle_rootless::main(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isle-house: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
