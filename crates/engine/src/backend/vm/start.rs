//! How a machine of an instance comes to run.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use isle_cgroup::Cgroup;
use isle_guest::{Connection, File, Prepare, RemoteProcess, Workload};
use isle_network::Link;
use isle_share::Server;

use super::ground::Ground;
use super::running::Running;
use super::{Vm, disk, network, request, shares, throttle, words};
use crate::Paths;
use crate::backend::oci::{self, files, spec};
use crate::backend::{StartError, Stdio, failed};
use crate::state::Instance;
use crate::wiring::Wiring;

/// A machine on its way. What is queued for its guest is there when it begins to run.
struct Begun {
    starting: isle_qemu::Starting,
    guest: Connection,
    server: Option<Server>,
}

/// What happens to a control group of which a start came to nothing.
fn discard(cgroup: &Cgroup) {
    let _ = cgroup.kill_all();
    let _ = cgroup.remove();
}

impl Vm {
    /// Starts the machine with the instance's own process in it.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left then.
    pub(super) fn launch(
        &mut self,
        stdio: Stdio,
        wiring: &mut Wiring,
    ) -> Result<(Running, RemoteProcess), StartError> {
        let ground = Ground::find(&self.instance, &self.paths)?;
        let cgroup = self.make_cgroup(&ground)?;
        self.pool = ground.pool();
        let launched = self.launch_in(&ground, &cgroup, stdio, wiring);
        if launched.is_err() {
            discard(&cgroup);
        }
        launched
    }

    fn launch_in(
        &self,
        ground: &Ground,
        cgroup: &Arc<Cgroup>,
        stdio: Stdio,
        wiring: &mut Wiring,
    ) -> Result<(Running, RemoteProcess), StartError> {
        let instance = &self.instance;
        let mut facts = request::facts(instance);
        facts.has_machine_id = files::lacks_machine_id(&self.layers);
        let networks = network::announcement(wiring.links())?;
        let mut begun = self.begin(ground, cgroup, wiring.taps()?)?;
        // All of this while QEMU starts.
        let spec = request::specification(instance, &facts);
        let kept = oci::kept(&spec)?;
        let mut prepare = self.prepare(&facts, wiring.links())?;
        prepare.networks = networks;
        let user = request::user(instance);
        let workload = Workload {
            id: &instance.id.to_string(),
            spec: &spec,
            user: Some(&user),
            seccomp: kept.program.as_deref(),
            root_share: None,
        };
        let process = begun
            .guest
            .launch(&prepare, &workload, words::streams(stdio))
            .map_err(|error| words::not_started(&error))?;
        wiring.wait_until_known()?;
        let mut running = self.run(ground, cgroup, begun, facts)?;
        running.kept = Some(kept);
        match running.guest.started(&process) {
            Ok(_pid_in_guest) => Ok((running, process)),
            Err(error) => {
                let mut error = words::not_started(&error);
                if let Some(said) = running.last_words() {
                    error.message = format!("{}: {said}", error.message);
                }
                running.kill();
                Err(error)
            }
        }
    }

    /// A back end with a machine in which nothing of the image is executed, to look at the files of an instance
    /// that does not run.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left then.
    pub(crate) fn open_at_rest(
        instance: &Instance,
        paths: &Paths,
        layers: &[PathBuf],
    ) -> Result<Vm, StartError> {
        let mut vm = Vm::open(instance, paths, layers)?;
        let ground = Ground::find(instance, paths)?;
        let facts = request::facts(instance);
        let prepare = vm.prepare(&facts, &[])?;
        let cgroup = vm.make_cgroup(&ground)?;
        let booted = vm
            .begin(&ground, &cgroup, Vec::new())
            .and_then(|begun| vm.run(&ground, &cgroup, begun, facts))
            .and_then(|mut running| {
                let prepared = running.guest.prepare(&prepare);
                prepared.map_err(failed("cannot look into the virtual machine"))?;
                Ok(running)
            });
        match booted {
            Ok(mut running) => {
                // It is let go in order, so that what was written is there.
                running.is_over = true;
                vm.running = Some(running);
                Ok(vm)
            }
            Err(error) => {
                discard(&cgroup);
                Err(error)
            }
        }
    }

