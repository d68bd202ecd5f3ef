//! Which address is next, and which subnet is free. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::NetworkError;
use crate::model::{Subnet, SubnetRequest};

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, is_ipv6: bool) -> IpAddr {
    match is_ipv6 {
        true => IpAddr::V6(Ipv6Addr::from(number)),
        // Only numbers of the same family come here.
        false => IpAddr::V4(Ipv4Addr::from(number as u32)),
    }
}

/// The first and the last address that a host can have: not the subnet's own, and in IPv4 not the one
/// for all. Subnets of two addresses or of one have no such (RFC 3021).
fn hosts(net: &IpNet) -> (u128, u128) {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let first = number(net.network());
    let last = match bits {
        128 => u128::MAX,
        bits => first + ((1 << bits) - 1),
    };
    match (bits, net) {
        (0 | 1, _) => (first, last),
        (_, IpNet::V4(_)) => (first + 1, last - 1),
        (_, IpNet::V6(_)) => (first + 1, last),
    }
}

/// The next address of a subnet that is free, the first one after `after`; at the end it goes on at the
/// beginning, so that an address that was given back rests as long as possible.
pub fn next(
    subnet: &Subnet,
    after: Option<IpAddr>,
    mut is_taken: impl FnMut(IpAddr) -> Result<bool, NetworkError>,
) -> Result<Option<IpAddr>, NetworkError> {
    let is_ipv6 = subnet.subnet.addr().is_ipv6();
    let (mut first, mut last) = hosts(&subnet.subnet);
    if let Some(range) = subnet.range {
        let bits = u32::from(range.max_prefix_len() - range.prefix_len());
        let begin = number(range.network());
        first = first.max(begin);
        last = last.min(begin + (1_u128 << bits.min(127)) - 1);
    }
    if first > last {
        return Ok(None);
    }
    let start = match after.map(number) {
        Some(after) if (first..last).contains(&after) => after + 1,
        _ => first,
    };
    for number in (start..=last).chain(first..start) {
        let candidate = address(number, is_ipv6);
        if is_given(subnet, candidate) && !is_taken(candidate)? {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Whether an address is one that an instance may have.
fn is_given(subnet: &Subnet, address: IpAddr) -> bool {
    subnet.gateway != Some(address) && !subnet.reserved.values().any(|other| *other == address)
}

/// Whether an instance may ask for this address.
///
/// # Errors
/// Why it may not.
pub fn check(subnet: &Subnet, address: IpAddr) -> Result<(), String> {
    let (first, last) = hosts(&subnet.subnet);
    if !subnet.subnet.contains(&address) || !(first..=last).contains(&number(address)) {
        return Err(format!("its subnet is {}", subnet.subnet));
    }
    if subnet.gateway == Some(address) {
        return Err("it is that of the gateway".to_owned());
    }
    let reserved = subnet.reserved.iter().find(|(_, other)| **other == address);
    match reserved {
        Some((name, _)) => Err(format!("it is kept for {name:?} (--aux-address)")),
        None => Ok(()),
    }
}

/// A subnet with what was left open chosen.
///
/// # Errors
/// [`NetworkError::BadAddress`].
pub fn complete(request: &SubnetRequest, needs_gateway: bool) -> Result<Subnet, NetworkError> {
    let bad = |value: String, reason: &str| NetworkError::BadAddress {
        value,
        reason: reason.to_owned(),
    };
    let subnet = request.subnet.trunc();
    if subnet != request.subnet {
        return Err(bad(
            request.subnet.to_string(),
            &format!("it is an address in the subnet {subnet}"),
        ));
    }
    let (first, last) = hosts(&subnet);
    // The host, and one instance at least.
    if last - first < 1 {
        return Err(bad(subnet.to_string(), "it has no room for instances"));
    }
    let outside = |what: &str, address: IpAddr| match subnet.contains(&address)
        && (first..=last).contains(&number(address))
    {
        true => Ok(()),
        false => Err(bad(
            format!("{what} {address}"),
            &format!("it is not an address of {subnet}"),
        )),
    };
    if let Some(range) = request.range
        && !(subnet.contains(&range) && range.trunc() == range)
    {
        return Err(bad(
            format!("--ip-range {range}"),
            &format!("it is not a part of {subnet}"),
        ));
    }
    for (name, reserved) in &request.reserved {
        outside(&format!("--aux-address {name}"), *reserved)?;
    }
    let gateway = match (request.gateway, needs_gateway) {
        (Some(gateway), _) => {
            outside("--gateway", gateway)?;
            if request.reserved.values().any(|other| *other == gateway) {
                return Err(bad(
                    format!("--gateway {gateway}"),
                    "it is kept for others (--aux-address)",
                ));
            }
            Some(gateway)
        }
        (None, true) => {
            let is_ipv6 = subnet.addr().is_ipv6();
            let free = |number: &u128| {
                let candidate = address(*number, is_ipv6);
                !request.reserved.values().any(|other| *other == candidate)
            };
            (first..=last)
                .find(free)
                .map(|number| address(number, is_ipv6))
        }
        (None, false) => None,
    };
    Ok(Subnet {
        subnet,
        gateway,
        range: request.range,
        reserved: request.reserved.clone(),
    })
}

/// Whether two subnets have addresses in common.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Where subnets are chosen from: Docker's pools. 172.17 to 172.31 as /16, then 192.168 as /20.
fn pools() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|part| (Ipv4Addr::new(192, 168, part * 16, 0), 20));
    large
        .chain(small)
        .filter_map(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map(IpNet::V4)
}

/// An IPv4 subnet that is nobody's.
#[must_use]
pub fn free_ipv4(taken: &[IpNet]) -> Option<IpNet> {
    pools().find(|pool| !taken.iter().any(|other| overlap(pool, other)))
}

/// An IPv6 subnet of the host's own (RFC 4193): fd, 40 bits of the network's random id, 16 more for the
/// subnet.
#[must_use]
pub fn ipv6_of(random: [u8; 7]) -> IpNet {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..8].copy_from_slice(&random);
    let net = Ipv6Net::new(Ipv6Addr::from(octets), 64).expect("64 is a length of a prefix");
    IpNet::V6(net)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        let request = SubnetRequest {
            subnet: text.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Default::default(),
        };
        complete(&request, true).unwrap()
    }

    fn all(subnet: &Subnet) -> Vec<String> {
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        let mut last = None;
        while let Some(address) = next(subnet, last, |a| Ok(taken.contains(&a))).unwrap() {
            taken.insert(address);
            given.push(address.to_string());
            last = Some(address);
        }
        given
    }

    #[test]
    fn every_address_but_the_gateway_is_given_once() {
        assert_eq!(all(&subnet("10.0.0.0/30")), ["10.0.0.2"]);
        assert_eq!(
            all(&subnet("10.0.0.0/29")),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(all(&subnet("fd00::/126")), ["fd00::2", "fd00::3"]);
        assert_eq!(all(&subnet("10.0.0.0/31")), ["10.0.0.1"]);
    }

    #[test]
    fn ranges_and_reserved_addresses_are_kept() {
        let mut one = subnet("10.0.0.0/24");
        one.range = Some("10.0.0.128/30".parse().unwrap());
        one.reserved
            .insert("router".to_owned(), "10.0.0.129".parse().unwrap());
        assert_eq!(all(&one), ["10.0.0.128", "10.0.0.130", "10.0.0.131"]);
        check(&one, "10.0.0.129".parse().unwrap()).unwrap_err();
        check(&one, "10.0.0.1".parse().unwrap()).unwrap_err();
        check(&one, "10.0.1.1".parse().unwrap()).unwrap_err();
        check(&one, "10.0.0.255".parse().unwrap()).unwrap_err();
        check(&one, "10.0.0.7".parse().unwrap()).unwrap();
    }

    #[test]
    fn an_address_given_back_rests_as_long_as_possible() {
        let one = subnet("10.0.0.0/29");
        let after = |text: &str| {
            let after = Some(text.parse().unwrap());
            next(&one, after, |_| Ok(false))
                .unwrap()
                .unwrap()
                .to_string()
        };
        assert_eq!(after("10.0.0.3"), "10.0.0.4");
        assert_eq!(after("10.0.0.6"), "10.0.0.2");
        assert_eq!(after("192.168.0.1"), "10.0.0.2");
    }

    #[test]
    fn what_cannot_be_a_subnet_is_told() {
        let request = |subnet: &str, gateway: Option<&str>, range: Option<&str>| SubnetRequest {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            range: range.map(|text| text.parse().unwrap()),
            reserved: Default::default(),
        };
        for broken in [
            request("10.0.0.1/24", None, None),
            request("10.0.0.0/32", None, None),
            request("10.0.0.0/24", Some("10.0.1.1"), None),
            request("10.0.0.0/24", Some("10.0.0.255"), None),
            request("10.0.0.0/24", Some("fd00::1"), None),
            request("10.0.0.0/24", None, Some("10.0.1.0/28")),
            request("10.0.0.0/24", None, Some("10.0.0.0/16")),
        ] {
            complete(&broken, true).unwrap_err();
        }
        let whole = complete(&request("::/0", Some("::1"), None), true).unwrap();
        assert_eq!(
            next(&whole, None, |_| Ok(false)).unwrap(),
            Some("::2".parse().unwrap())
        );
    }

    #[test]
    fn subnets_are_chosen_beside_those_of_others() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(free_ipv4(&[]), Some(net("172.17.0.0/16")));
        assert_eq!(
            free_ipv4(&[net("172.17.4.0/24"), net("172.18.0.0/15")]),
            Some(net("172.20.0.0/16"))
        );
        assert_eq!(free_ipv4(&[net("0.0.0.0/0")]), None);
        assert_eq!(
            free_ipv4(&[net("172.16.0.0/12")]),
            Some(net("192.168.0.0/20"))
        );
        assert_eq!(ipv6_of([1, 2, 3, 4, 5, 6, 7]), net("fd01:203:405:607::/64"));
    }

    proptest! {
        #[test]
        fn what_is_next_is_in_the_subnet_and_free(
            base: u32,
            prefix in 20_u8..=30,
            taken: BTreeSet<u16>,
            after: u16,
        ) {
            let net = IpNet::new(IpAddr::V4(base.into()), prefix).unwrap().trunc();
            let one = subnet(&net.to_string());
            let first = number(net.network());
            let taken: BTreeSet<IpAddr> = taken
                .iter()
                .map(|offset| address((first + u128::from(*offset)) & 0xffff_ffff, false))
                .collect();
            let after = address((first + u128::from(after)) & 0xffff_ffff, false);
            match next(&one, Some(after), |a| Ok(taken.contains(&a))).unwrap() {
                Some(found) => {
                    prop_assert!(!taken.contains(&found));
                    prop_assert!(check(&one, found).is_ok());
                }
                None => prop_assert_eq!(
                    all(&one).iter().filter(|a| !taken.contains(&a.parse().unwrap())).count(),
                    0
                ),
            }
        }
    }
}
