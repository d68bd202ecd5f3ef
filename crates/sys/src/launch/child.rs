//! What runs between clone3(2) and execve(2).
//!
//! The process is a copy of its parent in which only the calling thread exists, so another thread
//! may have held any lock at that moment. Therefore nothing in this file allocates, takes a lock,
//! logs or panics: it makes system calls on memory that the parent prepared and on its own stack.
//! A failure is sent to the parent as (step, action, errno, text) and the process ends.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;

use super::message::{Action, Kind, Message, send};
use super::step::{MountSource, SchedulerAttributes, Slot, Step, Target};
use super::{CloneArguments, clone3};
use crate::mount::Attributes;

const RESOLVE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_RECURSIVE: u32 = libc::AT_RECURSIVE as u32;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const TIOCGPTPEER: u64 = 0x5441;
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const PATH_MAX: usize = 4096;
const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;

/// Why a step failed.
struct Failure {
    action: Action,
    errno: i32,
}

type Outcome<T> = Result<T, Failure>;

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

fn check(action: Action, result: i64) -> Outcome<i64> {
    if result < 0 {
        Err(Failure {
            action,
            errno: errno(),
        })
    } else {
        Ok(result)
    }
}

fn fail<T>(action: Action, errno: i32) -> Outcome<T> {
    Err(Failure { action, errno })
}

/// A raw system call. Only numbers and pointers to live memory are passed, by the callers below.
macro_rules! call {
    ($action:expr, $number:ident $(, $argument:expr)* $(,)?) => {
        // SAFETY: each argument is a number, or a pointer to memory that outlives the call and has
        // the size that the call expects; the callers in this file uphold it.
        check($action, unsafe { libc::syscall(libc::$number $(, Word::word($argument))*) })
    };
}

/// A system call's argument as a full register.
trait Word {
    fn word(self) -> libc::c_long;
}

macro_rules! word {
    ($($number:ty),*) => {
        $(impl Word for $number {
            fn word(self) -> libc::c_long {
                self as libc::c_long
            }
        })*
    };
}

word!(i32, u32, i64, u64, usize);

impl<T> Word for *const T {
    fn word(self) -> libc::c_long {
        self.expose_provenance() as libc::c_long
    }
}

impl<T> Word for *mut T {
    fn word(self) -> libc::c_long {
        self.expose_provenance() as libc::c_long
    }
}

/// A descriptor that is closed at the end of its scope.
struct Fd(i32);

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: closing a number; the descriptor is owned here.
        unsafe { libc::close(self.0) };
    }
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// The state of the interpreter.
struct Child<'a> {
    slots: &'a [i32],
    channel: i32,
    root: i32,
    mask: i32,
    candidates: &'a [CString],
    program: usize,
    text: [u8; Message::TEXT],
    text_length: usize,
}

/// Carries the steps out; never returns.
pub(super) fn run(steps: &[Step], slots: &[i32], channel: i32) -> ! {
    let mut child = Child {
        slots,
        channel,
        root: -1,
        mask: -1,
        candidates: &[],
        program: 0,
        text: [0; Message::TEXT],
        text_length: 0,
    };
    // The steps below write into pipes; the disposition is set back before a program is executed.
    // SAFETY: setting a disposition, no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: takes a number.
    unsafe { libc::umask(0) };
    for (index, step) in steps.iter().enumerate() {
        if let Err(failure) = child.step(step) {
            let mut message = Message::new(Kind::Failed);
            message.step = u32::try_from(index).unwrap_or(u32::MAX);
            message.value = i64::try_from(steps.len() - index).unwrap_or(0);
            message.action = failure.action as u32;
            message.errno = failure.errno;
            message.text_length = u32::try_from(child.text_length).unwrap_or(0);
            message.text = child.text;
            let _ = send(child.channel, &message, None);
            exit(1);
        }
    }
    exit(0)
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything else of it.
    unsafe { libc::_exit(code) }
}

impl<'a> Child<'a> {
    fn slot(&self, slot: Slot) -> Outcome<i32> {
        match self.slots.get(slot.0) {
            Some(fd) => Ok(*fd),
            None => fail(Action::Call, libc::EBADF),
        }
    }

