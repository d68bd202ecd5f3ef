//! Machines that wait.

use std::fs;
use std::io::Write;
use std::path::Path;

use isle_qemu::*;

use crate::guest::{Guest, PATIENCE, Running, World};
use crate::{disk, kill, opened, wait_until};

#[test]
fn machines_of_a_pool_wait_are_taken_once_and_leave_nothing() {
    let Some(world) = World::new() else { return };
    let template = world.template(64);
    let name = template.key().to_string();
    let pool = Pool {
        directory: world.path("pool"),
        cgroups: None,
    };
    let ready = || {
        pool.list()
            .unwrap()
            .iter()
            .map(|pool| pool.ready)
            .sum::<u32>()
    };
    let fill = || pool.fill(&template, PATIENCE, None).unwrap();
    // Off by default.
    assert_eq!((fill(), ready()), (0, 0));
    pool.set(&template, 2).unwrap();
    assert_eq!((fill(), ready()), (2, 2));
    assert_eq!(fill(), 0);
    let summary = &pool.list().unwrap()[0];
    assert_eq!(
        (summary.template.as_str(), summary.size),
        (name.as_str(), 2)
    );
    assert!(summary.proportional_bytes > 2 << 20);

    let root = disk(&world, "root.img", 1, "a pool's root");
    let upper = disk(&world, "upper.img", 1, "");
    let run = world.run("run");
    let disks = || vec![opened(&root, false), opened(&upper, true)];
    let mut starting = pool.claim(&template, &world.launch(&run, disks())).unwrap();
    let mut guest = Guest::new(starting.take_agent().unwrap());
    // Queued before it runs.
    writeln!(&guest.socket, "read /dev/vda").unwrap();
    let mut running = Running::new(starting.finish().unwrap(), {
        assert_eq!(ready(), 1);
        guest.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        guest
    });
    assert_eq!(running.guest.answer().unwrap(), "a pool's root");
    assert_eq!(running.guest.ask("write /dev/vdb"), "written");
    assert!(run.join("monitor.sock").exists());
    // Its next supervisor finds it as any other.
    let pidfd = running.vm.pidfd().try_clone_to_owned().unwrap();
    let pid = running.vm.pid();
    running.abandon();
    let mut vm = None;
    wait_until("it is taken over", || {
        let pidfd = pidfd.try_clone().unwrap();
        vm = Vm::adopt(&run, pid, pidfd, PATIENCE).ok();
        vm.is_some()
    });
    guest = Guest::new(Vm::connect_port(&run, "isle").unwrap());
    let mut running = Running::new(vm.unwrap(), guest);
    assert_eq!(running.guest.ask("ping"), "pong");

    // Two want the last one.
    let claimed: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|i| {
                let (pool, template, world) = (&pool, &template, &world);
                scope.spawn(move || {
                    let run = world.run(&format!("contender{i}"));
                    pool.claim(template, &world.launch(&run, Vec::new()))
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!((claimed.len(), ready()), (1, 0));
    drop(claimed);

    // One that has died is replaced; what a killed filler has left goes.
    assert_eq!(fill(), 2);
    let folder = world.path("pool").join(&name);
    let pid_of = |folder: &Path| -> i32 {
        let text = fs::read_to_string(folder.join("machine.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"]
            .as_i64()
            .unwrap() as i32
    };
    let folders = || -> Vec<_> {
        let entries = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    };
    let pids: Vec<i32> = folders().iter().map(|folder| pid_of(folder)).collect();
    let is_there = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "))
    };
    kill(pids[0]);
    wait_until("it is dead", || !is_there(pids[0]));
    assert_eq!((ready(), fill(), ready()), (1, 1, 2));
    let left = &folders()[0];
    fs::rename(left, left.with_extension("new")).unwrap();
    assert_eq!((ready(), fill(), ready()), (1, 1, 2));

    // Fewer, and then none.
    pool.set(&template, 1).unwrap();
    assert_eq!((fill(), ready()), (0, 1));
    let last = pid_of(&folders()[0]);
    assert!(pool.remove(&name).unwrap());
    assert!(!pool.remove(&name).unwrap());
    wait_until("the last one is gone", || !is_there(last));
    assert_eq!(fs::read_dir(world.path("pool")).unwrap().count(), 0);

    // A pool whose template is gone has nobody who asks for it.
    pool.set(&template, 1).unwrap();
    assert_eq!(fill(), 1);
    world.store().remove(&name).unwrap();
    pool.remove_orphans(&world.store()).unwrap();
    assert!(pool.list().unwrap().is_empty());
}
