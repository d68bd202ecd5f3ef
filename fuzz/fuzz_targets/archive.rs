//! Layers: what is unpacked stays below its folder.
#![no_main]

use std::fs;
use std::os::fd::AsFd;

use isle_archive::{Limits, TarReader, UnpackOptions, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
    let (canary, root) = (folder.path().join("canary"), folder.path().join("root"));
    fs::write(&canary, "alive").expect("memory");
    fs::create_dir(&root).expect("memory");
    let limits = Limits {
        layer_bytes: 1 << 20,
        entries: 1000,
        ..Limits::default()
    };
    for whiteouts in [true, false] {
        let options = UnpackOptions {
            whiteouts,
            limits,
            ..UnpackOptions::default()
        };
        let directory = fs::File::open(&root).expect("our own folder");
        let mut archive = TarReader::new(bytes, limits);
        let _ = unpack(directory.as_fd(), &mut archive, &options);
    }
    assert_eq!(fs::read_to_string(&canary).expect("it is there"), "alive");
    assert_eq!(fs::read_dir(folder.path()).expect("our own folder").count(), 2);
    let directory = fs::File::open(folder.path()).expect("our own folder");
    isle_archive::removal::remove(directory.as_fd(), c"root").expect("whatever was made can be removed");
});