    fn step(&mut self, step: &'a Step) -> Outcome<()> {
        match step {
            Step::Meet(label) => {
                let mut message = Message::new(Kind::Reached);
                message.value = i64::from(*label);
                self.tell(&message, None)?;
                self.listen()
            }
            Step::Write { file, bytes, .. } => write_once(self.slot(*file)?, bytes),
            Step::WriteProc {
                proc, path, bytes, ..
            } => {
                let how = OpenHow {
                    flags: flag(libc::O_WRONLY | libc::O_CLOEXEC),
                    mode: 0,
                    resolve: libc::RESOLVE_BENEATH
                        | libc::RESOLVE_NO_MAGICLINKS
                        | libc::RESOLVE_NO_XDEV,
                };
                let file = openat2(Action::Open, self.slot(*proc)?, path.as_ptr(), &how)?;
                let mut statistics = MaybeUninit::<libc::statfs>::uninit();
                call!(Action::Verify, SYS_fstatfs, file.0, statistics.as_mut_ptr())?;
                // SAFETY: the call has succeeded and filled it.
                if unsafe { statistics.assume_init() }.f_type != PROC_SUPER_MAGIC {
                    return fail(Action::Verify, libc::EXDEV);
                }
                write_once(file.0, bytes)
            }
            Step::Unshare(flags) => call!(Action::Call, SYS_unshare, *flags).map(drop),
            Step::Enter { namespace, kinds } => {
                call!(Action::Call, SYS_setns, self.slot(*namespace)?, *kinds)?;
                if kinds & flag(libc::CLONE_NEWNS) != 0 {
                    self.root = open_root()?;
                }
                Ok(())
            }
            Step::Split { flags } => self.split(*flags),
            Step::BecomeRoot => {
                call!(Action::Call, SYS_setresgid, 0, 0, 0)?;
                call!(Action::Call, SYS_setresuid, 0, 0, 0).map(drop)
            }
            Step::Dumpable(value) => call!(
                Action::Call,
                SYS_prctl,
                libc::PR_SET_DUMPABLE,
                u64::from(*value),
                0,
                0,
                0
            )
            .map(drop),
            Step::NewSession => call!(Action::Call, SYS_setsid).map(drop),
            Step::NewKeyring(name) => {
                const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
                const KEYCTL_DESCRIBE: i32 = 6;
                const KEYCTL_SETPERM: i32 = 5;
                match call!(
                    Action::Call,
                    SYS_keyctl,
                    KEYCTL_JOIN_SESSION_KEYRING,
                    name.as_ptr()
                ) {
                    // Searchable by its owner, so that later processes of the container find it.
                    Ok(key) => {
                        let mut description = [0_u8; 256];
                        let described = call!(
                            Action::Call,
                            SYS_keyctl,
                            KEYCTL_DESCRIBE,
                            key,
                            description.as_mut_ptr(),
                            description.len()
                        );
                        if let (Ok(_), Some(mask)) = (described, key_mask(&description)) {
                            let _ = call!(
                                Action::Call,
                                SYS_keyctl,
                                KEYCTL_SETPERM,
                                key,
                                mask | 0x0008_0000
                            );
                        }
                        Ok(())
                    }
                    // a kernel without keyrings has none to share
                    Err(failure) if failure.errno == libc::ENOSYS => Ok(()),
                    Err(failure) => Err(failure),
                }
            }
            Step::LoopbackUp => loopback_up(),
            Step::HostName(name) => call!(
                Action::Call,
                SYS_sethostname,
                name.as_ptr(),
                name.as_bytes().len()
            )
            .map(drop),
            Step::DomainName(name) => call!(
                Action::Call,
                SYS_setdomainname,
                name.as_ptr(),
                name.as_bytes().len()
            )
            .map(drop),
            Step::Propagate(propagation) => mount_setattr(
                libc::AT_FDCWD,
                c"/",
                true,
                &Attributes::new(0, 0, *propagation),
            ),
            Step::AttachRoot { tree, at } => {
                let tree = self.slot(*tree)?;
                call!(
                    Action::Attach,
                    SYS_move_mount,
                    tree,
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    at.as_ptr(),
                    MOVE_MOUNT_F_EMPTY_PATH
                )?;
                self.root = tree;
                Ok(())
            }
            Step::Mount {
                source,
                target,
                kind,
                attributes,
                recursive_attributes,
                copy_up,
            } => self.mount(
                source,
                target,
                *kind,
                attributes,
                recursive_attributes,
                *copy_up,
            ),
            Step::Device {
                path,
                mode,
                device,
                uid,
                gid,
            } => self.device(path, *mode, *device, *uid, *gid),
            Step::Link { target, path } => {
                let mut buffer = PathBuffer::new(path)?;
                let (parent, name) = self.parent(&mut buffer)?;
                match call!(Action::Call, SYS_symlinkat, target.as_ptr(), parent.0, name) {
                    Err(failure) if failure.errno == libc::EEXIST => Ok(()),
                    other => other.map(drop),
                }
            }
            Step::Directory(path) => self.ensure(path, Target::Directory).map(drop),
            Step::Mask(path) => self.hide(path),
            Step::ReadOnly(path) => {
                let Some(target) = self.find(path)? else {
                    return Ok(());
                };
                let tree = open_tree(
                    target.0,
                    c"",
                    OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE,
                )?;
                mount_setattr(
                    tree.0,
                    c"",
                    true,
                    &Attributes::new(crate::mount::RDONLY, 0, 0),
                )?;
                attach(tree.0, target.0)
            }
            Step::SetAttributes {
                path,
                attributes,
                recursive_attributes,
            } => {
                let mount = self.open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC)?;
                if !recursive_attributes.is_empty() {
                    mount_setattr(mount.0, c"", true, recursive_attributes)?;
                }
                if !attributes.is_empty() {
                    mount_setattr(mount.0, c"", false, attributes)?;
                }
                Ok(())
            }
            Step::Terminal { size, console, uid } => self.terminal(*size, *console, *uid),
            Step::PivotRoot => {
                call!(Action::Call, SYS_fchdir, self.root)?;
                call!(Action::Call, SYS_pivot_root, c".".as_ptr(), c".".as_ptr())?;
                call!(
                    Action::Unmount,
                    SYS_umount2,
                    c".".as_ptr(),
                    libc::MNT_DETACH
                )?;
                call!(Action::Call, SYS_chdir, c"/".as_ptr()).map(drop)
            }
            Step::MoveRoot { is_over_root } => {
                call!(Action::Call, SYS_fchdir, self.root)?;
                if !is_over_root {
                    call!(
                        Action::Attach,
                        SYS_mount,
                        c".".as_ptr(),
                        c"/".as_ptr(),
                        std::ptr::null::<c_char>(),
                        libc::MS_MOVE,
                        std::ptr::null::<c_char>()
                    )?;
                }
                call!(Action::Call, SYS_chroot, c".".as_ptr())?;
                call!(Action::Call, SYS_chdir, c"/".as_ptr()).map(drop)
            }
            Step::RootAttributes {
                attributes,
                recursive,
            } => mount_setattr(libc::AT_FDCWD, c"/", *recursive, attributes),
            Step::Streams(slots) => {
                let [stdin, stdout, stderr] = *slots;
                place(self.slot(stdin)?, 0)?;
                place(self.slot(stdout)?, 1)?;
                place(self.slot(stderr)?, 2)
            }
            Step::OwnStreams(uid) => {
                for fd in 0..3 {
                    own_stream(fd, *uid)?;
                }
                Ok(())
            }
            Step::DieWithParent => call!(
                Action::Call,
                SYS_prctl,
                libc::PR_SET_PDEATHSIG,
                libc::SIGKILL,
                0,
                0,
                0
            )
            .map(drop),
            Step::NoHugePages => call!(
                Action::Call,
                SYS_prctl,
                libc::PR_SET_THP_DISABLE,
                1,
                0,
                0,
                0
            )
            .map(drop),
            Step::Descriptors(slots) => self.descriptors(slots),
            Step::ResourceLimit {
                resource,
                soft,
                hard,
                ..
            } => {
                let limit = [*soft, *hard];
                call!(
                    Action::Call,
                    SYS_prlimit64,
                    0,
                    *resource,
                    limit.as_ptr(),
                    std::ptr::null_mut::<u64>()
                )
                .map(drop)
            }
            Step::Scheduler(attributes) => {
                let mut attributes = *attributes;
                attributes.size =
                    u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or_default();
                call!(Action::Call, SYS_sched_setattr, 0, &raw const attributes, 0).map(drop)
            }
            Step::IoPriority(priority) => {
                const IOPRIO_WHO_PROCESS: i32 = 1;
                call!(
                    Action::Call,
                    SYS_ioprio_set,
                    IOPRIO_WHO_PROCESS,
                    0,
                    *priority
                )
                .map(drop)
            }
            Step::Affinity(mask, _) => call!(
                Action::Call,
                SYS_sched_setaffinity,
                0,
                size_of_val(mask.as_slice()),
                mask.as_ptr()
            )
            .map(drop),
            Step::Personality(persona) => call!(Action::Call, SYS_personality, *persona).map(drop),
            Step::MemoryPolicy { mode, nodes } => call!(
                Action::Call,
                SYS_set_mempolicy,
                *mode,
                if nodes.is_empty() {
                    std::ptr::null()
                } else {
                    nodes.as_ptr()
                },
                // the kernel takes one bit less than it is told
                if nodes.is_empty() {
                    0
                } else {
                    nodes.len() * 64 + 1
                }
            )
            .map(drop),
            Step::NoNewPrivileges => call!(
                Action::Call,
                SYS_prctl,
                libc::PR_SET_NO_NEW_PRIVS,
                1,
                0,
                0,
                0
            )
            .map(drop),
            Step::Seccomp {
                program,
                flags,
                listener,
            } => {
                #[repr(C)]
                struct Program {
                    length: u16,
                    instructions: *const c_void,
                }
                const SECCOMP_SET_MODE_FILTER: u32 = 1;
                let Ok(length) = u16::try_from(program.len()) else {
                    return fail(Action::Call, libc::E2BIG);
                };
                let program = Program {
                    length,
                    instructions: program.as_ptr().cast(),
                };
                let result = call!(
                    Action::Call,
                    SYS_seccomp,
                    SECCOMP_SET_MODE_FILTER,
                    *flags,
                    &raw const program
                )?;
                if *listener {
                    let listener = Fd(narrow(result));
                    let mut message = Message::new(Kind::Listener);
                    message.value = i64::from(getpid());
                    self.tell(&message, Some(listener.0))?;
                }
                Ok(())
            }
            Step::User { uid, gid, groups } => {
                const PR_SET_KEEPCAPS: i32 = 8;
                call!(Action::Call, SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
                if let Some(groups) = groups {
                    call!(Action::Groups, SYS_setgroups, groups.len(), groups.as_ptr())?;
                }
                call!(Action::Call, SYS_setresgid, *gid, *gid, *gid)?;
                call!(Action::Call, SYS_setresuid, *uid, *uid, *uid).map(drop)
            }
            Step::BoundingSet(set) => {
                for capability in 0..64 {
                    if set & (1 << capability) != 0 {
                        continue;
                    }
                    const PR_CAPBSET_DROP: i32 = 24;
                    match call!(
                        Action::Call,
                        SYS_prctl,
                        PR_CAPBSET_DROP,
                        capability,
                        0,
                        0,
                        0
                    ) {
                        // there are no capabilities from here on
                        Err(failure) if failure.errno == libc::EINVAL => return Ok(()),
                        other => other?,
                    };
                }
                Ok(())
            }
            Step::Capabilities {
                effective,
                permitted,
                inheritable,
                ambient,
            } => set_capabilities(*effective, *permitted, *inheritable, *ambient),
            Step::Umask(mask) => call!(Action::Call, SYS_umask, *mask).map(drop),
            Step::WorkingDirectory(path) => {
                let root = Fd(open_root()?);
                let how = OpenHow {
                    flags: flag(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC),
                    mode: 0,
                    resolve: RESOLVE,
                };
                let directory = openat2(Action::Open, root.0, path.as_ptr(), &how)?;
                call!(Action::Call, SYS_fchdir, directory.0)?;
                let mut buffer = [0_u8; PATH_MAX];
                call!(
                    Action::Verify,
                    SYS_getcwd,
                    buffer.as_mut_ptr(),
                    buffer.len()
                )?;
                // The kernel says "(unreachable)…" for what is not below the root.
                if buffer.first() != Some(&b'/') {
                    return fail(Action::Verify, libc::EXDEV);
                }
                Ok(())
            }
            Step::FindProgram { candidates, .. } => self.find_program(candidates),
            Step::AwaitStart {
                listener,
                close_from,
            } => self.await_start(*listener, *close_from),
            Step::Hook {
                path,
                arguments,
                environment,
                input_before_pid,
                input_after_pid,
                timeout_ms,
                ..
            } => {
                let mut digits = [0_u8; 12];
                hook(
                    path,
                    arguments.as_ptr(),
                    environment.as_ptr(),
                    [
                        input_before_pid,
                        decimal(getpid(), &mut digits),
                        input_after_pid,
                    ],
                    *timeout_ms,
                )
            }
            Step::CloseFrom(first) => call!(
                Action::Call,
                SYS_close_range,
                *first,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC
            )
            .map(drop),
            Step::Execute {
                arguments,
                environment,
            } => {
                let Some(program) = self.candidates.get(self.program) else {
                    return fail(Action::Execute, libc::ENOENT);
                };
                reset_signals();
                call!(
                    Action::Execute,
                    SYS_execve,
                    program.as_ptr(),
                    arguments.as_ptr(),
                    environment.as_ptr()
                )
                .map(drop)
            }
        }
    }

