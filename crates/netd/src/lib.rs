//! The keeper of the networks of one root: a small process that is there as long as an instance is on one of them.
//!
//! Traffic flows without it: bridges, links and rules are the kernel's, made by whoever starts an instance
//! (`crates/dataplane`). The keeper does what the kernel cannot: it answers names on port 53 of each gateway
//! (`crates/resolver` decides what), and passes other questions on to the host's servers.
//!
//! ```text
//!  isle-shim ─ Attach, Changed ─┐                        ┌─ gateway:53 of each network, UDP and TCP
//!  isle-shim ───────────────────┼─> one epoll loop <─────┤
//!  isle-shim <─ Ready, Notice ──┘       │                └─ sockets to the host's servers
//!                              rows of crates/network
//! ```
//!
//! Each supervisor of an instance that is on a network holds one connection ([`Attachment`]). The first one starts
//! the keeper; it ends a moment after the last has hung up. When it is killed, the supervisors notice, and one of them
//! starts another, which reads everything anew: nothing that matters is in its memory alone.
//!
//! | file | idea |
//! |---|---|
//! | `client` | the supervisor's end: find or start the keeper, stay with it |
//! | `protocol` | what the two say to each other |
//! | `keeper` | the loop |
//! | `supervisors` | the connections of supervisors |
//! | `rows` | the state file |
//! | `directory` | who is on which network; names are answered from it |
//! | `names` | the name server: questions and answers, by datagram and by TCP |
//! | `listeners` | the sockets of the gateways |
//! | `asked`, `host_servers` | questions that were passed on; to whom |
//! | `loopback` | published ports on `::1`, and those of ordinary users |
//! | `egress`, `refused` | what names open for instances with a policy; what was refused |
//! | `repair` | what others take away is put back |
//! | `fairness` | who may have how much at once. Pure |
//! | `confinement` | the rights that the keeper does without |
//! | `poller` | epoll, and points in time |

#![forbid(unsafe_code)]

mod asked;
mod client;
mod confinement;
mod directory;
mod egress;
mod fairness;
mod host_servers;
mod keeper;
mod listeners;
mod loopback;
mod names;
mod poller;
mod protocol;
mod refused;
mod repair;
mod rows;
mod supervisors;

pub use client::{AttachError, Attachment, Home};
pub use keeper::KeeperError;
pub use protocol::{Notice, Refused};

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::keeper::{Inheritance, Keeper};
use isle_rootless::place::Place;

/// Where the host says who it asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where the keeper of a root is: below the root's folder for what is there only while the host is up.
pub(crate) fn folder(run: &Path) -> PathBuf {
    run.join("network")
}

/// Runs the keeper that `isle-netd ROOT RUN` is, until nobody needs it. Its standard input is the socket that it
/// listens on, its standard output the lock that it holds.
///
/// # Errors
/// [`KeeperError`].
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<(), KeeperError> {
    // The kernel named it after the descriptor that it was executed through.
    let _ = rustix::thread::set_name(c"isle-netd");
    let arguments: Vec<OsString> = arguments.skip(1).collect();
    let [root, run] = arguments.as_slice() else {
        return Err(KeeperError::Usage);
    };
    let inherited = inherit(PathBuf::from(root), PathBuf::from(run))?;
    // A session of its own: what a terminal sends to who started it is not for it.
    let _ = rustix::process::setsid();
    more_descriptors();
    let place = Place::new(folder(&inherited.run));
    let keep = |source| KeeperError::System {
        what: "keep a descriptor",
        source,
    };
    let listener = inherited.listener.try_clone().map_err(keep)?;
    let lock = inherited.lock.try_clone().map_err(keep)?;
    match Keeper::new(inherited) {
        Ok(keeper) => {
            drop((listener, lock));
            confinement::shed_rights();
            keeper.run()
        }
        Err(error) => {
            keeper::turn_away(&listener, &error);
            // Nothing of it is of use to the next one, who can have the lock after that.
            let _ = place.remove();
            drop(lock);
            Err(error)
        }
    }
}

/// Takes the two descriptors, and leaves `/dev/null` in their place.
fn inherit(root: PathBuf, run: PathBuf) -> Result<Inheritance, KeeperError> {
    let system = |what| move |source| KeeperError::System { what, source };
    let listener = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(system("take the socket"))?;
    if !rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false) {
        return Err(KeeperError::Usage);
    }
    let lock = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(system("take the lock"))?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(system("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null)
        .map_err(|errno| system("close the standard input")(errno.into()))?;
    rustix::stdio::dup2_stdout(&null)
        .map_err(|errno| system("close the standard output")(errno.into()))?;
    Ok(Inheritance {
        root,
        run,
        listener: UnixListener::from(listener),
        lock: File::from(lock),
        resolv_conf: RESOLV_CONF.into(),
    })
}

/// A connection for each instance, sockets for each network and each question: more than the usual 1,024.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // What there is has to do.
    let _ = setrlimit(Resource::Nofile, more);
}
