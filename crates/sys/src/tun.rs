//! Virtual network cards: tun(4), see `Documentation/networking/tuntap.rst` of the kernel.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// What goes with a card of frames (a tap).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Each frame is preceded by `struct virtio_net_hdr` (`IFF_VNET_HDR`).
    pub has_header: bool,
}

/// Makes a tap of that name, at most 15 bytes, in the network namespace of the calling thread, or
/// attaches to one that is there and has no one. It goes when the descriptor is closed.
///
/// # Errors
/// When the kernel has none, the name is taken, or `CAP_NET_ADMIN` is missing.
pub fn tap(name: &str, offloads: Offloads) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if offloads.has_header {
        flags |= libc::IFF_VNET_HDR;
    }
    // SAFETY: ifreq holds numbers and bytes, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes `request`, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match result {
        0 => Ok(file.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the character device of a macvtap link of the calling thread's network namespace. Its frames are
/// preceded by `struct virtio_net_hdr`. The link stays when the descriptor is closed.
///
/// # Errors
/// When there is no such link, or `CAP_SYS_ADMIN` or `CAP_MKNOD` is missing.
pub fn macvtap(link: &str) -> io::Result<OwnedFd> {
    // What is mounted on /sys may be of another network namespace, and /dev need not know of the device.
    let sys = unattached("sysfs")?;
    let read_only = OFlags::RDONLY | OFlags::CLOEXEC;
    let text = |path: String| -> io::Result<String> {
        let mut text = String::new();
        File::from(openat(&sys, path, read_only, Mode::empty())?).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    };
    let index = text(format!("class/net/{link}/ifindex"))?;
    let numbers = text(format!("class/net/{link}/tap{index}/dev"))?;
    let numbers = numbers
        .split_once(':')
        .map(|(major, minor)| (major.parse(), minor.parse()));
    let Some((Ok(major), Ok(minor))) = numbers else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let devices = unattached("tmpfs")?;
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(
        &devices,
        "tap",
        FileType::CharacterDevice,
        mode,
        makedev(major, minor),
    )?;
    Ok(openat(
        &devices,
        "tap",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A file system that is mounted nowhere.
fn unattached(kind: &str) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}
