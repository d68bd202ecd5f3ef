//! Folders of the host: the kernel's FUSE device on one side, a port on the other.
//!
//! Requests and replies are carried as they are, by two threads that wait in read(2) each; the server is the host's
//! `isle-share`. The kernel knows where a request ends by its length, and so do both ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use isle_guest_protocol::MAX_SHARE_MESSAGE;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

/// Bytes before what a reply says.
const REPLY_HEADER: usize = 16;
/// How long the host may take to serve the other end of the port.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts what is served at the other end of a port, a character device or a stream socket, and goes on carrying
/// requests there in the background.
///
/// When the other end is closed, everything that is asked of the mount fails from then on.
///
/// # Errors
/// When the kernel has no FUSE, or refuses the mount.
pub fn mount(port: OwnedFd, at: &Path) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", "isle"),
        ("fd", device.as_raw_fd().to_string().as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    // Everybody may try, and the kernel decides by owner and mode who may, as everywhere.
    for flag in ["default_permissions", "allow_other"] {
        fsconfig_set_flag(&context, flag)?;
    }
    fsconfig_create(&context)?;
    // A device of the host has no meaning here.
    let mount = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    move_mount(
        &mount,
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    let (device, port) = (Arc::new(device), Arc::new(port));
    let (from, to) = (device.clone(), port.clone());
    spawn("shares out", move || carry_requests(&*from, &*to))?;
    let at = at.to_owned();
    spawn("shares in", move || {
        carry_replies(&*port, &*device);
        // Ends requests that wait for a reply, and with them the other thread.
        let _ = unmount(&at, UnmountFlags::FORCE | UnmountFlags::DETACH);
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    const STACK: usize = 64 << 10;
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    builder.spawn(work).map(drop)
}

/// Until the mount is gone.
fn carry_requests(device: impl AsFd, port: impl AsFd) {
    let mut buffer: Vec<u8> = Vec::with_capacity(MAX_SHARE_MESSAGE);
    loop {
        buffer.clear();
        match rustix::io::read(&device, rustix::buffer::spare_capacity(&mut buffer)) {
            Ok(0) => return,
            Ok(_) => {
                if write_all(&port, &buffer).is_err() {
                    return;
                }
            }
            // A request was given up while it was read.
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Until the port has no other end.
fn carry_replies(port: impl AsFd, device: impl AsFd) {
    let mut input: Vec<u8> = Vec::with_capacity(MAX_SHARE_MESSAGE);
    // A port whose other end has not come yet reads as one whose other end is gone.
    let mut patience = Some(Instant::now() + PATIENCE);
    loop {
        let mut done = 0;
        while let Some(length) = input[done..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if !(REPLY_HEADER..=MAX_SHARE_MESSAGE).contains(&length) {
                return;
            }
            let Some(reply) = input.get(done..done + length) else {
                break;
            };
            // The kernel takes no reply to what was given up (`ENOENT`), and refuses others by itself.
            let _ = rustix::io::write(&device, reply);
            done += length;
        }
        input.drain(..done);
        input.reserve(MAX_SHARE_MESSAGE - input.len());
        match rustix::io::read(&port, rustix::buffer::spare_capacity(&mut input)) {
            Ok(0) if patience.is_some_and(|deadline| Instant::now() < deadline) => {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(0) => return,
            Ok(_) => patience = None,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn write_all(port: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&port, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
