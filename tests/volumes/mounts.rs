//! What of a volume or a folder is mounted, and how: `-v` and `--mount` in all their forms.

use std::fs;

use isle_tests::World;

use crate::{mounts, volume};

pub fn a_place_in_a_volume_is_mounted_alone(world: &World) {
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

pub fn a_place_in_a_volume_does_not_lead_out(world: &World) {
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

pub fn a_new_volume_is_filled_from_the_image_unless_it_is_not_to_be(world: &World) {
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

pub fn a_place_in_a_volume_is_filled_from_the_image(world: &World) {
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

pub fn a_mount_makes_its_volume_with_options_and_labels(world: &World) {
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

pub fn what_is_mounted_below_a_bind_comes_with_it_or_not(world: &World) {
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

pub fn mounts_below_a_read_only_bind_can_stay_writable(world: &World) {
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

pub fn mounts_pass_between_host_and_instance_where_asked_for(world: &World) {
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

pub fn forms_without_effect_are_taken_and_others_refused(world: &World) {
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

pub fn memory_has_the_size_and_mode_asked_for(world: &World) {
    let mount = "type=tmpfs,target=/t,tmpfs-size=2m,tmpfs-mode=0711";
    let script = "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1M count=4 2>/dev/null || echo full";
    let seen = world.script(&["--rm", "--mount", mount], script).succeeds();
    assert_eq!(seen, "711\nfull");
}
