//! The supervisor of one instance: what the program `isle-shim` runs.
//!
//! One process an instance, with one thread, in a session of its own. It is the parent of the
//! instance's process and outlives whoever started it. It owns everything about the running
//! instance: its lock (held means: the supervisor lives), its state in the store, its standard
//! streams and log, its health, its restarts, and its end. Nobody else changes any of it; front
//! doors ask over the socket `<run>/instances/<id>/sock` (frames: `protocol.rs`).
//!
//! ```text
//!  isle run ─ socketpair ─┐                                ┌─ FIFO stdout, stderr ─┐
//!  isle attach ── sock ───┼─> isle-shim: one epoll loop <──┤  pipe stdin           ├─ process
//!  isle exec, stop … ─────┘     │      │       │           └─ or a terminal ───────┘
//!                            log file  store   Backend: start, signal, reap, clean up
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `owner` | the state of it all, and the loop |
//! | `life` | start, end, restart, stop |
//! | `networks` | connected before the start, changed while it runs |
//! | `output` | output to log and clients, flow control |
//! | `talk`, `client` | requests and answers; one connection |
//! | `sessions`, `checks` | exec; health checks |
//! | `restart`, `health` | pure policies |
//! | `streams`, `identity`, `address`, `poller`, `memory` | mechanisms |
//! | `ledger`, `last_words` | what is written into the store; what is left by a panic |
//!
//! At the end those who wait for the exit code hear it as soon as it is written (with `--rm`: as
//! soon as the row is removed and the name is free); cgroup, mounts and files are taken away
//! after that.

pub(crate) mod address;
mod checks;
mod client;
mod health;
mod identity;
pub(crate) mod last_words;
mod ledger;
mod life;
mod memory;
mod networks;
mod output;
mod owner;
mod poller;
mod restart;
mod sessions;
mod streams;
mod talk;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use isle_types::{InstanceId, Signal};
use rustix::fs::Mode;

use self::client::Client;
use self::ledger::{Ledger, Note, StoreLedger, chain};
use self::life::cannot;
use self::owner::{Settings, Supervisor};
use self::poller::{Interest, Poller, Token};
use crate::backend::{self, Backend, StartError};
use crate::config::{LogDriver, NetworkMode};
use crate::control::read_frame;
use crate::log;
use crate::protocol::{Cause, Failed, Start, answer, from_json, kind};
use crate::state::{Instance, StatusEvent};
use crate::wiring::Wiring;
use crate::{InstanceLock, Paths};

/// So long a supervisor waits for the one before it to clean up, or for a short-lived owner.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// So long the starter may take to say what it wants.
const STARTER_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the supervisor of the instance that the command line names, until the instance has ended
/// and nothing is left to do. Returns the exit code of the supervisor itself.
///
/// `isle-shim ROOT RUN ID` starts an instance; standard input is a socket to whoever wants that,
/// who sends [`kind::START`]. `isle-shim --adopt ROOT RUN ID` takes over one whose supervisor was
/// killed; standard input is a socket then too, which is told when that is done.
/// `isle-shim --fill-pool ROOT RUN TEMPLATE` supervises nothing: it starts machines that wait.
#[must_use]
pub fn main() -> i32 {
    // The kernel named it after the descriptor that it was executed through.
    let _ = rustix::thread::set_name(c"isle-shim");
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [verb, root, run, template] = arguments.as_slice()
        && let Some(verb @ ("--fill-pool" | "--fill-pool-alone")) = verb.to_str()
    {
        let paths = Paths {
            root: PathBuf::from(root),
            run: PathBuf::from(run),
        };
        return fill_pool(
            verb == "--fill-pool-alone",
            &paths,
            &template.to_string_lossy(),
        );
    }
    let is_adoption = arguments.first().is_some_and(|first| first == "--adopt");
    if is_adoption {
        arguments.remove(0);
    }
    let [root, run, id] = arguments.as_slice() else {
        eprintln!("isle-shim is started by isle: isle-shim [--adopt] ROOT RUN ID");
        return 125;
    };
    let Some(id) = id.to_str().and_then(|id| id.parse().ok()) else {
        eprintln!("isle-shim: {} is no instance id", id.display());
        return 125;
    };
    let paths = Paths {
        root: PathBuf::from(root),
        run: PathBuf::from(run),
    };
    last_words::keep(paths.instance_run(&id), complaints(&paths, &id));
    let result = match is_adoption {
        true => adopt(&paths, &id),
        false => begin(&paths, &id),
    };
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            owner::complain(&complaints(&paths, &id), "supervise", &error);
            125
        }
    };
    // Nobody waits for us any more.
    isle_database::settle(&paths.database());
    code
}

/// Fills a pool, or starts who does it: a process that is nobody's child, whose end nobody has to collect.
fn fill_pool(is_alone: bool, paths: &Paths, template: &str) -> i32 {
    let result = match is_alone {
        true => {
            let _ = rustix::process::setsid();
            let _ = rustix::process::chdir("/");
            crate::machines::fill_pool(paths, template)
                .map(drop)
                .map_err(io::Error::other)
        }
        false => crate::launch::fill_pool_alone(paths, template).map_err(io::Error::other),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            owner::complain(&paths.run.join("pool.log"), "fill a pool", &error);
            125
        }
    }
}

