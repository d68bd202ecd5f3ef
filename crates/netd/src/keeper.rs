//! The keeper: one thread, which waits for everything at once.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isle_dataplane::Dataplane;
use isle_netlink::{Socket, packet_log};
use isle_network::{Endpoint, Network, NetworkError, wanted};

use crate::egress::Opened;
use crate::folder;
use crate::host_servers::link_number;
use crate::refused::Refusals;
use crate::repair::{self, Repair};

use crate::directory::{Directory, NetworkKey};
use crate::listeners::ListenError;
use crate::loopback::{Loopback, LoopbackError};
use crate::names::{Gate, Known, Names};
use crate::poller::{Interest, Poller, Ready, Token};
use crate::protocol::{Answer, Message, Notice, Refused, frame};
use crate::rows::Rows;
use crate::supervisors::Supervisors;
use isle_rootless::place::Place;

/// So long the keeper stays when the last supervisor has gone: the next instance may be about to start.
const GRACE: Duration = Duration::from_secs(2);
/// So long it waits for the first.
const FIRST_GRACE: Duration = Duration::from_secs(10);

/// So long after the last start.
const QUIET: Duration = Duration::from_secs(2);
/// Bytes of a refused packet: the headers.
const LOGGED: u32 = 128;
/// Between two looks at what was refused.
const PAUSE: Duration = Duration::from_secs(1);
/// So long one that cannot begin waits for those who want to know why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a keeper is started with.
pub(crate) struct Inheritance {
    /// What survives a reboot.
    pub(crate) root: PathBuf,
    /// What does not.
    pub(crate) run: PathBuf,
    /// Supervisors come here.
    pub(crate) listener: UnixListener,
    /// Held: there is no other keeper.
    pub(crate) lock: File,
    /// Who the host asks for names.
    pub(crate) resolv_conf: PathBuf,
}

/// Why a keeper cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The rows cannot be read.
    #[error("cannot read the networks from the state file")]
    Rows(#[from] NetworkError),
    /// The state file cannot be opened.
    #[error("cannot open the state file")]
    Open(#[from] isle_database::OpenError),
    /// A system call that does not fail.
    #[error("cannot {what}")]
    System {
        /// The call.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Called by hand.
    #[error(
        "isle-netd is started by isle: isle-netd ROOT RUN, with a socket as its standard input"
    )]
    Usage,
}

/// What of the kernel is not a socket of names.
struct Kernel {
    dataplane: Dataplane,
    opened: Opened,
    repair: Repair,
    /// `None` where the kernel cannot log to a process, or another has the group.
    log: Option<Socket>,
}

impl Kernel {
    fn new(poller: &mut Poller, root: &Path) -> io::Result<Kernel> {
        let realm = wanted::realm(root);
        let log = packet_log::open(realm.log_group(), LOGGED).ok();
        if let Some(log) = &log {
            poller.add(log, Token::Log, Interest::READ)?;
        }
        Ok(Kernel {
            repair: Repair::new(poller, &realm)?,
            dataplane: Dataplane::new(realm),
            opened: Opened::default(),
            log,
        })
    }
}

pub(crate) struct Keeper {
    place: Place,
    listener: UnixListener,
    _signals: OwnedFd,
    _lock: File,
    poller: Poller,
    rows: Rows,
    directory: Directory,
    supervisors: Supervisors,
    names: Names,
    loopback: Loopback,
    kernel: Kernel,
    refusals: Refusals,
    /// When it ends if nobody comes.
    end: Option<Instant>,
    /// When it gives memory back.
    rest: Option<Instant>,
    is_over: bool,
}

