//! The first process of a guest, see `isle_guest_agent`; and, by the name that `--init` gives it, that of an instance.
//! By the name that a rehearsal gives it, it says a word.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&name).file_name() {
        Some(name) if name == "docker-init" => isle_init::main(),
        Some(name) if name == isle_guest_agent::REHEARSAL => {
            println!("here");
            ExitCode::SUCCESS
        }
        _ => isle_guest_agent::main(),
    }
}