fn complaints(paths: &Paths, id: &InstanceId) -> PathBuf {
    paths.instance(id).join("supervisor.log")
}

/// Leaves the session, the directory and the descriptors of whoever started us.
fn detach() -> io::Result<OwnedFd> {
    // Fails only for who leads a session already.
    let _ = rustix::process::setsid();
    // It was executed through a descriptor, whose number would be its name.
    rustix::thread::set_name(c"isle-shim")?;
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = streams::null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(input)
}

fn begin(paths: &Paths, id: &InstanceId) -> io::Result<()> {
    let mut socket = UnixStream::from(detach()?);
    socket.set_read_timeout(Some(STARTER_PATIENCE))?;
    let start = match read_frame(&mut socket)? {
        Some(frame) if frame.kind == kind::START => {
            from_json::<Start>(frame.kind, &frame.payload).map_err(io::Error::other)?
        }
        _ => return Err(io::Error::other("the starter did not say what it wants")),
    };
    socket.set_read_timeout(None)?;
    let mut client = Client::new(socket)?;
    match prepare(paths, id) {
        Ok(prepared) => supervise(paths, prepared, &start, client),
        Err(Unprepared::Refused(failed)) => {
            client.send(&answer(kind::FAILED, &failed));
            client.flush();
            Ok(())
        }
        Err(Unprepared::Orphan(lock)) => {
            let message = "the instance runs already; its supervisor was killed, and a new one \
                           takes over now"
                .to_owned();
            let failed = Failed {
                message,
                exit_code: 125,
                cause: Cause::AlreadyRunning,
            };
            client.send(&answer(kind::FAILED, &failed));
            client.flush();
            drop(client);
            take_over(paths, id, lock, None)
        }
    }
}

/// Why an instance is not ours to start.
enum Unprepared {
    Refused(Failed),
    /// It runs, and nobody looks after it.
    Orphan(InstanceLock),
}

impl From<Failed> for Unprepared {
    fn from(failed: Failed) -> Unprepared {
        Unprepared::Refused(failed)
    }
}

/// What is there once the instance is ours.
struct Prepared {
    lock: InstanceLock,
    ledger: StoreLedger,
    instance: Instance,
    /// An earlier supervisor was killed.
    is_unclean: bool,
}

fn failed(error: &StartError, cause: Cause) -> Failed {
    Failed {
        message: error.message.clone(),
        exit_code: error.exit_code,
        cause,
    }
}