    /// Each descriptor is first copied above all the numbers that are to be given out, the channel
    /// too: any of them may have one of these numbers now.
    fn descriptors(&mut self, slots: &[Slot]) -> Outcome<()> {
        const FIRST: i32 = 3;
        const MOST: usize = 64;
        let mut copies = [-1_i32; MOST];
        if slots.len() > MOST {
            return fail(Action::Call, libc::E2BIG);
        }
        let above = FIRST + MOST as i32;
        let copy = |fd: i32| call!(Action::Call, SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, above);
        for (slot, copied) in slots.iter().zip(copies.iter_mut()) {
            *copied = narrow(copy(self.slot(*slot)?)?);
        }
        self.channel = narrow(copy(self.channel)?);
        if self.root >= 0 {
            self.root = narrow(copy(self.root)?);
        }
        for (number, copied) in (FIRST..above).zip(copies.iter().take(slots.len())) {
            place(*copied, number)?;
        }
        Ok(())
    }

    fn tell(&self, message: &Message, fd: Option<i32>) -> Outcome<()> {
        match send(self.channel, message, fd) {
            Ok(()) => Ok(()),
            Err(errno) => fail(Action::Tell, errno),
        }
    }

    /// Waits for one byte of the parent; ends with the parent.
    fn listen(&self) -> Outcome<()> {
        if read_byte(self.channel)? {
            Ok(())
        } else {
            exit(1)
        }
    }

    fn split(&mut self, flags: u64) -> Outcome<()> {
        let mut pidfd = -1_i32;
        let arguments = CloneArguments {
            flags: flags | CLONE_PARENT | CLONE_PIDFD,
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            ..CloneArguments::default()
        };
        // SAFETY: without CLONE_VM and with an empty stack this is like fork(2); the child goes on
        // in this interpreter, whose memory is its own copy.
        let pid = check(Action::Call, unsafe { clone3(&arguments) })?;
        if pid == 0 {
            // Nothing is said before the parent knows of this process, or it would not be reaped.
            return self.listen();
        }
        let mut message = Message::new(Kind::Split);
        message.value = pid;
        self.tell(&message, Some(pidfd))?;
        exit(0)
    }

