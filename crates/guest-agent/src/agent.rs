//! The loop, and who does what is asked.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use isle_cgroup::{Cgroup, OomWatch};
use isle_guest_protocol::frame::{Frame, Inbox, MAX_PIECE, kind, piece};
use isle_guest_protocol::{
    Ack, Bytes, Failure, FailureKind, Hello, MAX_TASKS, MemoryKills, Next, Reply, Request, Stream,
    VERSION, Welcome, WindowSize, decode,
};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::failure::{failed, not_running};
use crate::port::Port;
use crate::prepare::Files;
use crate::task::Tasks;
use crate::workload::Workload;
use crate::{control_group, helper, lists, prepare, shutdown, stats};

const PORT: u64 = 0;
const CHILDREN: u64 = 1;
const MEMORY: u64 = 2;
/// Tokens of streams begin here.
const STREAMS: u64 = 4;
const SIGCHLD: i32 = 17;

/// The token of a task's stream.
pub(crate) fn token(task: u32, stream: Stream) -> u64 {
    STREAMS + (u64::from(task) << 2 | stream as u64)
}

/// Where an agent is.
#[derive(Debug)]
pub struct Place {
    /// A directory of its own.
    pub run: PathBuf,
    /// The instance's control group; `None` where there is none.
    pub cgroup: Option<Cgroup>,
    /// Whether this is a guest, with a kernel that is the instance's own. Elsewhere (in tests) entropy, clock, host name,
    /// network and disks are left alone, and the root file system is the directory `root` below `run`.
    pub is_guest: bool,
}

/// The agent.
pub struct Agent {
    pub(crate) port: Port,
    pub(crate) epoll: OwnedFd,
    children: OwnedFd,
    /// `None` where the kernel does not tell; then it is told with the end of a process.
    memory: Option<OomWatch>,
    pub(crate) place: Place,
    pub(crate) tasks: Tasks,
    /// The outcome of [`Request::Prepare`].
    prepared: Option<Result<(), Failure>>,
    pub(crate) files: Files,
    pub(crate) workload: Option<Workload>,
    /// Kills for lack of memory that the end of a process was found to be one of.
    pub(crate) oom_kills: u64,
    /// Kills for lack of memory that this host end was told of as they happened.
    oom_kills_told: u64,
    pub(crate) buffer: Vec<u8>,
    is_over: bool,
}

