//! P11, and what networks cost: in network namespaces of their own, which nothing else is in.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use isle_dataplane::{Bridge, Dataplane, Endpoint, Protocol, Publication, Rate, Realm};
use isle_netlink::link::{Kind, Link};
use isle_netlink::{Batch, Socket};
use isle_sys::namespace::in_network;

use crate::harness::{Benchmark, Column, Settings, measure};

/// What a transfer sends.
const BYTES: usize = 1 << 30;
/// What a run of round trips asks, a byte each time.
const QUESTIONS: usize = 2000;
/// Ports that a run publishes, one by one.
const PORTS: u16 = 100;
/// What is published already in the other column.
const MANY: u16 = 1000;

/// A network namespace. It goes when this does.
struct Namespace(File);

impl Namespace {
    fn new() -> Result<Namespace> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let mut ready = [0; 6];
        let mut said = child.stdout.take().context("no standard output")?;
        let opened = said
            .read_exact(&mut ready)
            .and_then(|()| File::open(format!("/proc/{}/ns/net", child.id())));
        child.kill()?;
        child.wait()?;
        Ok(Namespace(
            opened.context("cannot make a network namespace")?,
        ))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn run<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_network(self.fd(), run)?
    }

    /// Gives a link an address, and brings it up.
    fn configure(&self, link: &str, address: [u8; 4]) -> Result<()> {
        self.run(|| {
            let socket = Socket::route()?;
            let index = rustix::net::netdevice::name_to_index(&socket, link)?;
            let mut batch = Batch::default();
            batch.change_link(&Link {
                index,
                is_up: Some(true),
                ..Link::default()
            });
            batch.add_address(index, IpAddr::from(address), 24);
            Ok(socket.send(&batch)?)
        })
    }
}

/// A host, two instances on a bridge of its, one of them with a published port, and a cable from the host to elsewhere.
struct Scene {
    host: Namespace,
    elsewhere: Namespace,
    instances: [Namespace; 2],
    dataplane: RefCell<Dataplane>,
    /// Two that have nothing but a cable between them.
    plain: [Namespace; 2],
}

fn endpoint(number: u8) -> Result<Endpoint> {
    Ok(Endpoint {
        link: format!("ie{number}"),
        bridge: "isl-bench".to_owned(),
        is_isolated: false,
        interface: "eth0".to_owned(),
        mac: [2, 0x42, 10, 1, 0, number],
        addresses: vec![format!("10.1.0.{number}/24").parse()?],
        gateways: vec!["10.1.0.1".parse()?],
        routes: Vec::new(),
        mtu: None,
        rate: Rate::default(),
    })
}

fn cable(from: &Namespace, to: &Namespace) -> Result<()> {
    let peer = Link {
        name: Some("wan"),
        namespace: Some(to.fd()),
        ..Link::default()
    };
    from.run(|| {
        let mut batch = Batch::default();
        let link = Link {
            name: Some("wan"),
            ..Link::default()
        };
        batch.create_link(&link, Kind::Veth(&peer));
        Ok(Socket::route()?.send(&batch)?)
    })
}

impl Scene {
    fn new() -> Result<Scene> {
        let scene = Scene {
            host: Namespace::new()?,
            elsewhere: Namespace::new()?,
            instances: [Namespace::new()?, Namespace::new()?],
            dataplane: RefCell::new(Dataplane::new(Realm::new("isle_bench"))),
            plain: [Namespace::new()?, Namespace::new()?],
        };
        cable(&scene.plain[0], &scene.plain[1])?;
        scene.plain[0].configure("wan", [192, 0, 2, 1])?;
        scene.plain[1].configure("wan", [192, 0, 2, 2])?;
        cable(&scene.host, &scene.elsewhere)?;
        scene.host.configure("wan", [192, 0, 2, 1])?;
        scene.elsewhere.configure("wan", [192, 0, 2, 2])?;
        scene.with(|dataplane| {
            let bridge = Bridge {
                addresses: vec!["10.1.0.1/24".parse()?],
                masquerade: true,
                ..Bridge::new("isl-bench")
            };
            dataplane.ensure_bridge(&bridge)?;
            for (number, instance) in [2, 3].into_iter().zip(&scene.instances) {
                dataplane.attach_namespace(&endpoint(number)?, instance.fd())?;
            }
            Ok(dataplane.publish(&publications(8080..8081))?)
        })?;
        Ok(scene)
    }

    /// Does something as the host.
    fn with<T: Send>(&self, run: impl FnOnce(&mut Dataplane) -> Result<T> + Send) -> Result<T> {
        let mut dataplane = self.dataplane.borrow_mut();
        let dataplane = &mut *dataplane;
        self.host.run(|| run(dataplane))
    }
}

/// Ports that lead to one of the second instance.
fn publications(ports: std::ops::Range<u16>) -> Vec<Publication> {
    let publication = |host_port| Publication {
        protocol: Protocol::Tcp,
        host: None,
        host_port,
        to: IpAddr::from([10, 1, 0, 3]),
        to_port: 80,
    };
    ports.map(publication).collect()
}