    /// Opens a path inside; `None` when it is not there.
    fn find(&self, path: &CStr) -> Outcome<Option<Fd>> {
        match self.open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) {
            Ok(fd) => Ok(Some(fd)),
            Err(failure) if matches!(failure.errno, libc::ENOENT | libc::ENOTDIR) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn open(&self, path: *const c_char, flags: i32) -> Outcome<Fd> {
        let how = OpenHow {
            flags: flag(flags),
            mode: 0,
            resolve: RESOLVE,
        };
        openat2(Action::Open, self.root, path, &how)
    }

    /// Opens a path inside, and makes what is missing of it.
    fn ensure(&self, path: &CStr, kind: Target) -> Outcome<Fd> {
        if let Some(fd) = self.find(path)? {
            return Ok(fd);
        }
        let mut buffer = PathBuffer::new(path)?;
        // Mostly only the last component is missing.
        if let Some(fd) = self.ensure_last(&mut buffer, kind)? {
            return Ok(fd);
        }
        // A link whose target is missing is replaced by its target and tried again.
        for _ in 0..16 {
            if let Some(fd) = self.ensure_once(&mut buffer, kind)? {
                return Ok(fd);
            }
        }
        fail(Action::Create, libc::ELOOP)
    }

    /// Makes the last component in a directory that is there; `None`: it is not that simple.
    fn ensure_last(&self, buffer: &mut PathBuffer, kind: Target) -> Outcome<Option<Fd>> {
        let Some((from, to)) = buffer.last() else {
            return Ok(None);
        };
        let after = buffer.end_at(to);
        let parent = if from == 0 {
            self.find(c".")?
        } else {
            let ended = buffer.end_at(from - 1);
            let parent = self.find(buffer.as_c_str());
            buffer.restore(from - 1, ended);
            parent?
        };
        let made = match &parent {
            Some(parent) => make(parent.0, buffer.pointer_at(from), kind).is_ok(),
            None => false,
        };
        let found = if made {
            self.find(buffer.as_c_str())?
        } else {
            None
        };
        buffer.restore(to, after);
        Ok(found)
    }

    fn ensure_once(&self, buffer: &mut PathBuffer, kind: Target) -> Outcome<Option<Fd>> {
        let mut parent = self.open(c".".as_ptr(), libc::O_PATH | libc::O_CLOEXEC)?;
        let mut start = 0;
        loop {
            let (from, to) = buffer.component(start);
            if from == to {
                return Ok(Some(parent));
            }
            let is_last = buffer.component(to).0 == buffer.component(to).1;
            let ended = buffer.end_at(to);
            let opened = self.open(buffer.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            let next = match opened {
                Ok(fd) => fd,
                Err(failure) if failure.errno == libc::ENOENT => {
                    let name = buffer.pointer_at(from);
                    let kind = if is_last { kind } else { Target::Directory };
                    let made = make(parent.0, name, kind);
                    match made {
                        Ok(()) => {}
                        Err(failure) if failure.errno == libc::EEXIST => {
                            let mut link = [0_u8; PATH_MAX];
                            let length = call!(
                                Action::Create,
                                SYS_readlinkat,
                                parent.0,
                                name,
                                link.as_mut_ptr(),
                                link.len()
                            );
                            buffer.restore(to, ended);
                            match length {
                                Ok(length) => {
                                    let length = usize::try_from(length).unwrap_or(0);
                                    let link = link.get(..length).unwrap_or(&[]);
                                    buffer.substitute(from, to, link)?;
                                }
                                // somebody made it meanwhile
                                Err(failure) if failure.errno == libc::EINVAL => {}
                                Err(failure) => return Err(failure),
                            }
                            return Ok(None);
                        }
                        Err(failure) => return Err(failure),
                    }
                    self.open(buffer.as_ptr(), libc::O_PATH | libc::O_CLOEXEC)?
                }
                Err(failure) => return Err(failure),
            };
            buffer.restore(to, ended);
            parent = next;
            start = to;
        }
    }

    /// Opens the directory that holds the last component of a path, and points to that component.
    fn parent(&self, buffer: &mut PathBuffer) -> Outcome<(Fd, *const c_char)> {
        let Some((from, to)) = buffer.last() else {
            return fail(Action::Open, libc::EINVAL);
        };
        buffer.end_at(to);
        let directory = if from == 0 {
            self.open(c".".as_ptr(), libc::O_PATH | libc::O_CLOEXEC)?
        } else {
            let ended = buffer.end_at(from - 1);
            let directory = self.ensure(buffer.as_c_str(), Target::Directory)?;
            buffer.restore(from - 1, ended);
            directory
        };
        Ok((directory, buffer.pointer_at(from)))
    }

    fn mount(
        &mut self,
        source: &MountSource,
        target: &CStr,
        kind: Target,
        attributes: &Attributes,
        recursive_attributes: &Attributes,
        copy_up: bool,
    ) -> Outcome<()> {
        let owned;
        let tree = match source {
            MountSource::New {
                filesystem,
                options,
                attributes,
            } => {
                owned = self.new_mount(filesystem, options, *attributes)?;
                owned.0
            }
            MountSource::Tree(slot) => self.slot(*slot)?,
            MountSource::Inside(path) => {
                let from = self.open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC)?;
                owned = open_tree(from.0, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)?;
                owned.0
            }
            MountSource::Host { path, recursive } => {
                let flags = if *recursive { AT_RECURSIVE } else { 0 };
                owned = open_tree(libc::AT_FDCWD, path, OPEN_TREE_CLONE | flags)?;
                owned.0
            }
        };
        if !recursive_attributes.is_empty() {
            mount_setattr(tree, c"", true, recursive_attributes)?;
        }
        let mut to = self.ensure(target, kind)?;
        if let MountSource::New { filesystem, .. } = source
            && (filesystem.as_c_str() == c"proc" || filesystem.as_c_str() == c"sysfs")
        {
            // What is masked in them is masked by path: an image must not lead them elsewhere.
            let how = OpenHow {
                flags: flag(libc::O_PATH | libc::O_CLOEXEC),
                mode: 0,
                resolve: RESOLVE | libc::RESOLVE_NO_SYMLINKS,
            };
            to = openat2(Action::Verify, self.root, target.as_ptr(), &how)?;
        }
        if copy_up {
            let from = self.open(
                target.as_ptr(),
                libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
            )?;
            copy_tree(from.0, tree, 0)?;
        }
        if !attributes.is_empty() {
            mount_setattr(tree, c"", false, attributes)?;
        }
        attach(tree, to.0)
    }

    fn new_mount(
        &mut self,
        filesystem: &CStr,
        options: &[(CString, Option<CString>)],
        attributes: u64,
    ) -> Outcome<Fd> {
        let context = Fd(narrow(call!(
            Action::NewFilesystem,
            SYS_fsopen,
            filesystem.as_ptr(),
            1
        )?));
        let mut result = Ok(0);
        for (key, value) in options {
            let (command, value) = match value {
                Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
                None => (FSCONFIG_SET_FLAG, std::ptr::null()),
            };
            result = call!(
                Action::SetOption,
                SYS_fsconfig,
                context.0,
                command,
                key.as_ptr(),
                value,
                0
            );
            if result.is_err() {
                let key = key.as_bytes();
                let length = key.len().min(Message::TEXT);
                if let (Some(to), Some(from)) = (self.text.get_mut(..length), key.get(..length)) {
                    to.copy_from_slice(from);
                    self.text_length = length;
                }
                break;
            }
        }
        let result = result.and_then(|_| {
            call!(
                Action::NewFilesystem,
                SYS_fsconfig,
                context.0,
                FSCONFIG_CMD_CREATE,
                std::ptr::null::<c_char>(),
                std::ptr::null::<c_char>(),
                0
            )
        });
        let mounted =
            result.and_then(|_| call!(Action::NewMount, SYS_fsmount, context.0, 1, attributes));
        match mounted {
            Ok(fd) => Ok(Fd(narrow(fd))),
            Err(failure) => {
                // The kernel explains itself in the file system context.
                let explained = call!(
                    Action::Call,
                    SYS_read,
                    context.0,
                    self.text.as_mut_ptr(),
                    self.text.len()
                );
                if let Ok(length @ 1..) = explained {
                    self.text_length = usize::try_from(length).unwrap_or(0);
                }
                Err(failure)
            }
        }
    }

    fn device(&self, path: &CStr, mode: u32, device: u64, uid: u32, gid: u32) -> Outcome<()> {
        let mut buffer = PathBuffer::new(path)?;
        let (parent, name) = self.parent(&mut buffer)?;
        match call!(Action::Call, SYS_mknodat, parent.0, name, mode, device) {
            Ok(_) => {
                if (uid, gid) != (0, 0) {
                    call!(
                        Action::Owner,
                        SYS_fchownat,
                        parent.0,
                        name,
                        uid,
                        gid,
                        libc::AT_SYMLINK_NOFOLLOW
                    )?;
                }
                Ok(())
            }
            Err(failure) if failure.errno == libc::EEXIST => {
                let stat = stat_at(parent.0, name, libc::AT_SYMLINK_NOFOLLOW)?;
                let is_same = stat.st_mode & libc::S_IFMT == mode & libc::S_IFMT
                    && (stat.st_rdev == device || mode & libc::S_IFMT == libc::S_IFIFO);
                if is_same { Ok(()) } else { Err(failure) }
            }
            Err(failure) => Err(failure),
        }
    }

    fn hide(&mut self, path: &CStr) -> Outcome<()> {
        let Some(target) = self.find(path)? else {
            return Ok(());
        };
        let stat = stat_at(target.0, c"".as_ptr(), libc::AT_EMPTY_PATH)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            // The null device of the host: the path is the host's still. Proved to be that device.
            let null = open_tree(libc::AT_FDCWD, c"/dev/null", OPEN_TREE_CLONE)?;
            let stat = stat_at(null.0, c"".as_ptr(), libc::AT_EMPTY_PATH)?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
                return fail(Action::Verify, libc::ENODEV);
            }
            return attach(null.0, target.0);
        }
        // One empty file system serves all directories.
        if self.mask < 0 {
            let options = [];
            let attributes = crate::mount::RDONLY
                | crate::mount::NOSUID
                | crate::mount::NODEV
                | crate::mount::NOEXEC;
            let tree = self.new_mount(c"tmpfs", &options, attributes)?;
            attach(tree.0, target.0)?;
            self.mask = tree.0;
            std::mem::forget(tree);
            return Ok(());
        }
        let tree = open_tree(self.mask, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)?;
        attach(tree.0, target.0)
    }

    fn terminal(&self, size: Option<(u16, u16)>, console: bool, uid: u32) -> Outcome<()> {
        let master = self.open(
            c"dev/pts/ptmx".as_ptr(),
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )?;
        let mut statistics = MaybeUninit::<libc::statfs>::uninit();
        call!(
            Action::Verify,
            SYS_fstatfs,
            master.0,
            statistics.as_mut_ptr()
        )?;
        // SAFETY: the call has succeeded and filled it.
        if unsafe { statistics.assume_init() }.f_type != DEVPTS_SUPER_MAGIC {
            return fail(Action::Verify, libc::ENODEV);
        }
        let unlock = 0_i32;
        call!(
            Action::Call,
            SYS_ioctl,
            master.0,
            libc::TIOCSPTLCK,
            &raw const unlock
        )?;
        let slave = Fd(narrow(call!(
            Action::Open,
            SYS_ioctl,
            master.0,
            TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC
        )?));
        if let Some((rows, columns)) = size {
            let size = [rows, columns, 0, 0];
            call!(
                Action::Call,
                SYS_ioctl,
                master.0,
                libc::TIOCSWINSZ,
                size.as_ptr()
            )?;
        }
        if uid != 0 {
            call!(Action::Owner, SYS_fchown, slave.0, uid, u32::MAX)?;
        }
        if console {
            let target = self.ensure(c"dev/console", Target::File)?;
            let tree = open_tree(slave.0, c"", OPEN_TREE_CLONE | AT_EMPTY_PATH)?;
            attach(tree.0, target.0)?;
        }
        call!(Action::Call, SYS_ioctl, slave.0, libc::TIOCSCTTY, 0)?;
        for number in 0..3 {
            place(slave.0, number)?;
        }
        self.tell(&Message::new(Kind::Terminal), Some(master.0))
    }

    fn find_program(&mut self, candidates: &'a [CString]) -> Outcome<()> {
        self.candidates = candidates;
        let mut refusal = libc::ENOENT;
        for (index, candidate) in candidates.iter().enumerate() {
            match stat_at(libc::AT_FDCWD, candidate.as_ptr(), 0) {
                Err(failure) if matches!(failure.errno, libc::ENOENT | libc::ENOTDIR) => continue,
                Err(failure) => {
                    refusal = failure.errno;
                    continue;
                }
                Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                    refusal = libc::EISDIR;
                    continue;
                }
                Ok(stat) if stat.st_mode & libc::S_IFMT != libc::S_IFREG => {
                    refusal = libc::EACCES;
                    continue;
                }
                Ok(_) => {}
            }
            let access = call!(
                Action::Find,
                SYS_faccessat2,
                libc::AT_FDCWD,
                candidate.as_ptr(),
                libc::X_OK,
                libc::AT_EACCESS
            );
            match access {
                Ok(_) => {
                    self.program = index;
                    return Ok(());
                }
                Err(failure) => refusal = failure.errno,
            }
        }
        fail(Action::Find, refusal)
    }

    fn await_start(&mut self, listener: Option<Slot>, close_from: u32) -> Outcome<()> {
        let listener = match listener {
            Some(slot) => Some(self.slot(slot)?),
            None => None,
        };
        // What the parent had open (locks, pipes, the root) must not live as long as this wait.
        let kept = [self.channel, listener.unwrap_or(self.channel)];
        let mut from = close_from;
        for fd in [kept[0].min(kept[1]), kept[0].max(kept[1])] {
            let fd = fd.unsigned_abs();
            if fd > from {
                call!(Action::Call, SYS_close_range, from, fd - 1, 0)?;
            }
            from = from.max(fd + 1);
        }
        call!(Action::Call, SYS_close_range, from, u32::MAX, 0)?;
        self.tell(&Message::new(Kind::Ready), None)?;
        self.listen()?;
        let Some(listener) = listener else {
            return Ok(());
        };
        // The parent ends now; what goes wrong later is told to who starts the container.
        // SAFETY: the descriptor is this process's own.
        unsafe { libc::close(self.channel) };
        loop {
            let accepted = call!(
                Action::Call,
                SYS_accept4,
                listener,
                std::ptr::null_mut::<c_void>(),
                std::ptr::null_mut::<c_void>(),
                libc::SOCK_CLOEXEC
            );
            let connection = match accepted {
                Ok(fd) => Fd(narrow(fd)),
                Err(failure) if matches!(failure.errno, libc::EINTR | libc::ECONNABORTED) => {
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if let Ok(true) = read_byte(connection.0) {
                self.channel = connection.0;
                std::mem::forget(connection);
                return Ok(());
            }
        }
    }
}

fn flag(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

fn narrow(result: i64) -> i32 {
    i32::try_from(result).unwrap_or(-1)
}

fn getpid() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

fn openat2(action: Action, at: i32, path: *const c_char, how: &OpenHow) -> Outcome<Fd> {
    let mut tries = 0;
    loop {
        let result = call!(
            action,
            SYS_openat2,
            at,
            path,
            std::ptr::from_ref(how),
            size_of::<OpenHow>()
        );
        match result {
            // A rename raced with `..`; openat2(2) asks to try again.
            Err(failure) if failure.errno == libc::EAGAIN && tries < 128 => tries += 1,
            other => return other.map(|fd| Fd(narrow(fd))),
        }
    }
}

fn open_root() -> Outcome<i32> {
    call!(
        Action::Open,
        SYS_openat,
        libc::AT_FDCWD,
        c"/".as_ptr(),
        libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC
    )
    .map(narrow)
}

fn open_tree(at: i32, path: &CStr, flags: u32) -> Outcome<Fd> {
    call!(
        Action::OpenTree,
        SYS_open_tree,
        at,
        path.as_ptr(),
        flags | OPEN_TREE_CLOEXEC
    )
    .map(|fd| Fd(narrow(fd)))
}

fn attach(tree: i32, target: i32) -> Outcome<()> {
    call!(
        Action::Attach,
        SYS_move_mount,
        tree,
        c"".as_ptr(),
        target,
        c"".as_ptr(),
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    )
    .map(drop)
}

/// Makes an empty file or a directory.
fn make(parent: i32, name: *const c_char, kind: Target) -> Outcome<()> {
    match kind {
        Target::Directory => call!(Action::Create, SYS_mkdirat, parent, name, 0o755).map(drop),
        Target::File => call!(
            Action::Create,
            SYS_openat,
            parent,
            name,
            libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_WRONLY,
            0o644
        )
        .map(|fd| drop(Fd(narrow(fd)))),
    }
}

fn mount_setattr(at: i32, path: &CStr, recursive: bool, attributes: &Attributes) -> Outcome<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    call!(
        Action::SetAttributes,
        SYS_mount_setattr,
        at,
        path.as_ptr(),
        flags,
        std::ptr::from_ref(attributes),
        size_of::<Attributes>()
    )
    .map(drop)
}

fn stat_at(at: i32, path: *const c_char, flags: i32) -> Outcome<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    call!(
        Action::Inspect,
        SYS_newfstatat,
        at,
        path,
        stat.as_mut_ptr(),
        flags
    )?;
    // SAFETY: the call has succeeded and filled it.
    Ok(unsafe { stat.assume_init() })
}

