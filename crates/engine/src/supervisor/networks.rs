//! The instance's networks: taken before it starts, changed while it runs, given back at its end.

use std::io;

use isle_netd::{Notice, Refused};
use isle_network::{Publication, Publish};

use super::ledger::{LedgerError, Note};
use super::owner::Supervisor;
use super::poller::{Interest, Token};
use crate::Unpublish;
use crate::backend::{Process, StartError, Stdio, failed};
use crate::config::NetworkAttachment;
use crate::protocol::{NetworkChange, Networks};
use crate::wiring::rows;

fn because(error: &LedgerError) -> StartError {
    StartError {
        message: error.to_string(),
        exit_code: 125,
    }
}

/// What it wanted to reach, and may not.
fn refused(to: &Refused) -> Note {
    let note = Note::new("egress_refused");
    match to {
        Refused::Packet {
            address,
            protocol,
            port,
            name,
        } => {
            let protocol = match protocol {
                Ok(protocol) => protocol.to_string(),
                Err(number) => number.to_string(),
            };
            let mut note = note.with("address", address).with("protocol", protocol);
            if let Some(port) = port {
                note = note.with("port", port);
            }
            match name {
                Some(name) => note.with("destination", name),
                None => note,
            }
        }
        Refused::Name(name) => note.with("destination", name),
    }
}

impl Supervisor {
    /// Connects it to its networks and starts it; connected to nothing when that fails.
    pub(super) fn start_connected(&mut self, stdio: Stdio) -> Result<Process, StartError> {
        let plan = self
            .ledger
            .take_networks()
            .map_err(|error| because(&error))?;
        let started = self
            .wiring
            .wire(plan)
            .and_then(|()| self.backend.start(stdio, &mut self.wiring));
        if started.is_err() {
            self.disconnect_all(false);
        }
        started
    }

    /// Takes its links away, and gives back what they stood for.
    pub(super) fn disconnect_all(&mut self, is_gone: bool) {
        if !self.wiring.is_anything() {
            return;
        }
        if let Err(error) = self.ledger.leave_networks(None) {
            self.complain("say that it leaves its networks", &error);
        }
        if let Err(error) = self.wiring.unwire() {
            self.complain("take its networks away", &error);
        }
        if let Err(error) = self.ledger.give_networks_back(is_gone) {
            self.complain("give its addresses back", &error);
        }
        self.wiring.part();
    }

    /// As [`Supervisor::clean_up`], after a supervisor that was killed.
    pub(super) fn clean_up_after_another(&mut self) {
        match self.ledger.taken_networks() {
            Ok(plan) => self.wiring.take_up(plan),
            Err(error) => self.complain("find its networks", &error),
        }
        self.clean_up();
    }

