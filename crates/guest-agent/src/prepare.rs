//! What makes a guest one certain instance.
//!
//! In this order: entropy before anything draws from it (clones of a template would all draw the same), the clock,
//! names, network, files, and the root file system.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isle_guest_protocol::{
    Bytes, Clock, Disk, Failure, FailureKind, File, Network, Prepare, Root, Writable,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, mount, open_tree, unmount};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::agent::Place;
use crate::failure::{failed, not_running};
use crate::{boot, network, network_card, shares};

/// How long a disk may take to appear, or to hold what it will hold.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// The disks of every machine: the image's and the instance's own.
const DISKS: [&str; 2] = ["vda", "vdb"];

/// The folders of the agent, below [`Place::run`].
pub(crate) const FOLDERS: [&str; 5] = ["files", "image", "disk", "root", "shares"];

/// The files of the instance, as the agent holds them.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Where the root file system is mounted.
    root: Option<PathBuf>,
    /// The writable layer.
    pub(crate) upper: Option<OwnedFd>,
    /// The disk that it is on; `None` when it is in memory.
    pub(crate) disk: Option<OwnedFd>,
    /// What was mounted.
    mounted: Option<Root>,
}

impl Files {
    /// The root file system as a mount of its own, attached nowhere, with nothing mounted in it.
    pub(crate) fn root(&self) -> Result<OwnedFd, Failure> {
        let root = self.root.as_deref();
        detached(root.ok_or_else(|| not_running("the guest has no root file system yet"))?)
    }
}

/// The share of that number, as such a mount.
pub(crate) fn share(place: &Place, number: u32) -> Result<OwnedFd, Failure> {
    detached(&place.run.join("shares").join(number.to_string()))
}

fn detached(root: &Path) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, root, flags).map_err(failed("cannot take the root file system"))
}

/// What is read ahead of all files together, at most.
const READ_AHEAD: u64 = 24 << 20;

/// Takes back what is one instance's alone, see [`isle_guest_protocol::Request::Reset`].
pub(crate) fn reset(place: &Place, files: &Files, read: &[Bytes]) -> Result<(), Failure> {
    let root = files.root()?;
    let mut left = READ_AHEAD;
    for path in read {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = OsStr::from_bytes(path);
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        if let Ok(file) = file.map(fs::File::from)
            && file.metadata().is_ok_and(|about| about.is_file())
        {
            left -= io::copy(&mut file.take(left), &mut io::sink()).unwrap_or(0);
        }
    }
    let handed = place.run.join("files");
    let fail = || failed("cannot remove the files of the rehearsal");
    for file in fs::read_dir(&handed).map_err(fail())? {
        let file = file.map_err(fail())?;
        fs::remove_file(file.path()).map_err(fail())?;
    }
    // What the disk holds is then what the kernel believes it to hold.
    rustix::fs::sync();
    Ok(())
}

/// Unmounts the root file system, and waits until nothing holds its disks any more.
pub(crate) fn let_go(place: &Place) -> Result<(), Failure> {
    let deadline = Instant::now() + DISK_PATIENCE;
    let again = |errno| {
        let is_again = errno == Errno::BUSY && Instant::now() < deadline;
        if is_again {
            std::thread::sleep(Duration::from_millis(1));
        }
        is_again
    };
    for folder in ["root", "disk", "image"] {
        while let Err(errno) = unmount(place.run.join(folder), UnmountFlags::NOFOLLOW) {
            if !again(errno) {
                return Err(failed("cannot unmount the root file system")(errno));
            }
        }
    }
    for device in DISKS {
        let device = Path::new("/dev").join(device);
        // A file system that is there yet, mounted or not, has the device for itself.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        while let Err(errno) = openat(CWD, &device, flags, Mode::empty()) {
            if !again(errno) {
                return Err(failed("cannot let the disks go")(errno));
            }
        }
    }
    Ok(())
}

/// Does all of it.
pub(crate) fn prepare(place: &Place, files: &mut Files, asked: &Prepare) -> Result<(), Failure> {
    if !place.is_guest {
        write_files(place, &asked.files)?;
        files.root = Some(place.run.join("root"));
        return Ok(());
    }
    isle_sys::random::seed(&asked.seed)
        .map_err(failed("cannot seed the kernel's random numbers"))?;
    set_clock(place, asked.clock)?;
    rustix::system::sethostname(asked.hostname.as_bytes())
        .map_err(failed("cannot set the host name"))?;
    for asked in &asked.networks {
        connect(asked)?;
    }
    write_files(place, &asked.files)?;
    if let Some(shares) = &asked.shares {
        let at = place.run.join("shares");
        boot::port(&shares.port, OFlags::empty())
            .and_then(|port| shares::mount(port, &at))
            .map_err(failed("cannot mount folders of the host"))?;
    }
    match (&files.mounted, &asked.root) {
        (None, Some(asked)) => *files = root(place, asked)?,
        (None, None) => {}
        (mounted, asked) if mounted == asked => {}
        (Some(_), _) => {
            return Err(failed("cannot mount the root file system")(
                "this guest is a copy of one that has mounted another one",
            ));
        }
    }
    Ok(())
}