impl Keeper {
    pub(crate) fn new(inherited: Inheritance) -> Result<Keeper, KeeperError> {
        let system = |what| move |source| KeeperError::System { what, source };
        let signals = isle_sys::signals::divert(&[
            rustix::process::Signal::TERM.as_raw(),
            rustix::process::Signal::INT.as_raw(),
            rustix::process::Signal::HUP.as_raw(),
        ])
        .map_err(system("receive signals"))?;
        let mut poller = Poller::new().map_err(system("make an epoll instance"))?;
        let wait = system("wait for a descriptor");
        inherited.listener.set_nonblocking(true).map_err(wait)?;
        poller
            .add(&inherited.listener, Token::Supervisors, Interest::READ)
            .map_err(wait)?;
        poller
            .add(signals.as_fd(), Token::Signals, Interest::READ)
            .map_err(wait)?;
        let end = Instant::now() + FIRST_GRACE;
        poller.at(end, Token::Grace);
        let kernel = Kernel::new(&mut poller, &inherited.root).map_err(wait)?;
        let mut keeper = Keeper {
            place: Place::new(folder(&inherited.run)),
            listener: inherited.listener,
            _signals: signals,
            _lock: inherited.lock,
            poller,
            rows: Rows::open(&inherited.root)?,
            directory: Directory::default(),
            supervisors: Supervisors::default(),
            names: Names::new(inherited.resolv_conf),
            loopback: Loopback::new(),
            kernel,
            refusals: Refusals::default(),
            end: Some(end),
            rest: None,
            is_over: false,
        };
        keeper.rows.read(&mut keeper.directory)?;
        keeper.settle_all();
        Ok(keeper)
    }

    /// Until nobody is there any more.
    pub(crate) fn run(mut self) -> Result<(), KeeperError> {
        while !self.is_over {
            let (ready, due) = self.poller.wait().map_err(|source| KeeperError::System {
                what: "wait for events",
                source,
            })?;
            for ready in ready {
                self.ready(ready);
            }
            for token in due {
                self.due(token);
            }
        }
        self.sweep()?;
        self.place.remove().map_err(|source| KeeperError::System {
            what: "take away the keeper's folder",
            source,
        })
    }

    /// Takes away what is in the kernel for nobody: bridges, and the tables. The next one makes it again.
    fn sweep(&mut self) -> Result<(), NetworkError> {
        let dataplane = &mut self.kernel.dataplane;
        self.rows.if_deserted(|networks| {
            // One that the user has named may be there for others too.
            let is_ours = |network: &&Network| {
                network.name == isle_network::DEFAULT
                    || network
                        .link
                        .strip_prefix("isl-")
                        .is_some_and(|id| network.id.starts_with(id))
            };
            let bridges = networks.iter().filter(is_ours).filter_map(wanted::bridge);
            for bridge in bridges.filter(|bridge| link_number(&bridge.link).is_some()) {
                // What does not go stays for the next one, or for `isle network rm`.
                let _ = dataplane.remove_bridge(&bridge);
            }
            let _ = dataplane.forget();
        })
    }

    fn ready(&mut self, ready: Ready) {
        match ready.token {
            Token::Supervisors => self.accept(),
            Token::Supervisor(number) => self.supervisor(number),
            Token::Signals => self.is_over = true,
            Token::Datagrams(_) | Token::Streams(_) => {
                // Whoever changes rows without being attached (`isle rm` of an instance whose supervisor was killed)
                // tells nobody.
                if self.rows.refresh(&mut self.directory) {
                    self.settle_all();
                }
                self.with_names(|names, poller, known| names.ready(poller, ready, known));
            }
            Token::Stream(_) | Token::Asked(_) => {
                self.with_names(|names, poller, known| names.ready(poller, ready, known));
            }
            Token::Loopback(_)
            | Token::Near(_)
            | Token::Far(_)
            | Token::LoopbackDatagrams(_)
            | Token::LoopbackSender(_) => self.loopback.ready(&mut self.poller, ready),
            Token::Watch => self.kernel.repair.ready(&mut self.poller, &self.directory),
            Token::Log => self.logged(),
            Token::Grace | Token::Repair | Token::Refusals | Token::Rest => {}
        }
    }

    fn due(&mut self, token: Token) {
        match token {
            Token::Grace => {
                self.is_over = self.supervisors.is_empty()
                    && self.end.is_some_and(|end| end <= Instant::now());
            }
            Token::LoopbackSender(_) => self.loopback.due(&mut self.poller, token),
            Token::Repair => self.repair(),
            Token::Rest => {
                self.rest = None;
                isle_sys::memory::trim();
                // When it fails, only more memory is in use than necessary.
                let _ = isle_sys::memory::drop_code();
            }
            Token::Refusals => {
                let now = Instant::now();
                for (instance, to, times) in self.refusals.due(now) {
                    let notice = Notice::EgressRefused { to, times };
                    self.supervisors.tell(&self.poller, &instance, notice);
                }
                if let Some(next) = self.refusals.next() {
                    self.poller.at(next.max(now + PAUSE), Token::Refusals);
                }
            }
            token => self.with_names(|names, poller, known| names.due(poller, token, known)),
        }
    }

