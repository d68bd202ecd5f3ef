//! A real project: `examples/projects/shop`, of programs of Debian.

use std::path::Path;

use isle_tests::{Invocation, World, wait_for};

const SERVICES: [&str; 5] = ["WEB", "API", "WORKER", "CACHE", "DB"];

/// A machine that emulates has more to do than the usual wait allows for; the files wait for health themselves.
fn compose<'w>(
    world: &'w World,
    level: impl Fn(&str) -> &'w str + 'w,
) -> impl Fn(&[&str]) -> Invocation + 'w {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/projects/shop/compose.yaml");
    move |words: &[&str]| {
        let mut compose = world.isle(["compose", "--progress", "quiet", "--file"]);
        compose = compose.arguments([file.as_os_str()]).arguments(words);
        for service in SERVICES {
            compose = compose.env(&format!("{service}_LEVEL"), level(service));
        }
        compose
    }
}

fn takes_orders(world: &World, compose: impl Fn(&[&str]) -> Invocation) {
    world.use_own_host("");
    for image in ["nginx", "python", "redis", "postgresql"] {
        world.image(image);
    }
    compose(&["up", "-d", "--build"]).succeeds();
    for order in ["tea", "it's milk"] {
        let taken = world
            .on_host(["curl", "-sS", "-d", order, "http://127.0.0.1:8080/orders"])
            .succeeds();
        assert_eq!(taken, "taken");
    }
    wait_for("both orders in the database", || {
        world
            .on_host(["curl", "-sS", "http://127.0.0.1:8080/orders"])
            .run()
            .stdout()
            .trim()
            == "2"
    });
    let rows = [
        "exec",
        "-T",
        "db",
        "psql",
        "-U",
        "postgres",
        "-d",
        "shop",
        "-tAc",
        "SELECT text FROM orders ORDER BY id",
    ];
    assert_eq!(compose(&rows).succeeds(), "tea\nit's milk");
    let ids = || world.isle(["ps", "-aq"]).succeeds();
    let before = ids();
    compose(&["up", "-d"]).succeeds();
    assert_eq!(ids(), before, "up twice changes nothing");
    compose(&["down", "-v"]).succeeds();
    assert_eq!(ids(), "");
}

pub fn a_shop_takes_orders(world: &World) {
    let level = world.level().word();
    takes_orders(world, compose(world, move |_| level));
}