    /// Hears from now on what the keeper of networks tells.
    pub(super) fn watch_keeper(&mut self) {
        let Some(fd) = self.wiring.keeper().and_then(|keeper| keeper.fd()) else {
            return;
        };
        match self.poller.add(fd, Token::Keeper, Interest::READ) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                self.complain("listen to the keeper of networks", &error);
            }
            _ => {}
        }
    }

    /// The keeper tells something, or has gone; another one is found or started then.
    pub(super) fn tend_keeper(&mut self) {
        for notice in self.wiring.tend_keeper() {
            match notice {
                Notice::EgressRefused { to, times } => {
                    self.note(refused(&to).with("times", times));
                }
                Notice::Repaired { what } => {
                    self.note(Note::new("network_repair").with("what", what));
                }
                Notice::LinkLost { link } => self.restore_link(&link),
                Notice::Failed { reason } => {
                    self.complain("have its networks looked after", &reason);
                }
            }
        }
        self.watch_keeper();
    }

    /// Somebody has deleted the host's end of one of its cables: it gets another.
    fn restore_link(&mut self, name: &str) {
        let (Some(run), Some(link)) = (&self.run, self.wiring.take_lost(name)) else {
            return;
        };
        let network = link.network.name.clone();
        match self
            .backend
            .connect(&run.process, link.clone(), &mut self.wiring)
        {
            Ok(()) => {
                let note = Note::new("network_repair");
                self.note(note.with("what", format!("the link to network {network}")));
            }
            Err(error) => {
                // Its addresses are its own until it ends.
                self.wiring.put_back(link);
                self.complain("have a link again", &error);
            }
        }
    }

    /// Changes what it is connected to while it runs: rows, then links, then the configuration.
    ///
    /// # Errors
    /// When something is not to be had; nothing is changed then.
    pub(super) fn change_networks(&mut self, networks: &Networks) -> Result<(), StartError> {
        self.disturbed();
        if self.run.is_some() {
            match &networks.change {
                NetworkChange::Connect(attachment) => self.connect(attachment)?,
                NetworkChange::Disconnect(network) => self.disconnect(network)?,
                NetworkChange::Ports { add, remove } => self.change_ports(add, remove)?,
                NetworkChange::Names => {}
            }
            self.wiring.changed();
        }
        self.ledger
            .set_networks(&networks.config)
            .map_err(|error| because(&error))?;
        self.state.networks = self.wiring.connected();
        self.state.ports = self.wiring.ports();
        if self.run.is_some() {
            self.save();
        }
        Ok(())
    }

    fn connect(&mut self, attachment: &NetworkAttachment) -> Result<(), StartError> {
        let number = (0..).find(|number| {
            let name = format!("eth{number}");
            let links = self.wiring.links();
            !links.iter().any(|link| link.endpoint.interface == name)
        });
        let interface = format!("eth{}", number.unwrap_or_default());
        let link = self
            .ledger
            .take_network(attachment, interface)
            .map_err(|error| because(&error))?;
        let process = &self.run.as_ref().ok_or_else(not_running)?.process;
        let connected = self.backend.connect(process, link, &mut self.wiring);
        if connected.is_err() {
            self.forget_network(&attachment.network);
        }
        connected
    }

    fn disconnect(&mut self, network: &str) -> Result<(), StartError> {
        self.ledger
            .leave_networks(Some(network))
            .map_err(|error| because(&error))?;
        let process = &self.run.as_ref().ok_or_else(not_running)?.process;
        self.backend
            .disconnect(process, network, &mut self.wiring)?;
        self.forget_network(network);
        Ok(())
    }

    fn forget_network(&mut self, network: &str) {
        if let Err(error) = self.ledger.give_network_back(network) {
            self.complain("give an address back", &error);
        }
    }

    fn change_ports(&mut self, add: &[Publish], remove: &[Unpublish]) -> Result<(), StartError> {
        // What is new first: it may not be to be had.
        let ports = self
            .ledger
            .take_ports(add)
            .map_err(|error| because(&error))?;
        let new: Vec<Publication> = ports.iter().map(|port| port.publication.clone()).collect();
        if let Err(error) = self.wiring.publish(ports) {
            self.give_ports_back(&new);
            return Err(failed("cannot publish the ports")(error));
        }
        let gone: Vec<Publication> = self
            .wiring
            .ports()
            .into_iter()
            .filter(|port| {
                let is_meant = remove.iter().any(|gone| rows::is_bound(gone, port));
                is_meant && !new.contains(port)
            })
            .collect();
        self.ledger
            .withdraw_ports(&gone)
            .map_err(|error| because(&error))?;
        self.wiring
            .unpublish(&gone)
            .map_err(failed("cannot take the ports back"))?;
        self.give_ports_back(&gone);
        Ok(())
    }

    fn give_ports_back(&mut self, ports: &[Publication]) {
        if let Err(error) = self.ledger.give_ports_back(ports) {
            self.complain("give ports back", &error);
        }
    }
}

fn not_running() -> StartError {
    StartError {
        message: "the instance does not run".to_owned(),
        exit_code: 125,
    }
}
