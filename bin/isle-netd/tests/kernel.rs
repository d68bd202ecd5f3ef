//! What the keeper does about the kernel: puts back what others take away, opens what names stand for.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod house;
#[path = "house/upstream.rs"]
mod upstream;

use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use house::{House, Instance, Namespace, is_skipped, run, wait_for};
use isle_netd::{Notice, Refused};
use isle_network::{Egress, Protocol};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn output(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// Waits for a notice that fits.
fn notice(instance: &mut Instance, fits: impl Fn(&Notice) -> bool) -> Notice {
    let end = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    loop {
        for notice in instance.attachment.tend() {
            if fits(&notice) {
                return notice;
            }
            seen.push(notice);
        }
        assert!(Instant::now() < end, "only {seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn tables_that_somebody_flushes_and_bridges_that_somebody_deletes_come_back() {
    if is_skipped() {
        return;
    }
    let mut house = House::new("");
    let front = house.network("front", &["10.81.0.0/24", "fd81::/64"], false);
    let mut web = house.instance(1, &[&front], &["web"]);
    let other = house.instance(2, &[&front], &["other"]);
    let gateway = web.gateway(&front);
    let rules = |text: &str| text.lines().filter(|line| !line.contains("handle")).count();
    let before = rules(&output(Command::new("nft").args(["list", "ruleset"])));
    assert!(before > 20);

    run(Command::new("nft").args(["flush", "ruleset"]));
    let told = notice(&mut web, |notice| matches!(notice, Notice::Repaired { .. }));
    assert_eq!(
        told,
        Notice::Repaired {
            what: "the tables of nf_tables".to_owned()
        }
    );
    assert_eq!(
        rules(&output(Command::new("nft").args(["list", "ruleset"]))),
        before
    );

    // Its ports find their way back to the new one, and names are answered on it.
    run(Command::new("ip").args(["link", "delete", &front.link]));
    let told = notice(&mut web, |notice| matches!(notice, Notice::Repaired { .. }));
    let Notice::Repaired { what } = told else {
        unreachable!();
    };
    assert!(what.contains(&format!("bridge {}", front.link)), "{what}");
    assert!(what.contains(&web.endpoints[0].link()), "{what}");
    wait_for("the name", || {
        other.dig(gateway, &["+time=1", "web", "A"]).len() == 1
    });
    let address = web.endpoints[0].ipv4.unwrap().addr().to_string();
    wait_for("the neighbour", || {
        other
            .run(&["busybox", "ping", "-c1", "-W1", &address])
            .status
            .success()
    });

    // A link that is gone is its supervisor's to make again.
    let link = web.endpoints[0].link();
    run(Command::new("ip").args(["link", "delete", &link]));
    notice(&mut web, |notice| {
        *notice == Notice::LinkLost { link: link.clone() }
    });
}

#[test]
fn what_ends_by_itself_is_not_repaired() {
    if is_skipped() {
        return;
    }
    let mut house = House::new("");
    let front = house.network("front", &["10.81.0.0/24"], false);
    let mut web = house.instance(1, &[&front], &["web"]);
    for number in 2..12 {
        let other = house.instance(number, &[&front], &["other"]);
        house.dataplane.detach(&other.endpoints[0].link()).unwrap();
        house.release(&other.id);
    }
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(web.attachment.tend(), []);
}

/// A network of the world behind the host, where somebody listens on two ports.
fn world() -> Namespace {
    let world = Namespace::new();
    let pid = world
        .path()
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_owned();
    let pid = pid.to_str().unwrap();
    for words in [
        &[
            "link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", pid,
        ][..],
        &["address", "add", "192.0.2.254/24", "dev", "world"],
        &["link", "set", "world", "up"],
    ] {
        run(Command::new("ip").args(words));
    }
    std::thread::scope(|scope| {
        let listeners = scope.spawn(|| {
            world.enter();
            for words in [
                &["address", "add", "192.0.2.1/24", "dev", "eth0"][..],
                &["link", "set", "eth0", "up"],
            ] {
                run(Command::new("ip").args(words));
            }
            [443, 80].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap())
        });
        for listener in listeners.join().unwrap() {
            std::thread::spawn(move || while listener.accept().is_ok() {});
        }
    });
    world
}

fn connects(instance: &Instance, to: (&str, u16)) -> bool {
    std::thread::scope(|scope| {
        let attempt = scope.spawn(|| {
            instance.enter();
            let to = (ip(to.0), to.1).into();
            TcpStream::connect_timeout(&to, Duration::from_secs(3)).is_ok()
        });
        attempt.join().unwrap()
    })
}

#[test]
fn a_name_opens_what_it_stands_for_and_refusals_are_told() {
    if is_skipped() {
        return;
    }
    let mut house = House::new("nameserver 127.0.0.1\n");
    let _world = world();
    upstream::start(ip("127.0.0.1"), 1);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let egress: Egress = "www.example.org:443/tcp".parse().unwrap();
    let mut web = house
        .instance_with(1, &[&front], &["web"], &[], &egress)
        .unwrap();
    let free = house.instance(2, &[&front], &["free"]);
    let gateway = web.gateway(&front);

    assert!(connects(&free, ("192.0.2.1", 443)));
    assert!(!connects(&web, ("192.0.2.1", 443)));
    let refused = |port, name: Option<&str>| Refused::Packet {
        address: ip("192.0.2.1"),
        protocol: Ok(Protocol::Tcp),
        port: Some(port),
        name: name.map(str::to_owned),
    };
    let first = refused(443, None);
    notice(
        &mut web,
        |notice| matches!(notice, Notice::EgressRefused { to, .. } if *to == first),
    );

    assert_eq!(web.dig(gateway, &["www.example.org", "A"]), ["192.0.2.1"]);
    assert!(connects(&web, ("192.0.2.1", 443)));
    assert!(!connects(&web, ("192.0.2.1", 80)));
    let named = refused(80, Some("www.example.org"));
    notice(
        &mut web,
        |notice| matches!(notice, Notice::EgressRefused { to, .. } if *to == named),
    );

    // A firewall that is loaded anew: the policy is in force again, and what the name stands for is open.
    run(Command::new("nft").args(["flush", "ruleset"]));
    notice(&mut web, |notice| matches!(notice, Notice::Repaired { .. }));
    assert!(connects(&web, ("192.0.2.1", 443)));
    assert!(!connects(&web, ("192.0.2.1", 80)));
}
