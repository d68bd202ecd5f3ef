//! Finds the house or has it built, enters it, asks its keeper for something.

use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use crate::place::Place;
use crate::words::{Answer, FAILED, MAP, MAPPED, Port, READY, Request};
use crate::{FOLDER, HouseError, building, house, maps};

/// The keeper's program.
pub const PROGRAM: &str = "isle-house";
/// So long a house may take to be built by somebody else.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between a look at one that is being built and the next.
const PAUSE: Duration = Duration::from_millis(1);

/// A visit: the house is there as long as this is held, or anything runs in it.
#[derive(Debug)]
pub struct Visit {
    _stream: UnixStream,
    /// What the user should know: there are no subordinate ids, say.
    pub note: Option<&'static str>,
}

const OWN_ID_ALONE: &str = "/etc/subuid and /etc/subgid give you no ids: your own is the only one in instances, and images whose files \
                            belong to several users cannot be unpacked (see subuid(5), usermod --add-subuids)";

/// Enters the house of the calling user; has it built when there is none. From here on the process is root of the house,
/// sees its mounts, and is still in the host's network.
///
/// To be called while the process has one thread: the kernel moves no others into a user namespace.
///
/// `program` says where [`PROGRAM`] is.
///
/// # Errors
/// [`HouseError`].
pub fn enter(folder: &Path, program: impl Fn() -> Option<PathBuf>) -> Result<Visit, HouseError> {
    let directory = std::env::current_dir().ok();
    let (stream, welcome) = connect_or_build(folder, &program)?;
    let keeper = pidfd_open(welcome.keeper, PidfdFlags::empty())
        .map_err(|errno| HouseError::Enter(errno.into()))?;
    let spaces = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    move_into_thread_name_spaces(keeper.as_fd(), spaces)
        .map_err(|errno| HouseError::Enter(errno.into()))?;
    if let Some(directory) = directory {
        // One that others took away stays unreachable.
        let _ = std::env::set_current_dir(directory);
    }
    let _ = FOLDER.set(Some(folder.to_owned()));
    Ok(Visit {
        _stream: stream,
        note: (!welcome.has_all_ids).then_some(OWN_ID_ALONE),
    })
}

/// Moves the calling process, which has one thread, into the network of the house that it is in. Harmless outside.
///
/// # Errors
/// [`HouseError`]; [`HouseError::NoPasta`].
pub fn join_network() -> Result<(), HouseError> {
    let Some(folder) = house() else {
        return Ok(());
    };
    match connect(folder)? {
        Some(stream) => drop(ask(&stream, &Request::Network)?),
        // It was killed; the network is still there, and pasta need not have noticed. The next command starts another.
        None if building::has_network(folder) => {}
        None => return Err(HouseError::Silent(io::ErrorKind::NotConnected.into())),
    }
    let network = File::open(building::network_file(folder))
        .map_err(HouseError::system("open the house's network"))?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| HouseError::Enter(errno.into()))
}

/// Does something in the network of the house that this process is in, or where it is when it is in none. `None`: the house has
/// no network, because nobody has needed one yet.
///
/// # Errors
/// When the network cannot be entered.
pub fn with_network<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<Option<T>> {
    let Some(folder) = house() else {
        return Ok(Some(run()));
    };
    if !building::has_network(folder) {
        return Ok(None);
    }
    let network = File::open(building::network_file(folder))?;
    isle_sys::namespace::in_network(network.as_fd(), run).map(Some)
}

/// Who asks for a socket of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Whose port it is: nobody else's.
    Owner,
    /// Who serves the owner's.
    Servant,
}

