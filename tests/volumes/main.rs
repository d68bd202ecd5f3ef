//! Volumes: made, listed, filled, shared between the levels, removed.

#![forbid(unsafe_code)]

use std::fs;

use isle_tests::{Level, Need, World};
use serde_json::Value;

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
    if Need::ProjectQuotas.missing().is_none() {
        return;
    }
    world
        .isle(["volume", "create", "--opt", "size=4m", "small"])
        .exits_with(1)
        .complains("enforces no project quotas");
    assert_eq!(names(world, &[]), "");
}

fn a_place_in_a_volume_is_mounted_alone(world: &World) {
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "mkdir -p /d/a/b; echo one > /d/a/b/file; echo two > /d/other",
        )
        .exits_with(0);
    let place = "type=volume,source=data,target=/p,volume-subpath=a/b";
    let seen = world
        .script(
            &["--rm", "--mount", place],
            "ls /p; cat /p/file; echo three > /p/new",
        )
        .succeeds();
    assert_eq!(seen, "file\none");
    let file = "type=volume,source=data,target=/etc/motd,subpath=other,readonly";
    let seen = world
        .script(
            &["--rm", "--mount", file],
            "cat /etc/motd; echo x > /etc/motd || echo refused",
        )
        .exits_with(0);
    assert_eq!(seen.stdout(), "two\nrefused\n");
    assert_eq!(
        world
            .script(&["--rm", "-v", "data:/d"], "cat /d/a/b/new")
            .succeeds(),
        "three"
    );
    let missing = "type=volume,source=data,target=/p,volume-subpath=a/c";
    world
        .script(&["--rm", "--mount", missing], "true")
        .exits_with(125)
        .complains("a/c");
}

fn a_place_in_a_volume_does_not_lead_out(world: &World) {
    let make = "cd /d; mkdir -p etc; echo mine > etc/passwd; ln -s /etc away; ln -s ../../../../../../etc up; ln -s /proc/self/root/etc magic";
    world.script(&["--rm", "-v", "data:/d"], make).exits_with(0);
    for link in ["away", "up"] {
        let place = format!("type=volume,source=data,target=/p,volume-subpath={link}");
        assert_eq!(
            world
                .script(&["--rm", "--mount", &place], "cat /p/passwd")
                .succeeds(),
            "mine",
            "{link}"
        );
    }
    let magic = "type=volume,source=data,target=/p,volume-subpath=magic";
    world
        .script(&["--rm", "--mount", magic], "true")
        .exits_with(125);
    for wrong in ["../x", "a/../../x", "/etc"] {
        let place = format!("type=volume,source=data,target=/p,volume-subpath={wrong}");
        world
            .script(&["--rm", "--mount", &place], "true")
            .exits_with(125)
            .complains("volume-subpath");
    }
}

fn a_new_volume_is_filled_from_the_image_unless_it_is_not_to_be(world: &World) {
    let list = "stat -c '%u:%g %a' /etc; ls /etc | grep -c passwd";
    let without = world
        .script(&["--rm", "-v", "empty:/etc:nocopy"], "ls /etc | wc -l")
        .succeeds();
    let plain = world.script(&["--rm"], list).succeeds();
    assert_eq!(
        world.script(&["--rm", "-v", "full:/etc"], list).succeeds(),
        plain
    );
    // The files that every instance has are there all the same.
    assert!(
        without.trim().parse::<u32>().expect("a number") <= 3,
        "{without}"
    );
    let key = "type=volume,source=other,target=/etc,volume-nocopy";
    let without = world
        .script(&["--rm", "--mount", key], "test -e /etc/passwd || echo no")
        .succeeds();
    assert_eq!(without, "no");
}

fn a_place_in_a_volume_is_filled_from_the_image(world: &World) {
    world
        .script(&["--rm", "-v", "data:/d"], "mkdir /d/conf")
        .exits_with(0);
    let place = "type=volume,source=data,target=/etc,volume-subpath=conf";
    world
        .script(&["--rm", "--mount", place], "grep -q root /etc/passwd")
        .exits_with(0);
    let seen = world
        .script(
            &["--rm", "-v", "data:/d"],
            "ls /d; test -s /d/conf/passwd && echo filled",
        )
        .succeeds();
    assert_eq!(seen, "conf\nfilled");
}

