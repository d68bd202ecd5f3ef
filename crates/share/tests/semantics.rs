//! What programs expect of files, tried on a real mount.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isle_sys::lock::{self, Kind, Lock};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags,
    fallocate, flock, getxattr, listxattr, mknodat, removexattr, renameat_with, setxattr,
};
use rustix::io::Errno;
use support::{Options, Shared, skipped};

/// Acts on files as a user of the guest without privileges.
fn as_user<T>(uid: u32, gid: u32, action: impl FnOnce() -> T) -> T {
    isle_sys::credentials::set_filesystem_ids(uid, gid).unwrap();
    let value = action();
    isle_sys::credentials::set_filesystem_ids(0, 0).unwrap();
    value
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn names(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

/// The permissions of a file, with set-user-id and its like.
fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn files_are_read_and_written_on_both_sides() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    assert_eq!(
        fs::read_to_string(shared.guest.join("before")).unwrap(),
        "before"
    );
    fs::write(shared.guest.join("new"), "from the guest").unwrap();
    assert_eq!(
        fs::read_to_string(shared.host.join("new")).unwrap(),
        "from the guest"
    );
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(shared.guest.join("large"), &large).unwrap();
    assert!(fs::read(shared.host.join("large")).unwrap() == large);
    assert!(fs::read(shared.guest.join("large")).unwrap() == large);
    fs::create_dir_all(shared.guest.join("a/b/c")).unwrap();
    assert_eq!(names(&shared.host), ["a", "before", "large", "new"]);
    fs::remove_dir_all(shared.guest.join("a")).unwrap();
    assert!(!shared.host.join("a").exists());
}

/// Reads a small file as cat(1) does, without asking for its size, which would refresh what is known of it.
fn read_without_asking(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut content = vec![0; 4096];
    let length = file.read(&mut content)?;
    content.truncate(length);
    Ok(String::from_utf8(content).unwrap())
}

#[test]
fn whoever_opens_a_file_sees_what_the_host_has_made_of_it() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let (host, guest) = (shared.host.join("live"), shared.guest.join("live"));
    for round in 0..50 {
        // In place, longer and shorter.
        let content = "x".repeat(round * 37 % 101) + &round.to_string();
        fs::write(&host, &content).unwrap();
        let read = read_without_asking(&guest).unwrap();
        assert_eq!(read, content, "written in round {round}");
        // By another file at the same place.
        let content = content + " replaced";
        fs::write(shared.host.join("aside"), &content).unwrap();
        fs::rename(shared.host.join("aside"), &host).unwrap();
        let read = read_without_asking(&guest).unwrap();
        assert_eq!(read, content, "replaced in round {round}");
    }
    fs::remove_file(&host).unwrap();
    let gone = File::open(&guest).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    fs::write(&host, "again").unwrap();
    assert_eq!(read_without_asking(&guest).unwrap(), "again");
}

#[test]
fn a_file_that_is_replaced_all_the_time_can_be_opened_all_the_time() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let (host, aside) = (shared.host.join("live"), shared.host.join("aside"));
    fs::write(&host, "0").unwrap();
    let (replaced, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1_u64.. {
                fs::write(&aside, number.to_string()).unwrap();
                fs::rename(&aside, &host).unwrap();
                replaced.store(number, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            for _ in 0..1000 {
                let before = replaced.load(Ordering::SeqCst);
                let read = read_without_asking(&shared.guest.join("live")).unwrap();
                let read: u64 = read.parse().unwrap();
                assert!(read >= before, "{read} was replaced by {before}");
            }
        });
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
    assert!(replaced.into_inner() > 100);
}