/// A socket of the host's network for a process in the house (a stream that listens, or one for datagrams; it does not
/// block), and the connection by which it is claimed: the port is the caller's as long as that lives. `None`: the caller is in
/// no house.
///
/// # Errors
/// As bind(2): `AddrInUse`, `PermissionDenied` (a port below `net.ipv4.ip_unprivileged_port_start`).
pub fn host_socket(
    claim: Claim,
    is_stream: bool,
    address: SocketAddr,
) -> io::Result<Option<(OwnedFd, UnixStream)>> {
    let Some(folder) = house() else {
        return Ok(None);
    };
    let port = Port {
        is_stream,
        address: address.ip(),
        number: address.port(),
    };
    let stream = connect(folder).map_err(io::Error::other)?.ok_or_else(|| {
        io::Error::other(
            "the keeper of the user namespace was killed; any `isle` command starts another",
        )
    })?;
    match ask(&stream, &Request::Bind(claim, port)) {
        Ok(Some(socket)) => Ok(Some((socket, stream))),
        Ok(None) => Err(io::Error::other("the keeper of the house sent no socket")),
        Err(HouseError::System { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Asks, and waits for the answer.
fn ask(mut stream: &UnixStream, request: &Request) -> Result<Option<OwnedFd>, HouseError> {
    stream
        .write_all(request.line().as_bytes())
        .map_err(HouseError::Silent)?;
    let mut line = Vec::new();
    let mut socket = None;
    while !line.ends_with(b"\n") {
        let mut bytes = [0; 512];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(stream, &mut pieces, &mut control, flags)
            .map_err(|errno| HouseError::Silent(errno.into()))?;
        if received.bytes == 0 || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(HouseError::Silent(io::ErrorKind::UnexpectedEof.into()));
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
                socket = sockets.next().or(socket);
            }
        }
        line.extend_from_slice(&bytes[..received.bytes]);
    }
    match Answer::parse(&String::from_utf8_lossy(&line)) {
        Some(Answer::Done) => Ok(socket),
        Some(Answer::Errno(number)) => Err(HouseError::System {
            what: "use the port",
            source: io::Error::from_raw_os_error(number),
        }),
        Some(Answer::NoPasta) => Err(HouseError::NoPasta),
        Some(Answer::Failed(text)) => Err(HouseError::Refused(text)),
        None => Err(HouseError::Silent(io::ErrorKind::InvalidData.into())),
    }
}

/// A connection to the keeper, when there is one. Those in the house cannot start another: it has to be outside at first.
fn connect(folder: &Path) -> Result<Option<UnixStream>, HouseError> {
    match Place::new(folder.to_owned()).connect() {
        Ok(stream) => match greet(&stream) {
            Ok(_) => Ok(Some(stream)),
            Err(HouseError::Silent(_)) => Ok(None),
            Err(error) => Err(error),
        },
        Err(error) if is_nobody(&error) => Ok(None),
        Err(source) => Err(HouseError::Start {
            folder: folder.to_owned(),
            source,
        }),
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// What a keeper says to one who may come in.
struct Welcome {
    /// Its own pid: the socket was made by another process.
    keeper: Pid,
    /// Whether all subordinate ids were mapped, as far as this process knows.
    has_all_ids: bool,
}

/// A connection to a keeper that is ready.
fn connect_or_build(
    folder: &Path,
    program: &dyn Fn() -> Option<PathBuf>,
) -> Result<(UnixStream, Welcome), HouseError> {
    let place = Place::new(folder.to_owned());
    let failed = |source| HouseError::Start {
        folder: folder.to_owned(),
        source,
    };
    let end = Instant::now() + PATIENCE;
    loop {
        match place.connect() {
            Ok(stream) => match greet(&stream) {
                // One that was about to end, or was killed: there will be another.
                Err(HouseError::Silent(error)) if Instant::now() < end => drop(error),
                Err(error) => return Err(error),
                Ok(welcome) => return Ok((stream, welcome)),
            },
            Err(error) if is_nobody(&error) => {
                // Somebody who has the lock is about to listen, or to end.
                if let Some(lock) = place.lock().map_err(failed)? {
                    let listener = place.listen().map_err(failed)?;
                    let program = program().ok_or(HouseError::NoProgram)?;
                    start(
                        &program,
                        folder,
                        OwnedFd::from(listener).into(),
                        lock.into(),
                    )?;
                    continue;
                }
                if Instant::now() > end {
                    return Err(failed(error));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until one may come in; gives the new house its ids where that is still to be done.
fn greet(mut stream: &UnixStream) -> Result<Welcome, HouseError> {
    let mut has_all_ids = true;
    loop {
        let mut word = [0];
        stream.read_exact(&mut word).map_err(HouseError::Silent)?;
        match word[0] {
            READY => {
                let keeper = pid(stream)?;
                return Ok(Welcome {
                    keeper,
                    has_all_ids,
                });
            }
            MAP => {
                has_all_ids = maps::write(pid(stream)?)?;
                stream.write_all(&[MAPPED]).map_err(HouseError::Silent)?;
            }
            FAILED => {
                let mut text = String::new();
                stream
                    .read_to_string(&mut text)
                    .map_err(HouseError::Silent)?;
                return Err(match text.strip_prefix("namespace ") {
                    Some(number) => HouseError::Namespace(io::Error::from_raw_os_error(
                        number.trim().parse().unwrap_or_default(),
                    )),
                    None => HouseError::Refused(text),
                });
            }
            _ => return Err(HouseError::Silent(io::ErrorKind::InvalidData.into())),
        }
    }
}

fn pid(mut stream: &UnixStream) -> Result<Pid, HouseError> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).map_err(HouseError::Silent)?;
    Pid::from_raw(i32::from_ne_bytes(bytes))
        .ok_or_else(|| HouseError::Silent(io::ErrorKind::InvalidData.into()))
}

/// Starts a keeper, which is nobody's child soon.
fn start(program: &Path, folder: &Path, listener: Stdio, lock: Stdio) -> Result<(), HouseError> {
    let mut command = Command::new(program);
    command
        .arg(folder)
        .env_clear()
        // Where pasta is looked for.
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(listener)
        .stdout(lock)
        .stderr(Stdio::null());
    isle_sys::signals::release_in(&mut command)
        .spawn()
        .map(drop)
        .map_err(|source| HouseError::Start {
            folder: folder.to_owned(),
            source,
        })
}
