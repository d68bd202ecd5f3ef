//! Names, asked by real clients in network namespaces of their own.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod house;
#[path = "house/upstream.rs"]
mod upstream;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use house::{House, is_skipped, wait_for};
use isle_netd::{AttachError, Notice, Refused};
use isle_network::Egress;

const LOCALHOST: &str = "nameserver 127.0.0.1\n";

/// 203.0.113.0/24: packets to it vanish.
fn make_dead_network() {
    for words in [
        &["link", "add", "dead", "type", "bridge"][..],
        &["address", "add", "203.0.113.254/24", "dev", "dead"],
        &["link", "set", "dead", "up"],
        &[
            "neighbour",
            "add",
            "203.0.113.1",
            "lladdr",
            "02:00:00:00:00:01",
            "dev",
            "dead",
        ],
    ] {
        assert!(
            std::process::Command::new("ip")
                .args(words)
                .status()
                .unwrap()
                .success()
        );
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn names_addresses_and_what_does_not_exist() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    upstream::start(ip("127.0.0.1"), 1);
    let front = house.network("front", &["10.81.0.0/24", "fd81::/64"], false);
    let web = house.instance(1, &[&front], &["web", "www", "service"]);
    let other = house.instance(2, &[&front], &["other", "service"]);
    let gateway = web.gateway(&front);
    let [v4, v6] = &web.endpoints[0].addresses().collect::<Vec<_>>()[..] else {
        panic!("one of each");
    };
    let (v4, v6) = (v4.addr().to_string(), v6.addr().to_string());

    // A name, an alias, whatever the case, the other family, the network's name behind it.
    for name in ["web", "WWW", "web.front"] {
        assert_eq!(other.dig(gateway, &[name, "A"]), [v4.as_str()]);
        assert_eq!(other.dig(gateway, &[name, "AAAA"]), [v6.as_str()]);
        assert_eq!(other.dig(gateway, &["+tcp", name, "A"]), [v4.as_str()]);
    }
    // By IPv6 too.
    assert_eq!(other.dig(ip("fd81::1"), &["web", "A"]), [v4.as_str()]);
    assert_eq!(other.dig(gateway, &["web", "MX"]), Vec::<String>::new());
    // Backwards.
    assert_eq!(other.dig(gateway, &["-x", &v4]), ["web.front."]);
    assert_eq!(other.dig(gateway, &["-x", &v6]), ["web.front."]);
    assert_eq!(other.dig(gateway, &["-x", "10.81.0.200"]), ["NXDOMAIN"]);
    // Several addresses, each of them first some time.
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let found = web.dig(gateway, &["service", "A"]);
        assert_eq!(found.len(), 2);
        firsts.insert(found[0].clone());
    }
    assert_eq!(firsts.len(), 2);
    // The host's servers know the rest.
    assert_eq!(web.dig(gateway, &["example.org", "A"]), ["192.0.2.1"]);
    assert_eq!(web.dig(gateway, &["nx.example.org", "A"]), ["NXDOMAIN"]);
    // With the library's resolver, which asks for both families at once.
    std::fs::write(
        "/etc/resolv.conf",
        format!("nameserver {gateway}\noptions ndots:0\n"),
    )
    .unwrap();
    let output = other.run(&["getent", "ahosts", "web"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&v4) && text.contains(&v6), "{text}");
}

