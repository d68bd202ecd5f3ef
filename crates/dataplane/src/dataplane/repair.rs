//! What others have taken away is made again.

use std::collections::HashMap;

use isle_netlink::link::{Told, parse};
use isle_netlink::nftables::{self, Transaction};
use isle_netlink::{Batch, Refused};

use super::endpoints::port;
use super::{Dataplane, errno};
use crate::table::{self, InSet};
use crate::{Error, Wanted};

/// What was found and made good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The tables were not whole, and have been made anew.
    pub tables: bool,
    /// Bridges that were gone.
    pub bridges: Vec<String>,
    /// Endpoints that were no ports of their bridges.
    pub ports: Vec<String>,
    /// Endpoints without a link. These cannot be made from here: who has the instance connects it again.
    pub lost: Vec<String>,
    /// All that was wanted was put into the tables, whether it was there or not: what nobody wants any more by now
    /// is to be taken out again.
    pub is_put_in: bool,
}

impl Repaired {
    /// Whether anything was wrong.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        let wrong = [&self.bridges, &self.ports, &self.lost];
        self.tables || wrong.iter().any(|links| !links.is_empty())
    }
}

impl Dataplane {
    /// Makes everything as it shall be, as far as it is not.
    ///
    /// What names were allowed ([`Dataplane::allow`]) is gone when the tables are made anew, until it is allowed again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn repair(&mut self, wanted: &Wanted) -> Result<Repaired, Error> {
        let mut repaired = Repaired::default();
        let links = self.links()?;
        let mut masters = HashMap::new();
        for bridge in &wanted.bridges {
            if !links.contains_key(&bridge.link) {
                repaired.bridges.push(bridge.link.clone());
            }
            let index = self.ensure_bridge_link(bridge)?;
            masters.insert(bridge.link.as_str(), index);
        }
        for endpoint in &wanted.endpoints {
            let Some(link) = links.get(&endpoint.link) else {
                repaired.lost.push(endpoint.link.clone());
                continue;
            };
            let Some(master) = masters.get(endpoint.bridge.as_str()) else {
                continue;
            };
            if link.master == *master && link.is_up {
                continue;
            }
            let operation = format!("connect {:?} again", endpoint.link);
            let mut batch = Batch::default();
            port(&mut batch, endpoint, *master);
            self.send(&operation, &batch)?;
            self.treat_port(&operation, endpoint)?;
            repaired.ports.push(endpoint.link.clone());
        }
        repaired.tables = self.repair_tables(wanted)?;
        repaired.is_put_in = true;
        Ok(repaired)
    }

    /// Whether the tables have all chains and rules that they should have.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_whole(&mut self) -> Result<bool, Error> {
        let name = self.realm.name().to_owned();
        let operation = format!("look at the tables {name:?}");
        for family in [table::ROUTED, table::FRAMES] {
            let mut counts: HashMap<String, usize> = HashMap::new();
            let result = nftables::rules(self.netfilter(&operation)?, family, &name, |chain| {
                *counts.entry(chain.to_owned()).or_default() += 1;
            });
            match result {
                Err(refused) if errno(&refused) == Some(rustix::io::Errno::NOENT) => {
                    return Ok(false);
                }
                result => self.checked(&operation, result)?,
            }
            let expected = table::expected(family);
            if expected
                .iter()
                .any(|(chain, count)| counts.get(*chain) != Some(count))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the tables had to be made anew.
    fn repair_tables(&mut self, wanted: &Wanted) -> Result<bool, Error> {
        let operation = format!("repair the tables {:?}", self.realm.name());
        if self.is_whole()? {
            let result = self.put_in(&operation, wanted, |_, _, _| {})?;
            if result.is_ok() {
                return Ok(false);
            }
        }
        let result = self.put_in(&operation, wanted, |transaction, name, log_group| {
            for family in [table::ROUTED, table::FRAMES] {
                transaction.turn_to(family, name);
                transaction.add_table();
                transaction.delete_table();
            }
            table::make(transaction, name, log_group);
        })?;
        self.checked(&operation, result)?;
        Ok(true)
    }

    /// Puts in all that is wanted, behind something else.
    fn put_in(
        &mut self,
        operation: &str,
        wanted: &Wanted,
        first: impl for<'t> Fn(&mut Transaction<'t>, &'t str, u16),
    ) -> Result<Result<(), Refused>, Error> {
        let name = self.realm.name().to_owned();
        let log_group = self.realm.log_group();
        let mut transaction = Transaction::new(table::ROUTED, &name);
        first(&mut transaction, &name, log_group);
        let of_bridges = wanted.bridges.iter().flat_map(table::bridge_elements);
        let of_ports = wanted.publications.iter();
        let of_ports = of_ports.filter_map(table::publication_element);
        let routed: Vec<InSet> = of_bridges.chain(of_ports).collect();
        for (set, element) in routed {
            transaction.add_elements(set, [element]);
        }
        for guard in &wanted.guards {
            table::add_guard(&mut transaction, &name, guard);
        }
        transaction.turn_to(table::FRAMES, &name);
        for (set, element) in wanted.endpoints.iter().filter_map(table::rate_element) {
            transaction.add_elements(set, [element]);
        }
        if transaction.is_empty() {
            return Ok(Ok(()));
        }
        Ok(transaction.commit(self.netfilter(operation)?))
    }

    /// All links by their names.
    fn links(&mut self) -> Result<HashMap<String, Told>, Error> {
        let mut batch = Batch::default();
        batch.list_links();
        let mut links = HashMap::new();
        let result = self.route("list the links")?.dump(&batch, |_, payload| {
            if let Some(link) = parse(payload) {
                links.insert(link.name.clone(), link);
            }
        });
        self.checked("list the links", result)?;
        Ok(links)
    }
}
