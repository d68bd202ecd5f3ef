//! Volumes: made, listed, filled, shared between the levels, removed.

#![forbid(unsafe_code)]

mod copies;
mod mounts;

use std::fs;

use isle_tests::{Level, Need, World};
use serde_json::Value;

use copies::*;
use mounts::*;

isle_tests::stories! {
    a_volume_is_made_listed_inspected_and_removed [Need::Isle, Need::Only(Level::Container)],
    a_volume_is_made_once_and_keeps_its_options [Need::Isle, Need::Only(Level::Container)],
    options_that_make_no_sense_are_refused_by_name [Need::Isle, Need::Only(Level::Container)],
    a_volume_in_use_is_not_removed_and_its_users_are_named [Need::Isle],
    prune_takes_what_nobody_mounts_and_asks_first [Need::Isle, Need::Only(Level::Container)],
    what_happens_to_a_volume_is_told [Need::Isle],
    a_volume_is_kept_through_a_change_of_level [Need::Isle, Need::Only(Level::Vm)],
    a_container_and_a_machine_see_each_others_changes_at_once [Need::Isle, Need::Only(Level::Vm)],
    a_volume_of_memory_is_shared_and_gone_with_its_last_user [Need::Isle],
    a_volume_of_memory_is_unmounted_after_a_supervisor_that_was_killed [Need::Isle, Need::Only(Level::Container)],
    a_volume_that_is_a_folder_of_the_host [Need::Isle],
    a_file_system_that_the_kernel_lacks_is_refused_at_the_start [Need::Isle, Need::Only(Level::Container)],
    a_place_in_a_volume_is_mounted_alone [Need::Isle],
    a_place_in_a_volume_does_not_lead_out [Need::Isle],
    a_new_volume_is_filled_from_the_image_unless_it_is_not_to_be [Need::Isle],
    a_place_in_a_volume_is_filled_from_the_image [Need::Isle],
    a_mount_makes_its_volume_with_options_and_labels [Need::Isle],
    what_is_mounted_below_a_bind_comes_with_it_or_not [Need::Isle],
    mounts_below_a_read_only_bind_can_stay_writable [Need::Isle, Need::Only(Level::Container)],
    mounts_pass_between_host_and_instance_where_asked_for [Need::Isle, Need::Only(Level::Container)],
    forms_without_effect_are_taken_and_others_refused [Need::Isle],
    memory_has_the_size_and_mode_asked_for [Need::Isle],
    a_snapshot_brings_a_volume_back [Need::Isle],
    a_clone_goes_its_own_way [Need::Isle],
    everything_of_a_file_survives_every_copy [Need::Isle, Need::Only(Level::Container)],
    an_exported_volume_can_be_imported_and_read_by_tar [Need::Isle],
    writers_stand_still_while_a_snapshot_is_taken [Need::Isle],
    a_snapshot_that_is_killed_leaves_nothing_frozen [Need::Isle],
    volumes_keep_their_owners_in_a_user_namespace [Need::Isle, Need::Only(Level::Container)],
    a_volume_is_not_replaced_beneath_a_running_instance [Need::Isle],
    hostile_archives_reach_nothing_and_leave_nothing [Need::Isle, Need::Only(Level::Container)],
    copies_that_are_killed_leave_whole_volumes [Need::Isle, Need::Only(Level::Container)],
    a_limit_without_quotas_is_refused [Need::Isle, Need::Only(Level::Container)],
}

fn volume(world: &World, name: &str) -> Value {
    let text = world.isle(["volume", "inspect", "--size", name]).succeeds();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value[0].clone()
}

fn names(world: &World, arguments: &[&str]) -> String {
    world
        .isle(["volume", "ls", "-q"])
        .arguments(arguments)
        .succeeds()
        .replace('\n', " ")
        .trim()
        .to_owned()
}

/// Like `World::script`, at a level that is not the world's.
fn script_at(world: &World, level: &str, flags: &[&str], script: &str) -> String {
    let image = world.busybox();
    world
        .isle(["container", "run", "--rm", "--isolation", level])
        .arguments(flags)
        .arguments([image.as_str(), "sh", "-c", script])
        .succeeds()
}

/// Whether something is mounted below the world's own folder.
fn mounts(world: &World) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("there is always one");
    let folder = world.folder().to_string_lossy().into_owned();
    table.lines().filter(|line| line.contains(&folder)).count()
}

