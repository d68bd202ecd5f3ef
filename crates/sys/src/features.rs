//! What the kernel can do, found out by asking it in ways that change nothing.

use std::io;
use std::thread;

/// Is there a system call, whatever it says to arguments that mean nothing?
fn exists(result: libc::c_long) -> bool {
    result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Is this process in another user namespace than the first? See user_namespaces(7). Asked once a process.
#[must_use]
pub fn is_in_user_namespace() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
            let words: Vec<&str> = map.split_whitespace().collect();
            words != ["0", "0", "4294967295"]
        })
    })
}

/// Can clone3(2) make a process in a control group of version 2 (Linux 5.7)?
#[must_use]
pub fn clones_into_cgroup() -> bool {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    /// Up to `cgroup`, the last field of its second version (`CLONE_ARGS_SIZE_VER2`).
    const FIELDS: usize = 11;
    let mut arguments = [0_u64; FIELDS];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = i32::MAX as u64; // no descriptor
    // SAFETY: `arguments` is a live array of the size given. A kernel that does not know the flag
    // refuses it, one that knows it finds no such descriptor: no process is made.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            arguments.as_ptr(),
            size_of_val(&arguments),
        )
    };
    if result == 0 {
        // SAFETY: only a kernel that breaks its word comes here, in the new process, which must end.
        unsafe { libc::_exit(0) }
    }
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

/// Is there mount_setattr(2), and with it idmapped mounts (Linux 5.12)?
#[must_use]
pub fn has_mount_setattr() -> bool {
    // SAFETY: no pointer is followed: descriptor -1 and size 0 are refused before.
    exists(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            std::ptr::null::<u8>(),
            0,
            std::ptr::null::<u8>(),
            0,
        )
    })
}

/// The version of Landlock's interface, see landlock_create_ruleset(2).
///
/// # Errors
/// `ENOSYS` or `EOPNOTSUPP` when the kernel has none or it is switched off.
pub fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: asking for the version takes a null pointer and size 0.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Calls `action` in a network namespace of its own, which ends with it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` on a kernel without network namespaces.
pub fn in_new_network_namespace<T: Send>(action: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: unshare(2) of the network namespace changes this new thread alone.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(action())
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked")))
    })
}
