//! Small servers, and who reaches them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isle_tests::{Invocation, ON_WIRE, Outcome, World, wait_for};

/// So long a way that is closed is tried.
const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

/// What a call says that fails.
#[track_caller]
pub fn refused(invocation: Invocation) -> Outcome {
    let outcome = invocation.run();
    assert_ne!(outcome.code(), 0, "{outcome}");
    outcome
}

/// Makes a network.
pub fn network(world: &World, name: &str, flags: &[&str]) {
    world
        .isle(["network", "create"])
        .arguments(flags)
        .arguments([name])
        .succeeds();
}

/// The address of an instance on a network.
pub fn address(world: &World, instance: &str, network: &str) -> String {
    let networks = &world.inspect(instance)["NetworkSettings"]["Networks"];
    let address = networks[network]["IPAddress"].as_str();
    address.expect("it is on the network").to_owned()
}

/// An instance that answers on port 80 with its name.
pub fn serve(world: &World, name: &str, flags: &[&str]) {
    let script =
        format!("mkdir -p /srv; printf {name} > /srv/index.html; exec httpd -f -p 80 -h /srv");
    world.background(name, flags, &["sh", "-c", &script]);
    wait_for("it listens", || {
        let table = world
            .isle(["exec", name, "cat", "/proc/net/tcp6", "/proc/net/tcp"])
            .run();
        table.stdout().contains(":0050 ")
    });
}

/// What an instance gets from port 80 of an address or a name; nothing when it does not get there.
pub fn reaches(world: &World, from: &str, to: &str) -> String {
    reaches_port(world, from, to, 80)
}

/// The same for another port.
pub fn reaches_port(world: &World, from: &str, to: &str, port: u16) -> String {
    let port = port.to_string();
    let outcome = world
        .isle(["exec", "-i", from, "nc", "-w", "2", to, &port])
        .stdin(REQUEST)
        .run();
    body(&outcome.stdout())
}

fn body(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    body.unwrap_or_default().trim().to_owned()
}

fn get(to: &str, port: u16) -> String {
    let address: IpAddr = to.parse().expect("an address");
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)
    else {
        return String::new();
    };
    let mut answer = String::new();
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.write_all(REQUEST.as_bytes());
    let _ = stream.read_to_string(&mut answer);
    body(&answer)
}

/// What the host gets there.
pub fn from_host(world: &World, to: &str, port: u16) -> String {
    world.in_host(|| get(to, port))
}

/// What another host gets there.
pub fn from_neighbour(world: &World, to: &str, port: u16) -> String {
    world.in_neighbour(|| get(to, port))
}

/// The same for an address that it has to send to the host first.
pub fn from_neighbour_by_route(world: &World, to: &str, port: u16) -> String {
    world.in_neighbour(|| {
        let status = std::process::Command::new("ip")
            .args(["route", "add", to, "via", ON_WIRE[0]])
            .status();
        assert!(status.expect("iproute2 is there").success());
        get(to, port)
    })
}

/// A server on another host.
pub struct Outside {
    clients: Arc<Mutex<Vec<IpAddr>>>,
}

impl Outside {
    /// Who asked last, as it saw it.
    pub fn last_client(&self) -> String {
        let clients = self.clients.lock().expect("no panic");
        clients.last().map(ToString::to_string).unwrap_or_default()
    }
}

/// Has the other host answer on a port of all its addresses.
pub fn serve_at_neighbour(world: &World, port: u16, text: &'static str) -> Outside {
    let listener =
        world.in_neighbour(|| TcpListener::bind(("::", port)).expect("the port is free"));
    let outside = Outside {
        clients: Arc::default(),
    };
    let clients = Arc::clone(&outside.clients);
    // It ends with the program.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            if let Ok(peer) = stream.peer_addr() {
                clients
                    .lock()
                    .expect("no panic")
                    .push(peer.ip().to_canonical());
            }
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{text}");
        }
    });
    outside
}