#[test]
fn an_open_file_and_a_folder_follow_the_host() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let mut reader = File::open(shared.guest.join("before")).unwrap();
    let mut content = String::new();
    reader.read_to_string(&mut content).unwrap();
    let mut writer = OpenOptions::new()
        .append(true)
        .open(shared.host.join("before"))
        .unwrap();
    writer.write_all(b" and after").unwrap();
    wait_for("more can be read", || {
        reader.read_to_string(&mut content).unwrap();
        content == "before and after"
    });
    fs::write(shared.host.join("second"), "").unwrap();
    wait_for("a new name is listed", || {
        names(&shared.guest) == ["before", "second"]
    });
    fs::set_permissions(
        shared.host.join("second"),
        fs::Permissions::from_mode(0o751),
    )
    .unwrap();
    wait_for("a mode is seen", || {
        mode(&shared.guest.join("second")) == 0o751
    });
    fs::remove_file(shared.host.join("second")).unwrap();
    wait_for("a name is gone", || !shared.guest.join("second").exists());
}

#[test]
fn owners_are_numbers_and_modes_are_kept() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    fs::set_permissions(&shared.host, fs::Permissions::from_mode(0o1777)).unwrap();
    as_user(12_345, 54_321, || {
        fs::write(shared.guest.join("file"), "").unwrap();
        fs::create_dir(shared.guest.join("folder")).unwrap();
        symlink("nowhere", shared.guest.join("link")).unwrap();
        mknodat(
            CWD,
            shared.guest.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    });
    for name in ["file", "folder", "link", "pipe"] {
        let made = shared.host.join(name).symlink_metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (12_345, 54_321), "{name}");
    }
    assert!(
        shared
            .host
            .join("pipe")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
    chown(shared.guest.join("file"), Some(7), Some(4_000_000_000)).unwrap();
    fs::set_permissions(
        shared.guest.join("file"),
        fs::Permissions::from_mode(0o4640),
    )
    .unwrap();
    let changed = shared.host.join("file").metadata().unwrap();
    assert_eq!(
        (changed.uid(), changed.gid(), changed.mode() & 0o7777),
        (7, 4_000_000_000, 0o4640)
    );

    as_user(12_345, 54_321, || {
        let denied = |result: std::io::Result<()>| {
            assert_eq!(
                result.unwrap_err().kind(),
                std::io::ErrorKind::PermissionDenied
            );
        };
        denied(File::open(shared.guest.join("file")).map(drop));
        denied(fs::remove_file(shared.guest.join("before")));
        denied(chown(shared.guest.join("folder"), Some(0), None));
    });
    // A folder that gives its group to what is made in it.
    fs::create_dir(shared.host.join("group")).unwrap();
    chown(shared.host.join("group"), None, Some(77)).unwrap();
    fs::set_permissions(
        shared.host.join("group"),
        fs::Permissions::from_mode(0o2777),
    )
    .unwrap();
    as_user(12_345, 54_321, || {
        fs::create_dir(shared.guest.join("group/inside")).unwrap()
    });
    let inside = shared.host.join("group/inside").metadata().unwrap();
    assert_eq!(
        (inside.uid(), inside.gid(), inside.mode() & 0o2000),
        (12_345, 77, 0o2000)
    );
}

#[test]
fn writing_takes_set_user_id_bits_away() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let host = shared.host.join("program");
    for truncates in [false, true] {
        fs::write(&host, "content").unwrap();
        fs::set_permissions(&host, fs::Permissions::from_mode(0o6777)).unwrap();
        as_user(1000, 1000, || {
            let mut file = OpenOptions::new()
                .write(true)
                .truncate(truncates)
                .open(shared.guest.join("program"))
                .unwrap();
            if !truncates {
                file.write_all(b"other").unwrap();
            }
        });
        assert_eq!(mode(&host), 0o777, "truncates: {truncates}");
    }
}

#[test]
fn the_mask_of_permissions_is_the_callers() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let script = "umask 027; echo > file; mkdir folder; mkfifo pipe";
    let shell = Command::new("sh")
        .args(["-c", script])
        .current_dir(&shared.guest)
        .status();
    assert!(shell.unwrap().success());
    for (name, expected) in [("file", 0o640), ("folder", 0o750), ("pipe", 0o640)] {
        assert_eq!(mode(&shared.host.join(name)), expected, "{name}");
    }
}

