//! `/etc/passwd` and `/etc/group` of images.
#![no_main]

use std::fs;
use std::os::fd::AsFd;

use isle_runtime::users;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (user, passwd, group) = input;
    let root = tempfile::tempdir_in("/dev/shm").expect("memory");
    fs::create_dir(root.path().join("etc")).expect("memory");
    fs::write(root.path().join("etc/passwd"), passwd).expect("memory");
    fs::write(root.path().join("etc/group"), group).expect("memory");
    let folder = fs::File::open(root.path()).expect("our own folder");
    let further = [user.to_owned()];
    for groups in [&[][..], &further] {
        match users::resolve(folder.as_fd(), user, groups) {
            Ok(user) => assert!(user.groups.is_sorted()),
            Err(error) => drop(error.to_string()),
        }
    }
    let largest = users::largest_id(folder.as_fd(), 65536).expect("small files");
    assert!(largest < 65536);
});