    fn make_cgroup(&self, ground: &Ground) -> Result<Arc<Cgroup>, StartError> {
        let limits = request::host_limits(&self.instance.config.resources, ground.memory_bytes())
            .map_err(failed("cannot limit block I/O"))?;
        Cgroup::create(&self.layout, &spec::cgroup_path(&self.instance), &limits)
            .map(Arc::new)
            .map_err(failed("cannot make the control group"))
    }

    /// Starts the hypervisor.
    fn begin(
        &self,
        ground: &Ground,
        cgroup: &Cgroup,
        taps: Vec<OwnedFd>,
    ) -> Result<Begun, StartError> {
        let disk = disk::open(&self.paths, &self.instance, ground.first_disk())?;
        let directory = self.paths.instance_run(&self.instance.id);
        let mut starting = ground.start(&directory, Some(cgroup), disk, taps)?;
        throttle::of(&self.instance.config.resources, &self.paths)
            .map_err(failed("cannot limit block I/O"))?
            .map_or(Ok(()), |throttle| {
                starting.throttle_disks(&throttle, throttle::DISKS)
            })
            .map_err(failed("cannot limit the virtual machine's disks"))?;
        let agent = starting.take_agent().ok_or_else(|| StartError {
            message: "cannot reach the guest: its machine has no port".to_owned(),
            exit_code: 125,
        })?;
        let guest = Connection::open(agent.into()).map_err(failed("cannot speak to the guest"))?;
        let server = shares::serve(&self.instance, &self.paths, &self.layers, cgroup)?;
        Ok(Begun {
            starting,
            guest,
            server,
        })
    }

    /// Lets it run.
    fn run(
        &self,
        ground: &Ground,
        cgroup: &Arc<Cgroup>,
        begun: Begun,
        facts: spec::Facts,
    ) -> Result<Running, StartError> {
        let machine = begun
            .starting
            .finish()
            .map_err(failed("cannot start the virtual machine"))?;
        let mut record = ground.record();
        record.server = begun.server.as_ref().map(|server| server.pid);
        let directory = self.paths.instance_run(&self.instance.id);
        record
            .write(&directory)
            .map_err(failed("cannot write to the run directory"))?;
        Running::new(
            begun.guest,
            machine,
            begun.server,
            Arc::clone(cgroup),
            (record, directory),
            ground.kernel(),
            facts,
        )
        .map_err(failed("cannot watch the virtual machine"))
    }

    /// What the guest has to hear before anything of the image runs.
    fn prepare(&self, facts: &spec::Facts, links: &[Link]) -> Result<Prepare, StartError> {
        let instance = &self.instance;
        let hostname = spec::hostname(instance, &facts.host_name);
        let directory = self.paths.instance(&instance.id);
        disk::make_folder(&self.paths, instance)?;
        files::write(&directory, &hostname, &instance.config, links)
            .map_err(failed("cannot write the instance's own files"))?;
        let mut handed = Vec::new();
        for name in files::NAMES {
            let content = std::fs::read(directory.join(name))
                .map_err(failed("cannot read the instance's own files"))?;
            handed.push(File {
                name: name.to_owned(),
                mode: 0o644,
                content: content.into(),
            });
        }
        if facts.has_machine_id {
            handed.push(File {
                name: files::MACHINE_ID.to_owned(),
                mode: 0o444,
                content: files::machine_id(&instance.id).into_bytes().into(),
            });
        }
        Ok(Prepare {
            seed: isle_machine::seed().map_err(failed("cannot get random bytes"))?,
            clock: isle_machine::now(),
            hostname,
            networks: Vec::new(),
            files: handed,
            shares: shares::announcement(instance),
            root: Some(request::root(&instance.config)),
        })
    }
}