#[test]
fn extended_attributes_are_those_of_the_host() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let (host, guest) = (shared.host.join("before"), shared.guest.join("before"));
    let value: Vec<u8> = (0..2000).map(|byte| byte as u8).collect();
    setxattr(&guest, "user.isle", &value, XattrFlags::CREATE).unwrap();
    let mut buffer = vec![0; 4096];
    let length = getxattr(&host, "user.isle", &mut buffer).unwrap();
    assert_eq!(buffer[..length], value);
    let length = getxattr(&guest, "user.isle", &mut buffer).unwrap();
    assert_eq!(buffer[..length], value);
    assert_eq!(
        getxattr(&guest, "user.isle", &mut [0; 10]),
        Err(Errno::RANGE)
    );
    assert_eq!(
        setxattr(&guest, "user.isle", b"", XattrFlags::CREATE),
        Err(Errno::EXIST)
    );
    let length = listxattr(&guest, &mut buffer).unwrap();
    assert!(
        buffer[..length]
            .split(|byte| *byte == 0)
            .any(|name| name == b"user.isle")
    );
    removexattr(&guest, "user.isle").unwrap();
    assert_eq!(
        getxattr(&host, "user.isle", &mut buffer),
        Err(Errno::NODATA)
    );
}

#[test]
fn access_control_lists_count() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    // Version 2; owner rw-, user 1234 r--, group ---, mask r--, others ---: see posix_acl_xattr.h.
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1234),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let set = setxattr(
        shared.host.join("before"),
        "system.posix_acl_access",
        &list,
        XattrFlags::empty(),
    );
    if set == Err(Errno::OPNOTSUPP) {
        eprintln!("SKIPPED: needs a file system with access control lists");
        return;
    }
    set.unwrap();
    let guest = shared.guest.join("before");
    as_user(1234, 1234, || assert!(File::open(&guest).is_ok()));
    as_user(1235, 1235, || assert!(File::open(&guest).is_err()));
}

#[test]
fn hard_links_are_one_file() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    fs::hard_link(shared.guest.join("before"), shared.guest.join("other")).unwrap();
    let (first, second) = (
        shared.guest.join("before").metadata().unwrap(),
        shared.guest.join("other").metadata().unwrap(),
    );
    assert_eq!((first.ino(), first.nlink()), (second.ino(), 2));
    fs::write(shared.guest.join("other"), "written to the other").unwrap();
    assert_eq!(
        fs::read_to_string(shared.guest.join("before")).unwrap(),
        "written to the other"
    );
    fs::remove_file(shared.guest.join("before")).unwrap();
    assert_eq!(
        fs::read_to_string(shared.guest.join("other")).unwrap(),
        "written to the other"
    );
    assert_eq!(shared.host.join("other").metadata().unwrap().nlink(), 1);
}

#[test]
fn links_are_followed_by_the_guest_alone() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let target = shared.host.parent().unwrap().join("outside");
    fs::write(&target, "of the host").unwrap();
    symlink(&target, shared.host.join("link")).unwrap();
    symlink("before", shared.guest.join("inside")).unwrap();
    assert_eq!(fs::read_link(shared.guest.join("link")).unwrap(), target);
    assert_eq!(
        fs::read_link(shared.host.join("inside")).unwrap(),
        Path::new("before")
    );
    assert_eq!(
        fs::read_to_string(shared.guest.join("inside")).unwrap(),
        "before"
    );
    let link = shared.guest.join("link").symlink_metadata().unwrap();
    assert!(link.file_type().is_symlink());
}

