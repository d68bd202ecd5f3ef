//! The default policy: what Docker's default allows, in effect.
//!
//! An allowlist of the system calls that ordinary programs make. Left out, so refused with
//! `EPERM`: what reaches beyond the container (mounting, modules, clocks, raw I/O, tracing of
//! other users), what kernel bugs came through (`io_uring_*`, `userfaultfd`, `add_key`/`keyctl`,
//! `AF_ALG` and `AF_VSOCK` sockets), and making namespaces. A capability that is granted brings
//! the calls back that are its purpose.
//!
//! It differs from Docker's in one point, to refuse more: the address families that socket(2) may
//! have are listed up to the last that exists. Docker allows all above 40; but the kernel looks at
//! the lower 32 bits alone and seccomp sees 64, so 2^32 + 38 would be an `AF_ALG` socket.
//!
//! socketcall(2), which 32-bit programs use for socket(2), is allowed as in Docker; its arguments
//! are in memory, where seccomp cannot see them. Docker refused it for a week in 2026 and took that
//! back because 32-bit programs lost their network
//! (<https://github.com/moby/moby/pull/52547>).

use std::borrow::Cow;

use oci_spec::runtime::LinuxSeccompAction as Action;
use oci_spec::runtime::LinuxSeccompOperator as Operator;

use crate::profile::{Argument, Conditions, Profile, Rule};

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// For every process.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock
    mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect
    open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv
    recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
    truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64
    utimes vfork vmsplice wait4 waitid waitpid write writev";

/// By capability.
const WITH: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
         umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// By architecture of the machine.
const ON: &[(&[&str], &str)] = &[
    (
        &["arm", "arm64"],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (&["amd64"], "arch_prctl modify_ldt"),
];

fn allow(names: &'static str) -> Rule {
    Rule {
        names: names.split_whitespace().map(Cow::Borrowed).collect(),
        action: Action::ScmpActAllow,
        errno: None,
        arguments: Vec::new(),
        includes: Conditions::default(),
        excludes: Conditions::default(),
    }
}

fn allow_when(name: &'static str, op: Operator, value: u64) -> Rule {
    Rule {
        arguments: vec![Argument {
            index: 0,
            value,
            value_two: None,
            op,
        }],
        ..allow(name)
    }
}

pub(crate) fn profile() -> Profile {
    let without_admin = || Conditions {
        capabilities: vec!["CAP_SYS_ADMIN".to_owned()],
        ..Conditions::default()
    };
    let mut rules = vec![
        allow(ALWAYS),
        // Before 4.8 a tracer could change a system call after seccomp had seen it.
        Rule {
            includes: Conditions {
                minimal_kernel: Some((4, 8)),
                ..Conditions::default()
            },
            ..allow("process_vm_readv process_vm_writev ptrace")
        },
        // No namespaces but with CAP_SYS_ADMIN. The flags of clone3(2) are in memory, where seccomp
        // cannot see them; with ENOSYS the C library goes on with clone(2).
        Rule {
            excludes: without_admin(),
            ..allow_when("clone", Operator::ScmpCmpMaskedEq, NEW_NAMESPACES)
        },
        Rule {
            action: Action::ScmpActErrno,
            errno: Some(ENOSYS),
            excludes: without_admin(),
            ..allow("clone3")
        },
        // All address families but AF_ALG (38) and AF_VSOCK (40).
        allow_when("socket", Operator::ScmpCmpLt, 38),
        allow_when("socket", Operator::ScmpCmpEq, 39),
    ];
    // AF_KCM to AF_MCTP
    rules.extend((41..=45).map(|family| allow_when("socket", Operator::ScmpCmpEq, family)));
    // PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one is in force.
    rules.extend(
        [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]
            .map(|persona| allow_when("personality", Operator::ScmpCmpEq, persona)),
    );
    rules.extend(ON.iter().map(|(architectures, names)| Rule {
        includes: Conditions {
            architectures: architectures.iter().map(|&a| a.to_owned()).collect(),
            ..Conditions::default()
        },
        ..allow(names)
    }));
    rules.extend(WITH.iter().map(|(capability, names)| Rule {
        includes: Conditions {
            capabilities: vec![(*capability).to_owned()],
            ..Conditions::default()
        },
        ..allow(names)
    }));
    Profile::from_rules(Action::ScmpActErrno, EPERM, rules)
}
