//! Published ports on `::1`, which the kernel cannot pass on.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod house;

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use house::{House, Instance, is_skipped};
use isle_network::{HostPort, Link, Network, Protocol, Publish, wanted};

const PORT: u16 = 8080;

/// The sockets that keep the port are the supervisor's.
fn publish(house: &mut House, network: &Network, instance: &mut Instance) -> Vec<OwnedFd> {
    let publish = [Protocol::Tcp, Protocol::Udp].map(|protocol| Publish {
        protocol,
        port: 80,
        host: None,
        host_port: HostPort::Within(PORT, PORT),
    });
    let published = house
        .database
        .write(|transaction| isle_network::publish(transaction, &instance.id, &publish));
    let published = published.unwrap();
    // In the kernel too, which must leave `::1` alone.
    let link = Link {
        network: network.clone(),
        endpoint: instance.endpoints[0].clone(),
    };
    let publications = published.iter().map(|(publication, _)| publication);
    let elements = wanted::published(publications, &[link]);
    house.dataplane.publish(&elements).unwrap();
    let held = published.into_iter().flat_map(|(_, held)| held).collect();
    instance.attachment.changed().unwrap();
    held
}

/// Sends back what it gets, turned over, when it has all of it.
fn serve(instance: &Instance, address: &str) {
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| {
            instance.enter();
            let datagrams = UdpSocket::bind((address, 80)).unwrap();
            (TcpListener::bind((address, 80)).unwrap(), datagrams)
        });
        let (listener, datagrams) = listener.join().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((count, from)) = datagrams.recv_from(&mut buffer) {
                buffer[..count].reverse();
                let _ = datagrams.send_to(&buffer[..count], from);
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).is_ok() {
                    all.reverse();
                    let _ = stream.write_all(&all);
                }
            }
        });
    });
}

/// As [`ask`], in a datagram.
fn ask_by_datagram(bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv6Addr::LOCALHOST, PORT)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut buffer = [0; 2048];
    // Twice: the second goes the way of the first.
    for _ in 0..2 {
        socket.send(bytes).unwrap();
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(count, bytes.len());
    }
    buffer[..bytes.len()].to_vec()
}

fn ask(bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, PORT)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut answer).unwrap();
    });
    answer
}

#[test]
fn a_published_port_answers_on_the_loopback_address_of_ipv6() {
    if is_skipped() {
        return;
    }
    for (subnets, address) in [
        (&["10.81.0.0/24"][..], "10.81.0.2"),
        (&["10.81.0.0/24", "fd81::/64"][..], "fd81::2"),
    ] {
        // A thread can be in one house.
        std::thread::scope(|scope| scope.spawn(|| check(subnets, address)).join().unwrap());
    }
}

fn check(subnets: &[&str], address: &str) {
    let mut house = House::new("");
    let front = house.network("front", subnets, false);
    let mut web = house.instance(1, &[&front], &["web"]);
    let refused = TcpStream::connect((Ipv6Addr::LOCALHOST, PORT)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let held = publish(&mut house, &front, &mut web);
    serve(&web, address);

    assert_eq!(ask(b"abc"), b"cba");
    let much: Vec<u8> = (0..8_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let mut answer = ask(&much);
    answer.reverse();
    assert!(answer == much);
    std::thread::scope(|scope| {
        for number in 0..40_u8 {
            scope.spawn(move || assert_eq!(ask(&[number, 0]), [0, number]));
            scope.spawn(move || assert_eq!(ask_by_datagram(&[number, 0]), [0, number]));
        }
    });

    // Taken back: nobody listens any more.
    let gone = house
        .database
        .write(|transaction| isle_network::unpublish(transaction, &web.id, None));
    gone.unwrap();
    web.attachment.changed().unwrap();
    let refused = TcpStream::connect((Ipv6Addr::LOCALHOST, PORT)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(held);
}

#[test]
fn a_port_that_somebody_else_has_is_told() {
    if is_skipped() {
        return;
    }
    let mut house = House::new("");
    let front = house.network("front", &["10.81.0.0/24"], false);
    let mut web = house.instance(1, &[&front], &["web"]);
    let held = publish(&mut house, &front, &mut web);
    let gone = house
        .database
        .write(|transaction| isle_network::unpublish(transaction, &web.id, None));
    gone.unwrap();
    web.attachment.changed().unwrap();
    drop(held);
    let _taken = TcpListener::bind((Ipv6Addr::LOCALHOST, PORT)).unwrap();
    let insert = house.database.connection().execute(
        "INSERT INTO network_publication (protocol, host, host_port, instance, instance_port) VALUES ('tcp', '', 8080, ?1, 80)",
        [&web.id],
    );
    assert_eq!(insert.unwrap(), 1);
    let error = web.attachment.changed().unwrap_err();
    assert!(
        error.to_string().contains("port 8080/tcp on ::1"),
        "{error}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("ss -lntup")));
}
