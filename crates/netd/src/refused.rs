//! What was refused: from the packets that the kernel logs to what a supervisor is told, once and not a thousand times.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use isle_network::Protocol;

use crate::protocol::Refused;

/// The same refusal is told once in so long, with how often it was.
const WINDOW: Duration = Duration::from_secs(10);
/// Different refusals that are remembered; more in one window are not told.
const MOST: usize = 512;

/// The ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// As in `/etc/protocols`.
    pub(crate) protocol: u8,
    pub(crate) port: Option<u16>,
}

impl Packet {
    /// Reads the beginning of a packet, from the header of IPv4 (RFC 791) or IPv6 (RFC 8200) on. Extension headers are
    /// not gone through: the kernel's next header is told as it is.
    pub(crate) fn read(bytes: &[u8]) -> Option<Packet> {
        let (from, to, protocol, rest): (IpAddr, IpAddr, _, _) = match bytes.first()? >> 4 {
            4 => {
                let length = usize::from(bytes[0] & 15) * 4;
                let from = Ipv4Addr::from(*bytes.get(12..)?.first_chunk::<4>()?);
                let to = Ipv4Addr::from(*bytes.get(16..)?.first_chunk::<4>()?);
                (from.into(), to.into(), bytes[9], bytes.get(length..))
            }
            6 => {
                let from = Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?);
                let to = Ipv6Addr::from(*bytes.get(24..)?.first_chunk::<16>()?);
                (from.into(), to.into(), bytes[6], bytes.get(40..))
            }
            _ => return None,
        };
        // TCP, UDP, SCTP, DCCP, UDP-Lite: the destination's port comes second.
        let has_ports = matches!(protocol, 6 | 17 | 132 | 33 | 136);
        let ports = rest
            .filter(|_| has_ports)
            .and_then(|rest| rest.get(2..)?.first_chunk());
        Some(Packet {
            from,
            to,
            protocol,
            port: ports.map(|port| u16::from_be_bytes(*port)),
        })
    }

    pub(crate) fn protocol(&self) -> Result<Protocol, u8> {
        match self.protocol {
            6 => Ok(Protocol::Tcp),
            17 => Ok(Protocol::Udp),
            132 => Ok(Protocol::Sctp),
            other => Err(other),
        }
    }
}

/// What was told, and how often it has happened since.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<(String, Refused), Seen>);

#[derive(Debug)]
struct Seen {
    until: Instant,
    times: u32,
}

impl Refusals {
    /// Notes one. True: it is told now.
    pub(crate) fn note(&mut self, now: Instant, instance: &str, refused: &Refused) -> bool {
        let key = (instance.to_owned(), refused.clone());
        if let Some(seen) = self.0.get_mut(&key) {
            seen.times = seen.times.saturating_add(1);
            return false;
        }
        if self.0.len() >= MOST {
            return false;
        }
        let until = now + WINDOW;
        self.0.insert(key, Seen { until, times: 0 });
        true
    }

    /// When to look again; `None`: there is nothing to look at.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.values().map(|seen| seen.until).min()
    }

    /// What has happened again since it was told.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(String, Refused, u32)> {
        let mut again = Vec::new();
        self.0.retain(|(instance, refused), seen| {
            if seen.until > now {
                return true;
            }
            let times = std::mem::take(&mut seen.times);
            if times > 0 {
                again.push((instance.clone(), refused.clone(), times));
            }
            seen.until = now + WINDOW;
            times > 0
        });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_of_both_families_are_read() {
        let mut v4 = vec![0x46; 1];
        v4.extend([0; 8]);
        v4.extend([6, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1, 1, 1, 1, 1]);
        v4.extend([0x30, 0x39, 1, 187]);
        let packet = Packet::read(&v4).unwrap();
        assert_eq!(packet.from, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(packet.to, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(
            (packet.protocol(), packet.port),
            (Ok(Protocol::Tcp), Some(443))
        );

        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
        v6.extend([1; 16]);
        v6.extend([2; 16]);
        v6.extend([128, 0, 0, 0]);
        let packet = Packet::read(&v6).unwrap();
        assert_eq!(packet.to, IpAddr::from([2; 16]));
        assert_eq!((packet.protocol(), packet.port), (Err(58), None));
        v6[6] = 17;
        v6.truncate(41);
        assert_eq!(Packet::read(&v6).unwrap().port, None);
    }

    #[test]
    fn the_same_is_told_once_and_then_counted() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let name = Refused::Name("evil.example".to_owned());
        assert!(refusals.note(start, "a", &name));
        assert!(!refusals.note(start, "a", &name));
        assert!(!refusals.note(start, "a", &name));
        assert!(refusals.note(start, "b", &name));
        assert_eq!(refusals.due(start), []);
        let later = refusals.next().unwrap();
        assert_eq!(refusals.due(later), [("a".to_owned(), name.clone(), 2)]);
        // Quiet for a whole window: forgotten, and told again.
        let much_later = refusals.next().unwrap();
        assert_eq!(refusals.due(much_later), []);
        assert_eq!(refusals.next(), None);
        assert!(refusals.note(much_later, "a", &name));
    }

    #[test]
    fn there_is_a_bound() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let told = (0..10_000)
            .filter(|number| refusals.note(now, "a", &Refused::Name(number.to_string())));
        assert_eq!(told.count(), MOST);
    }

    proptest! {
        #[test]
        fn anything_can_be_logged(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Packet::read(&bytes);
        }
    }
}
