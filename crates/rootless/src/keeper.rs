//! The process that holds the house while anybody is in it: `isle-house FOLDER`, with the socket that it listens on as its
//! standard input and the lock of its place as its standard output.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::HouseError;
use crate::building::{self, Built};
use crate::error::chain;
use crate::pasta::Pasta;
use crate::place::Place;
use crate::ports::Ports;
use crate::residents::Spaces;
use crate::words::{Answer, FAILED, LONGEST, MAP, MAPPED, READY, Request};

/// So long the house stays when the last one has gone: the next command may be about to come.
const GRACE: Duration = Duration::from_secs(2);
/// So long it waits for the first one, and for its maps.
const FIRST_GRACE: Duration = Duration::from_secs(10);
/// A client that is not read from waits no longer than this for its answer.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to get another pasta.
const PASTA_PAUSE: Duration = Duration::from_secs(5);

impl HouseError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> HouseError {
        move |source| HouseError::System { what, source }
    }

    pub(crate) fn errno(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> HouseError {
        move |errno| HouseError::System {
            what,
            source: errno.into(),
        }
    }
}

/// Runs the keeper that `isle-house FOLDER` is, until nobody is in the house any more.
///
/// # Errors
/// [`HouseError`]; those who wait are told too.
pub fn main(arguments: impl Iterator<Item = OsString>) -> Result<(), HouseError> {
    let arguments: Vec<OsString> = arguments.skip(1).collect();
    let [folder] = arguments.as_slice() else {
        return Err(HouseError::Refused(
            "isle-house is started by isle: isle-house FOLDER, with a socket as its standard input"
                .to_owned(),
        ));
    };
    let folder = PathBuf::from(folder);
    let (listener, lock) = inherit()?;
    // A session of its own: what a terminal sends to who started it is not for it.
    let _ = rustix::process::setsid();
    let place = Place::new(folder.clone());
    let kept = listener
        .try_clone()
        .map_err(HouseError::system("keep the socket"))?;
    match Keeper::new(folder.clone(), listener) {
        Ok(mut keeper) => {
            keeper.run()?;
            if let Some(pasta) = keeper.pasta.take() {
                pasta.end();
            }
            building::clear(&folder);
            drop(kept);
            let removed = place.remove();
            drop(lock);
            removed.map_err(HouseError::system("take away the keeper's folder"))
        }
        Err(error) => {
            turn_away(&kept, &error);
            building::clear(&folder);
            let _ = place.remove();
            drop(lock);
            Err(error)
        }
    }
}

/// Takes the two descriptors, and leaves `/dev/null` in their place.
fn inherit() -> Result<(UnixListener, OwnedFd), HouseError> {
    let take = |fd: io::Result<OwnedFd>| fd.map_err(HouseError::system("take a descriptor"));
    let listener = take(io::stdin().as_fd().try_clone_to_owned())?;
    let lock = take(io::stdout().as_fd().try_clone_to_owned())?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(HouseError::system("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(HouseError::errno("close the standard input"))?;
    rustix::stdio::dup2_stdout(&null).map_err(HouseError::errno("close the standard output"))?;
    Ok((UnixListener::from(listener), lock))
}

/// Tells those who wait that there will be no house, and why.
fn turn_away(listener: &UnixListener, error: &HouseError) {
    let text = match error {
        HouseError::Namespace(source) => {
            format!("namespace {}", source.raw_os_error().unwrap_or_default())
        }
        error => chain(error),
    };
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end && is_readable(listener, end) {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&[FAILED]);
            if stream.write_all(text.as_bytes()).is_ok() {
                return;
            }
        }
    }
}

fn is_readable(what: impl std::os::fd::AsFd, end: Instant) -> bool {
    let mut fds = [PollFd::new(&what, PollFlags::IN)];
    let left = timeout(end.saturating_duration_since(Instant::now()));
    poll(&mut fds, Some(&left)).is_ok_and(|count| count > 0)
}

