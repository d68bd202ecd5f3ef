//! A machine that runs: its verbs.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::DiskSlot;
use crate::monitor::{Event, Monitor, MonitorError, Sent};
use crate::process::{Ended, Process};
use crate::sockets::{Sockets, port_socket};
use crate::throttle::Throttle;

/// A machine that is complete. It goes on when this is dropped: another supervisor may take it over.
#[derive(Debug)]
pub struct Vm {
    pub(crate) process: Process,
    pub(crate) monitor: Monitor,
    pub(crate) patience: Duration,
}

/// How much memory a machine has and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the guest has, by its balloon; bytes.
    pub guest_bytes: u64,
    /// What QEMU takes of the host, its part of what it shares counted by the number of those who
    /// share it (PSS); bytes.
    pub proportional_bytes: u64,
    /// What would be free if it ended (private pages); bytes.
    pub private_bytes: u64,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// QEMU did not do it.
    #[error("cannot {what}")]
    Monitor {
        /// What.
        what: &'static str,
        /// Why.
        source: MonitorError,
    },
    /// The host.
    #[error("cannot {what}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The machine has no such device, or cannot do it.
    #[error("cannot {what}: {reason}")]
    Unsupported {
        /// What.
        what: &'static str,
        /// Why, and the way round it.
        reason: &'static str,
    },
}

/// Numbers of sets of descriptors, above those of the command line.
const ASSIGNED: u64 = 1000;
const ADDED: u64 = 2000;

fn added(target: u8) -> String {
    format!("added{target}")
}

fn by_monitor(what: &'static str) -> impl FnOnce(MonitorError) -> VmError {
    move |source| VmError::Monitor { what, source }
}

fn by_host(what: &'static str) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::Io { what, source }
}

