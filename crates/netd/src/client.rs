//! The supervisor's end: finds the keeper or starts it, and stays with it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::folder;
use crate::protocol::{Answer, Inbox, Message, Notice, Request, frame};
use isle_rootless::place::Place;

/// So long a keeper may take to come into being.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the look at a keeper that is being started and the next.
const PAUSE: Duration = Duration::from_millis(2);
/// So many keepers may die while an instance waits for an answer.
const MOST_LOST: u32 = 5;
/// Before the first attempt to get another keeper, times a random number up to one; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(20);

/// Whose keeper, and which program it is.
#[derive(Clone, Debug)]
pub struct Home {
    /// What survives a reboot: the state file is in it.
    pub root: PathBuf,
    /// Sockets and locks.
    pub run: PathBuf,
    /// `isle-netd`; `None` when it is nowhere to be found.
    pub program: Option<PathBuf>,
}

/// Why an instance cannot have the keeper's services.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no program.
    #[error("cannot find isle-netd, which answers names on networks")]
    NoProgram,
    /// The keeper's folder, lock or socket cannot be used, or the program cannot be executed.
    #[error("cannot start the keeper of networks")]
    Start(#[source] io::Error),
    /// The connection broke, or there was no answer.
    #[error("the keeper of networks does not answer")]
    Silent(#[source] io::Error),
    /// It has answered: it cannot.
    #[error("{reason}")]
    Failed {
        /// What, and why.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl AttachError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            AttachError::NoProgram => {
                Some("put isle-netd beside isle-shim, or into /usr/libexec/isle")
            }
            AttachError::Failed { hint, .. } => hint.as_deref(),
            AttachError::Start(_) | AttachError::Silent(_) => None,
        }
    }
}

/// An instance's connection to the keeper, as long as the instance is on a network.
///
/// [`Attachment::begin`] and [`Attachment::wait`] before the instance starts; then the supervisor waits for
/// [`Attachment::fd`] to be readable and for [`Attachment::deadline`], and calls [`Attachment::tend`]. When the keeper
/// dies, that is where another is started. Dropping it is the end.
#[derive(Debug)]
pub struct Attachment {
    home: Home,
    hello: Request,
    link: Link,
    /// A keeper that this process has started; collected when it has died.
    child: Option<Child>,
    notices: Vec<Notice>,
}

#[derive(Debug)]
enum Link {
    Up(Connection),
    /// It hung up; the next attempt, and how many were in vain.
    Down {
        next: Instant,
        attempts: u32,
    },
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    /// Requests that were not answered yet.
    open: u32,
}