    fn with_names(&mut self, act: impl FnOnce(&mut Names, &mut Poller, &mut Known<'_>)) {
        let mut doorman = Doorman {
            directory: &self.directory,
            dataplane: &mut self.kernel.dataplane,
            opened: &mut self.kernel.opened,
            withheld: Vec::new(),
            failed: Vec::new(),
        };
        let mut known = Known {
            directory: &self.directory,
            servers: &self.supervisors,
            gate: &mut doorman,
        };
        act(&mut self.names, &mut self.poller, &mut known);
        let Doorman {
            withheld, failed, ..
        } = doorman;
        for (instance, name) in withheld {
            let refused = Refused::Name(name);
            if self.refusals.note(Instant::now(), &instance, &refused) {
                self.tell_refused(&instance, refused);
            }
        }
        for (instance, reason) in failed {
            self.supervisors
                .tell(&self.poller, &instance, Notice::Failed { reason });
        }
    }

    /// Tells a refusal for the first time; later ones are told together.
    fn tell_refused(&mut self, instance: &str, to: Refused) {
        let notice = Notice::EgressRefused { to, times: 1 };
        self.supervisors.tell(&self.poller, instance, notice);
        if let Some(next) = self.refusals.next() {
            self.poller.at(next, Token::Refusals);
        }
    }

    /// Reads what the kernel has logged.
    fn logged(&mut self) {
        let mut told = Vec::new();
        let Some(log) = &self.kernel.log else {
            return;
        };
        let (directory, refusals, opened) =
            (&self.directory, &mut self.refusals, &self.kernel.opened);
        // What was lost because there was too much of it is not missed: the same is counted anyway.
        let _ = log.receive(|kind, payload| {
            if let Some(logged) = packet_log::parse(kind, payload) {
                told.extend(opened.refused(directory, refusals, logged.packet));
            }
        });
        for (instance, refused) in told {
            self.tell_refused(&instance, refused);
        }
    }

    /// Looks whether somebody has taken away what is ours, and puts it back.
    fn repair(&mut self) {
        let result = self.try_repair();
        if let Err(error) = result {
            let reason = chain(&error);
            self.supervisors
                .tell_one(&self.poller, Notice::Failed { reason });
        }
    }

    fn try_repair(&mut self) -> Result<(), RepairError> {
        let Kernel {
            dataplane,
            opened,
            repair,
            ..
        } = &mut self.kernel;
        if !repair.is_due(dataplane)? {
            return Ok(());
        }
        // Those who have just ended have taken their own away.
        self.rows.read(&mut self.directory)?;
        let before = self.directory.wanted();
        let repaired = repair.repair(dataplane, &self.directory)?;
        if repaired.tables {
            opened.open_again(dataplane, &self.directory)?;
        }
        if repaired.is_put_in {
            // Who has ended meanwhile did not find what was put back for it a moment later.
            self.rows.read(&mut self.directory)?;
            let now = self.directory.wanted();
            repair::take_out(dataplane, &before, &now)?;
        }
        if !repaired.is_anything() {
            return Ok(());
        }
        // Sockets belong to bridges that are no more.
        self.settle_all();
        let what = repair::describe(&repaired);
        if !what.is_empty() {
            self.supervisors
                .tell_one(&self.poller, Notice::Repaired { what });
        }
        for link in repaired.lost {
            if let Some(instance) = self.directory.instance_with_link(&link) {
                let instance = instance.to_owned();
                self.supervisors
                    .tell(&self.poller, &instance, Notice::LinkLost { link });
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        // An error here is of one connection: its supervisor comes again.
        while let Ok((stream, _)) = self.listener.accept() {
            if self.supervisors.add(&self.poller, stream).is_ok() {
                self.end = None;
            }
        }
    }

    fn supervisor(&mut self, number: u32) {
        let heard = self.supervisors.ready(&self.poller, number);
        for instance in heard.requests {
            let answer = match self.settle(&instance) {
                Ok(()) => Answer::Ready,
                Err(error) => error.answer(),
            };
            self.supervisors.answer(&self.poller, &instance, answer);
            for reason in self.names.take_warnings() {
                self.supervisors
                    .tell(&self.poller, &instance, Notice::Failed { reason });
            }
            self.rest_later();
        }
        if let Some(instance) = heard.gone {
            // Its rows are gone too, or it runs on without a supervisor. Nobody is there to be told of an error.
            drop(self.settle(&instance));
            self.names.close_unused(&mut self.poller, &self.directory);
        }
        if self.supervisors.is_empty() && self.end.is_none() {
            let end = Instant::now() + GRACE;
            self.end = Some(end);
            self.poller.at(end, Token::Grace);
        }
    }

    /// What was needed for starts is given back when there have been none for a while.
    fn rest_later(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.poller.not_at(rest, Token::Rest);
        }
        let rest = Instant::now() + QUIET;
        self.poller.at(rest, Token::Rest);
        self.rest = Some(rest);
    }

    /// Reads the rows of an instance, and listens for it on its gateways and on `::1`.
    fn settle(&mut self, instance: &str) -> Result<(), SettleError> {
        self.rows.read_instance(instance, &mut self.directory)?;
        let networks = self.directory.networks_of_instance(instance).to_vec();
        self.listen(&networks)?;
        let ports = self.directory.ports_on_loopback(instance);
        if self
            .loopback
            .set(&mut self.poller, instance, &ports)
            .is_err()
        {
            // Whose port it was may have given it back without having told yet.
            self.rows.read(&mut self.directory)?;
            self.settle_all();
            self.loopback.set(&mut self.poller, instance, &ports)?;
        }
        Ok(())
    }

    /// Listens on the gateways of networks, all that can be had.
    fn listen(&mut self, networks: &[NetworkKey]) -> Result<(), ListenError> {
        let mut result = Ok(());
        for key in networks {
            result = result.and(self.names.open(&self.poller, &self.directory, *key));
        }
        result
    }

    /// The same for everybody that is in the directory. What cannot be had is told to whoever comes for it.
    fn settle_all(&mut self) {
        drop(self.listen(&self.directory.used()));
        self.names.close_unused(&mut self.poller, &self.directory);
        let mut instances = self.loopback.instances();
        instances.extend(self.directory.publishing());
        for instance in instances {
            let ports = self.directory.ports_on_loopback(&instance);
            drop(self.loopback.set(&mut self.poller, &instance, &ports));
        }
    }
}

/// Why an instance's rows cannot be served.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error("cannot read the networks from the state file")]
    Rows(#[from] NetworkError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Loopback(#[from] LoopbackError),
}

impl SettleError {
    fn answer(&self) -> Answer {
        let hint = match self {
            SettleError::Rows(_) => None,
            SettleError::Listen(error) => error.hint(),
            SettleError::Loopback(error) => error.hint(),
        };
        Answer::Failed {
            reason: chain(self),
            hint,
        }
    }
}

/// Opens what names stand for, and notes what was not looked up.
struct Doorman<'a> {
    directory: &'a Directory,
    dataplane: &'a mut Dataplane,
    opened: &'a mut Opened,
    withheld: Vec<(String, String)>,
    failed: Vec<(String, String)>,
}

impl Gate for Doorman<'_> {
    fn withheld(&mut self, instance: &str, name: &str) {
        self.withheld.push((instance.to_owned(), name.to_owned()));
    }