fn a_mount_makes_its_volume_with_options_and_labels(world: &World) {
    let mount = "type=volume,source=made,target=/m,volume-driver=local,volume-label=a=1,volume-opt=type=tmpfs,\"volume-opt=o=size=1m,mode=700\"";
    let seen = world
        .script(
            &["--rm", "--volume-driver", "local", "--mount", mount],
            "stat -c %a /m",
        )
        .succeeds();
    assert_eq!(seen, "700");
    let made = volume(world, "made");
    assert_eq!(made["Labels"]["a"], "1");
    assert_eq!(made["Options"]["type"], "tmpfs");
    let other = "type=volume,source=made,target=/m,volume-opt=type=tmpfs";
    world
        .script(&["--rm", "--mount", other], "true")
        .exits_with(125)
        .complains("with other options");
    isle_tests::wait_for("it is unmounted", || mounts(world) == 0);
}

/// A mount of the host, for as long as this lives.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &std::path::Path) -> Mounted {
        fs::create_dir_all(at).expect("the test's own folder can be written");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(at)
            .status()
            .expect("mount(8) is everywhere");
        assert!(status.success());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

fn what_is_mounted_below_a_bind_comes_with_it_or_not(world: &World) {
    let top = world.files().join("top");
    let mounted = Mounted::tmpfs(&top.join("below"));
    fs::write(top.join("below/inner"), "x").expect("written");
    let bind = format!("type=bind,source={},target=/t", top.display());
    for (more, expected) in [
        ("", "inner"),
        (",bind-recursive=enabled", "inner"),
        (",bind-recursive=disabled", ""),
        (",bind-nonrecursive", ""),
    ] {
        let mount = format!("{bind}{more}");
        let seen = world
            .script(&["--rm", "--mount", &mount], "ls /t/below")
            .succeeds();
        assert_eq!(seen, expected, "{more}");
    }
    let read_only = format!("{bind},readonly,bind-recursive=readonly");
    world
        .script(&["--rm", "--mount", &read_only], "touch /t/below/x")
        .exits_with(1);
    drop(mounted);
}

fn mounts_below_a_read_only_bind_can_stay_writable(world: &World) {
    let top = world.files().join("top");
    let mounted = Mounted::tmpfs(&top.join("below"));
    let mount = format!(
        "type=bind,source={},target=/t,readonly,bind-recursive=writable",
        top.display()
    );
    let seen = world
        .script(
            &["--rm", "--mount", &mount],
            "touch /t/below/x && echo below; touch /t/x || echo refused",
        )
        .exits_with(0);
    assert_eq!(seen.stdout(), "below\nrefused\n");
    let outcome = world
        .isle([
            "container",
            "run",
            "--rm",
            "--isolation",
            "vm",
            "--mount",
            &mount,
        ])
        .arguments([&world.busybox(), "true"])
        .exits_with(125);
    outcome.complains("as one file system");
    drop(mounted);
}

fn mounts_pass_between_host_and_instance_where_asked_for(world: &World) {
    // What is shared is the mount that the folder is on.
    let top = world.files().join("top");
    let shared = Mounted::tmpfs(&top);
    let make = std::process::Command::new("mount")
        .arg("--make-shared")
        .arg(&top)
        .status();
    assert!(make.expect("mount(8)").success());
    fs::create_dir(top.join("later")).expect("made");
    for (propagation, expected) in [("rslave", "1"), ("rprivate", "0")] {
        let volume = format!("{}:/t:{propagation}", top.display());
        world.background(propagation, &["-v", &volume], &["sleep", "1000"]);
        let mounted = Mounted::tmpfs(&top.join("later"));
        fs::write(top.join("later/inner"), "x").expect("written");
        let seen = world
            .isle(["exec", propagation, "sh", "-c", "ls /t/later | wc -l"])
            .succeeds();
        assert_eq!(seen.trim(), expected, "{propagation}");
        drop(mounted);
        world.isle(["rm", "-f", propagation]).succeeds();
    }
    drop(shared);
}

