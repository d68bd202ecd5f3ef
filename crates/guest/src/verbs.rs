//! What can be asked of a guest.

use std::os::fd::OwnedFd;

use isle_cgroup::plan::Current;
use isle_guest_protocol::records::{self, Change, Process};
use isle_guest_protocol::{
    Bytes, Clock, End, Ended, Failure, FailureKind, Network, OutOfMemory, PathStat, Prepare,
    ReadTree, Reply, Request, Stats, Stdio as WireStdio, Stream, TaskState, Tree, WORKLOAD,
    Welcome, WindowSize, WriteTree,
};
use isle_types::Signal;
use oci_spec::runtime::LinuxResources;

use crate::connection::token;
use crate::stream::{Inlet, Outlet, is_null, terminal_pair};
use crate::task::Task;
use crate::{
    Connection, Error, Further, RemoteProcess, RemoteTask, StartError, Stdio, Workload, plan,
};

/// The most that is kept of a list of changed files: some hundred thousand paths.
const CHANGES_LIMIT: usize = 64 << 20;
/// The most that is kept of a list of processes.
const PROCESSES_LIMIT: usize = 16 << 20;

impl Connection {
    /// Queues everything that turns a clone into a running instance, and writes it as far as the socket takes it
    /// now. To be called before the virtual machine runs; then [`Connection::started`] waits for the outcome.
    ///
    /// # Errors
    /// When the configuration is none for a guest, or the connection has ended.
    pub fn launch(
        &mut self,
        prepare: &Prepare,
        workload: &Workload<'_>,
        stdio: Stdio,
    ) -> Result<RemoteProcess, StartError> {
        // What cannot be planned leaves no trace.
        let request = workload.request(wire(&stdio))?;
        self.tell(&Request::Prepare(Box::new(prepare.clone())));
        let process = self.begin(WORKLOAD, stdio, &Request::Start(Box::new(request)))?;
        Ok(process)
    }

    /// Queues the start of the workload in a guest that was prepared before; [`Connection::started`] waits for the
    /// outcome.
    ///
    /// # Errors
    /// As [`Connection::launch`].
    pub fn start(
        &mut self,
        workload: &Workload<'_>,
        stdio: Stdio,
    ) -> Result<RemoteProcess, StartError> {
        let request = workload.request(wire(&stdio))?;
        Ok(self.begin(WORKLOAD, stdio, &Request::Start(Box::new(request)))?)
    }

    /// Makes the guest nobody's again after a rehearsal: an instance whose processes have all ended, and were reaped.
    ///
    /// With `kept` its root file system stays mounted, for copies whose [`Prepare::root`] is the same: the image must be the
    /// same file for all of them, and the writable disk of each must hold, byte for byte, what this guest's holds when it is
    /// saved. Those files of it are in memory then, as far as they are there and there is room for them.
    ///
    /// # Errors
    /// [`Error::Refused`] when a process runs, or the rehearsal was never prepared.
    pub fn reset(&mut self, kept: Option<&[String]>) -> Result<(), Error> {
        let read = kept.unwrap_or_default().iter();
        self.order(&Request::Reset {
            keeps_root: kept.is_some(),
            read: read.map(|path| path.as_bytes().to_vec().into()).collect(),
        })
    }

    /// Makes the guest this instance's without starting anything in it: to look at the files of an instance that
    /// does not run.
    ///
    /// # Errors
    /// [`Error::Refused`] when a disk cannot be mounted, for example.
    pub fn prepare(&mut self, prepare: &Prepare) -> Result<(), Error> {
        self.order(&Request::Prepare(Box::new(prepare.clone())))
    }