impl Vm {
    /// Takes over a machine that another supervisor has started, by its sockets. QEMU talks to one
    /// client at a time: the other must be gone.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn adopt(
        run_directory: &Path,
        pid: i32,
        pidfd: OwnedFd,
        patience: Duration,
    ) -> Result<Vm, VmError> {
        let what = "take over the machine";
        let process = Process::adopt(pid, pidfd).map_err(by_host(what))?;
        let sockets =
            Sockets::open(run_directory).map_err(|error| by_host(what)(io::Error::other(error)))?;
        let socket = sockets.connect("monitor.sock").map_err(by_host(what))?;
        let mut monitor = Monitor::new(socket).map_err(by_host(what))?;
        let sent = monitor.negotiate().map_err(by_monitor(what))?;
        let deadline = Instant::now() + patience;
        monitor.answer(&sent, deadline).map_err(by_monitor(what))?;
        Ok(Vm {
            process,
            monitor,
            patience,
        })
    }

    /// Connects to one of the machine's ports, after [`Vm::adopt`] or for one that has no client yet.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn connect_port(run_directory: &Path, name: &str) -> io::Result<UnixStream> {
        let sockets = Sockets::open(run_directory).map_err(io::Error::other)?;
        sockets.connect(&port_socket(name))
    }

    /// The pid of QEMU.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Readable once QEMU has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// The monitor: its descriptor, events and further commands.
    pub fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    fn execute(
        &mut self,
        what: &'static str,
        command: &str,
        arguments: Value,
    ) -> Result<Value, VmError> {
        let deadline = Instant::now() + self.patience;
        self.monitor
            .execute(command, arguments, deadline)
            .map_err(by_monitor(what))
    }

    /// Stops all virtual processors.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn pause(&mut self) -> Result<(), VmError> {
        self.execute("pause the machine", "stop", Value::Null)
            .map(drop)
    }

    /// Lets them go on. The guest's clock has stood still.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn resume(&mut self) -> Result<(), VmError> {
        self.execute("resume the machine", "cont", Value::Null)
            .map(drop)
    }

    /// Whether virtual processors run.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn is_running(&mut self) -> Result<bool, VmError> {
        let status = self.execute("ask for the machine's state", "query-status", Value::Null)?;
        Ok(status["running"] == true)
    }

    /// Ends QEMU in order: what it has of writes is written. The guest is not asked.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn quit(&mut self) -> Result<(), VmError> {
        match self.execute("end the machine", "quit", Value::Null) {
            // It has answered by ending.
            Err(VmError::Monitor {
                source: MonitorError::Closed,
                ..
            }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Ends QEMU at once. Harmless when it has ended.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.process.kill()
    }

    /// Waits for QEMU's end and collects it. `None`: it is not a child of this process.
    ///
    /// # Errors
    /// When it was collected before.
    pub fn reap(&self) -> io::Result<Option<Ended>> {
        self.process.reap()
    }

    /// QEMU's word for why the machine is off, when it has said so: see [`Event::Shutdown`].
    pub fn why_off(&mut self) -> Option<String> {
        // What it said before it closed the connection is there.
        let _ = self.monitor.tend();
        let mut why = None;
        while let Some(event) = self.monitor.next_event() {
            if let Event::Shutdown { reason, .. } = event {
                why = Some(reason);
            }
        }
        why
    }

    /// How QEMU has ended, when it has or does so within this time; `None` also when it is not a child of this process.
    #[must_use]
    pub fn has_ended(&self, within: Duration) -> Option<Ended> {
        self.process.has_ended(within)
    }

    /// What QEMU has written to its standard error, at most 16 KiB: why it has ended.
    #[must_use]
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Leaves the guest this much memory. It gives away what it can, in its own time: the event
    /// [`Event::Balloon`] tells.
    ///
    /// # Errors
    /// [`VmError`], also when the machine has no balloon.
    pub fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), VmError> {
        let arguments = json!({"value": guest_bytes});
        self.execute("change the guest's memory", "balloon", arguments)
            .map(drop)
    }

    /// One reading of what the machine has and takes.
    ///
    /// # Errors
    /// [`VmError`], also when the machine has no balloon.
    pub fn memory(&mut self) -> Result<Memory, VmError> {
        let what = "read the machine's memory";
        let answer = self.execute(what, "query-balloon", Value::Null)?;
        let (proportional_bytes, private_bytes) =
            host_memory(self.process.pid).map_err(by_host(what))?;
        Ok(Memory {
            guest_bytes: answer["actual"].as_u64().unwrap_or(0),
            proportional_bytes,
            private_bytes,
        })
    }

    /// Gives a disk slot, a placeholder until now, its file. Takes a millisecond; the guest may be
    /// running. It sees the new size once it is told: [`Vm::resize_disk`].
    ///
    /// # Errors
    /// [`VmError`]
    pub fn assign_disk(
        &mut self,
        index: usize,
        slot: DiskSlot,
        file: BorrowedFd<'_>,
    ) -> Result<(), VmError> {
        let what = "attach a disk";
        let deadline = Instant::now() + self.patience;
        let sent = assign(&mut self.monitor, index, slot, file).map_err(by_monitor(what))?;
        for sent in sent {
            self.monitor
                .answer(&sent, deadline)
                .map_err(by_monitor(what))?;
        }
        Ok(())
    }

    /// Limits what the first so many disks do together.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn throttle_disks(&mut self, throttle: &Throttle, disks: usize) -> Result<(), VmError> {
        let what = "limit the machine's disks";
        let deadline = Instant::now() + self.patience;
        let sent = throttle.send(&mut self.monitor, disks);
        for sent in sent.map_err(by_monitor(what))? {
            self.monitor
                .answer(&sent, deadline)
                .map_err(by_monitor(what))?;
        }
        Ok(())
    }

    /// Tells the guest that a disk of a slot has this size now; the file is made longer when it has to
    /// be, and cut when it is longer.
    ///
    /// # Errors
    /// [`VmError`], also for a disk that is read-only.
    pub fn resize_disk(&mut self, index: usize, bytes: u64) -> Result<(), VmError> {
        let what = "resize a disk";
        // By its device: the node has another name once a file was assigned.
        let path = format!("/machine/peripheral/vd{index}");
        let drive = self.execute(what, "qom-get", json!({"path": path, "property": "drive"}))?;
        let arguments = json!({"node-name": drive, "size": bytes});
        self.execute(what, "block_resize", arguments).map(drop)
    }

    /// Adds a disk to the running machine, on its SCSI controller: unit 0 of this target (0 to 255, one
    /// that is free).
    ///
    /// # Errors
    /// [`VmError`], also when the machine has no such controller.
    pub fn add_disk(
        &mut self,
        target: u8,
        slot: DiskSlot,
        file: BorrowedFd<'_>,
    ) -> Result<(), VmError> {
        let what = "add a disk";
        let name = added(target);
        let set = ADDED + u64::from(target);
        self.add_node(what, &name, set, slot, file)?;
        let arguments = json!({
            "driver": "scsi-hd",
            "id": name,
            "bus": "scsi0.0",
            "drive": name,
            "scsi-id": target,
            "lun": 0,
        });
        let added = self.execute(what, "device_add", arguments);
        if added.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_node(what, &name, set);
        }
        added.map(drop)
    }

    /// Takes a disk of [`Vm::add_disk`] away again. The guest must have unmounted it.
    ///
    /// # Errors
    /// [`VmError`]
    pub fn remove_disk(&mut self, target: u8) -> Result<(), VmError> {
        let what = "remove a disk";
        let name = added(target);
        self.execute(what, "device_del", json!({"id": name}))?;
        self.remove_node(what, &name, ADDED + u64::from(target))
    }

    fn remove_node(&mut self, what: &'static str, name: &str, set: u64) -> Result<(), VmError> {
        // A guest lets go of a device in its own time.
        let deadline = Instant::now() + self.patience;
        loop {
            match self.execute(what, "blockdev-del", json!({"node-name": name})) {
                Err(VmError::Monitor {
                    source: MonitorError::Refused { reason, .. },
                    ..
                }) if reason.contains("in use") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => break drop(result?),
            }
        }
        self.remove_set(what, set)
    }

    fn remove_set(&mut self, what: &'static str, set: u64) -> Result<(), VmError> {
        self.execute(what, "remove-fd", json!({"fdset-id": set}))
            .map(drop)
    }

    /// A block node from a file, by a descriptor that is sent along and is known to QEMU as a set with
    /// this number.
    fn add_node(
        &mut self,
        what: &'static str,
        node: &str,
        set: u64,
        slot: DiskSlot,
        file: BorrowedFd<'_>,
    ) -> Result<(), VmError> {
        let deadline = Instant::now() + self.patience;
        let sent = self
            .monitor
            .send("add-fd", json!({"fdset-id": set}), &[file])
            .map_err(by_monitor(what))?;
        self.monitor
            .answer(&sent, deadline)
            .map_err(by_monitor(what))?;
        let arguments = raw_node(node, set, slot);
        let added = self.execute(what, "blockdev-add", arguments);
        if added.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_set(what, set);
        }
        added.map(drop)
    }

    /// Connects a network card that is connected to nothing to a tap. It takes no frames without their checksums, as one
    /// that is there at the start does: it is slower.
    ///
    /// # Errors
    /// [`VmError`], also when the machine has no such card, or that is connected; [`VmError::Unsupported`] for one that had
    /// a tap at the start: if that has been deleted, QEMU lets go of it, and the card has none until the next start.
    pub fn plug_card(&mut self, index: usize, tap: BorrowedFd<'_>) -> Result<(), VmError> {
        let what = "connect a network card";
        if self.has_own_tap(index)? {
            // It would be found readable for ever.
            let _ = self.execute(what, "netdev_del", json!({"id": format!("net{index}")}));
            return Err(VmError::Unsupported {
                what,
                reason: "the tap that it was started with has been deleted: restart the instance",
            });
        }
        let deadline = Instant::now() + self.patience;
        let sent = plug(&mut self.monitor, index, tap).map_err(by_monitor(what))?;
        let mut answers = sent.iter().map(|sent| self.monitor.answer(sent, deadline));
        let result = answers
            .find(Result::is_err)
            .map_or(Ok(()), |first| first.map(drop));
        if result.is_err() {
            // The first error is the one to tell.
            let _ = self.unplug_card(index);
        }
        result.map_err(by_monitor(what))
    }

    /// Whether a card's other side is a tap, and not a hub that one can be plugged into. Nothing but the monitor for people tells.
    fn has_own_tap(&mut self, index: usize) -> Result<bool, VmError> {
        let question = json!({"command-line": "info network"});
        let what = "look at the network cards";
        let answer = self.execute(what, "human-monitor-command", question)?;
        let name = format!("net{index}: ");
        Ok(answer.as_str().unwrap_or_default().lines().any(|line| {
            let client = line.trim_start_matches([' ', '\\']);
            client.starts_with(&name) && client.contains("type=tap")
        }))
    }

    /// Lets a tap of [`Vm::plug_card`] go.
    ///
    /// # Errors
    /// [`VmError`], also for a card whose tap was there at the start: it stays until the machine ends.
    pub fn unplug_card(&mut self, index: usize) -> Result<(), VmError> {
        let what = "disconnect a network card";
        let ids = [format!("plug{index}"), format!("tap{index}")];
        let results = ids.map(|id| self.execute(what, "netdev_del", json!({"id": id})));
        results.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Gives the running machine one more virtual processor.
    ///
    /// # Errors
    /// [`VmError::Unsupported`] on a microvm: its number of processors is fixed.
    pub fn add_vcpu(&mut self) -> Result<(), VmError> {
        let what = "add a virtual processor";
        let unsupported = VmError::Unsupported {
            what,
            reason: "a microvm has as many as it was started with; stop it and start it with more (--cpus)",
        };
        let answer = match self.execute(what, "query-hotpluggable-cpus", Value::Null) {
            Err(VmError::Monitor {
                source: MonitorError::Refused { .. },
                ..
            }) => return Err(unsupported),
            other => other?,
        };
        let places = answer.as_array().map_or(&[][..], Vec::as_slice);
        let free = places.iter().find(|place| place.get("qom-path").is_none());
        let Some(free) = free else {
            return Err(unsupported);
        };
        let mut arguments = free["props"].clone();
        arguments["driver"] = free["type"].clone();
        self.execute(what, "device_add", arguments).map(drop)
    }
}