fn write_once(fd: i32, bytes: &[u8]) -> Outcome<()> {
    call!(Action::Write, SYS_write, fd, bytes.as_ptr(), bytes.len()).map(drop)
}

fn write_all(fd: i32, mut bytes: &[u8]) -> Outcome<()> {
    while !bytes.is_empty() {
        let written = call!(Action::Write, SYS_write, fd, bytes.as_ptr(), bytes.len())?;
        bytes = usize::try_from(written)
            .ok()
            .and_then(|written| bytes.get(written..))
            .unwrap_or(&[]);
    }
    Ok(())
}

/// Whether a byte came; otherwise the other side has closed.
fn read_byte(fd: i32) -> Outcome<bool> {
    let mut byte = 0_u8;
    loop {
        match call!(Action::Listen, SYS_read, fd, &raw mut byte, 1) {
            Ok(count) => return Ok(count == 1),
            Err(failure) if failure.errno == libc::EINTR => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Makes `fd` the descriptor `number`, which programs inherit.
fn place(fd: i32, number: i32) -> Outcome<()> {
    if fd == number {
        return call!(Action::Call, SYS_fcntl, fd, libc::F_SETFD, 0).map(drop);
    }
    call!(Action::Call, SYS_dup3, fd, number, 0).map(drop)
}

/// A user must be able to open `/dev/stdout`, which is this very file.
fn own_stream(fd: i32, uid: u32) -> Outcome<()> {
    let stat = stat_at(fd, c"".as_ptr(), libc::AT_EMPTY_PATH)?;
    let is_null =
        stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3);
    if is_null || stat.st_uid == uid {
        return Ok(());
    }
    match call!(Action::Owner, SYS_fchown, fd, uid, u32::MAX) {
        Err(failure)
            if matches!(
                failure.errno,
                // owners that are not mapped, sockets, read-only and foreign file systems
                libc::EINVAL | libc::EPERM | libc::EROFS | libc::ENOSYS
            ) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

fn key_mask(description: &[u8]) -> Option<u32> {
    // type;uid;gid;permissions;name
    let field = description.split(|byte| *byte == b';').nth(3)?;
    let mut mask = 0_u32;
    for byte in field {
        mask = (mask << 4) | char::from(*byte).to_digit(16)?;
    }
    Some(mask)
}

fn loopback_up() -> Outcome<()> {
    let socket = Fd(narrow(call!(
        Action::Call,
        SYS_socket,
        libc::AF_INET,
        libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
        0
    )?));
    // SAFETY: all bytes zero is a valid value of this structure of numbers and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    call!(
        Action::Call,
        SYS_ioctl,
        socket.0,
        libc::SIOCGIFFLAGS,
        &raw mut request
    )?;
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the call above has filled this field of the union.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    call!(
        Action::Call,
        SYS_ioctl,
        socket.0,
        libc::SIOCSIFFLAGS,
        &raw const request
    )
    .map(drop)
}

fn set_capabilities(effective: u64, permitted: u64, inheritable: u64, ambient: u64) -> Outcome<()> {
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    const PR_SET_KEEPCAPS: i32 = 8;
    const PR_CAP_AMBIENT: i32 = 47;
    const PR_CAP_AMBIENT_RAISE: i32 = 2;
    const PR_CAP_AMBIENT_CLEAR_ALL: i32 = 4;
    let header = [LINUX_CAPABILITY_VERSION_3, 0];
    let low = |set: u64| (set & 0xffff_ffff) as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    call!(Action::Call, SYS_capset, header.as_ptr(), data.as_ptr())?;
    call!(Action::Call, SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0)?;
    call!(
        Action::Call,
        SYS_prctl,
        PR_CAP_AMBIENT,
        PR_CAP_AMBIENT_CLEAR_ALL,
        0,
        0,
        0
    )?;
    for capability in 0..64 {
        if ambient & (1 << capability) != 0 {
            call!(
                Action::Ambient,
                SYS_prctl,
                PR_CAP_AMBIENT,
                PR_CAP_AMBIENT_RAISE,
                capability,
                0,
                0
            )?;
        }
    }
    Ok(())
}

/// Default dispositions and an empty mask, as a program expects them.
fn reset_signals() {
    for signal in 1..65 {
        // SAFETY: setting a disposition, no handler; refused for the few that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let empty = 0_u64;
    let _ = call!(
        Action::Call,
        SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        &raw const empty,
        std::ptr::null_mut::<u64>(),
        size_of::<u64>()
    );
}

/// Runs a program to its end, with `input` as its standard input.
fn hook(
    path: &CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    input: [&[u8]; 3],
    timeout_ms: Option<i32>,
) -> Outcome<()> {
    let mut pipe = [-1_i32; 2];
    call!(Action::Call, SYS_pipe2, pipe.as_mut_ptr(), libc::O_CLOEXEC)?;
    let (reader, writer) = (Fd(pipe[0]), Fd(pipe[1]));
    call!(
        Action::Call,
        SYS_fcntl,
        writer.0,
        libc::F_SETFL,
        libc::O_NONBLOCK
    )?;
    let mut pidfd = -1_i32;
    let arguments_of_clone = CloneArguments {
        flags: CLONE_PIDFD,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        exit_signal: flag(libc::SIGCHLD),
        ..CloneArguments::default()
    };
    // SAFETY: like fork(2), see `Child::split`.
    let pid = check(Action::Call, unsafe { clone3(&arguments_of_clone) })?;
    if pid == 0 {
        let _ = place(reader.0, 0);
        reset_signals();
        let _ = call!(
            Action::Execute,
            SYS_execve,
            path.as_ptr(),
            arguments,
            environment
        );
        exit(127);
    }
    drop(reader);
    let pidfd = Fd(pidfd);
    let mut writer = Some(writer);
    let [mut part, mut second, mut third] = input;
    let deadline = timeout_ms.map(|timeout| now_ms() + i64::from(timeout));
    loop {
        while part.is_empty() && !(second.is_empty() && third.is_empty()) {
            (part, second, third) = (second, third, &[]);
        }
        if part.is_empty() {
            writer = None;
        }
        let mut events = [
            libc::pollfd {
                fd: pidfd.0,
                events: libc::POLLIN,
                revents: 0,
            },
            libc::pollfd {
                fd: writer.as_ref().map_or(-1, |writer| writer.0),
                events: libc::POLLOUT,
                revents: 0,
            },
        ];
        let left = match deadline {
            Some(deadline) => i32::try_from((deadline - now_ms()).max(0)).unwrap_or(i32::MAX),
            None => -1,
        };
        // SAFETY: the array is valid and its length is given.
        let ready = unsafe { libc::poll(events.as_mut_ptr(), 2, left) };
        if ready == 0 && left == 0 {
            let _ = call!(
                Action::Call,
                SYS_pidfd_send_signal,
                pidfd.0,
                libc::SIGKILL,
                std::ptr::null::<c_void>(),
                0
            );
            let _ = wait_for(pidfd.0);
            return fail(Action::HookTimeout, libc::ETIMEDOUT);
        }
        if events[0].revents != 0 {
            break;
        }
        if let (Some(to), true) = (&writer, events[1].revents != 0) {
            match call!(Action::Write, SYS_write, to.0, part.as_ptr(), part.len()) {
                Ok(count) => {
                    let count = usize::try_from(count).unwrap_or(0);
                    part = part.get(count..).unwrap_or(&[]);
                }
                // it does not want to read, which is its right
                Err(failure) if failure.errno == libc::EPIPE => {
                    (part, second, third) = (&[], &[], &[]);
                }
                Err(_) => {}
            }
        }
    }
    match wait_for(pidfd.0)? {
        0 => Ok(()),
        status => fail(Action::HookFailed, status),
    }
}

/// A number as text, in a buffer of the caller.
fn decimal(number: i32, digits: &mut [u8; 12]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        start -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or(&[])
}

fn now_ms() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// The exit code of a child, or 128 and its signal.
fn wait_for(pidfd: i32) -> Outcome<i32> {
    // SAFETY: all bytes zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    call!(
        Action::Call,
        SYS_waitid,
        libc::P_PIDFD,
        pidfd,
        &raw mut info,
        libc::WEXITED,
        std::ptr::null_mut::<c_void>()
    )?;
    // SAFETY: waitid has filled the fields of SIGCHLD.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED {
        status
    } else {
        128 + status
    })
}

/// Copies what a directory holds into another: directories, files, links, nodes; owners and modes.
fn copy_tree(from: i32, to: i32, depth: u32) -> Outcome<()> {
    if depth > 64 {
        return fail(Action::CopyUp, libc::ELOOP);
    }
    let stat = stat_at(from, c"".as_ptr(), libc::AT_EMPTY_PATH)?;
    call!(
        Action::CopyUp,
        SYS_fchownat,
        to,
        c"".as_ptr(),
        stat.st_uid,
        stat.st_gid,
        libc::AT_EMPTY_PATH
    )?;
    call!(
        Action::CopyUp,
        SYS_fchmodat,
        to,
        c".".as_ptr(),
        stat.st_mode & 0o7777
    )?;
    let mut buffer = [0_u8; 4096];
    loop {
        let length = call!(
            Action::CopyUp,
            SYS_getdents64,
            from,
            buffer.as_mut_ptr(),
            buffer.len()
        )?;
        let length = usize::try_from(length).unwrap_or(0);
        if length == 0 {
            return Ok(());
        }
        let mut offset = 0;
        // struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name
        while let Some(record) = buffer.get(offset..length) {
            let (Some(&[low, high]), Some(name)) = (record.get(16..18), record.get(19..)) else {
                break;
            };
            offset += usize::from(u16::from_ne_bytes([low, high]));
            let Ok(name) = CStr::from_bytes_until_nul(name) else {
                break;
            };
            if name != c"." && name != c".." {
                copy_entry(from, to, name, depth)?;
            }
        }
    }
}

fn copy_entry(from: i32, to: i32, name: &CStr, depth: u32) -> Outcome<()> {
    let stat = stat_at(from, name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)?;
    let open = |at: i32, flags: i32| {
        call!(
            Action::CopyUp,
            SYS_openat,
            at,
            name.as_ptr(),
            flags | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            0o600
        )
        .map(|fd| Fd(narrow(fd)))
    };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            call!(Action::CopyUp, SYS_mkdirat, to, name.as_ptr(), 0o700)?;
            let from = open(from, libc::O_RDONLY | libc::O_DIRECTORY)?;
            let to = open(to, libc::O_RDONLY | libc::O_DIRECTORY)?;
            return copy_tree(from.0, to.0, depth + 1);
        }
        libc::S_IFREG => {
            let from = open(from, libc::O_RDONLY)?;
            let to = open(to, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
            let mut buffer = [0_u8; 16384];
            loop {
                let length = call!(
                    Action::CopyUp,
                    SYS_read,
                    from.0,
                    buffer.as_mut_ptr(),
                    buffer.len()
                )?;
                let length = usize::try_from(length).unwrap_or(0);
                if length == 0 {
                    break;
                }
                write_all(to.0, buffer.get(..length).unwrap_or(&[]))?;
            }
            call!(Action::CopyUp, SYS_fchown, to.0, stat.st_uid, stat.st_gid)?;
            call!(Action::CopyUp, SYS_fchmod, to.0, stat.st_mode & 0o7777)?;
            return Ok(());
        }
        libc::S_IFLNK => {
            let mut link = [0_u8; PATH_MAX];
            let room = link.len() - 1;
            call!(
                Action::CopyUp,
                SYS_readlinkat,
                from,
                name.as_ptr(),
                link.as_mut_ptr(),
                room
            )?;
            call!(
                Action::CopyUp,
                SYS_symlinkat,
                link.as_ptr(),
                to,
                name.as_ptr()
            )?;
        }
        _ => {
            call!(
                Action::CopyUp,
                SYS_mknodat,
                to,
                name.as_ptr(),
                stat.st_mode,
                stat.st_rdev
            )?;
        }
    }
    call!(
        Action::CopyUp,
        SYS_fchownat,
        to,
        name.as_ptr(),
        stat.st_uid,
        stat.st_gid,
        libc::AT_SYMLINK_NOFOLLOW
    )
    .map(drop)
}

