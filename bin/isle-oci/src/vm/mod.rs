//! Level `vm`: a container that is a virtual machine.
//!
//! ```text
//!   engine ── waits for, signals ──> stand-in ── its network, files, place in the engine's books
//!                                       │ socket
//!   verbs ── start, exec, update ──> machine ── QEMU, confined ── agent ── the container's processes
//!                                       └────── isle-share ── root file system, bind mounts
//! ```
//!
//! The *stand-in* is a container as any other, made by the same code, with the namespaces, mounts and hooks that the
//! specification asks for; but its process is one of ours that has no rights and waits. So whatever an engine does with the pid of a
//! container is right: it waits for its end, sends signals, moves interfaces into its network namespace, enters its mount namespace to copy
//! files. Nothing of the container is executed there.
//!
//! The *machine* is the process that holds QEMU. Each further process has a stand-in of its own.
//!
//! | file | idea |
//! |---|---|
//! | `level` | which level a container gets; pure |
//! | `spec` | a specification's parts: the guest's, the stand-in's, the host's; pure |
//! | `launch` | how they come to be: `create`, `start`, `exec` |
//! | `stand_in` | the processes that stand in |
//! | `machine` | the process that holds the machine |
//! | `network` | interfaces of a namespace in the guest |
//! | `terminal` | terminals of the host whose other end is in the guest |
//! | `wire` | what they say to each other |

mod launch;
mod level;
mod machine;
mod network;
mod spec;
mod stand_in;
mod terminal;
mod wire;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

pub(crate) use launch::{Asked, clean_up, exec, is_machine, kill, start, stats, update};
pub(crate) use wire::Refused;

use machine::{Given, Machine};
use wire::Answer;

/// First arguments of this program as a process of a machine.
const STAND_IN: &str = "--isle-stand-in";
const FURTHER: &str = "--isle-further";
const HOLD: &str = "--isle-hold";

/// What this process is, when it is one of a machine's.
pub(crate) fn own_process() -> Option<ExitCode> {
    let argument = std::env::args_os().nth(1)?;
    match argument.to_str()? {
        STAND_IN => Some(stand_in::container()),
        FURTHER => Some(further()),
        HOLD => Some(hold()),
        _ => None,
    }
}

/// Standard input, which nobody reads or writes any more afterwards.
fn take_stdin() -> io::Result<OwnedFd> {
    let own = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(own)
}

fn further() -> ExitCode {
    let given = take_stdin().and_then(wire::receive::<()>);
    let Ok(Some(((), descriptors))) = given else {
        return ExitCode::FAILURE;
    };
    let _ = rustix::thread::set_name(c"isle-further");
    let mut descriptors = descriptors.into_iter();
    let Some(connection) = descriptors.next() else {
        return ExitCode::FAILURE;
    };
    let terminal = descriptors.next().zip(descriptors.next());
    stand_in::further(connection.as_fd(), terminal)
}

fn hold() -> ExitCode {
    let _ = rustix::thread::set_name(c"isle-machine");
    let Ok(parent) = take_stdin() else {
        return ExitCode::FAILURE;
    };
    let Ok(Some(((), mut descriptors))) = wire::receive::<()>(&parent) else {
        return ExitCode::FAILURE;
    };
    if descriptors.is_empty() {
        return ExitCode::FAILURE;
    }
    let setup = std::fs::File::from(descriptors.remove(0));
    let setup = serde_json::from_reader(io::BufReader::new(setup)).map_err(anyhow::Error::from);
    let given = Given::of(descriptors).ok_or_else(|| anyhow::anyhow!("a descriptor is missing"));
    let started = setup.and_then(|setup| Machine::start(setup, given?));
    match started {
        Ok(machine) => {
            let told = wire::send(&parent, &Answer::Done, &[]);
            drop(parent);
            match told {
                Ok(()) => machine.hold(),
                // Whoever wanted it has gone.
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            let answer = Answer::Failed {
                message: format!("{error:#}"),
                exit_code: 1,
            };
            let _ = wire::send(&parent, &answer, &[]);
            ExitCode::FAILURE
        }
    }
}
