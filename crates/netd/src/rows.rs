//! The state file, as the keeper reads it.

use std::path::Path;
use std::time::{Duration, Instant};

use isle_database::Database;
use isle_network::{Endpoint, Network, NetworkError, Publication};

use crate::directory::Directory;
use crate::keeper::KeeperError;

/// Rows that somebody changed who is not attached are found when somebody asks, so often at most.
const AGE: Duration = Duration::from_secs(1);

pub(crate) struct Rows {
    database: Database,
    /// `PRAGMA data_version` when all were read last: another number whenever somebody else has written since.
    version: i64,
    looked: Instant,
}

impl Rows {
    pub(crate) fn open(root: &Path) -> Result<Rows, KeeperError> {
        let database = Database::open(&root.join("isle.db"), &[isle_network::SCHEMA])?;
        Ok(Rows {
            database,
            version: 0,
            looked: Instant::now(),
        })
    }

    /// All of them.
    pub(crate) fn read(&mut self, into: &mut Directory) -> Result<(), NetworkError> {
        self.version = self.version()?;
        self.looked = Instant::now();
        let networks: Vec<Network> = isle_network::list(&self.database)?;
        let endpoints: Vec<Endpoint> = isle_network::all_endpoints(&self.database)?;
        let publications: Vec<(String, Publication)> =
            isle_network::all_publications(&self.database)?;
        into.replace(networks, endpoints, publications);
        Ok(())
    }

    /// Those of one instance.
    pub(crate) fn read_instance(
        &self,
        instance: &str,
        into: &mut Directory,
    ) -> Result<(), NetworkError> {
        let endpoints = isle_network::endpoints_of(&self.database, instance)?;
        let publications = isle_network::publications_of(&self.database, instance)?;
        let is_new = |endpoint: &Endpoint| !into.knows(&endpoint.network);
        if endpoints.iter().any(is_new) {
            for network in isle_network::list(&self.database)? {
                into.put_network(network);
            }
        }
        into.put_instance(instance, endpoints, publications);
        Ok(())
    }

    /// All of them, when somebody has changed something and nobody has looked for a while. True: they were read.
    pub(crate) fn refresh(&mut self, into: &mut Directory) -> bool {
        if self.looked.elapsed() < AGE {
            return false;
        }
        self.looked = Instant::now();
        // Old knowledge is better than none: the file may be locked for a moment.
        self.version().is_ok_and(|version| version != self.version) && self.read(into).is_ok()
    }

    /// Does something with all networks if nobody is on any, and nobody comes before it is done: whoever wants to has
    /// to write a row first, and waits.
    pub(crate) fn if_deserted(&self, act: impl FnOnce(&[Network])) -> Result<(), NetworkError> {
        self.database.write(|_| {
            if isle_network::all_endpoints(&self.database)?.is_empty() {
                act(&isle_network::list(&self.database)?);
            }
            Ok(())
        })
    }

    fn version(&self) -> Result<i64, NetworkError> {
        let connection = self.database.connection();
        Ok(connection.query_row("PRAGMA data_version", [], |row| row.get(0))?)
    }
}