fn a_volume_is_made_listed_inspected_and_removed(world: &World) {
    let made = world
        .isle([
            "volume", "create", "--label", "tier=db", "--label", "x", "data",
        ])
        .succeeds();
    assert_eq!(made.trim(), "data");
    let random = world.isle(["volume", "create"]).succeeds();
    assert_eq!(random.trim().len(), 64);
    let data = volume(world, "data");
    assert_eq!(data["Driver"], "local");
    assert_eq!(data["Scope"], "local");
    assert_eq!(data["Labels"]["tier"], "db");
    assert_eq!(data["UsageData"]["RefCount"], 0);
    let mountpoint = data["Mountpoint"].as_str().expect("a path");
    assert!(fs::metadata(mountpoint).expect("there").is_dir());
    assert_eq!(
        world
            .isle([
                "inspect",
                "--type",
                "volume",
                "--format",
                "{{.Name}}",
                "data"
            ])
            .succeeds(),
        "data"
    );
    let table = world.isle(["volume", "ls"]).succeeds();
    assert!(
        table.starts_with("DRIVER") && table.contains("VOLUME NAME"),
        "{table}"
    );
    for (filter, expected) in [
        ("label=tier=db", "data"),
        ("label=tier=web", ""),
        ("name=dat", "data"),
        ("driver=nfs", ""),
    ] {
        assert_eq!(names(world, &["--filter", filter]), expected, "{filter}");
    }
    assert_eq!(names(world, &["--filter", "dangling=false"]), "");
    assert_eq!(
        world
            .isle([
                "volume",
                "ls",
                "--format",
                "{{.Name}} {{.Label \"tier\"}}",
                "--filter",
                "label=x"
            ])
            .succeeds(),
        "data db"
    );
    world.isle(["system", "df"]).run().prints("Local Volumes");
    assert_eq!(
        world
            .isle(["volume", "rm", "data", random.trim()])
            .succeeds()
            .lines()
            .count(),
        2
    );
    assert!(!fs::exists(mountpoint).expect("looked at"));
    world
        .isle(["volume", "rm", "data"])
        .exits_with(1)
        .complains("no such volume: data");
    world.isle(["volume", "rm", "-f", "data"]).exits_with(0);
    world.isle(["volume", "create", "letters"]).succeeds();
    world
        .isle(["volume", "inspect", "leters"])
        .exits_with(1)
        .complains("did you mean letters?");
}

fn a_volume_is_made_once_and_keeps_its_options(world: &World) {
    let create = [
        "volume",
        "create",
        "--opt",
        "type=tmpfs",
        "--opt",
        "o=size=1m",
        "t",
    ];
    world.isle(create).succeeds();
    world.isle(create).succeeds();
    world
        .isle(["volume", "create", "t"])
        .exits_with(1)
        .complains("it is there already");
    assert_eq!(volume(world, "t")["Options"]["type"], "tmpfs");
}

fn options_that_make_no_sense_are_refused_by_name(world: &World) {
    for (arguments, words) in [
        (&["--driver", "nfs", "v"][..], "there is no volume driver"),
        (&["--opt", "colour=red", "v"], "colour"),
        (&["--opt", "size=much", "v"], "size=much"),
        (&["--opt", "type=ext4", "v"], "device"),
        (&["--opt", "novalue", "v"], "KEY=VALUE"),
        (&["-bad"], "unexpected"),
        (&["a/b"], "a/b"),
    ] {
        let outcome = world.isle(["volume", "create"]).arguments(arguments).run();
        assert_ne!(outcome.code(), 0, "{arguments:?}");
        assert!(
            outcome.stderr().contains(words),
            "{arguments:?}: {}",
            outcome.stderr()
        );
    }
    assert_eq!(names(world, &[]), "");
}

fn a_volume_in_use_is_not_removed_and_its_users_are_named(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create", "--name", "keeper", "-v", "data:/d", &image, "true",
        ])
        .succeeds();
    for force in [&[][..], &["--force"]] {
        world
            .isle(["volume", "rm", "data"])
            .arguments(force)
            .exits_with(1)
            .complains("in use by keeper");
    }
    assert_eq!(names(world, &["--filter", "dangling=false"]), "data");
    world.isle(["rm", "keeper"]).succeeds();
    assert_eq!(names(world, &["--filter", "dangling=true"]), "data");
    world.isle(["volume", "rm", "data"]).succeeds();
}

fn prune_takes_what_nobody_mounts_and_asks_first(world: &World) {
    let image = world.busybox();
    world
        .isle([
            "create",
            "--name",
            "keeper",
            "-v",
            "used:/d",
            "-v",
            "/anonymous",
            &image,
            "true",
        ])
        .succeeds();
    world.isle(["volume", "create", "named"]).succeeds();
    world
        .isle(["volume", "create", "--label", "keep", "kept"])
        .succeeds();
    let random = world.isle(["volume", "create"]).succeeds();
    // Standard input is closed: that is no.
    world.isle(["volume", "prune"]).exits_with(0);
    assert!(names(world, &[]).contains(random.trim()));
    let pruned = world.isle(["volume", "prune", "--force"]).succeeds();
    assert!(
        pruned.contains(random.trim()) && !pruned.contains("named"),
        "{pruned}"
    );
    let pruned = world
        .isle(["volume", "prune", "-af", "--filter", "label!=keep"])
        .succeeds();
    assert!(
        pruned.contains("named") && pruned.contains("Total reclaimed space"),
        "{pruned}"
    );
    assert_eq!(names(world, &["--filter", "dangling=true"]), "kept");
    assert_eq!(
        names(world, &["--filter", "dangling=false"])
            .split(' ')
            .count(),
        2
    );
}