/// Puts the guest on a network.
pub(crate) fn connect(asked: &Network) -> Result<(), Failure> {
    let fail = |error| failed(&format!("cannot set up interface {}", asked.interface))(error);
    let found = network_card::take_out(asked.card).map_err(fail)?;
    network::configure(asked, &found).map_err(fail)
}

/// Takes it off the network of a card.
pub(crate) fn disconnect(card: u8) -> Result<(), Failure> {
    network_card::put_back(card).map_err(failed(&format!("cannot put network card {card} away")))
}

/// Sets the wall clock.
pub(crate) fn set_clock(place: &Place, clock: Clock) -> Result<(), Failure> {
    if !place.is_guest {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: i64::try_from(clock.seconds).unwrap_or(i64::MAX),
        tv_nsec: clock.nanoseconds.into(),
    };
    clock_settime(ClockId::Realtime, time).map_err(failed("cannot set the clock"))
}

fn write_files(place: &Place, files: &[File]) -> Result<(), Failure> {
    let folder = place.run.join("files");
    for file in files {
        let fail = |error: io::Error| failed(&format!("cannot write {}", file.name))(error);
        if file.name.contains('/') || matches!(file.name.as_str(), "" | "." | "..") {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        }
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file.mode & 0o7777)
            .open(folder.join(&file.name))
            .and_then(|mut open| open.write_all(&file.content))
            .map_err(fail)?;
    }
    Ok(())
}

/// Mounts a disk. One that was attached a moment ago may not be there yet, or be there without anything on it.
fn mount_disk(disk: &Disk, at: &Path, flags: MountFlags) -> Result<(), Failure> {
    let device = Path::new("/dev").join(&disk.device);
    let options = std::ffi::CString::new(disk.options.as_str()).unwrap_or_default();
    let mut deadline = None;
    loop {
        let errno = match mount(
            &device,
            at,
            disk.filesystem.as_str(),
            flags,
            options.as_c_str(),
        ) {
            Ok(()) => return Ok(()),
            Err(errno) => errno,
        };
        let now = Instant::now();
        let is_early = matches!(
            errno,
            Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTBLK
        );
        if !is_early || now >= *deadline.get_or_insert(now + DISK_PATIENCE) {
            let message = format!(
                "cannot mount disk {} as {}: {}",
                disk.device,
                disk.filesystem,
                io::Error::from(errno)
            );
            return Err(Failure::new(FailureKind::Failed, message));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn make(path: &Path, mode: u32) -> rustix::io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// The root file system: the image below, what is written above.
fn root(place: &Place, asked: &Root) -> Result<Files, Failure> {
    let fail = || failed("cannot mount the root file system");
    let image = place.run.join("image");
    mount_disk(&asked.image, &image, MountFlags::RDONLY)?;
    let mut files = Files {
        mounted: Some(asked.clone()),
        ..Files::default()
    };
    let disk = place.run.join("disk");
    match &asked.writable {
        Writable::Nowhere => {
            files.root = Some(image);
            return Ok(files);
        }
        Writable::Disk(asked) => {
            mount_disk(asked, &disk, MountFlags::NOATIME)?;
            files.disk = Some(folder(&disk).map_err(fail())?);
        }
        Writable::Memory { size } => {
            let options = match size {
                Some(size) => format!("mode=755,size={size}\0"),
                None => "mode=755\0".to_owned(),
            };
            let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).ok();
            mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), options).map_err(fail())?;
        }
    }
    let upper = disk.join("upper");
    make(&upper, 0o755).map_err(fail())?;
    make(&disk.join("work"), 0o700).map_err(fail())?;
    // A volatile mount leaves this mark, see overlayfs.rst; those who ask for it do not mind what it is for.
    if asked.is_volatile {
        let _ = fs::remove_dir_all(disk.join("work/work/incompat"));
    }
    let root = place.run.join("root");
    let options = format!(
        "lowerdir={run}/image,upperdir={run}/disk/upper,workdir={run}/disk/work,redirect_dir=off,metacopy=off,index=off{}\0",
        if asked.is_volatile { ",volatile" } else { "" },
        run = place.run.display(),
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).ok();
    mount("overlay", &root, "overlay", MountFlags::empty(), options).map_err(fail())?;
    files.upper = Some(folder(&upper).map_err(fail())?);
    files.root = Some(root);
    Ok(files)
}