/// A connection from one to another; what listens, and where it is reached.
fn connection(
    from: &Namespace,
    to: &Namespace,
    listens: &str,
    reached: &str,
) -> Result<(TcpStream, TcpStream)> {
    let listens: SocketAddr = listens.parse()?;
    let reached: SocketAddr = reached.parse()?;
    let listener = to.run(|| Ok(TcpListener::bind(listens)?))?;
    let near = from.run(|| Ok(TcpStream::connect(reached)?))?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

fn transfer((near, far): &(TcpStream, TcpStream)) -> Result<()> {
    let sender = near.try_clone()?;
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let chunk = vec![0; 1 << 18];
        for _ in 0..BYTES / chunk.len() {
            (&sender).write_all(&chunk)?;
        }
        Ok(())
    });
    let mut buffer = vec![0; 1 << 18];
    let mut rest = BYTES;
    while rest > 0 {
        let count = (&mut &*far).read(&mut buffer)?;
        ensure!(count > 0, "the connection has ended");
        rest -= count;
    }
    sending
        .join()
        .map_err(|_| anyhow::anyhow!("the sender has failed"))??;
    Ok(())
}

fn round_trips((near, far): &(TcpStream, TcpStream)) -> Result<()> {
    let answerer = far.try_clone()?;
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let mut byte = [0];
        for _ in 0..QUESTIONS {
            (&answerer).read_exact(&mut byte)?;
            (&answerer).write_all(&byte)?;
        }
        Ok(())
    });
    let mut byte = [0];
    for _ in 0..QUESTIONS {
        (&mut &*near).write_all(&byte)?;
        (&mut &*near).read_exact(&mut byte)?;
    }
    answering
        .join()
        .map_err(|_| anyhow::anyhow!("the answerer has failed"))??;
    Ok(())
}

/// P11: throughput and round trips.
pub fn paths(settings: &Settings) -> Result<()> {
    let scene = Scene::new()?;
    let [one, two] = &scene.instances;
    let plain = connection(
        &scene.plain[0],
        &scene.plain[1],
        "0.0.0.0:80",
        "192.0.2.2:80",
    )?;
    let bridge = connection(one, two, "0.0.0.0:81", "10.1.0.3:81")?;
    let published = connection(&scene.elsewhere, two, "0.0.0.0:80", "192.0.2.1:8080")?;
    for (id, title, span, action) in [
        (
            "P11",
            "throughput of networks",
            "1 GiB over one TCP connection, from the first byte sent to the last one received.",
            transfer as fn(&(TcpStream, TcpStream)) -> Result<()>,
        ),
        (
            "P11-latency",
            "round trips of networks",
            "2,000 questions of a byte and their answers over one TCP connection.",
            round_trips,
        ),
    ] {
        let columns = vec![
            Column::new("plain veth", || action(&plain)),
            Column::new("Isle, two instances on a bridge", || action(&bridge)),
            Column::new("Isle, a published port from outside", || action(&published)),
        ];
        let benchmark = Benchmark {
            id,
            title,
            span,
            warm_up: 2,
            runs: settings.runs,
            columns,
        };
        measure(settings, benchmark)?;
    }
    Ok(())
}

/// What it costs to connect an instance, and to publish one more port.
pub fn changes(settings: &Settings) -> Result<()> {
    let scene = Scene::new()?;
    let instance = RefCell::new(Namespace::new()?);
    let attach = Column::new("connect an instance", || {
        let instance = instance.borrow();
        let fd = instance.fd();
        scene.with(|dataplane| Ok(dataplane.attach_namespace(&endpoint(9)?, fd)?))
    })
    .after(|| {
        instance.replace(Namespace::new()?);
        scene.with(|dataplane| Ok(dataplane.detach("ie9")?))
    });
    let benchmark = Benchmark {
        id: "connect",
        title: "an instance on a network",
        span: "From the call to the link inside being up with its address and route, in this process.",
        warm_up: 2,
        runs: settings.runs,
        columns: vec![attach],
    };
    measure(settings, benchmark)?;

    let one_by_one = || {
        scene.with(|dataplane| {
            for publication in publications(20_000..20_000 + PORTS) {
                dataplane.publish(&[publication])?;
            }
            Ok(())
        })
    };
    let take_back = || {
        let ports = publications(20_000..20_000 + PORTS);
        scene.with(|dataplane| Ok(dataplane.unpublish(&ports)?))
    };
    for (id, name, others) in [
        ("publish", "nothing else published", 0),
        ("publish-1000", "1,000 others published", MANY),
    ] {
        let others = publications(30_000..30_000 + others);
        if !others.is_empty() {
            scene.with(|dataplane| Ok(dataplane.publish(&others)?))?;
        }
        let benchmark = Benchmark {
            id,
            title: "one more published port",
            span: "100 ports, one after the other.",
            warm_up: 2,
            runs: settings.runs,
            columns: vec![Column::new(name, one_by_one).after(take_back)],
        };
        measure(settings, benchmark)?;
    }
    Ok(())
}