impl Attachment {
    /// Connects, starts a keeper when there is none, and says who this is. The answer is fetched with
    /// [`Attachment::wait`]: there is time for something else.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn begin(
        home: Home,
        instance: String,
        servers: Vec<IpAddr>,
    ) -> Result<Attachment, AttachError> {
        let mut child = None;
        let hello = Request::Attach { instance, servers };
        let connection = Connection::open(&home, &hello, &mut child)?;
        Ok(Attachment {
            home,
            hello,
            link: Link::Up(connection),
            child,
            notices: Vec::new(),
        })
    }

    /// Waits until all that was said is done. Instances may start then: what is in their rows is answered.
    ///
    /// # Errors
    /// [`AttachError`]; after [`AttachError::Silent`] an attachment recovers by itself.
    pub fn wait(&mut self) -> Result<(), AttachError> {
        let end = Instant::now() + PATIENCE;
        let mut lost = 0;
        loop {
            let result = match &mut self.link {
                Link::Up(connection) => connection.wait(end, &mut self.notices),
                Link::Down { .. } => Err(io::Error::from(io::ErrorKind::NotConnected)),
            };
            match result {
                Ok(Answer::Ready) => return Ok(()),
                Ok(Answer::Failed { reason, hint }) => {
                    return Err(AttachError::Failed { reason, hint });
                }
                // One that was about to end took the connection with it, or was killed: once more.
                Err(error) if is_gone(&error) && lost < MOST_LOST => {
                    lost += 1;
                    self.collect();
                    std::thread::sleep(PAUSE);
                    let connection = Connection::open(&self.home, &self.hello, &mut self.child)?;
                    self.link = Link::Up(connection);
                }
                Err(error) => {
                    self.lose(0);
                    return Err(AttachError::Silent(error));
                }
            }
        }
    }

    /// Says that the instance's rows are others, and waits until that is known.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn changed(&mut self) -> Result<(), AttachError> {
        if let Link::Up(connection) = &mut self.link {
            // When the keeper has gone, the next one reads the rows anyway; `wait` finds out.
            let _ = connection.send(&Request::Changed);
        }
        self.wait()
    }

    /// What becomes readable when there is something to tend; `None` while there is no keeper. Another one after
    /// each [`Attachment::tend`], perhaps.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Up(connection) => Some(connection.stream.as_fd()),
            Link::Down { .. } => None,
        }
    }

    /// When to call [`Attachment::tend`] even if nothing is readable.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Up(_) => None,
            Link::Down { next, .. } => Some(next),
        }
    }

    /// Reads what the keeper tells, and gets another keeper when it has died.
    pub fn tend(&mut self) -> Vec<Notice> {
        match &mut self.link {
            Link::Up(connection) => {
                if connection.read(&mut self.notices).is_err() {
                    self.lose(0);
                }
            }
            Link::Down { next, attempts } if *next <= Instant::now() => {
                let attempts = *attempts + 1;
                self.collect();
                match Connection::open(&self.home, &self.hello, &mut self.child) {
                    Ok(connection) => self.link = Link::Up(connection),
                    Err(_) => self.lose(attempts),
                }
            }
            Link::Down { .. } => {}
        }
        std::mem::take(&mut self.notices)
    }

    /// A thousand supervisors lose the same keeper at the same moment: each comes back at a time of its own.
    fn lose(&mut self, attempts: u32) {
        self.collect();
        let longest = FIRST_DELAY
            .saturating_mul(1 << attempts.min(10))
            .min(LONGEST_DELAY);
        let mut random = [0; 1];
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let delay = longest * u32::from(random[0]) / 255;
        self.link = Link::Down {
            next: Instant::now() + delay,
            attempts,
        };
    }

    /// Collects a keeper that has died.
    fn collect(&mut self) {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

impl Connection {
    fn open(
        home: &Home,
        hello: &Request,
        child: &mut Option<Child>,
    ) -> Result<Connection, AttachError> {
        let stream = connect_or_start(home, child)?;
        stream.set_nonblocking(true).map_err(AttachError::Start)?;
        let mut connection = Connection {
            stream,
            inbox: Inbox::default(),
            open: 0,
        };
        match connection.send(hello) {
            // Found out by who waits for the answer.
            Err(error) if !is_gone(&error) => Err(AttachError::Silent(error)),
            _ => Ok(connection),
        }
    }

    /// A request is far smaller than the socket's room, and there is at most one on its way.
    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.open += 1;
        let bytes = frame(request);
        match rustix::net::send(&self.stream, &bytes, rustix::net::SendFlags::NOSIGNAL)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Until the last request is answered.
    fn wait(&mut self, end: Instant, notices: &mut Vec<Notice>) -> io::Result<Answer> {
        loop {
            while let Some(message) = self.inbox.next()? {
                match message {
                    Message::Notice(notice) => notices.push(notice),
                    Message::Answer(answer) => {
                        self.open = self.open.saturating_sub(1);
                        if self.open == 0 || answer != Answer::Ready {
                            return Ok(answer);
                        }
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !self.inbox.fill(&self.stream)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What is there.
    fn read(&mut self, notices: &mut Vec<Notice>) -> io::Result<()> {
        let is_open = self.inbox.fill(&self.stream)?;
        while let Some(message) = self.inbox.next()? {
            match message {
                Message::Notice(notice) => notices.push(notice),
                Message::Answer(answer) => {
                    self.open = self.open.saturating_sub(1);
                    if let Answer::Failed { reason, .. } = answer {
                        notices.push(Notice::Failed { reason });
                    }
                }
            }
        }
        match is_open {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn connect_or_start(home: &Home, child: &mut Option<Child>) -> Result<UnixStream, AttachError> {
    let place = Place::new(folder(&home.run));
    let end = Instant::now() + PATIENCE;
    loop {
        match place.connect() {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(AttachError::Start(error)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {}
                // Its queue is full.
                io::ErrorKind::WouldBlock => {}
                _ => return Err(AttachError::Start(error)),
            },
        }
        match place.lock().map_err(AttachError::Start)? {
            // It comes, or goes, at this moment.
            None => std::thread::sleep(PAUSE),
            Some(lock) => {
                let program = home.program.as_deref().ok_or(AttachError::NoProgram)?;
                let listener = place.listen().map_err(AttachError::Start)?;
                *child = Some(
                    spawn(home, program, listener.into(), lock.into())
                        .map_err(AttachError::Start)?,
                );
            }
        }
    }
}

/// Starts a keeper, which inherits the socket as its standard input and the lock as its standard output.
fn spawn(
    home: &Home,
    program: &std::path::Path,
    listener: OwnedFd,
    lock: OwnedFd,
) -> io::Result<Child> {
    // Held until the program has been executed. Where the host does not allow it, nobody could write the program.
    let protected = isle_sys::mount::read_only_clone(program).ok();
    let executable = match &protected {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        None => program.to_owned(),
    };
    let mut command = Command::new(executable);
    command
        // Else it would be called by the number of the descriptor.
        .arg0("isle-netd")
        .args([&home.root, &home.run])
        .env_clear()
        .envs(isle_rootless::house().map(|house| (isle_rootless::VARIABLE, house)))
        .current_dir("/")
        .stdin(listener)
        .stdout(lock)
        .stderr(Stdio::null());
    isle_sys::signals::release_in(&mut command).spawn()
}