    /// Waits until a process of [`Connection::launch`] was executed; its pid in the guest. When it was not, it
    /// is forgotten.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn started(&mut self, process: &RemoteProcess) -> Result<i32, StartError> {
        let task = self.tasks.get_mut(&process.id);
        let number = task.and_then(|task| task.request.take());
        let number = number.ok_or(Error::NoTask(process.id))?;
        let error = match self.answer(number) {
            Ok(Reply::Started { pid }) => return Ok(pid),
            Ok(_) => self.nonsense(),
            Err(error) => error,
        };
        self.give_up(process.id, &error);
        Err(error.into())
    }

    /// Runs a further process in the guest.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn exec(
        &mut self,
        further: &Further<'_>,
        stdio: Stdio,
    ) -> Result<RemoteProcess, StartError> {
        let id = self.take_number();
        let request = further.request(id, wire(&stdio))?;
        let process = self.begin(id, stdio, &Request::Exec(Box::new(request)))?;
        self.started(&process)?;
        Ok(process)
    }

    fn take_number(&mut self) -> u32 {
        let id = self.next_task;
        self.next_task += 1;
        id
    }

    fn begin(&mut self, id: u32, stdio: Stdio, request: &Request) -> Result<RemoteProcess, Error> {
        if let Some(error) = self.ended() {
            return Err(error);
        }
        let (mut task, ended) = Task::new()?;
        let offsets = TaskState {
            task: id,
            stdin: 0,
            stdout: 0,
            stderr: 0,
            has_terminal: false,
        };
        let terminal = connect(&mut task, &offsets, stdio)?;
        task.request = Some(self.ask(request));
        if let Some(inlet) = &mut task.stdin {
            inlet.fill(&self.epoll);
        }
        self.tasks.insert(id, task);
        self.tend()?;
        Ok(RemoteProcess {
            id,
            ended,
            terminal,
        })
    }

    /// Closes everything of a task that could not be begun. One that may yet begin is ended, and what it says until
    /// then is thrown away.
    fn give_up(&mut self, id: u32, error: &Error) {
        let Some(mut task) = self.tasks.remove(&id) else {
            return;
        };
        for outlet in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
            outlet.give_up(&self.epoll);
        }
        if let Some(inlet) = &mut task.stdin {
            inlet.close(&self.epoll);
        }
        if let Error::NoAnswer { .. } = error {
            task.is_reaped = true;
            self.tasks.insert(id, task);
            self.signal(id, Signal::KILL);
        }
    }

    /// How a process has ended, once its [`RemoteProcess::ended`] is readable. To be called when its output was read, up
    /// to the end or until there was no more: until then all of it is sent again to a successor of this host end. The
    /// process is forgotten with that; output of what it has left behind still arrives.
    ///
    /// # Errors
    /// [`Error::NoTask`] when it has not ended; why the guest was lost, when it was.
    pub fn reap(&mut self, id: u32) -> Result<Ended, Error> {
        if self.ended().is_none() {
            // The end is told of only once everything before it was passed on.
            self.tend()?;
        }
        let lost = self.ended();
        let task = self.tasks.get_mut(&id).filter(|task| !task.is_reaped);
        let task = task.ok_or(Error::NoTask(id))?;
        match (&task.ended, lost) {
            (Some(ended), _) => {
                let ended = ended.clone();
                task.is_reaped = true;
                for outlet in [&mut task.stdout, &mut task.stderr].into_iter().flatten() {
                    outlet.mark_read();
                }
                let _ = self.tend();
                Ok(ended)
            }
            (None, Some(error)) => {
                self.tasks.remove(&id);
                Err(error)
            }
            (None, None) => Err(Error::NoTask(id)),
        }
    }

    /// How something other than a process has ended.
    ///
    /// # Errors
    /// What the agent says went wrong; else as [`Connection::reap`].
    pub fn reap_task(&mut self, id: u32) -> Result<(), Error> {
        match self.reap(id)?.end {
            End::Done | End::Code(0) => Ok(()),
            End::Failed(failure) => Err(Error::Refused(failure)),
            End::Code(_) | End::Signal(_) => Err(Error::Refused(Failure::new(
                FailureKind::Failed,
                "it was ended in the virtual machine".to_owned(),
            ))),
        }
    }

    /// The tasks of a guest whose host end was replaced, see [`Connection::resume`].
    #[must_use]
    pub fn tasks(&self) -> &[TaskState] {
        match &self.welcome {
            Some(Welcome { tasks, .. }) => tasks,
            None => &[],
        }
    }

    /// Takes a task over that another host end has begun. What it wrote since the last acknowledgement comes again.
    /// What it is given here is what it was given at first: a terminal where it has one.
    ///
    /// # Errors
    /// [`Error::NoTask`] when the guest has no such task.
    pub fn adopt(&mut self, id: u32, stdio: Stdio) -> Result<RemoteProcess, Error> {
        let known = self.tasks().iter().find(|task| task.task == id).copied();
        let known = known.ok_or(Error::NoTask(id))?;
        if self.tasks.contains_key(&id) {
            return Err(Error::NoTask(id));
        }
        let (mut task, ended) = Task::new()?;
        let terminal = connect(&mut task, &known, stdio)?;
        if let Some(inlet) = &mut task.stdin {
            inlet.fill(&self.epoll);
        }
        self.tasks.insert(id, task);
        self.order(&Request::Attach { task: id })?;
        Ok(RemoteProcess {
            id,
            ended,
            terminal,
        })
    }

    /// Leaves a task of another host end to itself: nobody reads its output or gives it input, and its end is
    /// forgotten.
    ///
    /// # Errors
    /// As [`Connection::adopt`].
    pub fn abandon(&mut self, id: u32) -> Result<(), Error> {
        let known = self.tasks().iter().find(|task| task.task == id).copied();
        let known = known.ok_or(Error::NoTask(id))?;
        let (mut task, _) = Task::new()?;
        task.stdout = Some(Outlet::nowhere(known.stdout));
        task.stderr = Some(Outlet::nowhere(known.stderr));
        task.is_reaped = true;
        self.tasks.insert(id, task);
        self.tell(&Request::Attach { task: id });
        self.tend()
    }

    /// Sends a signal to the process of a task; ends a task that is no process. Does not wait: a process that has
    /// ended by then has ended.
    pub fn signal(&mut self, id: u32, signal: Signal) {
        // Signals are numbers from 1 to 64.
        let signal = signal.number() as u8;
        self.tell(&Request::Signal { task: id, signal });
        let _ = self.tend();
    }

    /// Sends `SIGKILL` to the process of a task.
    ///
    /// # Errors
    /// [`Error::Refused`] when it has ended; when the guest does not answer: then the virtual machine itself is to be
    /// ended.
    pub fn kill(&mut self, id: u32) -> Result<(), Error> {
        let signal = Signal::KILL.number() as u8;
        self.order(&Request::Signal { task: id, signal })
    }

    /// Kills every process of the instance; they have ended or are ending when this returns.
    ///
    /// # Errors
    /// When the guest does not answer: then the virtual machine itself is to be ended.
    pub fn kill_all(&mut self) -> Result<(), Error> {
        self.order(&Request::KillAll)
    }

    /// Tells a terminal its size. Does not wait.
    pub fn resize(&mut self, id: u32, size: WindowSize) {
        self.tell(&Request::Resize { task: id, size });
        let _ = self.tend();
    }

    /// What the instance and the guest have used.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn stats(&mut self) -> Result<Stats, Error> {
        match self.call(&Request::Stats)? {
            Reply::Stats(stats) => {
                self.oom_kills = self.oom_kills.max(stats.oom_kills);
                Ok(*stats)
            }
            _ => Err(self.nonsense()),
        }
    }

    /// Times that the guest's kernel killed something of the instance for lack of memory, as far as the guest has
    /// told: as they happen, with each end of a process, and with [`Connection::stats`].
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.oom_kills
    }

    /// Whether the guest has told, since this was asked last, that its kernel has killed something of the instance for lack
    /// of memory.
    pub fn take_memory_kills(&mut self) -> bool {
        std::mem::take(&mut self.has_memory_kills)
    }

    /// Whose memory it was, at the last such kill that the guest has told of.
    #[must_use]
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.out_of_memory
    }

    /// Changes limits; all or none. Those that are not given stay as they are; rules for devices are not looked at.
    ///
    /// # Errors
    /// When a value makes no sense, or the guest's kernel refuses it.
    pub fn set_limits(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        let mut current = Current::default();
        // Halves of pairs: a period without a quota, swap without memory.
        if resources.cpu().is_some() || resources.memory().is_some() {
            match self.call(&Request::Limits)? {
                Reply::Limits {
                    cpu_max,
                    memory_max,
                } => {
                    current.cpu_quota = cpu_max.split_whitespace().next().map(str::to_owned);
                    current.memory_limit = memory_max.trim().parse().ok();
                }
                _ => return Err(self.nonsense()),
            }
        }
        let limits = plan::limits(resources, &current)?;
        self.order(&Request::SetLimits(limits))
    }

    /// Sets the guest's wall clock: after a pause it is behind.
    pub fn set_clock(&mut self, clock: Clock) {
        self.tell(&Request::SetClock(clock));
        let _ = self.tend();
    }

    /// All processes of the instance, with their pids in the guest.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn processes(&mut self) -> Result<Vec<Process>, Error> {
        let task = self.take_number();
        let bytes = self.list(task, &Request::Processes { task }, PROCESSES_LIMIT)?;
        records::read(&bytes).map_err(Error::protocol)
    }

    /// What differs from the image, sorted by path.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn changes(&mut self) -> Result<Vec<Change>, Error> {
        let task = self.take_number();
        let bytes = self.list(task, &Request::Changes { task }, CHANGES_LIMIT)?;
        records::read(&bytes).map_err(Error::protocol)
    }

    fn list(&mut self, id: u32, request: &Request, limit: usize) -> Result<Vec<u8>, Error> {
        let (mut task, _) = Task::new()?;
        task.stdout = Some(Outlet::kept(limit));
        self.tasks.insert(id, task);
        if let Err(error) = self.order(request) {
            self.give_up(id, &error);
            return Err(error);
        }
        let waited = self.wait_until(|connection| {
            let task = connection.tasks.get(&id);
            task.is_none_or(|task| {
                task.ended.is_some() && task.stdout.as_ref().is_none_or(Outlet::is_over)
            })
        });
        let kept = self
            .tasks
            .get_mut(&id)
            .and_then(|task| task.stdout.as_mut());
        let kept = kept.and_then(Outlet::take_kept);
        if let Err(error) = waited {
            self.give_up(id, &error);
            return Err(error);
        }
        self.reap_task(id)?;
        kept.ok_or(Error::TooLong { limit })
    }

    /// What a path of the instance is.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none.
    pub fn stat(&mut self, path: &[u8]) -> Result<PathStat, Error> {
        match self.call(&Request::Stat(Bytes(path.to_vec())))? {
            Reply::Stat(stat) => Ok(stat),
            _ => Err(self.nonsense()),
        }
    }

    /// Writes a tree of files to a descriptor, as a tar archive. Its end is what [`Connection::reap_task`] says.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such path.
    pub fn read_tree(&mut self, tree: Tree, output: OwnedFd) -> Result<RemoteTask, Error> {
        let id = self.take_number();
        let (mut task, ended) = Task::new()?;
        task.stdout = Some(Outlet::to(output, token(id, Stream::Stdout), 0)?);
        self.transfer(
            id,
            task,
            ended,
            &Request::ReadTree(ReadTree { task: id, tree }),
        )
    }

    /// Unpacks a tar archive from a descriptor into a directory of the instance. Its end is what
    /// [`Connection::reap_task`] says.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such directory.
    pub fn write_tree(
        &mut self,
        path: &[u8],
        keep_owner: bool,
        input: OwnedFd,
    ) -> Result<RemoteTask, Error> {
        let id = self.take_number();
        let (mut task, ended) = Task::new()?;
        let mut inlet = Inlet::from(input, token(id, Stream::Stdin), 0)?;
        inlet.fill(&self.epoll);
        task.stdin = Some(inlet);
        let request = Request::WriteTree(WriteTree {
            task: id,
            path: Bytes(path.to_vec()),
            keep_owner,
        });
        self.transfer(id, task, ended, &request)
    }

    fn transfer(
        &mut self,
        id: u32,
        task: Task,
        ended: OwnedFd,
        request: &Request,
    ) -> Result<RemoteTask, Error> {
        self.tasks.insert(id, task);
        match self.order(request) {
            Ok(()) => Ok(RemoteTask { id, ended }),
            Err(error) => {
                self.give_up(id, &error);
                Err(error)
            }
        }
    }

    /// Puts the guest on one network more, by a card that has none.
    ///
    /// # Errors
    /// When there is no such card, or an address is none that it can have.
    pub fn connect(&mut self, network: &Network) -> Result<(), Error> {
        self.order(&Request::Connect(Box::new(network.clone())))
    }

    /// Takes the guest off the network of a card; harmless when it is on none.
    ///
    /// # Errors
    /// When there is no such card.
    pub fn disconnect(&mut self, card: u8) -> Result<(), Error> {
        self.order(&Request::Disconnect { card })
    }

    /// Gives blocks of the writable layer that no file has back to the host; how many bytes.
    ///
    /// # Errors
    /// When there is no writable disk, or it cannot do that.
    pub fn trim(&mut self) -> Result<u64, Error> {
        match self.call(&Request::Trim)? {
            Reply::Trimmed(bytes) => Ok(bytes),
            _ => Err(self.nonsense()),
        }
    }

    /// Writes everything back, lets the file systems go and switches the guest off; QEMU ends by itself then. Returns
    /// once the channel has closed.
    ///
    /// # Errors
    /// When the guest does not do it in time.
    pub fn shut_down(&mut self) -> Result<(), Error> {
        self.tell(&Request::Shutdown);
        match self.wait_until(|_| false) {
            Err(Error::Closed) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(()),
        }
    }
}