fn forms_without_effect_are_taken_and_others_refused(world: &World) {
    let folder = world.files();
    let bind = format!("type=bind,source={},target=/t", folder.display());
    let consistent = format!("{bind},consistency=delegated");
    let labelled = format!("{}:/z:z,cached", folder.display());
    world
        .script(
            &[
                "--rm",
                "--mount",
                &consistent,
                "-v",
                &labelled,
                "-v",
                "data:/y:Z",
            ],
            "true",
        )
        .exits_with(0);
    for (mount, words) in [
        ("type=image,source=busybox,target=/t", "type=image"),
        (
            "type=volume,source=data,target=/t,volume-driver=nfs",
            "no volume driver",
        ),
        (
            "type=volume,source=data,target=/t,volume-opt=colour=red",
            "colour",
        ),
        ("type=bind,source=/nowhere,target=/t", "/nowhere"),
    ] {
        world
            .script(&["--rm", "--mount", mount], "true")
            .exits_with(125)
            .complains(words);
    }
    for (volume, words) in [
        ("data:/t:rshared", "does not go with a volume"),
        ("/tmp:/t:nocopy", "nocopy"),
    ] {
        world
            .script(&["--rm", "-v", volume], "true")
            .exits_with(125)
            .complains(words);
    }
}

fn memory_has_the_size_and_mode_asked_for(world: &World) {
    let mount = "type=tmpfs,target=/t,tmpfs-size=2m,tmpfs-mode=0711";
    let script = "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1M count=4 2>/dev/null || echo full";
    let seen = world.script(&["--rm", "--mount", mount], script).succeeds();
    assert_eq!(seen, "711\nfull");
}

fn a_snapshot_brings_a_volume_back(world: &World) {
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; mkdir /d/sub",
        )
        .exits_with(0);
    let named = world
        .isle(["volume", "snapshot", "data", "first"])
        .succeeds();
    assert_eq!(named, "data@first");
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo two > /d/file; rmdir /d/sub; touch /d/new",
        )
        .exits_with(0);
    let unnamed = world.isle(["volume", "snapshot", "data"]).succeeds();
    assert!(unnamed.starts_with("data@20"), "{unnamed}");
    let list = world
        .isle(["volume", "snapshot", "ls", "-q", "data"])
        .succeeds();
    assert_eq!(list, format!("data@first\n{unnamed}"));
    world
        .isle(["volume", "snapshot", "ls"])
        .run()
        .prints("SNAPSHOT");
    world
        .isle(["volume", "snapshot", "data", "first"])
        .exits_with(1)
        .complains("already");
    world.isle(["volume", "restore", "data@first"]).succeeds();
    let seen = world
        .script(&["--rm", "-v", "data:/d"], "cat /d/file; ls /d")
        .succeeds();
    assert_eq!(seen, "one\nfile\nsub");
    world.isle(["volume", "restore", &unnamed]).succeeds();
    let seen = world
        .script(&["--rm", "-v", "data:/d"], "cat /d/file; ls /d")
        .succeeds();
    assert_eq!(seen, "two\nfile\nnew");
    world
        .isle(["volume", "restore", "data@never"])
        .exits_with(1)
        .complains("no snapshot");
    world.isle(["volume", "restore", "data"]).exits_with(125);
    world
        .isle(["volume", "rm", "data"])
        .exits_with(1)
        .complains("has the snapshots first");
    // Nor does a prune take what somebody wanted to keep.
    world.isle(["volume", "prune", "-af"]).succeeds();
    world
        .isle(["volume", "snapshot", "rm", "data@first", &unnamed])
        .succeeds();
    world.isle(["volume", "rm", "data"]).succeeds();
}

fn a_clone_goes_its_own_way(world: &World) {
    world
        .isle(["volume", "create", "--label", "a=1", "data"])
        .succeeds();
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; chown 3:4 /d",
        )
        .exits_with(0);
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world
        .script(&["--rm", "-v", "data:/d"], "echo two > /d/file")
        .exits_with(0);
    world.isle(["volume", "clone", "data", "now"]).succeeds();
    world.isle(["volume", "clone", "data@s", "then"]).succeeds();
    world
        .isle(["volume", "clone", "data", "now"])
        .exits_with(1)
        .complains("already");
    world
        .script(&["--rm", "-v", "data:/d"], "echo three > /d/file")
        .exits_with(0);
    let seen = world
        .script(
            &["--rm", "-v", "now:/n", "-v", "then:/t"],
            "cat /n/file /t/file; stat -c %u:%g /n /t",
        )
        .succeeds();
    assert_eq!(seen, "two\none\n3:4\n3:4");
    assert_eq!(volume(world, "now")["Labels"]["a"], "1");
}