#[test]
fn a_read_only_share_is_not_written() {
    if skipped() {
        return;
    }
    let shared = Shared::with(&Options {
        is_read_only: true,
        ..Options::default()
    });
    let before = shared.guest.join("before");
    assert_eq!(fs::read_to_string(&before).unwrap(), "before");
    let refused = [
        fs::write(&before, "").unwrap_err(),
        fs::write(shared.guest.join("new"), "").unwrap_err(),
        fs::create_dir(shared.guest.join("folder")).unwrap_err(),
        fs::remove_file(&before).unwrap_err(),
        fs::rename(&before, shared.guest.join("after")).unwrap_err(),
        fs::set_permissions(&before, fs::Permissions::from_mode(0o000)).unwrap_err(),
        chown(&before, Some(1), None).unwrap_err(),
        setxattr(&before, "user.x", b"", XattrFlags::empty())
            .unwrap_err()
            .into(),
    ];
    for error in refused {
        assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
    assert_eq!(names(&shared.host), ["before"]);
}

#[test]
fn a_single_file_is_shared_without_its_folder() {
    if skipped() {
        return;
    }
    let shared = Shared::with(&Options {
        file: Some("before"),
        ..Options::default()
    });
    assert!(shared.guest.metadata().unwrap().is_file());
    fs::write(&shared.guest, "written").unwrap();
    assert_eq!(
        fs::read_to_string(shared.host.join("before")).unwrap(),
        "written"
    );
    let folder = shared.guest.parent().unwrap();
    assert_eq!(names(folder), ["0"]);
    for refused in [
        fs::write(folder.join("1"), ""),
        fs::remove_file(&shared.guest),
    ] {
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(Errno::ROFS.raw_os_error())
        );
    }
    // It stays the file that was shared, as a bind mount does.
    fs::rename(shared.host.join("before"), shared.host.join("away")).unwrap();
    fs::write(shared.host.join("before"), "another").unwrap();
    assert_eq!(fs::read_to_string(&shared.guest).unwrap(), "written");
}

#[test]
fn a_removed_file_lives_on_while_it_is_open() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    for removes in [
        (|shared: &Shared| fs::remove_file(shared.guest.join("before")).unwrap()) as fn(&Shared),
        |shared| fs::remove_file(shared.host.join("before")).unwrap(),
        |shared| fs::rename(shared.guest.join("other"), shared.guest.join("before")).unwrap(),
    ] {
        fs::write(shared.host.join("before"), "before").unwrap();
        fs::write(shared.host.join("other"), "other").unwrap();
        let mut file = open(&shared.guest.join("before"));
        removes(&shared);
        file.write_all(b"BE").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "BEfore");
        file.set_len(3).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        wait_for("it has no name", || file.metadata().unwrap().nlink() == 0);
    }
}