fn timeout(left: Duration) -> Timespec {
    Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// One who is here.
#[derive(Debug)]
struct Guest {
    stream: UnixStream,
    unread: Vec<u8>,
}

struct Keeper {
    folder: PathBuf,
    spaces: Spaces,
    listener: UnixListener,
    guests: BTreeMap<u32, Guest>,
    next: u32,
    /// Those whose end is waited for, once there are no guests.
    residents: Vec<OwnedFd>,
    ports: Ports,
    pasta: Option<Pasta>,
    /// When to try to get another one.
    pasta_at: Option<Instant>,
    /// When it ends if nobody comes.
    end: Option<Instant>,
}

impl Keeper {
    fn new(folder: PathBuf, listener: UnixListener) -> Result<Keeper, HouseError> {
        let built = building::build(&folder)?;
        let mut guests = BTreeMap::new();
        let mut pasta = Pasta::find(&folder);
        if built == Built::New {
            // One whose house has gone.
            if let Some(pasta) = pasta.take() {
                pasta.end();
            }
            let first = mapped(&listener)?;
            building::furnish(&folder)?;
            if let Some(guest) = first {
                guests.insert(0, guest);
            }
        }
        let mut keeper = Keeper {
            spaces: Spaces::own().map_err(HouseError::system("read the own namespaces"))?,
            pasta_at: (pasta.is_none() && building::has_network(&folder)).then(Instant::now),
            folder,
            listener,
            guests: BTreeMap::new(),
            next: 1,
            residents: Vec::new(),
            ports: Ports::default(),
            pasta,
            end: Some(Instant::now() + FIRST_GRACE),
        };
        for guest in guests.into_values() {
            keeper.welcome(guest);
        }
        Ok(keeper)
    }

    /// Until nobody is there any more.
    fn run(&mut self) -> Result<(), HouseError> {
        loop {
            let (is_called, spoke, has_left, pasta_ended) = self.wait()?;
            if pasta_ended {
                self.pasta = None;
                self.pasta_at = Some(Instant::now());
            }
            if is_called && let Ok((stream, _)) = self.listener.accept() {
                let unread = Vec::new();
                self.welcome(Guest { stream, unread });
            }
            for number in spoke {
                self.listen_to(number);
            }
            if self.pasta_at.is_some_and(|at| at <= Instant::now()) {
                // Why it does not come is told when somebody asks for the network.
                self.pasta = Pasta::get(&self.folder).ok();
                let again = self.pasta.is_none();
                self.pasta_at = again.then(|| Instant::now() + PASTA_PAUSE);
            }
            if has_left {
                self.residents.clear();
                self.end.get_or_insert_with(|| Instant::now() + GRACE);
            }
            if self.end.is_some_and(|end| end <= Instant::now()) && self.guests.is_empty() {
                let mut own = vec![rustix::process::getpid()];
                own.extend(self.pasta.iter().map(|pasta| pasta.pid));
                self.residents = self.spaces.residents(&own);
                if self.residents.is_empty() {
                    return Ok(());
                }
                self.end = None;
            }
        }
    }

    /// Waits until something happens: somebody comes, guests speak, a resident has ended, pasta has.
    fn wait(&self) -> Result<(bool, Vec<u32>, bool, bool), HouseError> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(
            self.guests
                .values()
                .map(|guest| PollFd::new(&guest.stream, PollFlags::IN)),
        );
        let first_resident = fds.len();
        fds.extend(
            self.residents
                .iter()
                .map(|resident| PollFd::new(resident, PollFlags::IN)),
        );
        let first_pasta = fds.len();
        fds.extend(
            self.pasta
                .iter()
                .map(|pasta| PollFd::new(&pasta.ended, PollFlags::IN)),
        );
        let next = self.end.into_iter().chain(self.pasta_at).min();
        let left = next.map(|at| timeout(at.saturating_duration_since(Instant::now())));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(HouseError::errno("wait for events")(errno)),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let guests = self.guests.keys().zip(&fds[1..first_resident]);
        Ok((
            is_ready(&fds[0]),
            guests
                .filter(|(_, fd)| is_ready(fd))
                .map(|(number, _)| *number)
                .collect(),
            fds[first_resident..first_pasta].iter().any(is_ready),
            fds[first_pasta..].iter().any(is_ready),
        ))
    }

    fn welcome(&mut self, mut guest: Guest) {
        let _ = guest.stream.set_write_timeout(Some(SEND_PATIENCE));
        if guest.stream.write_all(&with_pid(READY)).is_ok() {
            self.guests.insert(self.next, guest);
            self.next = self.next.wrapping_add(1);
            self.end = None;
            self.residents.clear();
        }
    }

    fn listen_to(&mut self, number: u32) {
        let Some(guest) = self.guests.get_mut(&number) else {
            return;
        };
        let mut bytes = [0; 512];
        let count = guest.stream.read(&mut bytes).unwrap_or(0);
        guest.unread.extend_from_slice(&bytes[..count]);
        let mut is_open = count > 0 && guest.unread.len() < LONGEST;
        while is_open && let Some(end) = self.line_of(number) {
            is_open = self.answer(number, &end).is_ok();
        }
        if !is_open {
            self.guests.remove(&number);
            self.ports.release(number);
            if self.guests.is_empty() {
                self.end = Some(Instant::now() + GRACE);
            }
        }
    }

    fn line_of(&mut self, number: u32) -> Option<String> {
        let unread = &mut self.guests.get_mut(&number)?.unread;
        let end = unread.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = unread.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }

    fn answer(&mut self, number: u32, line: &str) -> io::Result<()> {
        let (answer, socket) = match Request::parse(line) {
            Some(Request::Network) => (self.network(), None),
            Some(Request::Bind(claim, port)) => match self.ports.take(port, claim, number) {
                Ok(socket) => (Answer::Done, Some(socket)),
                Err(errno) => (Answer::Errno(errno.raw_os_error()), None),
            },
            None => return Err(io::ErrorKind::InvalidData.into()),
        };
        let Some(guest) = self.guests.get(&number) else {
            return Ok(());
        };
        send(&guest.stream, &answer.line(), socket.as_ref())
    }

    /// The network and its way out.
    fn network(&mut self) -> Answer {
        let result = (|| {
            if !building::has_network(&self.folder) {
                building::add_network(&self.folder)?;
            }
            if self.pasta.is_some() {
                return Ok(());
            }
            match Pasta::get(&self.folder) {
                Ok(pasta) => {
                    self.pasta = Some(pasta);
                    self.pasta_at = None;
                    Ok(())
                }
                // Nothing leads out of the host itself: instances reach each other, and the rest when it does.
                Err(HouseError::Pasta(_)) if !building::host_has_way_out() => {
                    self.pasta_at = Some(Instant::now() + PASTA_PAUSE);
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })();
        match result {
            Ok(()) => Answer::Done,
            Err(HouseError::NoPasta) => Answer::NoPasta,
            Err(error) => Answer::Failed(chain(&error)),
        }
    }
}

/// Has the new user namespace its maps written by one who is outside; that one is the first guest.
fn mapped(listener: &UnixListener) -> Result<Option<Guest>, HouseError> {
    let end = Instant::now() + FIRST_GRACE;
    while is_readable(listener, end) {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        let mut word = [0];
        // One that dies or cannot is followed by the next one who comes.
        if stream.write_all(&with_pid(MAP)).is_ok()
            && stream.read_exact(&mut word).is_ok()
            && word == [MAPPED]
        {
            let unread = Vec::new();
            return Ok(Some(Guest { stream, unread }));
        }
    }
    Err(HouseError::Refused(
        "nobody has given the user namespace its ids".to_owned(),
    ))
}

/// A word, and who says it.
fn with_pid(word: u8) -> [u8; 5] {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let [a, b, c, d] = pid.to_ne_bytes();
    [word, a, b, c, d]
}

fn send(stream: &UnixStream, line: &str, socket: Option<&OwnedFd>) -> io::Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let sockets: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    let pieces = [IoSlice::new(line.as_bytes())];
    sendmsg(stream, &pieces, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