/// What a tree is, but for the times of changes of its entries' attributes.
fn tree(folder: &std::path::Path) -> String {
    let script = "cd \"$1\" && find . | sort | while read -r f; do stat -c '%n %F %u:%g %a %h %s %t:%T' \"$f\"; \
                  done; stat -c '%n %Y %y' file holes . ; getfattr -d -m - file dir 2>/dev/null; cat file; \
                  getcap file; du -k holes";
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .output()
        .expect("there is a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn everything_of_a_file_survives_every_copy(world: &World) {
    world.isle(["volume", "create", "data"]).succeeds();
    let data = world.root().join("volumes/data/_data");
    let make = "cd \"$1\" && echo text > file && ln file hard && mkdir dir && ln -s nowhere dir/link && mkfifo pipe && \
                mknod device c 1 3 && truncate -s 64M holes && printf end | dd of=holes bs=1 seek=33554432 conv=notrunc \
                2>/dev/null && long=$(printf 'n%.0s' $(seq 180)) && mkdir $long && echo x > $long/$long && \
                truncate -s 5M $long/holes && chown 70:71 file && chmod 4750 file && chown 3000000:5 dir && chmod 1733 dir && \
                chown 999:999 . && chmod 2750 . && touch -d '2001-02-03 04:05:06.789012345' file dir .";
    let status = std::process::Command::new("sh")
        .args(["-c", make, "sh"])
        .arg(&data)
        .status();
    assert!(status.expect("there is a shell").success());
    // musl's tools set none; the kernel's own call does.
    let flags = rustix::fs::XattrFlags::empty();
    for (name, value) in [("user.mark", &b"here"[..]), ("trusted.mark", b"too")] {
        rustix::fs::setxattr(data.join("file"), name, value, flags).expect("ext4 takes it");
    }
    let has_attributes = |folder: &std::path::Path| {
        for (name, value) in [("user.mark", &b"here"[..]), ("trusted.mark", b"too")] {
            let mut buffer = [0; 8];
            let count = rustix::fs::getxattr(folder.join("file"), name, &mut buffer[..])
                .expect("it is there");
            assert_eq!(&buffer[..count], value, "{}", folder.display());
        }
    };
    let before = tree(&data);
    assert!(
        before.contains("789012345") && before.contains("999:999 2750"),
        "{before}"
    );
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world.isle(["volume", "clone", "data@s", "copy"]).succeeds();
    let archive = world.files().join("data.tar");
    let archive = archive.to_string_lossy();
    world
        .isle(["volume", "export", "-q", "-o", &archive, "data"])
        .succeeds();
    assert!(
        fs::metadata(&*archive).expect("written").len() < 1 << 20,
        "holes stay holes"
    );
    world
        .isle(["volume", "import", "-q", "in", &archive])
        .succeeds();
    world.isle(["volume", "restore", "data@s"]).succeeds();
    for name in ["data", "copy", "in"] {
        let folder = world.root().join("volumes").join(name).join("_data");
        assert_eq!(tree(&folder), before, "{name}");
        has_attributes(&folder);
    }
}

fn an_exported_volume_can_be_imported_and_read_by_tar(world: &World) {
    world
        .script(
            &["--rm", "-v", "data:/d"],
            "echo one > /d/file; mkdir /d/sub; chown 7:8 /d/sub",
        )
        .exits_with(0);
    let outcome = world.isle(["volume", "export", "data"]).exits_with(0);
    outcome.complains("exported:");
    let archive = world.file("data.tar", outcome.stdout_bytes());
    let list = std::process::Command::new("tar")
        .args(["tvf", &archive, "--numeric-owner"])
        .output();
    let list = String::from_utf8_lossy(&list.expect("tar").stdout).into_owned();
    assert!(
        list.contains("./") && list.contains("7/8") && list.contains("file"),
        "{list}"
    );
    let imported = world
        .isle(["volume", "import", "in"])
        .stdin(outcome.stdout_bytes())
        .exits_with(0);
    imported.complains("imported:");
    let seen = world
        .script(
            &["--rm", "-v", "in:/d"],
            "cat /d/file; stat -c %u:%g /d/sub",
        )
        .succeeds();
    assert_eq!(seen, "one\n7:8");
    // Compressed, into one that is there and empty.
    let packed = std::process::Command::new("gzip")
        .args(["-k", &archive])
        .status();
    assert!(packed.expect("gzip").success());
    world.isle(["volume", "create", "empty"]).succeeds();
    world
        .isle(["volume", "import", "empty", &format!("{archive}.gz")])
        .succeeds();
    let seen = world
        .script(&["--rm", "-v", "empty:/d"], "cat /d/file")
        .succeeds();
    assert_eq!(seen, "one");
    world
        .isle(["volume", "import", "empty", &archive])
        .exits_with(1)
        .complains("there are files in it");
    world
        .isle(["volume", "import", "odd"])
        .stdin("this is no archive, whatever it says it is")
        .exits_with(1);
    assert_eq!(names(world, &["--filter", "name=odd"]), "");
}

fn writers_stand_still_while_a_snapshot_is_taken(world: &World) {
    // Two files that are only ever equal between two steps of the loop.
    let script = "i=0; while :; do i=$((i+1)); echo $i > /d/a.new; mv /d/a.new /d/a; echo $i > /d/b.new; mv /d/b.new /d/b; done";
    world.background("writer", &["-v", "data:/d"], &["sh", "-c", script]);
    let b = world.root().join("volumes/data/_data/b");
    isle_tests::wait_for("it writes", || b.exists());
    for _ in 0..3 {
        let name = world.isle(["volume", "snapshot", "data"]).succeeds();
        assert_eq!(world.status("writer"), "running");
        let (_, snapshot) = name.split_once('@').expect("VOLUME@SNAPSHOT");
        let folder = world.root().join("volumes/data/snapshots").join(snapshot);
        let number = |name: &str| -> u64 {
            let text = fs::read_to_string(folder.join(name)).expect("it is there");
            text.trim()
                .parse()
                .expect("whole numbers are written, or none")
        };
        let (a, b) = (number("a"), number("b"));
        assert!(a == b || a == b + 1, "{a} {b}");
    }
    // One that goes on writing is told of by its flag alone.
    world
        .isle(["volume", "snapshot", "--pause=false", "data", "live"])
        .succeeds();
    let before = fs::read_to_string(&b).expect("there");
    isle_tests::wait_for("it goes on", || {
        fs::read_to_string(&b).is_ok_and(|now| now != before)
    });
    let exported = world.isle(["volume", "export", "data"]).exits_with(0);
    assert!(!exported.stdout_bytes().is_empty());
    assert_eq!(world.status("writer"), "running");
    let paused = world
        .isle([
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=pause",
            "--format",
            "{{.Action}}",
        ])
        .succeeds();
    assert_eq!(paused.lines().count(), 4, "three snapshots and an export");
}

fn a_volume_is_not_replaced_beneath_a_running_instance(world: &World) {
    world.background("user", &["-v", "data:/d"], &["sleep", "1000"]);
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    world
        .isle(["volume", "restore", "data@s"])
        .exits_with(1)
        .complains("in use by user");
    world
        .isle(["volume", "import", "data"])
        .stdin("")
        .exits_with(1)
        .complains("in use by user");
    world.isle(["stop", "-t", "0", "user"]).succeeds();
    world.isle(["volume", "restore", "data@s"]).succeeds();
    world.isle(["start", "user"]).succeeds();
    assert_eq!(world.status("user"), "running");
}

/// One entry of a tar archive, by hand: no builder makes such.
fn entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn hostile_archives_reach_nothing_and_leave_nothing(world: &World) {
    let canary = world.file("canary/file", "untouched");
    let folder = world.files().join("canary");
    let folder = folder.to_string_lossy().into_owned();
    let out = format!("{folder}/new");
    let up = format!("../../../../../../../../../..{out}");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("dots", entry(&up, b'0', "", b"x")),
        (
            "link",
            [
                entry("l", b'2', &folder, b""),
                entry("l/new", b'0', "", b"x"),
            ]
            .concat(),
        ),
        (
            "hard",
            [entry("h", b'1', &canary, b""), entry("h", b'0', "", b"x")].concat(),
        ),
        ("root", entry(".", b'2', &folder, b"")),
        ("cut", entry("file", b'0', "", b"cut off")[..515].to_vec()),
    ];
    for (name, mut bytes) in cases {
        bytes.resize(
            bytes.len().next_multiple_of(512) + if name == "cut" { 0 } else { 1024 },
            0,
        );
        if name == "cut" {
            bytes.truncate(515);
        }
        let outcome = world.isle(["volume", "import", name]).stdin(bytes).run();
        let is_there = names(world, &["--filter", &format!("name={name}")]) == name;
        assert_eq!(outcome.code() == 0, is_there, "{name}: {outcome}");
        assert_ne!(outcome.code(), 0, "{name}: {outcome}");
        assert_eq!(
            fs::read_to_string(&canary).expect("there"),
            "untouched",
            "{name}"
        );
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 1, "{name}");
    }
    // Who is not root on the host cannot reach what is in volumes.
    world.isle(["volume", "create", "plain"]).succeeds();
    let volumes = fs::metadata(world.root().join("volumes")).expect("there");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&volumes.permissions()) & 0o077,
        0
    );
}

