//! The channel: greeting, requests and their answers, and what moves between.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use isle_guest_protocol::frame::{self, Frame, Inbox, NONCE, kind};
use isle_guest_protocol::{
    Ack, Assembly, Ended, Hello, MAX_REPLY, MemoryKills, Next, OutOfMemory, Reply, Request, Stream,
    VERSION, Welcome, decode, encode,
};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::Error;
use crate::task::Tasks;

/// The token of the socket; those of streams are [`token`]s.
const SOCKET: u64 = u64::MAX;
/// Bytes that wait for the socket before streams have to wait too.
const OUTBOX_LIMIT: usize = 128 << 10;
/// Bytes that are read from the socket before everything else has its turn.
const TURN: usize = 512 << 10;
/// Bytes before the nonce of the greeting: what the port, QEMU and the kernel may hold of a conversation before.
const STALE_LIMIT: usize = 16 << 20;
/// How long an answer may take when nothing else is said.
const PATIENCE: Duration = Duration::from_secs(30);

/// What epoll(7) says about a stream of a task.
pub(crate) fn token(task: u32, stream: Stream) -> u64 {
    u64::from(task) << 2 | stream as u64
}

/// What a request waits for.
#[derive(Debug)]
enum Waiting {
    /// Nobody asks for the answer.
    Nobody,
    /// It has not come.
    Somebody,
    Come(Reply),
}

/// The channel to one guest.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    pub(crate) epoll: OwnedFd,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// Bytes of the outbox that the socket has taken.
    written: usize,
    interest: EventFlags,
    /// Until it has come: the nonce, and how much was skipped in search of it.
    greeting: Option<([u8; NONCE], usize)>,
    pub(crate) welcome: Option<Welcome>,
    replies: Assembly,
    waiting: BTreeMap<u32, Waiting>,
    next_request: u32,
    pub(crate) tasks: Tasks,
    pub(crate) next_task: u32,
    pub(crate) oom_kills: u64,
    pub(crate) out_of_memory: Option<OutOfMemory>,
    /// Kills were told of that [`Connection::take_memory_kills`] has not been asked about.
    pub(crate) has_memory_kills: bool,
    patience: Duration,
    /// Why it has ended.
    end: Option<Error>,
}