fn what_happens_to_a_volume_is_told(world: &World) {
    world
        .script(&["--rm", "--name", "n", "-v", "data:/d:ro"], "true")
        .exits_with(0);
    // The end is written once its files are gone.
    isle_tests::wait_for("the instance is gone", || world.status("n").is_empty());
    world.isle(["volume", "rm", "data"]).succeeds();
    let events = world
        .isle(["events", "--since", "1h", "--until", "0s", "--filter", "volume=data"])
        .arguments(["--format", "{{.Action}} {{.Actor.ID}} {{index .Actor.Attributes \"destination\"}} {{index .Actor.Attributes \"read/write\"}}"])
        .succeeds();
    let told: Vec<&str> = events.lines().map(str::trim_end).collect();
    assert_eq!(
        told,
        [
            "create data",
            "mount data /d false",
            "unmount data",
            "destroy data"
        ],
        "{events}"
    );
}

/// Who owns what, and what it says, as both levels see it.
const LISTING: &str = "cd /data && find . | sort | while read f; do stat -c '%n %u:%g %a' $f; done; cat file deep/link";

fn a_volume_is_kept_through_a_change_of_level(world: &World) {
    let write = "cd /data && mkdir deep && echo one > file && ln file deep/hard && ln -s ../file deep/link \
                 && chown 70:71 file && chmod 4750 file && chmod 1770 deep";
    let more = "cd /data && echo two >> deep/hard && mknod pipe p && chown 5:6 pipe";
    script_at(world, "container", &["-v", "data:/data"], write);
    let first = script_at(world, "container", &["-v", "data:/data"], LISTING);
    assert_eq!(
        script_at(world, "vm", &["-v", "data:/data"], LISTING),
        first
    );
    script_at(world, "vm", &["-v", "data:/data"], more);
    let second = script_at(world, "vm", &["-v", "data:/data"], LISTING);
    assert!(
        second.contains("./pipe 5:6") && second.contains("two"),
        "{second}"
    );
    assert_eq!(
        script_at(world, "container", &["-v", "data:/data"], LISTING),
        second
    );
}

fn a_container_and_a_machine_see_each_others_changes_at_once(world: &World) {
    let image = world.busybox();
    // Each waits for the other's word before it says the next.
    let talk = |own: &str, other: &str| {
        format!(
            "cd /data; for i in 1 2 3; do echo $i > {own}; until [ \"$(cat {other} 2>/dev/null)\" -ge $i ] 2>/dev/null; \
             do sleep 0.05; done; done; echo done > {own}.end"
        )
    };
    for (name, level, own, other) in [("c", "container", "a", "b"), ("v", "vm", "b", "a")] {
        world
            .isle([
                "container",
                "run",
                "-d",
                "--name",
                name,
                "--isolation",
                level,
                "-v",
                "data:/data",
            ])
            .arguments([image.as_str(), "sh", "-c", &talk(own, other)])
            .succeeds();
    }
    for name in ["c", "v"] {
        assert_eq!(world.isle(["wait", name]).succeeds(), "0", "{name}");
    }
    let seen = script_at(
        world,
        "vm",
        &["-v", "data:/data:ro"],
        "cat /data/a /data/b /data/a.end; touch /data/x || echo refused",
    );
    assert_eq!(seen, "3\n3\ndone\nrefused");
}

fn a_volume_of_memory_is_shared_and_gone_with_its_last_user(world: &World) {
    world
        .isle([
            "volume",
            "create",
            "--opt",
            "type=tmpfs",
            "--opt",
            "o=size=2m,mode=1777",
            "memory",
        ])
        .succeeds();
    assert_eq!(mounts(world), 0);
    let write = "echo here > /m/file; mount | grep -q ' /m ' && sleep 1000";
    world.background("one", &["-v", "memory:/m"], &["sh", "-c", write]);
    world.background("two", &["-v", "memory:/m"], &["sleep", "1000"]);
    isle_tests::wait_for("one has written", || {
        world.isle(["exec", "two", "cat", "/m/file"]).run().stdout() == "here\n"
    });
    let full = world
        .isle([
            "exec",
            "two",
            "dd",
            "if=/dev/zero",
            "of=/m/big",
            "bs=1M",
            "count=4",
        ])
        .run();
    assert_ne!(full.code(), 0);
    assert_eq!(mounts(world), 1);
    world.isle(["rm", "-f", "one"]).succeeds();
    world.isle(["exec", "two", "cat", "/m/file"]).exits_with(0);
    assert_eq!(mounts(world), 1);
    world.isle(["rm", "-f", "two"]).succeeds();
    assert_eq!(mounts(world), 0);
    let left = world
        .script(&["--rm", "-v", "memory:/m"], "ls /m")
        .succeeds();
    assert_eq!(left, "");
    isle_tests::wait_for("it is unmounted", || mounts(world) == 0);
    world.isle(["volume", "rm", "memory"]).succeeds();
}