fn copies_that_are_killed_leave_whole_volumes(world: &World) {
    world.isle(["volume", "create", "data"]).succeeds();
    let data = world.root().join("volumes/data/_data");
    for number in 0..400 {
        fs::write(data.join(format!("f{number}")), vec![7; 20_000]).expect("written");
    }
    let count = |name: &str| {
        fs::read_dir(world.root().join("volumes").join(name).join("_data"))
            .map_or(0, Iterator::count)
    };
    world.isle(["volume", "snapshot", "data", "s"]).succeeds();
    let archive = world.files().join("data.tar");
    let archive = archive.to_string_lossy().into_owned();
    world
        .isle(["volume", "export", "-q", "-o", &archive, "data"])
        .succeeds();
    for round in 0..24_u64 {
        let arguments: &[&str] = match round % 4 {
            0 => &["volume", "clone", "data", "copy"],
            1 => &["volume", "import", "-q", "copy", &archive],
            2 => &["volume", "restore", "data@s"],
            _ => &["volume", "snapshot", "data", "t"],
        };
        let mut running = world.isle(arguments).spawn();
        std::thread::sleep(std::time::Duration::from_millis(5 + round * 7));
        if !running.has_ended() {
            running.signal(rustix::process::Signal::KILL);
        }
        let _ = running.wait();
        assert_eq!(count("data"), 400, "{arguments:?}");
        if !names(world, &["--filter", "name=copy"]).is_empty() {
            assert_eq!(count("copy"), 400, "{arguments:?}");
            world.isle(["volume", "rm", "copy"]).succeeds();
        }
        let list = world
            .isle(["volume", "snapshot", "ls", "-q", "data"])
            .succeeds();
        for name in list
            .lines()
            .filter_map(|line| line.split_once('@'))
            .map(|(_, name)| name)
        {
            let folder = world.root().join("volumes/data/snapshots").join(name);
            assert_eq!(fs::read_dir(folder).expect("there").count(), 400, "{name}");
        }
        if list.contains("data@t") {
            world
                .isle(["volume", "snapshot", "rm", "data@t"])
                .succeeds();
        }
    }
    world.isle(["volume", "rm", "--force", "data"]).succeeds();
    world.isle(["volume", "prune", "--force"]).succeeds();
    assert_eq!(
        fs::read_dir(world.root().join("volumes"))
            .expect("there")
            .count(),
        0
    );
}

fn a_snapshot_that_is_killed_leaves_nothing_frozen(world: &World) {
    world.background("writer", &["-v", "data:/d"], &["sleep", "1000"]);
    // Long enough to copy that it is caught in the middle.
    let data = world.root().join("volumes/data/_data");
    for number in 0..4000 {
        fs::write(data.join(format!("f{number}")), "x").expect("written");
    }
    let mut is_caught = false;
    for _ in 0..20 {
        let running = world.isle(["volume", "snapshot", "data"]).spawn();
        while !is_caught && !running.stdout().contains('@') {
            is_caught = world.status("writer") == "paused";
        }
        running.signal(rustix::process::Signal::KILL);
        let _ = running.wait();
        isle_tests::wait_for("it goes on", || world.status("writer") == "running");
        if is_caught {
            break;
        }
    }
    assert!(is_caught, "it was never seen to stand still");
    world.isle(["exec", "writer", "true"]).exits_with(0);
    // What was half copied is collected.
    world.isle(["volume", "prune", "--force"]).succeeds();
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
