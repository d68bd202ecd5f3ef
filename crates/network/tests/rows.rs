//! Networks, addresses and ports in a state file of their own.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::net::Ipv4Addr;

use isle_database::Database;
use isle_network::{
    Driver, HostPort, Join, MacvlanMode, Network, NetworkError, NewNetwork, Protocol, Publish,
    SubnetRequest,
};

fn database() -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("isle.db");
    let database = Database::open(&path, &[isle_network::SCHEMA]).unwrap();
    (directory, database)
}

fn with_subnet(name: &str, subnet: &str) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        subnets: vec![SubnetRequest {
            subnet: subnet.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Default::default(),
        }],
        ..NewNetwork::default()
    }
}

fn join(database: &Database, network: &Network, instance: &str) -> Result<String, NetworkError> {
    asking(database, network, instance, None)
}

fn asking(
    database: &Database,
    network: &Network,
    instance: &str,
    ipv4: Option<&str>,
) -> Result<String, NetworkError> {
    let wanted = Join {
        network: network.id.clone(),
        interface: "eth0".to_owned(),
        ipv4: ipv4.map(|text| text.parse().unwrap()),
        ..Join::default()
    };
    let (_, endpoint) = database.write(|tx| isle_network::join(tx, instance, &wanted))?;
    Ok(endpoint.ipv4.unwrap().addr().to_string())
}

#[test]
fn a_network_is_found_by_name_and_by_the_beginning_of_its_id() {
    let (_directory, database) = database();
    let network = isle_network::create(&database, &with_subnet("db", "10.11.0.0/24")).unwrap();
    assert_eq!(isle_network::find(&database, "db").unwrap(), network);
    assert_eq!(
        isle_network::find(&database, &network.id[..5]).unwrap(),
        network
    );
    assert!(network.link.len() <= 15);
    let error = isle_network::find(&database, "bd").unwrap_err();
    assert!(error.hint().unwrap().contains("\"db\""), "{error}");
    let error = isle_network::create(&database, &with_subnet("db", "10.12.0.0/24")).unwrap_err();
    assert!(error.to_string().contains(&network.id), "{error}");
    for name in ["", "a b", "-x", "host", "none", "bridge", "default", "../x"] {
        isle_network::create(&database, &with_subnet(name, "10.13.0.0/24")).unwrap_err();
    }
    isle_network::remove(&database, &network).unwrap();
    isle_network::find(&database, "db").unwrap_err();
}

#[test]
fn subnets_never_overlap() {
    let (_directory, database) = database();
    isle_network::create(&database, &with_subnet("a", "10.11.0.0/16")).unwrap();
    for subnet in ["10.11.4.0/24", "10.0.0.0/8", "10.11.0.0/16"] {
        let error = isle_network::create(&database, &with_subnet("b", subnet)).unwrap_err();
        assert!(error.to_string().contains("network \"a\""), "{error}");
    }
    let chosen: Vec<Network> = (0..4)
        .map(|number| {
            let new = NewNetwork {
                name: format!("n{number}"),
                ipv6: true,
                ..NewNetwork::default()
            };
            isle_network::create(&database, &new).unwrap()
        })
        .collect();
    for network in &chosen {
        assert_eq!(network.spec.subnets.len(), 2);
        assert!(network.gateways().count() == 2);
    }
    let nets = |is_ipv6| {
        chosen
            .iter()
            .map(move |n| n.subnet(is_ipv6).unwrap().subnet)
    };
    for is_ipv6 in [false, true] {
        let all: Vec<_> = nets(is_ipv6).collect();
        for (number, one) in all.iter().enumerate() {
            let mut others = all[number + 1..].iter();
            assert!(!others.any(|other| isle_network::address::overlap(one, other)));
        }
    }
    assert_eq!(
        isle_network::default_network(&database).unwrap(),
        isle_network::default_network(&database).unwrap()
    );
}