#[test]
fn names_move() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let guest = |name: &str| shared.guest.join(name);
    fs::create_dir_all(guest("a/b")).unwrap();
    fs::write(guest("a/b/deep"), "deep").unwrap();
    let open = File::open(guest("a/b/deep")).unwrap();
    fs::rename(guest("a"), guest("moved")).unwrap();
    assert_eq!(fs::read_to_string(guest("moved/b/deep")).unwrap(), "deep");
    assert_eq!(open.metadata().unwrap().len(), 4);
    // Both are there: refused, exchanged, replaced.
    fs::write(guest("x"), "x").unwrap();
    fs::write(guest("y"), "y").unwrap();
    let rename = |flags| renameat_with(CWD, guest("x"), CWD, guest("y"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(guest("x")).unwrap(), "y");
    assert_eq!(fs::read_to_string(guest("y")).unwrap(), "x");
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(fs::read_to_string(shared.host.join("y")).unwrap(), "y");
    assert!(!shared.host.join("x").exists());
    let not_empty = fs::remove_dir(guest("moved")).unwrap_err();
    assert_eq!(not_empty.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    // The host moves what the guest knows.
    fs::rename(shared.host.join("moved/b"), shared.host.join("b")).unwrap();
    wait_for("it is found elsewhere", || {
        fs::read_to_string(guest("b/deep")).is_ok_and(|text| text == "deep")
    });
}

#[test]
fn a_shared_mapping_reaches_the_file() {
    if skipped() {
        return;
    }
    if !Command::new("python3")
        .arg("-V")
        .output()
        .is_ok_and(|ran| ran.status.success())
    {
        eprintln!("SKIPPED: needs python3");
        return;
    }
    let shared = Shared::new();
    // Opened for appending too: what is written through the mapping belongs where it is.
    let script = "
import mmap, os
fd = os.open('mapped', os.O_RDWR | os.O_CREAT | os.O_APPEND)
os.truncate(fd, 10000)
with mmap.mmap(fd, 10000) as m:
    m[0:5] = b'first'
    m[9000:9004] = b'last'
    m.flush()
";
    let ran = Command::new("python3")
        .args(["-c", script])
        .current_dir(&shared.guest)
        .status();
    assert!(ran.unwrap().success());
    let content = fs::read(shared.host.join("mapped")).unwrap();
    assert_eq!(content.len(), 10_000);
    assert_eq!(
        (&content[..5], &content[9000..9004]),
        (&b"first"[..], &b"last"[..])
    );
}

#[test]
fn many_wait_for_the_disk_at_once() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = shared.guest.join(number.to_string());
            scope.spawn(move || {
                let mut file = open(&path);
                for _ in 0..20 {
                    file.write_all(b"0123456789").unwrap();
                    file.sync_all().unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
    File::open(&shared.guest).unwrap().sync_all().unwrap();
    for number in 0..8 {
        let written = shared.host.join(number.to_string()).metadata().unwrap();
        assert_eq!(written.len(), 200);
    }
}

#[test]
fn both_sides_append_without_loss() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let append = |folder: &Path| {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(folder.join("log"));
        file.unwrap()
    };
    let (mut host, mut guest) = (append(&shared.host), append(&shared.guest));
    for round in 0..200 {
        writeln!(host, "host {round}").unwrap();
        writeln!(guest, "guest {round}").unwrap();
    }
    let all = fs::read_to_string(shared.host.join("log")).unwrap();
    assert_eq!(all.lines().count(), 400);
    for round in 0..200 {
        for side in ["host", "guest"] {
            let line = format!("{side} {round}");
            assert!(all.lines().any(|found| found == line), "{line}");
        }
    }
}

#[test]
fn direct_writes_are_taken() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let path = shared.guest.join("direct");
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(&path)
        .unwrap();
    file.write_all_at(&[7; 8192], 4096).unwrap();
    let mut back = [0; 8192];
    file.read_exact_at(&mut back, 4096).unwrap();
    assert_eq!(back, [7; 8192]);
    assert_eq!(shared.host.join("direct").metadata().unwrap().len(), 12_288);
}

#[test]
fn space_is_allocated_and_given_back() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let file = open(&shared.guest.join("sparse"));
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&[1; 4096], 512 << 10).unwrap();
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(512 << 10));
    assert_eq!(
        seek(rustix::fs::SeekFrom::Hole(512 << 10)),
        Ok((512 << 10) + 4096)
    );
    match fallocate(&file, FallocateFlags::empty(), 0, 2 << 20) {
        Err(Errno::OPNOTSUPP) => {
            return eprintln!("SKIPPED: needs fallocate(2) of the file system");
        }
        outcome => outcome.unwrap(),
    }
    assert_eq!(
        shared.host.join("sparse").metadata().unwrap().len(),
        2 << 20
    );
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, holes, 0, 2 << 20).unwrap();
    assert_eq!(shared.host.join("sparse").metadata().unwrap().blocks(), 0);
    let there = rustix::fs::statvfs(&shared.guest).unwrap();
    let here = rustix::fs::statvfs(&shared.host).unwrap();
    assert_eq!(
        (there.f_blocks, there.f_files),
        (here.f_blocks, here.f_files)
    );
}