fn a_volume_that_is_a_folder_of_the_host(world: &World) {
    world.file("srv/page", "from the host");
    let folder = world.files().join("srv");
    let device = format!("device={}", folder.display());
    for (name, options) in [("www", "o=bind"), ("fixed", "o=bind,ro")] {
        world
            .isle([
                "volume",
                "create",
                "--opt",
                "type=none",
                "--opt",
                options,
                "--opt",
                &device,
                name,
            ])
            .succeeds();
    }
    let script = "cat /w/page; echo more > /w/new; touch /f/x || echo refused";
    let said = world
        .script(&["--rm", "-v", "www:/w", "-v", "fixed:/f"], script)
        .exits_with(0);
    assert_eq!(said.stdout(), "from the hostrefused\n");
    assert_eq!(
        fs::read_to_string(folder.join("new")).expect("written"),
        "more\n"
    );
    isle_tests::wait_for("nobody mounts it", || {
        names(world, &["--filter", "dangling=true"]) == "fixed www"
    });
    world.isle(["volume", "rm", "www", "fixed"]).succeeds();
    assert!(
        folder.join("page").exists(),
        "the host's folder is the host's"
    );
}

fn a_file_system_that_the_kernel_lacks_is_refused_at_the_start(world: &World) {
    world
        .isle([
            "volume",
            "create",
            "--opt",
            "type=nosuchfs",
            "--opt",
            "device=x",
            "odd",
        ])
        .succeeds();
    world
        .script(&["--rm", "-v", "odd:/d"], "true")
        .exits_with(125)
        .complains("the kernel has no file system nosuchfs");
    assert_eq!(mounts(world), 0);
}

fn a_limit_without_quotas_is_refused(world: &World) {
    if Need::ProjectQuotas.missing(world.level()).is_none() {
        return;
    }
    world
        .isle(["volume", "create", "--opt", "size=4m", "small"])
        .exits_with(1)
        .complains("enforces no project quotas");
    assert_eq!(names(world, &[]), "");
}

fn volumes_keep_their_owners_in_a_user_namespace(world: &World) {
    world
        .isle([
            "volume",
            "create",
            "--opt",
            "type=tmpfs",
            "--opt",
            "o=mode=1777",
            "memory",
        ])
        .succeeds();
    let make = "mkdir /d/sub && chown 5:6 /d/sub && echo x > /d/sub/file";
    world.script(&["--rm", "-v", "data:/d"], make).exits_with(0);
    let place = "type=volume,source=data,target=/s,volume-subpath=sub";
    let script = "stat -c %u:%g /s; stat -c %u:%g /s/file; touch /s/new /m/new && stat -c %u:%g /s/new /m/new";
    let seen = world
        .script(
            &[
                "--rm",
                "--userns",
                "auto",
                "--mount",
                place,
                "-v",
                "memory:/m",
            ],
            script,
        )
        .succeeds();
    assert_eq!(seen, "5:6\n0:0\n0:0\n0:0");
    isle_tests::wait_for("it is unmounted", || mounts(world) == 0);
}

fn a_volume_of_memory_is_unmounted_after_a_supervisor_that_was_killed(world: &World) {
    world
        .isle(["volume", "create", "--opt", "type=tmpfs", "memory"])
        .succeeds();
    world.background("n", &["-v", "memory:/m"], &["sleep", "1000"]);
    assert_eq!(mounts(world), 1);
    let pid = world.inspect("n")["State"]["Pid"]
        .as_i64()
        .expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.expect("a parent").trim().parse().expect("a number");
    // Both at once: nobody is left who could tidy up.
    for pid in [parent, i32::try_from(pid).expect("a pid")] {
        let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    }
    world.wait_for_status("n", "exited");
    isle_tests::wait_for("it is unmounted", || {
        let _ = world.status("n");
        mounts(world) == 0
    });
    world.isle(["rm", "n"]).succeeds();
    world.isle(["volume", "rm", "memory"]).succeeds();
}
