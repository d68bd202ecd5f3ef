//! Limits of block I/O: rates and weights, at both levels.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use isle_tests::{Level, Need, World, disk_below};

isle_tests::stories! {
    writes_are_held_back_to_the_rate [Need::Isle, Need::CgroupBlockIo],
    reads_are_held_back_to_the_rate [Need::Isle, Need::CgroupBlockIo],
    operations_are_held_back_to_the_rate [Need::Isle, Need::CgroupBlockIo],
    a_rate_can_be_changed_while_it_runs [Need::Isle, Need::CgroupBlockIo],
    the_kernel_knows_the_limits_of_a_container [Need::Isle, Need::CgroupBlockIo, Need::Only(Level::Container)],
    inspect_shows_the_limits [Need::Isle, Need::CgroupBlockIo],
    devices_that_cannot_be_limited_are_refused [Need::Isle, Need::Only(Level::Container)],
}

fn disk(world: &World) -> String {
    disk_below(&world.root()).expect("the test needs one")
}

/// How long a command inside takes. Never less than the rate allows, whatever else the host does.
fn duration(world: &World, flags: &[&str], script: &str) -> Duration {
    let image = world.busybox();
    // Hundredths of a second since the kernel has started.
    let now = "now() { read -r a _ < /proc/uptime; echo ${a%.*}${a#*.}; }";
    let timed = format!(
        "{now}; begin=$(now); {{ {script}; }} >/dev/null 2>&1 || exit 9; echo $(($(now)-begin))"
    );
    let text = world
        .isle(["run", "--rm"])
        .arguments(flags)
        .arguments([image.as_str(), "sh", "-c", &timed])
        .succeeds();
    let hundredths: u64 = text.trim().parse().expect("a number");
    Duration::from_millis(hundredths * 10)
}

fn writes_are_held_back_to_the_rate(world: &World) {
    let limit = format!("{}:1mb", disk(world));
    // With --rm nothing is synced: past the page cache.
    let write = "dd if=/dev/zero of=/file bs=1M count=4 oflag=direct";
    let slow = duration(world, &["--device-write-bps", &limit], write);
    assert!(
        slow >= Duration::from_millis(2500),
        "4 MiB at 1 MiB a second took {slow:?}"
    );
}

fn reads_are_held_back_to_the_rate(world: &World) {
    // What lies in the page cache of the host is no read of a container.
    let limit = format!("{}:1mb", disk(world));
    let script = "dd if=/dev/zero of=/file bs=1M count=4 conv=fsync; sync; dd if=/file of=/dev/null bs=1M iflag=direct";
    let slow = duration(world, &["--device-read-bps", &limit], script);
    assert!(
        slow >= Duration::from_millis(2500),
        "4 MiB at 1 MiB a second took {slow:?}"
    );
}

fn operations_are_held_back_to_the_rate(world: &World) {
    let limit = format!("{}:10", disk(world));
    let script = "dd if=/dev/zero of=/file bs=4k count=40 oflag=direct";
    let slow = duration(world, &["--device-write-iops", &limit], script);
    assert!(
        slow >= Duration::from_millis(2500),
        "40 writes at 10 a second took {slow:?}"
    );
}

fn a_rate_can_be_changed_while_it_runs(world: &World) {
    let disk = disk(world);
    world.background("n", &[], &["sleep", "1000"]);
    let time = || {
        let begin = Instant::now();
        world
            .isle([
                "exec",
                "n",
                "dd",
                "if=/dev/zero",
                "of=/file",
                "bs=1M",
                "count=4",
                "conv=fsync",
            ])
            .exits_with(0);
        begin.elapsed()
    };
    world
        .isle(["update", "--device-write-bps", &format!("{disk}:1mb"), "n"])
        .succeeds();
    let slow = time();
    assert!(slow >= Duration::from_millis(2500), "{slow:?}");
    assert_eq!(
        world.inspect("n")["HostConfig"]["BlkioDeviceWriteBps"][0]["Rate"],
        1 << 20
    );
    world
        .isle(["update", "--device-write-bps", &format!("{disk}:0"), "n"])
        .succeeds();
    assert_eq!(
        world.inspect("n")["HostConfig"]["BlkioDeviceWriteBps"][0]["Rate"],
        0
    );
    // It cannot be told by time that it is fast; that it goes through is told by its end.
    time();
}

