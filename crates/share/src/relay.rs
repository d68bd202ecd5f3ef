//! The guest's end: carries requests of the kernel's FUSE device to a port, and replies back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use std::os::fd::AsRawFd;

use crate::protocol::{MAX_REQUEST, REPLY_HEADER};

/// Mounts the shares that are served behind a port, and goes on carrying requests in two threads.
///
/// When the port is closed at its other end, everything that is asked of the mount fails from then on.
///
/// # Errors
/// When the kernel has no FUSE, or refuses the mount.
pub fn mount(port: OwnedFd, at: &Path) -> io::Result<()> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
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
    for flag in ["default_permissions", "allow_other"] {
        fsconfig_set_flag(&context, flag)?;
    }
    fsconfig_create(&context)?;
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
    let there = (device.clone(), port.clone());
    let place = at.to_owned();
    spawn("share out", move || carry_requests(&*there.0, &*there.1))?;
    spawn("share in", move || {
        carry_replies(&*port, &*device);
        // Ends the requests that wait for a reply, and the other thread with them.
        let _ = unmount(&place, UnmountFlags::FORCE | UnmountFlags::DETACH);
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(64 << 10);
    builder.spawn(work).map(drop)
}

/// Until the mount is gone.
fn carry_requests(device: impl AsFd, port: impl AsFd) {
    let mut buffer = vec![0; MAX_REQUEST];
    loop {
        match rustix::io::read(&device, &mut buffer[..]) {
            Ok(0) => return,
            Ok(length) => {
                if write_all(&port, &buffer[..length]).is_err() {
                    return;
                }
            }
            // A request was interrupted while it was read.
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Until the port has no other end.
fn carry_replies(port: impl AsFd, device: impl AsFd) {
    let mut input: Vec<u8> = Vec::with_capacity(MAX_REQUEST);
    loop {
        let mut done = 0;
        while let Some(length) = input[done..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if !(REPLY_HEADER..=MAX_REQUEST).contains(&length) {
                return;
            }
            let Some(reply) = input.get(done..done + length) else {
                break;
            };
            // The kernel takes no reply to a request that was given up (`ENOENT`).
            let _ = rustix::io::write(&device, reply);
            done += length;
        }
        input.drain(..done);
        input.reserve(MAX_REQUEST.saturating_sub(input.len()));
        match rustix::io::read(&port, rustix::buffer::spare_capacity(&mut input)) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
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