    fn answered(&mut self, endpoint: &Endpoint, name: &str, answer: &[u8]) {
        let opened = &mut self.opened;
        let result = opened.open(self.dataplane, self.directory, endpoint, name, answer);
        if let Err(error) = result {
            self.failed.push((endpoint.instance.clone(), chain(&error)));
        }
    }
}

/// Why something could not be put back.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error("cannot read the networks from the state file")]
    Rows(#[from] NetworkError),
    #[error("cannot put back what the networks need in the kernel")]
    Kernel(#[from] isle_dataplane::Error),
}

/// Tells those who wait that there will be no keeper, and why.
pub(crate) fn turn_away(listener: &UnixListener, error: &KeeperError) {
    let bytes = frame(&Message::Answer(failed(error)));
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    let end = Instant::now() + FAREWELL;
    let mut has_told = false;
    // Who has started it comes in a moment, if it is not there yet.
    while Instant::now() < end {
        match listener.accept() {
            Ok((mut stream, _)) => has_told |= stream.write_all(&bytes).is_ok(),
            Err(_) if has_told => return,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn failed(error: &KeeperError) -> Answer {
    let hint = match error {
        KeeperError::Open(error) => error.hint().map(str::to_owned),
        _ => None,
    };
    Answer::Failed {
        reason: chain(error),
        hint,
    }
}

/// An error and its causes in one line: it goes over a connection.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