impl Agent {
    /// An agent that listens at a port. From here on the ends of all children of this process are its own.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn new(port: OwnedFd, place: Place) -> io::Result<Agent> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let port = Port::new(port)?;
        let children = isle_sys::signals::divert(&[SIGCHLD])?;
        // Edges: a port without a host end would be ready all the time.
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&epoll, port.as_fd(), EventData::new_u64(PORT), edges)?;
        epoll::add(
            &epoll,
            &children,
            EventData::new_u64(CHILDREN),
            EventFlags::IN,
        )?;
        let memory = place.cgroup.as_ref();
        let memory = memory.and_then(|cgroup| cgroup.watch_oom().unwrap_or(None));
        if let Some(memory) = &memory {
            epoll::add(&epoll, memory, EventData::new_u64(MEMORY), EventFlags::IN)?;
        }
        Ok(Agent {
            port,
            epoll,
            children,
            memory,
            place,
            tasks: Tasks::new(),
            prepared: None,
            files: Files::default(),
            workload: None,
            oom_kills: 0,
            oom_kills_told: 0,
            buffer: vec![0; 32 << 10],
            is_over: false,
        })
    }

    /// Does what the host asks for, until that is to shut down.
    ///
    /// # Errors
    /// When epoll(7) fails.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(64);
        // What was said before the port was watched.
        self.receive();
        while !self.is_over {
            self.pump();
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                let data = event.data;
                match data.u64() {
                    PORT => self.receive(),
                    CHILDREN => {
                        let _ = rustix::io::read(&self.children, &mut self.buffer[..128]);
                        self.collect();
                    }
                    MEMORY => {
                        if let Some(memory) = &self.memory {
                            memory.acknowledge();
                        }
                        self.tell_memory_kills();
                    }
                    token => self.stream_ready(token - STREAMS),
                }
            }
        }
        self.pump();
        Ok(())
    }

    fn stream_ready(&mut self, token: u64) {
        let id = (token >> 2) as u32;
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let output = match token & 3 {
            0 => {
                self.flush_input(id);
                return;
            }
            1 => &mut task.stdout,
            _ => &mut task.stderr,
        };
        if let Some(output) = output {
            output.fill(&self.epoll, &mut self.buffer);
        }
    }

    fn flush_input(&mut self, id: u32) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let is_over = task
            .stdin
            .as_mut()
            .is_some_and(|input| input.flush(&self.epoll));
        // Who lets a terminal go, lets it go altogether.
        if is_over
            && task.has_terminal
            && let Some(output) = &mut task.stdout
        {
            output.hang_up(&self.epoll);
        }
    }

    fn receive(&mut self) {
        let mut inbox = self.port.take_inbox();
        loop {
            let has_come = self.port.read(&mut inbox);
            self.take_frames(&mut inbox);
            if !has_come {
                break;
            }
        }
        self.port.give_inbox(inbox);
    }

    fn take_frames(&mut self, inbox: &mut Inbox) {
        while let Some(frame) = inbox.next_whole() {
            self.take(frame);
        }
    }

    fn take(&mut self, frame: Frame<'_>) {
        let id = frame.header.id;
        match frame.header.kind {
            kind::HELLO => {
                if let Ok(hello) = decode::<Hello>(frame.payload) {
                    self.greet(&hello);
                }
            }
            kind::REQUEST => {
                let request = self
                    .port
                    .requests
                    .add(frame, |_, bytes| decode::<Request>(bytes));
                let reply = match request {
                    Ok(None) => return,
                    Ok(Some(Ok(request))) => self.answer(request),
                    Ok(Some(Err(error))) => Err(failed("cannot read the request")(error)),
                    Err(error) => Err(failed("cannot read the request")(error)),
                };
                let reply = reply.unwrap_or_else(Reply::Failed);
                self.port.put(kind::REPLY, id, &reply);
            }
            kind::STDIN => {
                let task = self.tasks.get_mut(&id);
                if let (Some(input), Some((offset, piece))) = (
                    task.and_then(|task| task.stdin.as_mut()),
                    piece(frame.payload),
                ) {
                    input.accept(offset, piece);
                    self.flush_input(id);
                }
            }
            kind::ACK => {
                let Ok(ack) = decode::<Ack>(frame.payload) else {
                    return;
                };
                let task = self.tasks.get_mut(&id);
                let output = task.and_then(|task| match ack.stream {
                    Stream::Stdin => None,
                    Stream::Stdout => task.stdout.as_mut(),
                    Stream::Stderr => task.stderr.as_mut(),
                });
                if let Some(output) = output
                    && output.outgoing.ack(ack.offset).is_ok()
                {
                    output.fill(&self.epoll, &mut self.buffer);
                }
            }
            _ => {}
        }
    }

    fn greet(&mut self, hello: &Hello) {
        self.port.greet();
        for task in self.tasks.values_mut() {
            task.is_attached = false;
            task.is_end_told = false;
            for output in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
                output.outgoing.rewind();
            }
        }
        self.port.put_raw(&hello.nonce);
        let welcome = Welcome {
            version: VERSION,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            is_prepared: self.prepared == Some(Ok(())),
            tasks: self
                .tasks
                .iter()
                .map(|(id, task)| task.state(*id))
                .collect(),
        };
        self.port.put(kind::WELCOME, 0, &welcome);
        // One of another version would misunderstand what else there is to say.
        self.port.is_greeted = hello.version == VERSION;
        self.oom_kills_told = 0;
        self.tell_memory_kills();
    }

    /// Tells the host what it has not heard yet of kills for lack of memory.
    fn tell_memory_kills(&mut self) {
        let memory = control_group::out_of_memory(self.place.cgroup.as_ref());
        if memory.kills > self.oom_kills_told && self.port.is_greeted {
            self.oom_kills_told = memory.kills;
            let kills = MemoryKills {
                kills: memory.kills,
                out_of_memory: control_group::whose(memory),
            };
            self.port.put(kind::OUT_OF_MEMORY, 0, &kills);
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Prepare(asked) => {
                if self.prepared.is_some() {
                    return Err(failed("the guest")("it is somebody's already"));
                }
                let outcome = prepare::prepare(&self.place, &mut self.files, &asked);
                self.prepared = Some(outcome.clone());
                outcome.map(|()| Reply::Done)
            }
            Request::Reset { keeps_root, read } => {
                self.reset(keeps_root, &read).map(|()| Reply::Done)
            }
            Request::Connect(network) => {
                self.check_guest("connect it to a network")?;
                prepare::connect(&network).map(|()| Reply::Done)
            }
            Request::Disconnect { card } => {
                self.check_guest("take it off a network")?;
                prepare::disconnect(card).map(|()| Reply::Done)
            }
            Request::Start(start) => {
                self.check_prepared()?;
                self.start(&start).map(|pid| Reply::Started { pid })
            }
            Request::Exec(exec) => {
                self.check_number(exec.task)?;
                self.exec(&exec).map(|pid| Reply::Started { pid })
            }
            Request::Signal { task, signal } => self.signal(task, signal).map(|()| Reply::Done),
            Request::KillAll => {
                for task in self.tasks.values_mut() {
                    task.was_killed = true;
                }
                match &self.place.cgroup {
                    Some(cgroup) => cgroup.kill_all().map_err(failed("cannot kill"))?,
                    None => self.kill_each(),
                }
                Ok(Reply::Done)
            }
            Request::Resize { task, size } => self.resize(task, size).map(|()| Reply::Done),
            Request::Stats => stats::read(self.place.cgroup.as_ref())
                .map(|stats| Reply::Stats(Box::new(stats)))
                .map_err(failed("cannot read what was used")),
            Request::Limits => control_group::current(self.place.cgroup.as_ref()),
            Request::SetLimits(limits) => {
                control_group::set(self.place.cgroup.as_ref(), &limits, true).map(|()| Reply::Done)
            }
            Request::SetClock(clock) => {
                prepare::set_clock(&self.place, clock).map(|()| Reply::Done)
            }
            Request::Stat(path) => helper::stat(&self.inside()?, &path).map(Reply::Stat),
            Request::ReadTree(asked) => {
                self.check_number(asked.task)?;
                helper::read_tree(self, &asked).map(|()| Reply::Done)
            }
            Request::WriteTree(asked) => {
                self.check_number(asked.task)?;
                helper::write_tree(self, &asked).map(|()| Reply::Done)
            }
            Request::Changes { task } => {
                self.check_number(task)?;
                lists::changes(self, task).map(|()| Reply::Done)
            }
            Request::Processes { task } => {
                self.check_number(task)?;
                lists::processes(self, task).map(|()| Reply::Done)
            }
            Request::Attach { task } => {
                let task = self
                    .tasks
                    .get_mut(&task)
                    .ok_or_else(|| not_running("there is no such task"))?;
                task.is_attached = true;
                Ok(Reply::Done)
            }
            Request::Close { task, stream } => {
                let task = self
                    .tasks
                    .get_mut(&task)
                    .ok_or_else(|| not_running("there is no such task"))?;
                let output = match stream {
                    Stream::Stdin => &mut None,
                    Stream::Stdout => &mut task.stdout,
                    Stream::Stderr => &mut task.stderr,
                };
                if let Some(output) = output {
                    output.close(&self.epoll);
                }
                Ok(Reply::Done)
            }
            Request::Forget { task } => {
                // What runs is not forgotten.
                if self
                    .tasks
                    .get(&task)
                    .is_some_and(|task| task.ended.is_some())
                {
                    self.tasks.remove(&task);
                }
                Ok(Reply::Done)
            }
            Request::Trim => match &self.files.disk {
                Some(disk) => isle_sys::filesystem::trim(disk)
                    .map(Reply::Trimmed)
                    .map_err(failed("cannot give blocks back")),
                None => Err(failed("cannot give blocks back")(
                    "there is no writable disk",
                )),
            },
            Request::Shutdown => {
                self.is_over = true;
                if self.place.is_guest {
                    shutdown::shut_down(self);
                }
                self.kill_each();
                Ok(Reply::Done)
            }
        }
    }

    /// See [`Request::Reset`].
    fn reset(&mut self, keeps_root: bool, read: &[Bytes]) -> Result<(), Failure> {
        self.check_prepared()?;
        if self.tasks.values().any(|task| task.ended.is_none()) {
            return Err(failed("cannot reset the guest")("a process runs"));
        }
        self.tasks.clear();
        self.workload = None;
        prepare::reset(&self.place, &self.files, read)?;
        if !keeps_root {
            self.files = prepare::Files::default();
            prepare::let_go(&self.place)?;
        }
        self.prepared = None;
        Ok(())
    }

    pub(crate) fn check_prepared(&self) -> Result<(), Failure> {
        match &self.prepared {
            Some(outcome) => outcome.clone(),
            None => Err(not_running("the guest is nobody's yet")),
        }
    }

    /// Where the agent is not a machine's first process, its network is somebody else's.
    fn check_guest(&self, what: &str) -> Result<(), Failure> {
        self.check_prepared()?;
        match self.place.is_guest {
            true => Ok(()),
            false => Err(failed(&format!("cannot {what}"))(
                "it is no virtual machine",
            )),
        }
    }

    fn check_number(&self, task: u32) -> Result<(), Failure> {
        self.check_prepared()?;
        if self.tasks.contains_key(&task) || self.tasks.len() >= MAX_TASKS {
            return Err(Failure::new(
                FailureKind::Failed,
                format!("task {task}: its number is taken, or there are too many"),
            ));
        }
        Ok(())
    }

    fn signal(&mut self, task: u32, signal: u8) -> Result<(), Failure> {
        let task = self.tasks.get_mut(&task);
        let task = task
            .filter(|task| task.pid > 0)
            .ok_or_else(|| not_running("it has ended"))?;
        // Real-time signals too: rustix takes them only as raw numbers.
        let signal = Signal::from_named_raw(signal.into());
        let pid = rustix::process::Pid::from_raw(task.pid);
        let (Some(signal), Some(pid)) = (signal, pid) else {
            return Err(failed("cannot signal")("it is no signal"));
        };
        task.was_killed |= signal == Signal::KILL;
        // Nobody else collects it: the pid is still its own.
        rustix::process::kill_process(pid, signal).map_err(failed("cannot signal"))
    }

    pub(crate) fn kill_each(&mut self) {
        for task in self.tasks.values_mut() {
            task.was_killed = true;
            if let Some(pid) = rustix::process::Pid::from_raw(task.pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    fn resize(&mut self, task: u32, size: WindowSize) -> Result<(), Failure> {
        let task = self.tasks.get(&task).filter(|task| task.has_terminal);
        let terminal = task.and_then(|task| task.stdout.as_ref()?.terminal());
        let terminal = terminal.ok_or_else(|| not_running("it has no terminal"))?;
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(terminal, size).map_err(failed("cannot set the size of the terminal"))
    }

    /// Moves everything between streams and the port, and tells what has ended.
    fn pump(&mut self) {
        loop {
            let mut has_moved = false;
            for (id, task) in &mut self.tasks {
                if let Some(offset) = task.stdin.as_mut().and_then(|input| input.due()) {
                    let ack = Ack {
                        stream: Stream::Stdin,
                        offset,
                    };
                    self.port.put(kind::ACK, *id, &ack);
                }
                if !task.is_attached {
                    continue;
                }
                let outputs = [(false, &mut task.stdout), (true, &mut task.stderr)];
                for (is_stderr, output) in outputs {
                    let Some(output) = output else { continue };
                    if !self.port.has_room() {
                        continue;
                    }
                    let count = match output.outgoing.next(MAX_PIECE) {
                        Some(Next::Piece(offset, piece)) => {
                            self.port.put_piece(is_stderr, *id, offset, piece);
                            piece.len()
                        }
                        Some(Next::End(offset)) => {
                            self.port.put_piece(is_stderr, *id, offset, &[]);
                            0
                        }
                        None => continue,
                    };
                    output.outgoing.mark_sent(count);
                    has_moved = true;
                }
                if task.is_end_due()
                    && let Some(ended) = &task.ended
                {
                    self.port.put(kind::ENDED, *id, ended);
                    task.is_end_told = true;
                }
            }
            self.port.write();
            if !has_moved || self.port.is_waiting() {
                break;
            }
        }
    }
}
