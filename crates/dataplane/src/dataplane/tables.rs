//! What is in the tables.

use std::net::IpAddr;
use std::time::Duration;

use isle_netlink::conntrack;
use isle_netlink::nftables::{Family, Transaction};
use rustix::io::Errno;

use super::{Dataplane, errno};
use crate::table::{self, InSet};
use crate::{Endpoint, Error, Guard, Protocol, Publication};

impl Dataplane {
    /// Publishes ports, all or none.
    ///
    /// # Errors
    /// [`Error::Published`] when one is published already, [`Error::Families`] when one goes from IPv4 to IPv6
    /// or the other way round.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<(), Error> {
        if let Some(wrong) = publications
            .iter()
            .find(|publication| table::publication_element(publication).is_none())
        {
            return Err(Error::Families {
                operation: format!("publish {wrong}"),
                to: wrong.to,
            });
        }
        let operation = published(publications, "publish");
        let result = self.change_tables(&operation, |transaction, _| {
            let mut elements: Vec<InSet> = publications
                .iter()
                .filter_map(table::publication_element)
                .collect();
            elements.sort_by_key(|(map, _)| *map);
            for of_map in elements.chunk_by(|(a, _), (b, _)| a == b) {
                let elements = of_map.iter().map(|(_, element)| element.clone());
                transaction.add_new_elements(of_map[0].0, elements);
            }
        });
        match result {
            Err(Error::Refused { operation, source }) if errno(&source) == Some(Errno::EXIST) => {
                Err(Error::Published { operation })
            }
            result => result,
        }
    }

    /// Takes ports back, and ends what goes on over those that have no connections of their own
    /// (UDP): it would go on to the instance's address, whoever has that next. Harmless for those that
    /// are not published, or lead elsewhere by now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unpublish(&mut self, publications: &[Publication]) -> Result<(), Error> {
        let operation = published(publications, "unpublish");
        let elements = publications.iter().filter_map(table::publication_element);
        self.delete_elements(&operation, table::ROUTED, elements.collect())?;
        let datagrams: Vec<_> = publications
            .iter()
            .filter(|publication| publication.protocol == Protocol::Udp)
            .collect();
        if datagrams.is_empty() {
            return Ok(());
        }
        let result = conntrack::delete(self.netfilter(&operation)?, |sent, expected| {
            datagrams.iter().any(|publication| {
                sent.protocol == publication.protocol as u8
                    && sent.destination_port == publication.host_port
                    && expected.source == publication.to
                    && expected.source_port == publication.to_port
            })
        });
        self.checked(&operation, result).map(|_| ())
    }

    /// Watches what an endpoint sends beyond its network, in place of a guard that it has. It is to be
    /// there before the endpoint's link: else there is a moment without.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, guard: &Guard) -> Result<(), Error> {
        let operation = format!("guard {:?}", guard.link);
        self.change_tables(&operation, |transaction, name| {
            table::add_guard(transaction, name, guard);
        })
    }

    /// Watches it no more; harmless when it has no guard. What it was allowed under [`Dataplane::allow`] ends by itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unguard(&mut self, guard: &Guard) -> Result<(), Error> {
        let operation = format!("guard {:?} no more", guard.link);
        self.change_tables(&operation, |transaction, name| {
            table::delete_guard(transaction, name, guard);
        })
    }

    /// A guarded endpoint with these addresses may reach an address for a time: its guard says what for,
    /// under that number ([`crate::Destination::Named`]). The time of one that it may reach begins anew.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow(
        &mut self,
        from: &[IpAddr],
        number: u16,
        to: &[IpAddr],
        time: Duration,
    ) -> Result<(), Error> {
        let operation = format!("allow {from:?} to reach {to:?}");
        self.change_tables(&operation, |transaction, _| {
            for (from, to) in from
                .iter()
                .flat_map(|from| to.iter().map(move |to| (from, to)))
            {
                if let Some((set, element)) = table::named_element(*from, number, *to, time) {
                    // The kernel leaves the time of one that is there as it is.
                    transaction.add_elements(set, [element.clone()]);
                    transaction.delete_elements(set, [element.clone()]);
                    transaction.add_elements(set, [element]);
                }
            }
        })
    }

    /// Ends the connections that endpoints with these addresses have begun: a guard that is made
    /// stricter does not end them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end_connections(&mut self, from: &[IpAddr]) -> Result<(), Error> {
        let operation = format!("end the connections of {from:?}");
        let result = conntrack::delete(self.netfilter(&operation)?, |sent, _| {
            from.contains(&sent.source)
        });
        self.checked(&operation, result).map(|_| ())
    }

    /// Takes the tables away: nothing of the realm is left to let through.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget(&mut self) -> Result<(), Error> {
        let name = self.realm.name().to_owned();
        let operation = format!("delete the tables {name:?}");
        let mut transaction = Transaction::new(table::ROUTED, &name);
        for family in [table::ROUTED, table::FRAMES] {
            transaction.turn_to(family, &name);
            // Made first, so that it is no error when it is not there.
            transaction.add_table();
            transaction.delete_table();
        }
        let result = transaction.commit(self.netfilter(&operation)?);
        self.checked(&operation, result)
    }

    /// What an endpoint may send at most, in place of what it might before.
    pub(super) fn limit(&mut self, operation: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let none = table::rate_key(&endpoint.link);
        self.change_tables(operation, |transaction, name| {
            transaction.turn_to(table::FRAMES, name);
            let (set, element) = none.clone();
            transaction.add_elements(set, [element.clone()]);
            transaction.delete_elements(set, [element]);
            if let Some((set, element)) = table::rate_element(endpoint) {
                transaction.add_elements(set, [element]);
            }
        })
    }

    /// Changes what is in the tables, beginning with the one that routes; makes them when they are not there.
    pub(super) fn change_tables(
        &mut self,
        operation: &str,
        change: impl for<'t> Fn(&mut Transaction<'t>, &'t str),
    ) -> Result<(), Error> {
        let name = self.realm.name().to_owned();
        let log_group = self.realm.log_group();
        let mut transaction = Transaction::new(table::ROUTED, &name);
        change(&mut transaction, &name);
        if transaction.is_empty() {
            return Ok(());
        }
        let mut result = transaction.commit(self.netfilter(operation)?);
        if let Err(refused) = &result
            && errno(refused) == Some(Errno::NOENT)
        {
            let mut transaction = Transaction::new(table::ROUTED, &name);
            table::make(&mut transaction, &name, log_group);
            change(&mut transaction, &name);
            result = transaction.commit(self.netfilter(operation)?);
        }
        self.checked(operation, result)
    }

    /// Deletes elements that may be gone, or stand for something else by now.
    pub(super) fn delete_elements(
        &mut self,
        operation: &str,
        family: Family,
        elements: Vec<InSet>,
    ) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        match self.delete_exactly(operation, family, &elements)? {
            // Without tables there is nothing to delete.
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        // One of them has another value: the others go one by one.
        for element in elements {
            // That one is not ours any more.
            let _ = self.delete_exactly(operation, family, &[element])?;
        }
        Ok(())
    }

    /// Adds them first: it is no error when some are gone, and one when one has another value.
    fn delete_exactly(
        &mut self,
        operation: &str,
        family: Family,
        elements: &[InSet],
    ) -> Result<Result<(), Errno>, Error> {
        let name = self.realm.name().to_owned();
        let mut transaction = Transaction::new(family, &name);
        for (set, element) in elements {
            transaction.add_elements(set, [element.clone()]);
            transaction.delete_elements(set, [element.clone()]);
        }
        match transaction.commit(self.netfilter(operation)?) {
            Err(refused) => match errno(&refused) {
                Some(error @ (Errno::NOENT | Errno::EXIST | Errno::BUSY)) => Ok(Err(error)),
                _ => Err(self.refused(operation, refused)),
            },
            Ok(()) => Ok(Ok(())),
        }
    }
}

fn published(publications: &[Publication], verb: &str) -> String {
    match publications {
        [one] => format!("{verb} {one}"),
        [first, .., last] => format!("{verb} {} ports, {first} to {last}", publications.len()),
        [] => format!("{verb} no port"),
    }
}