/// What the agent needs to know about the streams.
fn wire(stdio: &Stdio) -> WireStdio {
    match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => WireStdio::Streams {
            stdin: !is_null(stdin),
            stdout: !is_null(stdout),
            stderr: !is_null(stderr),
        },
        Stdio::Terminal { size } => WireStdio::Terminal { size: *size },
    }
}

/// Connects a task's streams; the caller's end of its terminal.
fn connect(task: &mut Task, state: &TaskState, stdio: Stdio) -> Result<Option<OwnedFd>, Error> {
    let id = state.task;
    match stdio {
        Stdio::Streams {
            stdin,
            stdout,
            stderr,
        } => {
            if !is_null(&stdin) {
                task.stdin = Some(Inlet::from(stdin, token(id, Stream::Stdin), state.stdin)?);
            }
            if !is_null(&stdout) {
                task.stdout = Some(Outlet::to(stdout, token(id, Stream::Stdout), state.stdout)?);
            }
            if !is_null(&stderr) {
                task.stderr = Some(Outlet::to(stderr, token(id, Stream::Stderr), state.stderr)?);
            }
            Ok(None)
        }
        Stdio::Terminal { .. } => {
            let (ours, theirs) = terminal_pair()?;
            let ours_too = ours.try_clone().map_err(Error::io("hold a terminal"))?;
            task.stdin = Some(Inlet::from(ours, token(id, Stream::Stdin), state.stdin)?);
            task.stdout = Some(Outlet::to(
                ours_too,
                token(id, Stream::Stdout),
                state.stdout,
            )?);
            Ok(Some(theirs))
        }
    }
}