#[test]
fn other_networks_are_not_seen() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let world = upstream::start(ip("127.0.0.1"), 1);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let back = house.network("back", &["10.82.0.0/24"], true);
    let web = house.instance(1, &[&front], &["web"]);
    let app = house.instance(2, &[&front, &back], &["app"]);
    let db = house.instance(3, &[&back], &["db"]);
    let (front_gateway, back_gateway) = (web.gateway(&front), db.gateway(&back));

    assert_eq!(
        app.dig(front_gateway, &["db", "A"]),
        [db.endpoints[0].ipv4.unwrap().addr().to_string()]
    );
    assert_eq!(
        app.dig(back_gateway, &["web", "A"]),
        [web.endpoints[0].ipv4.unwrap().addr().to_string()]
    );
    let in_back = app.endpoints[1].ipv4.unwrap().addr().to_string();
    assert_eq!(db.dig(back_gateway, &["app", "A"]), [in_back.as_str()]);
    assert_eq!(
        app.dig(front_gateway, &["app.back", "A"]),
        [in_back.as_str()]
    );

    // From an internal network nothing is asked outside: not for a name of another network, not for one of the world.
    let before = world.get();
    assert_eq!(db.dig(back_gateway, &["web", "A"]), ["NXDOMAIN"]);
    assert_eq!(db.dig(back_gateway, &["web.front", "A"]), ["NXDOMAIN"]);
    assert_eq!(db.dig(back_gateway, &["example.org", "A"]), ["NXDOMAIN"]);
    assert_eq!(world.get(), before);
    // Who is on an open one too may.
    assert_eq!(app.dig(back_gateway, &["example.org", "A"]), ["192.0.2.1"]);
    // What the world says of a name of another network is the world's business.
    assert_eq!(web.dig(front_gateway, &["db", "A"]), ["192.0.2.1"]);
    // The gateway of a network that one is not on does not answer.
    assert!(web.dig(back_gateway, &["+time=1", "db", "A"])[0].starts_with("no answer"));
}

#[test]
fn questions_are_passed_on_to_whoever_answers() {
    if is_skipped() {
        return;
    }
    // Two servers: the first is dead, and says so by silence (packets to it vanish).
    let mut house = House::new("nameserver 203.0.113.1\nnameserver 127.0.0.2\n");
    make_dead_network();
    upstream::start(ip("127.0.0.2"), 2);
    let own = upstream::start(ip("127.0.0.3"), 3);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let web = house.instance(1, &[&front], &["web"]);
    let gateway = web.gateway(&front);

    let start = Instant::now();
    assert_eq!(web.dig(gateway, &["example.org", "A"]), ["192.0.2.2"]);
    assert!(
        start.elapsed() > Duration::from_secs(1),
        "the dead one was asked first"
    );
    // Now it is known: asked last, so at once.
    let start = Instant::now();
    assert_eq!(web.dig(gateway, &["two.example.org", "A"]), ["192.0.2.2"]);
    assert!(start.elapsed() < Duration::from_secs(1));
    // What is cut comes again by TCP, here without being told to.
    assert_eq!(web.dig(gateway, &["big.example.org", "A"]).len(), 100);
    assert_eq!(
        web.dig(gateway, &["+tcp", "big.example.org", "A"]).len(),
        100
    );
    // --dns
    let picky = house
        .instance_with(2, &[&front], &["picky"], &[ip("127.0.0.3")], &Egress::Allow)
        .unwrap();
    let before = own.get();
    assert_eq!(picky.dig(gateway, &["example.org", "A"]), ["192.0.2.3"]);
    assert_eq!(own.get(), before + 1);
    // Another file.
    house.write_resolv_conf("nameserver 127.0.0.3\n");
    wait_for("the other server", || {
        web.dig(gateway, &["example.org", "A"]) == ["192.0.2.3"]
    });
    // Nobody at all: an answer all the same, at once where the kernel says so, before a client gives up otherwise.
    house.write_resolv_conf("nameserver 127.0.0.9\n");
    wait_for("no server", || {
        web.dig(gateway, &["example.org", "A"]) == ["SERVFAIL"]
    });
    house.write_resolv_conf("nameserver 203.0.113.1\n");
    std::thread::sleep(Duration::from_millis(1100));
    let start = Instant::now();
    assert_eq!(web.dig(gateway, &["example.org", "A"]), ["SERVFAIL"]);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_policy_says_which_names_may_be_asked_for() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let world = upstream::start(ip("127.0.0.1"), 1);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let egress: Egress = "*.example.org:443".parse().unwrap();
    let mut web = house
        .instance_with(1, &[&front], &["web"], &[], &egress)
        .unwrap();
    let other = house
        .instance_with(2, &[&front], &["other"], &[], &Egress::Deny)
        .unwrap();
    let gateway = web.gateway(&front);
    assert_eq!(web.dig(gateway, &["www.Example.org", "A"]), ["192.0.2.1"]);
    let before = world.get();
    assert_eq!(
        web.dig(gateway, &["secret.evil.example", "A"]),
        ["NXDOMAIN"]
    );
    assert_eq!(other.dig(gateway, &["www.example.org", "A"]), ["NXDOMAIN"]);
    assert_eq!(world.get(), before, "nothing got out");
    // Neighbours are found.
    assert_eq!(other.dig(gateway, &["web", "A"]).len(), 1);
    let expected = Notice::EgressRefused {
        to: Refused::Name("secret.evil.example".to_owned()),
        times: 1,
    };
    assert_eq!(web.attachment.tend(), [expected]);
}