impl Connection {
    /// The channel to a guest that nobody has spoken to since it was booted or cloned. Nothing is waited for.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn open(socket: OwnedFd) -> Result<Connection, Error> {
        Connection::new(socket, 0)
    }

    /// The channel to a guest whose host end has ended without a word: nothing that its tasks wrote is lost. Waits for
    /// the agent's answer; then [`Connection::tasks`] says what there is, and each task is either adopted
    /// ([`Connection::adopt`]) or abandoned ([`Connection::abandon`]).
    ///
    /// # Errors
    /// When there is no answer, or the agent is of another version.
    pub fn resume(socket: OwnedFd) -> Result<Connection, Error> {
        let mut connection = Connection::new(socket, frame::FILLER)?;
        connection.welcome()?;
        Ok(connection)
    }

    fn new(socket: OwnedFd, filler: usize) -> Result<Connection, Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| Error::Io {
            operation: "make a nonce",
            source: io::Error::other(error.to_string()),
        })?;
        let flags = fcntl_getfl(&socket).map_err(Error::io("use the socket of a guest"))?;
        fcntl_setfl(&socket, flags | OFlags::NONBLOCK)
            .map_err(Error::io("use the socket of a guest"))?;
        let epoll =
            epoll::create(CreateFlags::CLOEXEC).map_err(Error::io("make an epoll descriptor"))?;
        let interest = EventFlags::IN;
        epoll::add(&epoll, &socket, EventData::new_u64(SOCKET), interest)
            .map_err(Error::io("watch the socket of a guest"))?;
        let mut outbox = vec![0; filler];
        let hello = Hello {
            version: VERSION,
            nonce,
        };
        frame::put(&mut outbox, kind::HELLO, 0, &encode(&hello));
        Ok(Connection {
            socket,
            epoll,
            inbox: Inbox::default(),
            outbox,
            written: 0,
            interest,
            greeting: Some((nonce, 0)),
            welcome: None,
            replies: Assembly::new(MAX_REPLY),
            waiting: BTreeMap::new(),
            next_request: 1,
            tasks: Tasks::new(),
            next_task: isle_guest_protocol::WORKLOAD + 1,
            oom_kills: 0,
            out_of_memory: None,
            has_memory_kills: false,
            patience: PATIENCE,
            end: None,
        })
    }

    /// How long the calls that wait for an answer wait from now on; 30 s at first.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Readable when [`Connection::tend`] has something to do. Always the same descriptor: an epoll(7) one.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits for the agent's answer to the greeting, unless it has come.
    ///
    /// # Errors
    /// When there is none, or the agent is of another version.
    pub fn welcome(&mut self) -> Result<&Welcome, Error> {
        self.wait_until(|connection| connection.welcome.is_some())?;
        Ok(self.welcome.as_ref().expect("it was waited for"))
    }

    /// Moves what can be moved without waiting, and notes what has ended. To be called when [`Connection::as_fd`] is
    /// readable; harmless at any time. Whoever reads the standard streams itself calls it after reading, too: what
    /// was read need not be sent again to a successor then.
    ///
    /// # Errors
    /// When the connection has ended; all processes are lost then, and every further call says the same.
    pub fn tend(&mut self) -> Result<(), Error> {
        let result = match &self.end {
            Some(error) => return Err(error.again()),
            None => self.turn(),
        };
        if let Err(error) = &result {
            self.fail(error.again());
        }
        result
    }

    fn fail(&mut self, error: Error) {
        self.end = Some(error);
        let _ = epoll::delete(&self.epoll, &self.socket);
        for task in self.tasks.values_mut() {
            for outlet in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
                outlet.lose(&self.epoll);
            }
            if let Some(inlet) = &mut task.stdin {
                inlet.close(&self.epoll);
            }
            task.tell();
        }
    }

    /// The reason why it has ended.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.end.as_ref().map(Error::again)
    }

    fn turn(&mut self) -> Result<(), Error> {
        let mut events: Vec<Event> = Vec::with_capacity(16);
        let now = Timespec::default();
        // What stays ready is seen again by the caller's next poll.
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&now),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::io("poll a guest")(error)),
        }
        let mut result = Ok(());
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            match data.u64() {
                SOCKET if flags == EventFlags::OUT => {}
                SOCKET => result = self.receive(),
                token => self.stream_ready(token),
            }
        }
        result?;
        self.pump();
        self.write()
    }

    fn stream_ready(&mut self, token: u64) {
        let Some(task) = self.tasks.get_mut(&((token >> 2) as u32)) else {
            return;
        };
        if token & 3 == Stream::Stdin as u64
            && let Some(inlet) = &mut task.stdin
        {
            inlet.fill(&self.epoll);
        }
    }

    /// Reads from the socket and takes what is said.
    fn receive(&mut self) -> Result<(), Error> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let result = self.receive_into(&mut inbox);
        inbox.rest();
        self.inbox = inbox;
        result
    }

    fn receive_into(&mut self, inbox: &mut Inbox) -> Result<(), Error> {
        let mut left = TURN;
        loop {
            let room = inbox.room().min(32 << 10);
            let tail = inbox.tail();
            let length = tail.len();
            tail.resize(length + room, 0);
            let received = recv(&self.socket, &mut tail[length..], RecvFlags::DONTWAIT);
            let count = received.as_ref().map_or(0, |(count, _)| *count);
            tail.truncate(length + count);
            match received {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(Error::Closed),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::io("hear a guest")(errno)),
            }
            self.take_frames(inbox)?;
            left = left.saturating_sub(count);
            if left == 0 {
                return Ok(());
            }
        }
    }

    fn take_frames(&mut self, inbox: &mut Inbox) -> Result<(), Error> {
        if let Some((nonce, skipped)) = &mut self.greeting {
            let before = inbox.room();
            if !inbox.skip_to(nonce) {
                *skipped += inbox.room() - before;
                return match *skipped > STALE_LIMIT {
                    true => Err(Error::protocol("it does not answer the greeting")),
                    false => Ok(()),
                };
            }
            self.greeting = None;
        }
        while let Some(frame) = inbox.next_frame().map_err(Error::protocol)? {
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), Error> {
        let id = frame.header.id;
        match frame.header.kind {
            kind::WELCOME => {
                let welcome: Welcome = decode(frame.payload).map_err(Error::protocol)?;
                if welcome.version != VERSION {
                    return Err(Error::Version {
                        found: welcome.version,
                        expected: VERSION,
                    });
                }
                if self.welcome.is_some() {
                    return Err(Error::protocol("a second welcome"));
                }
                let known = welcome.tasks.iter().map(|task| task.task);
                self.next_task = known.max().unwrap_or(0).max(self.next_task - 1) + 1;
                self.welcome = Some(welcome);
                Ok(())
            }
            kind::REPLY => {
                let reply = self.replies.add(frame, |_, bytes| decode::<Reply>(bytes));
                match reply.map_err(Error::protocol)? {
                    None => Ok(()),
                    Some(reply) => self.take_reply(id, reply.map_err(Error::protocol)?),
                }
            }
            kind::STDOUT => self.take_piece(id, Stream::Stdout, frame.payload),
            kind::STDERR => self.take_piece(id, Stream::Stderr, frame.payload),
            kind::ACK => self.take_ack(id, decode(frame.payload).map_err(Error::protocol)?),
            kind::ENDED => {
                let ended: Ended = decode(frame.payload).map_err(Error::protocol)?;
                let task = self.tasks.get_mut(&id);
                let Some(task) = task.filter(|task| task.ended.is_none()) else {
                    return Err(Error::protocol(format!(
                        "the end of task {id}, which does not run"
                    )));
                };
                self.oom_kills = self.oom_kills.max(ended.oom_kills);
                self.out_of_memory = ended.out_of_memory.or(self.out_of_memory);
                task.ended = Some(ended);
                if let Some(inlet) = &mut task.stdin {
                    inlet.close(&self.epoll);
                }
                task.tell_end();
                Ok(())
            }
            kind::OUT_OF_MEMORY => {
                let kills: MemoryKills = decode(frame.payload).map_err(Error::protocol)?;
                self.has_memory_kills |= kills.kills > self.oom_kills;
                self.oom_kills = self.oom_kills.max(kills.kills);
                self.out_of_memory = Some(kills.out_of_memory);
                Ok(())
            }
            kind::LAST_WORDS => Err(Error::Agent {
                reason: String::from_utf8_lossy(frame.payload).into_owned(),
            }),
            other => Err(Error::protocol(format!(
                "a frame of kind {other} from the agent"
            ))),
        }
    }

    fn take_reply(&mut self, number: u32, reply: Reply) -> Result<(), Error> {
        match self.waiting.get_mut(&number) {
            Some(waiting @ Waiting::Somebody) => *waiting = Waiting::Come(reply),
            Some(Waiting::Nobody) => {
                self.waiting.remove(&number);
            }
            Some(Waiting::Come(_)) | None => {
                return Err(Error::protocol(format!(
                    "an answer to request {number}, which nobody made"
                )));
            }
        }
        Ok(())
    }

    fn take_piece(&mut self, id: u32, stream: Stream, payload: &[u8]) -> Result<(), Error> {
        let (offset, piece) =
            frame::piece(payload).ok_or_else(|| Error::protocol("a piece without an offset"))?;
        let task = self.tasks.get_mut(&id);
        let outlet = task.and_then(|task| match stream {
            Stream::Stderr => task.stderr.as_mut(),
            _ => task.stdout.as_mut(),
        });
        let outlet = outlet
            .ok_or_else(|| Error::protocol(format!("output of task {id}, which has none")))?;
        outlet.accept(offset, piece).map_err(Error::protocol)?;
        outlet.flush(&self.epoll);
        Ok(())
    }

    fn take_ack(&mut self, id: u32, ack: Ack) -> Result<(), Error> {
        let task = self.tasks.get_mut(&id);
        let inlet = task.and_then(|task| task.stdin.as_mut());
        match (ack.stream, inlet) {
            // It may have been sent before the end of the task was heard, and the end before this.
            (Stream::Stdin, Some(inlet)) if !inlet.is_open() && inlet.outgoing.is_ended() => {
                let _ = inlet.outgoing.ack(ack.offset);
                Ok(())
            }
            (Stream::Stdin, Some(inlet)) => {
                inlet.outgoing.ack(ack.offset).map_err(Error::protocol)?;
                inlet.fill(&self.epoll);
                Ok(())
            }
            _ => Err(Error::protocol(format!(
                "an acknowledgement of input of task {id}, which takes none"
            ))),
        }
    }

    /// Moves everything between streams and the outbox.
    fn pump(&mut self) {
        let mut over = Vec::new();
        let mut closing = Vec::new();
        for (id, task) in &mut self.tasks {
            let outlets = [
                (Stream::Stdout, &mut task.stdout),
                (Stream::Stderr, &mut task.stderr),
            ];
            for (stream, outlet) in outlets {
                let Some(outlet) = outlet else { continue };
                outlet.flush(&self.epoll);
                if self.outbox.len() - self.written > OUTBOX_LIMIT {
                    continue;
                }
                if let Some(offset) = outlet.due() {
                    let ack = encode(&Ack { stream, offset });
                    frame::put(&mut self.outbox, kind::ACK, *id, &ack);
                }
                if outlet.take_closing() {
                    closing.push((*id, stream));
                }
            }
            if let Some(inlet) = &mut task.stdin {
                while self.outbox.len() - self.written < OUTBOX_LIMIT {
                    let count = match inlet.outgoing.next(frame::MAX_PIECE) {
                        Some(Next::Piece(offset, piece)) => {
                            frame::put_piece(&mut self.outbox, kind::STDIN, *id, offset, piece);
                            piece.len()
                        }
                        Some(Next::End(offset)) => {
                            frame::put_piece(&mut self.outbox, kind::STDIN, *id, offset, &[]);
                            0
                        }
                        None => break,
                    };
                    inlet.outgoing.mark_sent(count);
                }
            }
            task.tell_end();
            if task.is_over() {
                over.push(*id);
            }
        }
        for (task, stream) in closing {
            self.tell(&Request::Close { task, stream });
        }
        for task in over {
            self.tasks.remove(&task);
            self.tell(&Request::Forget { task });
        }
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<(), Error> {
        while self.written < self.outbox.len() {
            match send(
                &self.socket,
                &self.outbox[self.written..],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // What it has said before it ended is worth hearing.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.receive()?;
                    return Err(Error::Closed);
                }
                Err(errno) => return Err(Error::io("speak to a guest")(errno)),
            }
        }
        let is_empty = self.written == self.outbox.len();
        if is_empty {
            self.outbox = Vec::new();
            self.written = 0;
        } else if self.written > OUTBOX_LIMIT {
            self.outbox.drain(..self.written);
            self.written = 0;
        }
        let wanted = match is_empty {
            true => EventFlags::IN,
            false => EventFlags::IN | EventFlags::OUT,
        };
        if wanted != self.interest {
            self.interest = wanted;
            epoll::modify(
                &self.epoll,
                &self.socket,
                EventData::new_u64(SOCKET),
                wanted,
            )
            .map_err(Error::io("watch the socket of a guest"))?;
        }
        Ok(())
    }

    fn put(&mut self, request: &Request, waiting: Waiting) -> u32 {
        let number = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        frame::put(&mut self.outbox, kind::REQUEST, number, &encode(request));
        self.waiting.insert(number, waiting);
        number
    }

    /// Queues a request whose answer nobody waits for.
    pub(crate) fn tell(&mut self, request: &Request) {
        self.put(request, Waiting::Nobody);
    }

    /// Queues a request whose answer [`Connection::answer`] waits for.
    pub(crate) fn ask(&mut self, request: &Request) -> u32 {
        self.put(request, Waiting::Somebody)
    }

    /// Waits for the answer to a request.
    pub(crate) fn answer(&mut self, number: u32) -> Result<Reply, Error> {
        let waited = self.wait_until(|connection| {
            matches!(connection.waiting.get(&number), Some(Waiting::Come(_)))
        });
        if let Err(error) = waited {
            // It may come yet.
            self.waiting.insert(number, Waiting::Nobody);
            return Err(error);
        }
        match self.waiting.remove(&number) {
            Some(Waiting::Come(Reply::Failed(failure))) => Err(Error::Refused(failure)),
            Some(Waiting::Come(reply)) => Ok(reply),
            _ => Err(Error::Closed),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Reply, Error> {
        let number = self.ask(request);
        self.answer(number)
    }

    /// Asks for something that has no other answer than that it is done.
    pub(crate) fn order(&mut self, request: &Request) -> Result<(), Error> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            _ => Err(self.nonsense()),
        }
    }

    /// An answer to something else than what was asked ends the connection.
    pub(crate) fn nonsense(&mut self) -> Error {
        let error = Error::protocol("an answer to something else than what was asked");
        self.fail(error.again());
        error
    }

    /// Tends until something is so.
    pub(crate) fn wait_until(
        &mut self,
        mut is_so: impl FnMut(&Connection) -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience;
        loop {
            self.tend()?;
            if is_so(self) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoAnswer {
                    after: self.patience,
                });
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(
                &mut [PollFd::new(&self.epoll, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("wait for a guest")(errno)),
            }
        }
    }
}
