//! The OCI runtime command line: what containerd, CRI-O, Podman and Docker call.
//!
//! The verbs and flags are those of runc and crun. Each verb is a module below [`command`]; the
//! state of a container on disk is in [`state`].

#![forbid(unsafe_code)]

mod arguments;
mod bundle;
mod command;
mod console;
mod container;
mod groups;
mod log;
mod rootless;
mod state;
mod systemd;
mod vm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Such a process is executed by this program itself, from a read-only mount.
    if let Some(code) = vm::own_process() {
        return code;
    }
    // Without privileges nothing that this protects from can be done: see `command::need_root`.
    if rustix::process::geteuid().is_root()
        && let Err(error) = isle_runtime::own_binary::execute_read_only()
    {
        eprintln!("isle-oci: cannot execute itself from a read-only mount: {error}");
        return ExitCode::from(1);
    }
    // it was executed by the number of a descriptor, which would be its name in ps(1)
    let _ = rustix::thread::set_name(c"isle-oci");
    let arguments = arguments::Arguments::parse();
    log::begin(&arguments.global);
    match command::run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) if log::is_unheard(&error) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(&error);
            ExitCode::from(command::exit_code(&error))
        }
    }
}
