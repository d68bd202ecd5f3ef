//! Egress by name: what an instance may reach because of what a name resolved to, and what it was refused.
//!
//! The kernel enforces the policy; it knows addresses alone. So before an answer goes to an instance whose policy lists
//! the name, the addresses in it are allowed, for as long as the answer holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use isle_dataplane::Dataplane;
use isle_network::{Egress, Endpoint};

use crate::directory::Directory;
use crate::protocol::Refused;
use crate::refused::{Packet, Refusals};

/// A program may take its time between the answer and the connection.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Addresses that are remembered for all instances together.
const MOST: usize = 16 * 1024;

/// What was allowed: to whom, by which entries of its policy, which address.
#[derive(Debug)]
struct Given {
    name: String,
    numbers: Vec<u16>,
    until: Instant,
}

/// What names have opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    given: BTreeMap<(String, IpAddr), Given>,
}

impl Opened {
    /// An answer is about to go to an endpoint of an instance: what it may reach of it is opened.
    pub(crate) fn open(
        &mut self,
        dataplane: &mut Dataplane,
        directory: &Directory,
        endpoint: &Endpoint,
        name: &str,
        answer: &[u8],
    ) -> Result<(), isle_dataplane::Error> {
        let instance = &endpoint.instance;
        let Egress::List(list) = &endpoint.egress else {
            return Ok(());
        };
        let listed = (0..)
            .zip(list)
            .filter(|(_, allowed)| allowed.to.is_name(name));
        let numbers: Vec<u16> = listed.map(|(number, _)| number).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let mut longest = SHORTEST;
        let mut to = Vec::new();
        for (address, seconds) in isle_resolver::addresses(answer) {
            // A name of the world that leads into the host, or to where no packet goes, opens nothing.
            if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
                continue;
            }
            longest = longest
                .max(Duration::from_secs(seconds.into()))
                .min(LONGEST);
            to.push(address);
        }
        if to.is_empty() {
            return Ok(());
        }
        self.given.retain(|_, given| given.until > now);
        for address in &to {
            if self.given.len() < MOST {
                let given = Given {
                    name: name.to_owned(),
                    numbers: numbers.clone(),
                    until: now + longest,
                };
                self.given.insert((instance.clone(), *address), given);
            }
        }
        let from = directory.addresses_of(instance);
        for number in numbers {
            dataplane.allow(&from, number, &to, longest)?;
        }
        Ok(())
    }

    /// The tables were made anew: what was allowed is allowed again, for the rest of its time.
    pub(crate) fn open_again(
        &mut self,
        dataplane: &mut Dataplane,
        directory: &Directory,
    ) -> Result<(), isle_dataplane::Error> {
        let now = Instant::now();
        self.given
            .retain(|(instance, _), given| given.until > now && directory.has(instance));
        for ((instance, address), given) in &self.given {
            let from = directory.addresses_of(instance);
            for number in &given.numbers {
                dataplane.allow(&from, *number, &[*address], given.until - now)?;
            }
        }
        Ok(())
    }

    /// The name by which an instance has asked for an address.
    fn name_of(&self, instance: &str, address: IpAddr) -> Option<&str> {
        let given = self.given.get(&(instance.to_owned(), address));
        given.map(|given| given.name.as_str())
    }

    /// What a logged packet means to the supervisor of its sender: nothing, or a refusal that is told now.
    pub(crate) fn refused(
        &self,
        directory: &Directory,
        refusals: &mut Refusals,
        packet: &[u8],
    ) -> Option<(String, Refused)> {
        let packet = Packet::read(packet)?;
        let instance = directory.instance_at(packet.from)?;
        let refused = Refused::Packet {
            address: packet.to,
            protocol: packet.protocol(),
            port: packet.port,
            name: self.name_of(instance, packet.to).map(str::to_owned),
        };
        let is_told = refusals.note(Instant::now(), instance, &refused);
        is_told.then(|| (instance.to_owned(), refused))
    }
}
