//! Names that mean an address: RFC 1035 section 3.5, RFC 3596 section 2.5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that a name in lower case means, if it is such a name.
pub(crate) fn address(name: &str) -> Option<IpAddr> {
    if let Some(numbers) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut words = numbers.split('.');
        for octet in octets.iter_mut().rev() {
            let word = words.next()?;
            // "01" and "+1" are no numbers here.
            *octet = word
                .parse()
                .ok()
                .filter(|number: &u8| number.to_string() == word)?;
        }
        return words
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let numbers = name.strip_suffix(".ip6.arpa")?;
    let mut bits: u128 = 0;
    let mut count = 0;
    for word in numbers.split('.') {
        let &[digit] = word.as_bytes() else {
            return None;
        };
        let value = u128::from(char::from(digit).to_digit(16)?);
        count += 1;
        if count > 32 {
            return None;
        }
        bits |= value << (4 * (count - 1));
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_in_names() {
        assert_eq!(
            address("2.0.0.10.in-addr.arpa"),
            Some(IpAddr::from([10, 0, 0, 2]))
        );
        for other in [
            "0.0.10.in-addr.arpa",
            "1.2.0.0.10.in-addr.arpa",
            "02.0.0.10.in-addr.arpa",
            "x.ip6.arpa",
            "in-addr.arpa",
            "web",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn each_address_has_a_name(bits in any::<u128>(), short in any::<u32>()) {
            let digits: Vec<String> = format!("{bits:032x}").chars().rev().map(String::from).collect();
            let name = format!("{}.ip6.arpa", digits.join("."));
            prop_assert_eq!(address(&name), Some(Ipv6Addr::from_bits(bits).into()));
            let [a, b, c, d] = short.to_be_bytes();
            let name = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
            prop_assert_eq!(address(&name), Some(Ipv4Addr::from(short).into()));
        }

        #[test]
        fn other_names_do_no_harm(name in "[0-9a-f.]{0,80}(\\.ip6\\.arpa|\\.in-addr\\.arpa)?") {
            let _ = address(&name);
        }
    }
}