/// A path on the stack that is cut and mended in place.
struct PathBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl PathBuffer {
    fn new(path: &CStr) -> Outcome<PathBuffer> {
        let mut buffer = PathBuffer {
            bytes: [0; PATH_MAX],
            length: 0,
        };
        buffer.push(path.to_bytes())?;
        Ok(buffer)
    }

    fn push(&mut self, part: &[u8]) -> Outcome<()> {
        let end = self.length + part.len();
        match self.bytes.get_mut(self.length..end) {
            Some(room) if end < PATH_MAX => room.copy_from_slice(part),
            _ => return fail(Action::Create, libc::ENAMETOOLONG),
        }
        self.length = end;
        Ok(())
    }

    fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Where the last component starts and ends.
    fn last(&self) -> Option<(usize, usize)> {
        let (mut from, mut to) = self.component(0);
        loop {
            let next = self.component(to);
            if next.0 == next.1 {
                return (from != to).then_some((from, to));
            }
            (from, to) = next;
        }
    }

    fn pointer_at(&self, offset: usize) -> *const c_char {
        match self.bytes.get(offset..) {
            Some(rest) => rest.as_ptr().cast(),
            None => c"".as_ptr(),
        }
    }

    /// Where the next component from `offset` on starts and ends; both the same: there is none.
    fn component(&self, offset: usize) -> (usize, usize) {
        let mut from = offset;
        while from < self.length && self.bytes.get(from) == Some(&b'/') {
            from += 1;
        }
        let mut to = from;
        while to < self.length && self.bytes.get(to) != Some(&b'/') {
            to += 1;
        }
        (from, to)
    }

    fn end_at(&mut self, offset: usize) -> u8 {
        match self.bytes.get_mut(offset) {
            Some(byte) => std::mem::replace(byte, 0),
            None => 0,
        }
    }

    fn restore(&mut self, offset: usize, byte: u8) {
        if let Some(place) = self.bytes.get_mut(offset) {
            *place = byte;
        }
    }

    /// Replaces a component by what a symbolic link holds.
    fn substitute(&mut self, from: usize, to: usize, link: &[u8]) -> Outcome<()> {
        let old = self.bytes;
        let length = self.length;
        self.bytes = [0; PATH_MAX];
        self.length = 0;
        if link.first() != Some(&b'/') {
            self.push(old.get(..from).unwrap_or(&[]))?;
        }
        self.push(link)?;
        self.push(old.get(to..length).unwrap_or(&[]))
    }
}