/// A block node from a set of descriptors.
fn raw_node(node: &str, set: u64, slot: DiskSlot) -> Value {
    json!({
        "driver": "raw",
        "node-name": node,
        "read-only": slot == DiskSlot::ReadOnly,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": format!("/dev/fdset/{set}"),
            "discard": "unmap",
        },
    })
}

/// Gives a disk slot its file, without waiting for the answers.
pub(crate) fn assign(
    monitor: &mut Monitor,
    index: usize,
    slot: DiskSlot,
    file: BorrowedFd<'_>,
) -> Result<[Sent; 3], MonitorError> {
    let node = format!("file{index}");
    let set = ASSIGNED + index as u64;
    let path = format!("/machine/peripheral/vd{index}");
    let drive = json!({"path": path, "property": "drive", "value": node});
    Ok([
        monitor.send("add-fd", json!({"fdset-id": set}), &[file])?,
        monitor.send("blockdev-add", raw_node(&node, set, slot), &[])?,
        monitor.send("qom-set", drive, &[])?,
    ])
}

/// Connects a card's hub to a tap, without waiting for the answers.
pub(crate) fn plug(
    monitor: &mut Monitor,
    index: usize,
    tap: BorrowedFd<'_>,
) -> Result<[Sent; 3], MonitorError> {
    let name = format!("tap{index}");
    let backend = json!({"type": "tap", "id": name, "fd": name});
    let port = json!({
        "type": "hubport", "id": format!("plug{index}"), "hubid": index, "netdev": name,
    });
    Ok([
        monitor.send("getfd", json!({"fdname": name}), &[tap])?,
        monitor.send("netdev_add", backend, &[])?,
        monitor.send("netdev_add", port, &[])?,
    ])
}

/// PSS and private bytes of a process, see proc_pid_smaps(5).
///
/// # Errors
/// When it has ended.
pub fn host_memory(pid: i32) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |key: &str| -> u64 {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    let private = kib("Private_Clean") + kib("Private_Dirty");
    Ok((kib("Pss") * 1024, private * 1024))
}