#[test]
fn locks_of_files_count_on_both_sides() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let (host, guest) = (
        open(&shared.host.join("before")),
        open(&shared.guest.join("before")),
    );
    let second = open(&shared.guest.join("before"));
    flock(&guest, FlockOperation::LockExclusive).unwrap();
    for other in [&host, &second] {
        let refused = flock(other, FlockOperation::NonBlockingLockShared);
        assert_eq!(refused, Err(Errno::WOULDBLOCK));
    }
    flock(&guest, FlockOperation::Unlock).unwrap();
    flock(&host, FlockOperation::LockExclusive).unwrap();
    let refused = flock(&guest, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    // One waits until the host lets go, and everything else goes on meanwhile.
    let waiter = std::thread::spawn(move || {
        flock(&guest, FlockOperation::LockExclusive).unwrap();
        guest
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    assert_eq!(
        fs::read_to_string(shared.guest.join("before")).unwrap(),
        "before"
    );
    flock(&host, FlockOperation::Unlock).unwrap();
    let guest = waiter.join().unwrap();
    let refused = flock(&host, FlockOperation::NonBlockingLockShared);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
    // Who closes a file lets go of it.
    drop(guest);
    wait_for("the lock is free", || {
        flock(&host, FlockOperation::NonBlockingLockShared).is_ok()
    });
}

#[test]
fn locks_of_ranges_count_on_both_sides() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let (host, guest) = (
        open(&shared.host.join("before")),
        open(&shared.guest.join("before")),
    );
    let second = open(&shared.guest.join("before"));
    let range = |kind, start, length| Lock {
        kind,
        start,
        length,
    };
    lock::set(guest.as_fd(), range(Kind::Exclusive, 10, 10)).unwrap();
    for other in [&host, &second] {
        let refused = lock::set(other.as_fd(), range(Kind::Shared, 15, 1)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::AGAIN.raw_os_error()));
        lock::set(other.as_fd(), range(Kind::Shared, 20, 0)).unwrap();
    }
    let (found, _) = lock::obstacle(second.as_fd(), range(Kind::Shared, 0, 0))
        .unwrap()
        .unwrap();
    assert_eq!(found, range(Kind::Exclusive, 10, 10));
    lock::set(guest.as_fd(), range(Kind::Unlocked, 0, 15)).unwrap();
    lock::set(host.as_fd(), range(Kind::Shared, 10, 5)).unwrap();
    drop(guest);
    wait_for("the rest is free", || {
        lock::set(host.as_fd(), range(Kind::Exclusive, 15, 5)).is_ok()
    });
}

