//! Whose files a thread makes.

use std::io;

/// Makes the calling thread act on files as this user and group, see setfsuid(2). It then lacks the capabilities over
/// files, unless the user is 0, until it raises them again.
///
/// # Errors
/// `EPERM` without `CAP_SETUID` and `CAP_SETGID`, `EINVAL` for ids that do not exist in the user namespace.
pub fn set_filesystem_ids(uid: u32, gid: u32) -> io::Result<()> {
    // No id, with which the calls change nothing and tell what is in force.
    const ASK: u32 = u32::MAX;
    // SAFETY: no memory is involved. The calls affect the calling thread alone.
    let (gid_in_force, uid_in_force) = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsgid(ASK), libc::setfsuid(ASK))
    };
    if uid == ASK || gid == ASK {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if uid_in_force.cast_unsigned() != uid || gid_in_force.cast_unsigned() != gid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}
