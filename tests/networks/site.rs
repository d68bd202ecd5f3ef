//! Programs that people run, spread over the levels: one network, names, a volume.

use isle_tests::{Level, World, wait_for};

/// The level that the world's is not.
fn other(world: &World) -> &'static str {
    match world.level() {
        Level::Container => "vm",
        Level::Vm => "container",
    }
}

/// PostgreSQL and nginx at the world's level, Python and a second nginx at the other one; then the database at the
/// other level, with its rows and its name.
pub fn a_site_is_spread_over_the_levels(world: &World) {
    world.use_own_host("");
    crate::network(world, "site", &[]);
    let (own, other) = (world.level().word(), other(world));
    let database = |level: &str| {
        let image = world.image("postgresql");
        world
            .isle([
                "container",
                "run",
                "-d",
                "--isolation",
                level,
                "--name",
                "db",
                "--network",
                "site",
            ])
            .arguments([
                "-v",
                "rows:/var/lib/postgresql/data",
                "-e",
                "POSTGRES_PASSWORD=secret",
                &image,
            ])
            .succeeds();
        wait_for("PostgreSQL is ready", || {
            world
                .isle(["exec", "db", "pg_isready", "-h", "db", "-U", "postgres"])
                .run()
                .code()
                == 0
        });
    };
    let web = |level: &str, name: &str, port: &str| {
        let image = world.image("nginx");
        world
            .isle([
                "container",
                "run",
                "-d",
                "--isolation",
                level,
                "--name",
                name,
                "--network",
                "site",
            ])
            .arguments(["-p", port, &image])
            .succeeds();
    };
    // A client of each level asks for everything by its name.
    let ask = |level: &str| {
        let query = world
            .isle(["container", "run", "--rm", "--isolation", level, "--network", "site", "-e", "PGPASSWORD=secret"])
            .arguments(["--entrypoint", "psql", &world.image("postgresql"), "-h", "db", "-U", "postgres", "-tAc"])
            .arguments(["CREATE TABLE IF NOT EXISTS asked (by text); INSERT INTO asked VALUES ('x'); SELECT count(*) FROM asked"])
            .succeeds();
        let pages = "import urllib.request
for name in ('web', 'web2'):
    print(urllib.request.urlopen('http://%s/' % name, timeout=30).status)";
        let fetched = world
            .isle([
                "container",
                "run",
                "--rm",
                "--isolation",
                level,
                "--network",
                "site",
            ])
            .arguments([world.image("python").as_str(), "python3", "-c", pages])
            .succeeds();
        assert_eq!(fetched, "200\n200", "{level}");
        query.lines().last().unwrap_or_default().to_owned()
    };
    database(own);
    web(own, "web", "8080:80");
    web(other, "web2", "8081:80");
    for port in [8080, 8081] {
        wait_for("nginx answers from outside", || {
            crate::reach::from_neighbour(world, isle_tests::ON_WIRE[0], port).contains("nginx")
        });
    }
    assert_eq!(ask(own), "1");
    assert_eq!(ask(other), "2");
    // The rows stay where the level does not.
    world.isle(["stop", "db"]).succeeds();
    world.isle(["rm", "db"]).succeeds();
    database(other);
    assert_eq!(ask(own), "3");
    assert_eq!(ask(other), "4");
}
