//! What instances may reach beyond their networks.

use isle_tests::{NEIGHBOUR, World, wait_for};

use crate::reach::{
    address, from_neighbour, reaches, reaches_port, refused, serve, serve_at_neighbour,
};

pub fn a_policy_holds_for_addresses_subnets_and_ports(world: &World) {
    world.use_own_host("");
    let _first = serve_at_neighbour(world, 8000, "outside");
    let _second = serve_at_neighbour(world, 8001, "outside");
    serve(world, "near", &[]);
    let [one, other, _] = NEIGHBOUR;
    let ways = [(one, 8000), (one, 8001), (other, 8000)];
    for (policy, open) in [
        ("allow", [true, true, true]),
        ("deny", [false, false, false]),
        (one, [true, true, false]),
        ("192.0.2.0/24", [true, true, true]),
        ("192.0.2.2:8000", [true, false, false]),
        (
            "192.0.2.2:7000-8000/tcp,192.0.2.3/udp",
            [true, false, false],
        ),
        ("203.0.113.0/24", [false, false, false]),
    ] {
        world.background("kept", &["--egress", policy], &["sleep", "1000"]);
        for ((to, port), is_open) in ways.into_iter().zip(open) {
            let wanted = if is_open { "outside" } else { "" };
            assert_eq!(
                reaches_port(world, "kept", to, port),
                wanted,
                "{policy}: {to}:{port}"
            );
        }
        // Its neighbours it always reaches.
        assert_eq!(reaches(world, "kept", "near"), "near", "{policy}");
        let shown = world
            .isle(["inspect", "--format", "{{.Egress}}", "kept"])
            .succeeds();
        assert_eq!(shown, policy);
        world.isle(["rm", "-f", "kept"]).succeeds();
    }
    for policy in ["", "maybe someone", "10.0.0.0/40", "a:0"] {
        world
            .script(&["--rm", "--egress", policy], "true")
            .exits_with(125)
            .complains("--egress");
    }
}

pub fn names_open_the_way_to_what_they_mean(world: &World) {
    world.use_own_host("nameserver 127.0.0.1\n");
    let _outside = serve_at_neighbour(world, 8000, "outside");
    // Every name means the neighbour.
    let asked =
        world.in_host(|| crate::upstream::start("127.0.0.1".parse().expect("an address"), 2));
    world.background("kept", &["--egress", "good.test:8000"], &["sleep", "1000"]);
    // By its number it is not known yet.
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[0], 8000), "");
    // A name that is not on the list is not even asked for.
    refused(world.isle(["exec", "kept", "nslookup", "-type=a", "bad.test"]));
    assert_eq!(asked.get(), 0);
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[0], 8000), "");
    world
        .isle(["exec", "kept", "nslookup", "-type=a", "good.test"])
        .succeeds();
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[0], 8000), "outside");
    // The same host by another address is another host.
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[1], 8000), "");
}

pub fn what_was_refused_is_told(world: &World) {
    world.use_own_host("");
    let _outside = serve_at_neighbour(world, 8000, "outside");
    world.background("kept", &["--egress", "deny"], &["sleep", "1000"]);
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[0], 8000), "");
    wait_for("the refusal among the events", || {
        let events = world
            .isle(["events", "--since", "1h", "--until", "0s"])
            .succeeds();
        let told = events.lines().find(|line| line.contains("egress_refused"));
        told.is_some_and(|line| {
            line.contains("address=192.0.2.2")
                && line.contains("port=8000")
                && line.contains("protocol=tcp")
        })
    });
}

pub fn a_guarded_instance_is_reached_and_cannot_pretend(world: &World) {
    world.use_own_host("");
    let _outside = serve_at_neighbour(world, 8000, "outside");
    serve(
        world,
        "kept",
        &[
            "--egress",
            "deny",
            "-p",
            "8080:80",
            "--cap-add",
            "NET_ADMIN",
        ],
    );
    assert_eq!(from_neighbour(world, isle_tests::ON_WIRE[0], 8080), "kept");
    // With another address than its own it gets no further.
    let own = address(world, "kept", "bridge");
    let script = format!(
        "ip addr del {own}/16 dev eth0; ip addr add 172.17.200.200/16 dev eth0; ip route add default via 172.17.0.1"
    );
    world.isle(["exec", "kept", "sh", "-c", &script]).succeeds();
    assert_eq!(reaches_port(world, "kept", NEIGHBOUR[0], 8000), "");
}