#[test]
fn an_address_is_given_once_and_comes_back_to_who_had_it() {
    let (_directory, database) = database();
    let network = isle_network::create(&database, &with_subnet("a", "10.11.0.0/29")).unwrap();
    let given: Vec<String> = (0..5)
        .map(|number| join(&database, &network, &format!("i{number}")).unwrap())
        .collect();
    assert_eq!(
        given,
        [
            "10.11.0.2",
            "10.11.0.3",
            "10.11.0.4",
            "10.11.0.5",
            "10.11.0.6"
        ]
    );
    let error = join(&database, &network, "i5").unwrap_err();
    assert!(matches!(error, NetworkError::Exhausted { .. }), "{error}");
    let error = join(&database, &network, "i4").unwrap_err();
    assert!(
        matches!(error, NetworkError::AlreadyConnected { .. }),
        "{error}"
    );
    let error = asking(&database, &network, "i5", Some("10.11.0.3")).unwrap_err();
    assert!(
        matches!(error, NetworkError::AddressInUse { .. }),
        "{error}"
    );
    let error = asking(&database, &network, "i5", Some("10.12.0.3")).unwrap_err();
    assert!(matches!(error, NetworkError::NotInSubnet { .. }), "{error}");
    let error = isle_network::remove(&database, &network).unwrap_err();
    assert!(matches!(error, NetworkError::InUse { .. }), "{error}");

    let release = |instance: &str| {
        database
            .write(|tx| isle_network::release(tx, instance))
            .unwrap();
    };
    release("i1");
    release("i3");
    assert_eq!(join(&database, &network, "i3").unwrap(), "10.11.0.5");
    // Nothing else is left: it is taken from who does not run.
    assert_eq!(join(&database, &network, "i5").unwrap(), "10.11.0.3");
    join(&database, &network, "i1").unwrap_err();
    release("i5");
    assert_eq!(
        asking(&database, &network, "i6", Some("10.11.0.3")).unwrap(),
        "10.11.0.3"
    );
    assert_eq!(
        isle_network::endpoints_on(&database, &network.id)
            .unwrap()
            .len(),
        5
    );
    database
        .write(|tx| isle_network::forget(tx, "i6", None))
        .unwrap();
    assert_eq!(isle_network::endpoints_of(&database, "i6").unwrap(), []);
}

#[test]
fn hardware_addresses_follow_addresses() {
    let (_directory, database) = database();
    let network = isle_network::create(&database, &with_subnet("a", "10.11.0.0/29")).unwrap();
    join(&database, &network, "i").unwrap();
    let endpoint = isle_network::endpoints_of(&database, "i")
        .unwrap()
        .remove(0);
    assert_eq!(endpoint.mac, [2, 0x42, 10, 11, 0, 2]);
    assert_eq!(endpoint.ipv4.unwrap().addr(), Ipv4Addr::new(10, 11, 0, 2));
    assert!(endpoint.link().len() <= 15);
}

#[test]
fn a_macvlan_network_has_no_gateway_of_the_host() {
    let (_directory, database) = database();
    let new = NewNetwork {
        driver: Driver::Macvlan {
            parent: "eth9".to_owned(),
            mode: MacvlanMode::Bridge,
        },
        ..with_subnet("lan", "10.14.0.0/24")
    };
    let network = isle_network::create(&database, &new).unwrap();
    assert_eq!(network.link, "eth9");
    assert_eq!(network.gateways().count(), 0);
}

#[test]
fn a_port_is_published_once() {
    let (_directory, database) = database();
    let tcp = |host: Option<&str>, host_port| Publish {
        protocol: Protocol::Tcp,
        port: 80,
        host: host.map(|text| text.parse().unwrap()),
        host_port,
    };
    let publish = |instance: &str, wanted: Publish| {
        let published = database.write(|tx| isle_network::publish(tx, instance, &[wanted]));
        published.map(|mut published| published.remove(0))
    };
    let (any, held) = publish("a", tcp(Some("127.0.0.1"), HostPort::Any)).unwrap();
    assert!((32768..=60999).contains(&any.host_port));
    assert_eq!(held.len(), 1);
    let exactly = HostPort::Within(any.host_port, any.host_port);
    let error = publish("b", tcp(None, exactly)).unwrap_err();
    assert!(matches!(error, NetworkError::PortInUse { .. }), "{error}");
    assert!(error.to_string().contains('a'), "{error}");
    let udp = Publish {
        protocol: Protocol::Udp,
        ..tcp(Some("127.0.0.1"), exactly)
    };
    publish("b", udp).unwrap();
    // Somebody else's program has it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = tcp(Some("127.0.0.1"), HostPort::Within(port, port));
    let error = publish("c", taken).unwrap_err();
    assert!(matches!(error, NetworkError::PortTaken { .. }), "{error}");
    assert_eq!(isle_network::publications_of(&database, "c").unwrap(), []);
    drop(listener);
    publish("c", taken).unwrap();
    assert_eq!(isle_network::all_publications(&database).unwrap().len(), 3);
    database
        .write(|tx| isle_network::unpublish(tx, "a", Some(&[any])))
        .unwrap();
    database
        .write(|tx| isle_network::unpublish(tx, "b", None))
        .unwrap();
    assert_eq!(isle_network::all_publications(&database).unwrap().len(), 1);
}