#[test]
fn who_asks_without_end_takes_nothing_from_the_others() {
    if is_skipped() {
        return;
    }
    // Nobody answers: each question stays open for seconds.
    let mut house = House::new("nameserver 203.0.113.1\n");
    make_dead_network();
    upstream::start(ip("127.0.0.3"), 3);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let flood = house.instance(1, &[&front], &["flood"]);
    let quiet = house
        .instance_with(2, &[&front], &["quiet"], &[ip("127.0.0.3")], &Egress::Allow)
        .unwrap();
    let gateway = flood.gateway(&front);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Without end, and without waiting for answers: what is known, and what nobody knows.
        scope.spawn(|| {
            flood.enter();
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((gateway, 53)).unwrap();
            let mut number: u16 = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let name = match number % 2 {
                    0 => "quiet".to_owned(),
                    _ => format!("n{number}.example.org"),
                };
                let _ = socket.send(&question(number, &name));
            }
        });
        for _ in 0..20 {
            let patient = ["+tries=4", "+time=1"];
            let found = quiet.dig(gateway, &[&patient[..], &["example.org", "A"]].concat());
            assert_eq!(found, ["192.0.2.3"]);
            let found = quiet.dig(gateway, &[&patient[..], &["flood", "A"]].concat());
            assert_eq!(found.len(), 1);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn question(id: u16, name: &str) -> Vec<u8> {
    use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(name).unwrap(),
        QTYPE::TYPE(TYPE::A),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

#[test]
fn a_keeper_that_is_killed_comes_back_and_the_last_one_out_leaves_nothing() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let front = house.network("front", &["10.81.0.0/24"], false);
    assert_eq!(house.keeper(), None);
    let mut web = house.instance(1, &[&front], &["web"]);
    let mut other = house.instance(2, &[&front], &["other"]);
    let gateway = web.gateway(&front);
    let first = house.keeper().unwrap();
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // What the loops of the two supervisors do.
    let end = Instant::now() + Duration::from_secs(20);
    while [&web, &other]
        .iter()
        .any(|instance| instance.attachment.fd().is_none())
        || house.keeper().is_none_or(|now| now == first)
    {
        assert!(Instant::now() < end, "it did not come back");
        web.attachment.tend();
        other.attachment.tend();
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = house.keeper().unwrap();
    assert_ne!(first, second);
    other.attachment.changed().unwrap();
    assert_eq!(web.dig(gateway, &["other", "A"]).len(), 1);

    // One goes: its name goes at once, the rest stays.
    house.release(&other.id);
    drop(other);
    wait_for("the name's end", || {
        web.dig(gateway, &["+time=1", "other", "A"]) == ["SERVFAIL"]
    });
    assert_eq!(house.keeper(), Some(second));
    house.release(&web.id);
    drop(web);
    wait_for("the keeper's end", || house.keeper().is_none());
    wait_for("its folder's end", || house.run_folder_is_gone());
    // Nor is there anything in the kernel.
    assert!(!House::prints(&["ip", "-brief", "link"]).contains(&front.link));
    assert_eq!(House::prints(&["nft", "list", "tables"]), "");
    house
        .dataplane
        .ensure_bridge(&isle_network::wanted::bridge(&front).unwrap())
        .unwrap();
    // And another one can come.
    let web = house.instance(3, &[&front], &["web"]);
    assert_eq!(web.dig(gateway, &["web", "A"]).len(), 1);
}

#[test]
fn a_crowd_that_comes_at_once_gets_one_keeper() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let home = house.home();
    let ids: Vec<String> = (10..40_u8)
        .map(|number| format!("{number:02x}").repeat(32))
        .collect();
    for id in &ids {
        house.join(id, &front, "eth0", &[&id[..12]], &Egress::Allow);
    }
    let attachments: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = ids
            .iter()
            .map(|id| {
                let (home, id) = (home.clone(), id.clone());
                scope.spawn(move || {
                    let mut attachment = isle_netd::Attachment::begin(home, id, vec![]).unwrap();
                    attachment.wait().unwrap();
                    attachment
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let web = house.instance(1, &[&front], &["web"]);
    assert_eq!(web.dig(web.gateway(&front), &[&ids[7][..12], "A"]).len(), 1);
    drop(attachments);
}

#[test]
fn who_changes_rows_without_a_word_is_found_out() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let web = house.instance(1, &[&front], &["web"]);
    let gateway = web.gateway(&front);
    let ghost = "ee".repeat(32);
    house.join(&ghost, &front, "eth0", &["ghost"], &Egress::Allow);
    wait_for("the ghost", || {
        web.dig(gateway, &["+time=1", "ghost", "A"])
            .first()
            .is_some_and(|found| found.starts_with("10."))
    });
    house.release(&ghost);
    wait_for("its end", || {
        web.dig(gateway, &["+time=1", "ghost", "A"]) == ["SERVFAIL"]
    });
}

#[test]
fn a_server_of_the_host_on_all_addresses_is_no_obstacle_when_it_lets_others_in() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let front = house.network("front", &["10.81.0.0/24"], false);
    // As dnsmasq does it.
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let datagrams = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&datagrams, true).unwrap();
    bind(&datagrams, &std::net::SocketAddr::from(([0, 0, 0, 0], 53))).unwrap();
    let streams = std::net::TcpListener::bind("0.0.0.0:53").unwrap();
    let mut web = house.instance(1, &[&front], &["web"]);
    assert_eq!(web.dig(web.gateway(&front), &["web", "A"]).len(), 1);
    let told = web.attachment.tend();
    assert!(
        matches!(&told[..], [Notice::Failed { reason }] if reason.contains("UDP alone")),
        "{told:?}"
    );
    drop((datagrams, streams));
}

#[test]
fn what_cannot_be_done_is_told_with_the_reason() {
    if is_skipped() {
        return;
    }
    let mut house = House::new(LOCALHOST);
    let front = house.network("front", &["10.81.0.0/24"], false);
    let holder = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
    let Err(error) = house.instance_with(1, &[&front], &["web"], &[], &Egress::Allow) else {
        panic!("the port is taken");
    };
    let AttachError::Failed { reason, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        reason.contains("10.81.0.1 port 53") && reason.contains("\"front\""),
        "{reason}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("ss -lnp")));
    drop(holder);
    house.instance(2, &[&front], &["web"]);

    // A state file that nobody can read.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("isle.db"),
        "this is no database\n".repeat(999),
    )
    .unwrap();
    let home = isle_netd::Home {
        root: folder.path().to_owned(),
        run: folder.path().join("run"),
        ..house.home()
    };
    let mut attachment = isle_netd::Attachment::begin(home, "aa".repeat(32), vec![]).unwrap();
    let error = attachment.wait().unwrap_err();
    assert!(error.to_string().contains("state file"), "{error}");
}