#[test]
fn who_waits_for_a_lock_can_be_killed() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let host = open(&shared.host.join("before"));
    flock(&host, FlockOperation::LockExclusive).unwrap();
    let mut waiting = Command::new("flock")
        .arg(shared.guest.join("before"))
        .arg("true")
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(waiting.try_wait().unwrap().is_none());
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    flock(&host, FlockOperation::Unlock).unwrap();
    let guest = open(&shared.guest.join("before"));
    wait_for("the lock is nobody's", || {
        flock(&guest, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
}

#[test]
fn a_large_folder_is_listed_whole() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let folder = shared.host.join("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..3000 {
        let name = format!("{number:04}-{}", "n".repeat(number % 240));
        fs::write(folder.join(name), "").unwrap();
    }
    assert_eq!(names(&shared.guest.join("many")), names(&folder));
    let sizes = Command::new("ls")
        .arg("-lan")
        .arg(shared.guest.join("many"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sizes.stdout).lines().count(), 3003);
    let too_long = fs::write(shared.guest.join("n".repeat(256)), "").unwrap_err();
    assert_eq!(
        too_long.raw_os_error(),
        Some(Errno::NAMETOOLONG.raw_os_error())
    );
    fs::remove_dir_all(shared.guest.join("many")).unwrap();
    assert!(!folder.exists());
}

#[test]
fn pipes_sockets_and_files_without_names_work() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let script =
        "mkfifo pipe; echo through > pipe & read word < pipe; wait; test \"$word\" = through";
    let shell = Command::new("sh")
        .args(["-c", script])
        .current_dir(&shared.guest)
        .status();
    assert!(shell.unwrap().success());
    let _listener = UnixListener::bind(shared.guest.join("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(shared.guest.join("socket")).unwrap();
    assert!(
        shared
            .host
            .join("socket")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_socket()
    );

    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let unnamed = match rustix::fs::open(&shared.guest, flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::OPNOTSUPP) => return eprintln!("SKIPPED: needs O_TMPFILE of the kernel's FUSE"),
        unnamed => File::from(unnamed.unwrap()),
    };
    (&unnamed).write_all(b"unnamed").unwrap();
    rustix::fs::linkat(
        &unnamed,
        "",
        CWD,
        shared.guest.join("named"),
        AtFlags::EMPTY_PATH,
    )
    .unwrap();
    assert_eq!(
        fs::read_to_string(shared.host.join("named")).unwrap(),
        "unnamed"
    );
}

#[test]
fn what_is_mounted_below_comes_along() {
    if skipped() {
        return;
    }
    let shared = Shared::with(&Options {
        has_mount: true,
        ..Options::default()
    });
    fs::write(shared.guest.join("below/file"), "in memory").unwrap();
    assert_eq!(
        fs::read_to_string(shared.host.join("below/file")).unwrap(),
        "in memory"
    );
    let across =
        fs::rename(shared.guest.join("below/file"), shared.guest.join("file")).unwrap_err();
    assert_eq!(across.kind(), std::io::ErrorKind::CrossesDevices);
    // All of it is one device in the guest, so numbers that the devices of the host share must not be the same.
    let inode = |path: &Path| path.metadata().unwrap().ino();
    assert_eq!(
        inode(&shared.guest.join("before")),
        inode(&shared.host.join("before"))
    );
    assert_ne!(
        inode(&shared.guest.join("below")),
        inode(&shared.host.join("below"))
    );
}

#[test]
fn nothing_hangs_when_the_server_is_killed() {
    if skipped() {
        return;
    }
    let mut shared = Shared::new();
    let file = File::open(shared.guest.join("before")).unwrap();
    shared.kill();
    wait_for("the mount is dead", || {
        shared.guest.join("before").metadata().is_err()
    });
    wait_for("the open file is dead", || {
        file.read_at(&mut [0; 10], 0).is_err()
    });
}

#[test]
fn the_server_is_confined() {
    if skipped() {
        return;
    }
    let shared = Shared::new();
    let proc = Path::new("/proc").join(shared.pid().to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    // chown, dac_override, dac_read_search, fowner, fsetid, setgid, setuid, mknod, setfcap
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(field(set), "00000000880000df", "{set}");
    }
    assert_eq!(field("CapInh"), "0000000000000000");
    assert_eq!(
        (field("Seccomp").as_str(), field("NoNewPrivs").as_str()),
        ("2", "1")
    );
    for kind in ["mnt", "net", "pid", "ipc", "uts", "cgroup"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    assert_eq!(names(&proc.join("root")), ["0", "isle-share", "proc"]);
    assert!(fs::write(proc.join("root/new"), "").is_err());
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    let share = mounts.lines().find(|line| line.contains(" /0 ")).unwrap();
    assert!(
        share.contains("nosuid,nodev,noexec") && share.contains("nosymfollow"),
        "{share}"
    );
    // Its messages go where ours go.
    let messages = fs::read_link("/proc/self/fd/2").unwrap();
    let descriptors = fs::read_dir(proc.join("fd")).unwrap();
    for descriptor in descriptors {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap();
        if target == messages {
            continue;
        }
        let target = target.display().to_string();
        let is_expected =
            target == "/" || target.starts_with("/0") || target.starts_with("socket:");
        let is_stdio = target == "/dev/null" || !target.starts_with('/');
        assert!(
            is_expected || is_stdio || target.contains("/stderr") || target.contains("/dev/"),
            "{target}"
        );
    }
}
