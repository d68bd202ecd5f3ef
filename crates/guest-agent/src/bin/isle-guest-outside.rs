//! An agent without a guest, for tests: `isle-guest-outside RUN`. The port is its standard input, its folder is RUN, the root file
//! system of the instance is RUN/root. To be run in namespaces of its own (unshare(1)): it collects every child.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use isle_guest_agent::{Agent, Place};

fn main() -> io::Result<()> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if words
        .first()
        .is_some_and(|word| word == "isle-guest-helper")
    {
        let code = isle_guest_agent::main();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let run = words
        .into_iter()
        .next()
        .map(PathBuf::from)
        .unwrap_or_default();
    let port = io::stdin().as_fd().try_clone_to_owned()?;
    let place = Place {
        run,
        cgroup: None,
        is_guest: false,
    };
    Agent::new(port, place)?.run()
}