/// Takes the lock and reads the row.
fn prepare(paths: &Paths, id: &InstanceId) -> Result<Prepared, Unprepared> {
    let because = |what: &str, text: String| StartError {
        message: format!("cannot {what}: {text}"),
        exit_code: 125,
    };
    let open = || StoreLedger::open(paths, *id);
    let unreadable = |error: &ledger::LedgerError| {
        failed(
            &because("read the instance", error.to_string()),
            Cause::Failed,
        )
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    let lock = loop {
        let lock = InstanceLock::try_acquire(paths, id)
            .map_err(|error| failed(&cannot("lock the instance")(error), Cause::Failed))?;
        if let Some(lock) = lock {
            break lock;
        }
        // A supervisor that has written the end only cleans up; any other stays.
        let mut ledger = open().map_err(|error| unreadable(&error))?;
        let instance = ledger.instance().map_err(|error| unreadable(&error))?;
        if instance.state.status.is_supervised() || Instant::now() >= deadline {
            let message = format!("the instance is {} already", instance.state.status);
            let error = StartError {
                message,
                exit_code: 125,
            };
            return Err(failed(&error, Cause::AlreadyRunning).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut ledger = open().map_err(|error| unreadable(&error))?;
    let mut instance = ledger
        .instance()
        .map_err(|error| unreadable(&error))?
        .clone();
    let directory = paths.instance_run(id);
    let is_unclean = directory.join(identity::NAME).exists();
    let is_running = instance.state.status.is_supervised();
    if let (true, Ok(Some(_))) = (is_running, identity::find(&directory)) {
        return Err(Unprepared::Orphan(lock));
    }
    let status = &mut instance.state.status;
    // We have the lock, so whatever it says, nobody looks after it.
    if let Ok(ended) = status.next(StatusEvent::GiveUp) {
        *status = ended;
    }
    if let Err(denied) = status.next(StatusEvent::Start) {
        let error = StartError {
            message: chain(&denied),
            exit_code: 125,
        };
        return Err(failed(&error, Cause::Failed).into());
    }
    Ok(Prepared {
        lock,
        ledger,
        instance,
        is_unclean,
    })
}

fn supervise(paths: &Paths, prepared: Prepared, start: &Start, client: Client) -> io::Result<()> {
    let Prepared {
        lock,
        mut ledger,
        instance,
        is_unclean,
    } = prepared;
    let layers = ledger.layers().map_err(io::Error::other)?;
    let backend =
        join_house_network(&instance).and_then(|()| backend::open(&instance, paths, &layers));
    let backend = match backend {
        Ok(backend) => backend,
        Err(error) => {
            refuse(lock, ledger, &instance, &error, client);
            return Ok(());
        }
    };
    let mut supervisor = assemble(paths, &instance, Some(lock), Box::new(ledger), backend)?;
    drop(instance);
    if is_unclean {
        supervisor.clean_up_after_another();
    }
    supervisor.start_first(start, client);
    supervisor.run()
}

/// The supervisor of an ordinary user's instance works in the network of the user's house, where the instance's networks are;
/// one whose instance has the host's network stays in that.
fn join_house_network(instance: &Instance) -> Result<(), StartError> {
    if !matches!(instance.config.network, NetworkMode::Networks(_)) {
        return Ok(());
    }
    isle_rootless::join_network().map_err(|error| {
        let hint = error.hint();
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        StartError {
            message: chain(&error) + &hint,
            exit_code: 125,
        }
    })
}

/// It cannot even be tried: writes that, and says so.
fn refuse(
    lock: InstanceLock,
    mut ledger: StoreLedger,
    instance: &Instance,
    error: &StartError,
    mut client: Client,
) {
    let mut state = instance.state.clone();
    state.pid = None;
    state.exit = Some(life::could_not_start(error));
    // The client hears of the first failure, which is the one to do something about.
    if instance.config.auto_remove {
        let _ = ledger.remove(&[Note::new("destroy")]);
    } else {
        let _ = ledger.save(&state, &[]);
    }
    client.send(&answer(kind::FAILED, &failed(error, Cause::Failed)));
    client.flush();
    if instance.config.auto_remove {
        let _ = ledger.remove_files();
        let _ = lock.remove();
    }
}

/// Puts a supervisor together; nothing runs yet.
fn assemble(
    paths: &Paths,
    instance: &Instance,
    lock: Option<InstanceLock>,
    ledger: Box<dyn Ledger>,
    backend: Box<dyn Backend>,
) -> io::Result<Supervisor> {
    let poller = Poller::new()?;
    let signals = match cfg!(test) {
        // They would be blocked for the test program.
        true => None,
        false => Some(divert_signals(&poller)?),
    };
    let log = match instance.config.log.driver {
        LogDriver::JsonFile => {
            let path = log::path(paths, &instance.id);
            Some(log::Writer::new(path, &instance.config.log))
        }
        LogDriver::None => None,
    };
    Ok(Supervisor {
        settings: Settings::of(&instance.config),
        state: instance.state.clone(),
        backend,
        ledger,
        wiring: Wiring::new(paths, &instance.id.to_string(), &instance.config.dns),
        log,
        directory: paths.instance_run(&instance.id),
        complaints: complaints(paths, &instance.id),
        lock,
        poller,
        listener: None,
        signals,
        clients: std::collections::BTreeMap::new(),
        sessions: std::collections::BTreeMap::new(),
        next_number: 0,
        run: None,
        restart_at: None,
        back_off: restart::BackOff::new(),
        monitor: None,
        check: None,
        kill_at: None,
        start_again: false,
        notes: Vec::new(),
        note_at: None,
        oom_kills_noted: 0,
        look_for_oom_at: None,
        is_flow_stopped: false,
        buffer: Vec::new(),
        tidy_at: None,
        over_since: None,
    })
}

/// SIGTERM and its like do not end a supervisor: they end its instance, as `stop` does.
fn divert_signals(poller: &Poller) -> io::Result<OwnedFd> {
    let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    let signals = isle_sys::signals::divert(&signals.map(Signal::number))?;
    poller.add(signals.as_fd(), Token::Signals, Interest::READ)?;
    Ok(signals)
}

/// Takes over for whoever asks on standard input, who hears when the state tells the truth again.
fn adopt(paths: &Paths, id: &InstanceId) -> io::Result<()> {
    let client = Client::new(UnixStream::from(detach()?))?;
    match InstanceLock::try_acquire(paths, id)? {
        Some(lock) => take_over(paths, id, lock, Some(client)),
        // Somebody was faster.
        None => Ok(()),
    }
}

/// Takes over an instance whose supervisor was killed: supervises the process if it lives, and
/// writes the end if it does not.
fn take_over(
    paths: &Paths,
    id: &InstanceId,
    lock: InstanceLock,
    client: Option<Client>,
) -> io::Result<()> {
    let mut ledger = StoreLedger::open(paths, *id).map_err(io::Error::other)?;
    let instance = ledger.instance().map_err(io::Error::other)?.clone();
    if !instance.state.status.is_supervised() {
        return Ok(());
    }
    let process = identity::find(&paths.instance_run(id))?;
    let layers = ledger.layers().map_err(io::Error::other)?;
    let backend = backend::open(&instance, paths, &layers).map_err(io::Error::other)?;
    let mut supervisor = assemble(paths, &instance, Some(lock), Box::new(ledger), backend)?;
    drop(instance);
    supervisor.take_over(process);
    if let Some(mut client) = client {
        client.send(&answer(kind::DONE, &()));
        client.flush();
    }
    supervisor.run()
}