fn the_kernel_knows_the_limits_of_a_container(world: &World) {
    let disk = disk(world);
    let number = {
        use std::os::unix::fs::MetadataExt;
        let device = std::fs::metadata(&disk).expect("there").rdev();
        format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        )
    };
    let limits = [
        (
            "--device-read-bps",
            "2mb",
            "blkio.throttle.read_bps_device",
            "2097152",
            "rbps",
        ),
        (
            "--device-write-bps",
            "3mb",
            "blkio.throttle.write_bps_device",
            "3145728",
            "wbps",
        ),
        (
            "--device-read-iops",
            "40",
            "blkio.throttle.read_iops_device",
            "40",
            "riops",
        ),
        (
            "--device-write-iops",
            "50",
            "blkio.throttle.write_iops_device",
            "50",
            "wiops",
        ),
    ];
    let mut flags = Vec::new();
    for (flag, value, ..) in limits {
        flags.extend([flag.to_owned(), format!("{disk}:{value}")]);
    }
    let image = world.busybox();
    let id = world
        .isle(["run", "-d"])
        .arguments(&flags)
        .arguments([image.as_str(), "sleep", "1000"])
        .succeeds();
    let first = std::path::Path::new("/sys/fs/cgroup/blkio/isle").join(&id);
    let unified = std::path::Path::new("/sys/fs/cgroup/isle").join(&id);
    for (flag, _, file, value, key) in limits {
        let (text, expected) = match first.exists() {
            true => (
                std::fs::read_to_string(first.join(file)),
                format!("{number} {value}"),
            ),
            false => (
                std::fs::read_to_string(unified.join("io.max")),
                format!("{key}={value}"),
            ),
        };
        let text = text.expect("the kernel has the file");
        assert!(
            text.contains(&expected) && text.contains(&number),
            "{flag}: {text}"
        );
    }
}

fn inspect_shows_the_limits(world: &World) {
    let disk = disk(world);
    let image = world.busybox();
    let weight = format!("{disk}:200");
    let rate = format!("{disk}:30");
    world
        .isle([
            "create",
            "--name",
            "n",
            "--blkio-weight",
            "300",
            "--blkio-weight-device",
            &weight,
        ])
        .arguments([
            "--device-read-iops",
            &rate,
            "--device-read-iops",
            &rate,
            &image,
            "true",
        ])
        .succeeds();
    let config = &world.inspect("n")["HostConfig"];
    assert_eq!(config["BlkioWeight"], 300);
    assert_eq!(config["BlkioWeightDevice"][0]["Weight"], 200);
    assert_eq!(config["BlkioDeviceReadIOps"][0]["Path"], disk.as_str());
    assert_eq!(config["BlkioDeviceReadIOps"][0]["Rate"], 30);
    assert_eq!(
        config["BlkioDeviceReadIOps"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        config["BlkioDeviceWriteBps"].as_array().map(Vec::len),
        Some(0)
    );
}

fn devices_that_cannot_be_limited_are_refused(world: &World) {
    let image = world.busybox();
    for (flag, value, words) in [
        ("--device-read-bps", "/dev/null:1mb", "not a block device"),
        ("--device-write-iops", "/dev/nowhere:5", "No such file"),
        ("--device-write-bps", "/dev/null:much", "not a size"),
        ("--device-write-bps", "null:1mb", "DEVICE:VALUE"),
        ("--blkio-weight-device", "/dev/null:5", "not a weight"),
        ("--blkio-weight", "5", "not a weight"),
    ] {
        world
            .isle(["run", "--rm", flag, value, &image, "true"])
            .exits_with(125)
            .complains(words);
    }
}
