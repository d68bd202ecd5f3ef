//! What somebody else takes away is put back: `nft flush ruleset`, a firewall that is loaded anew, a bridge that was
//! deleted.
//!
//! What instances do when they start and end looks the same at first, so a moment is waited, and then the rows are
//! asked whether it should still be there.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use isle_dataplane::{Dataplane, Disturbance, Realm, Repaired, Wanted, Watch};

use crate::directory::Directory;
use crate::poller::{Interest, Poller, Token};

/// So long things may be on their way.
const MOMENT: Duration = Duration::from_millis(200);

/// What may have to be repaired.
pub(crate) struct Repair {
    watch: Option<Watch>,
    tables: bool,
    everything: bool,
    /// Links that have gone.
    gone: BTreeSet<String>,
    /// Links that are there, and carry nothing.
    loose: BTreeSet<String>,
    is_waiting: bool,
}

impl Repair {
    /// Begins to listen. Where the kernel does not tell, nothing is repaired.
    pub(crate) fn new(poller: &mut Poller, realm: &Realm) -> io::Result<Repair> {
        let watch = Watch::open(realm).ok();
        if let Some(watch) = &watch {
            for descriptor in watch.descriptors() {
                poller.add(descriptor, Token::Watch, Interest::READ)?;
            }
        }
        let mut repair = Repair {
            watch,
            // While there was no keeper nobody has looked.
            tables: true,
            everything: false,
            gone: BTreeSet::new(),
            loose: BTreeSet::new(),
            is_waiting: false,
        };
        repair.wait(poller);
        Ok(repair)
    }

    fn wait(&mut self, poller: &mut Poller) {
        if !self.is_waiting {
            self.is_waiting = true;
            poller.at(Instant::now() + MOMENT, Token::Repair);
        }
    }

    /// Something has changed, in ways that are ours or not.
    pub(crate) fn ready(&mut self, poller: &mut Poller, directory: &Directory) {
        let Some(watch) = &self.watch else {
            return;
        };
        // What cannot be read is as what was lost.
        let found = watch.read().unwrap_or_else(|_| vec![Disturbance::Unknown]);
        for disturbance in found {
            match disturbance {
                Disturbance::Tables => self.tables = true,
                Disturbance::Unknown => self.everything = true,
                Disturbance::LinkGone(link) if directory.has_link(&link) => {
                    self.loose.remove(&link);
                    self.gone.insert(link);
                }
                Disturbance::LinkLoose(link) if directory.has_link(&link) => {
                    self.gone.remove(&link);
                    self.loose.insert(link);
                }
                Disturbance::LinkWhole(link) => {
                    self.gone.remove(&link);
                    self.loose.remove(&link);
                }
                Disturbance::LinkGone(_) | Disturbance::LinkLoose(_) => {}
            }
        }
        if self.tables || self.everything || self.has_links() {
            self.wait(poller);
        }
    }

    /// Whether what happened before may concern us after all.
    pub(crate) fn is_due(
        &mut self,
        dataplane: &mut Dataplane,
    ) -> Result<bool, isle_dataplane::Error> {
        self.is_waiting = false;
        let tables = std::mem::take(&mut self.tables);
        Ok(self.everything || self.has_links() || (tables && !dataplane.is_whole()?))
    }

    /// Repairs, by rows that were just read. What was wrong, and which of the lost links were lost by somebody's hand.
    pub(crate) fn repair(
        &mut self,
        dataplane: &mut Dataplane,
        directory: &Directory,
    ) -> Result<Repaired, isle_dataplane::Error> {
        let everything = std::mem::take(&mut self.everything);
        let mut gone = std::mem::take(&mut self.gone);
        let mut loose = std::mem::take(&mut self.loose);
        gone.retain(|link| directory.has_link(link));
        loose.retain(|link| directory.has_link(link));
        let has_lost_bridge = gone
            .iter()
            .any(|link| directory.instance_with_link(link).is_none());
        if !everything && !has_lost_bridge && loose.is_empty() && dataplane.is_whole()? {
            // Nothing can be done here about a cable; and if its instance is being cleaned up after its supervisor was
            // killed, what is put back for it stays.
            return Ok(Repaired {
                lost: gone.into_iter().collect(),
                ..Repaired::default()
            });
        }
        let mut repaired = dataplane.repair(&directory.wanted())?;
        // An instance that is about to start has no link yet.
        repaired.lost.retain(|link| gone.contains(link));
        Ok(repaired)
    }

    fn has_links(&self) -> bool {
        !self.gone.is_empty() || !self.loose.is_empty()
    }
}

/// What was wanted and is not any more.
pub(crate) fn take_out(
    dataplane: &mut Dataplane,
    before: &Wanted,
    now: &Wanted,
) -> Result<(), isle_dataplane::Error> {
    let publications = before.publications.iter();
    let gone: Vec<_> = publications
        .filter(|publication| !now.publications.contains(publication))
        .copied()
        .collect();
    if !gone.is_empty() {
        dataplane.unpublish(&gone)?;
    }
    before
        .guards
        .iter()
        .filter(|guard| !now.guards.contains(guard))
        .try_for_each(|guard| dataplane.unguard(guard))
}

/// For people.
pub(crate) fn describe(repaired: &Repaired) -> String {
    let mut parts = Vec::new();
    if repaired.tables {
        parts.push("the tables of nf_tables".to_owned());
    }
    for (links, what) in [
        (&repaired.bridges, "bridge"),
        (&repaired.ports, "the port of its bridge that is"),
    ] {
        parts.extend(links.iter().map(|link| format!("{what} {link}")));
    }
    parts.join(", ")
}
