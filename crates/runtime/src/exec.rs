//! A further process in a running container.

use std::os::fd::{AsFd, BorrowedFd};

use isle_cgroup::Cgroup;
use isle_sys::launch::{self, Slot, Step};
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use crate::act::{
    Conversation, Table, add_home_of_container, check_capabilities, join_steps, open_need, pid_of,
    stdio_step,
};
use crate::plan::{Needs, clone_flag, process, run_as};
use crate::users::User;
use crate::{Child, Confinement, LaunchError, PlanError, Stdio};

/// What [`exec`] is told beyond the specification.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The container's id, of which its keyring is named; empty: the keyring is kept.
    pub id: String,
    /// `--preserve-fds`
    pub preserve_fds: u32,
    /// Where this process, or the container, lacks the host's privileges.
    pub confinement: Confinement,
}

/// A further process as data: what [`crate::Plan`] is for the first one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// Up to joining the control group.
    before: Vec<Step>,
    /// Up to the standard streams.
    setup: Vec<Step>,
    finish: Vec<Step>,
    /// What the steps refer to, after the container's first process.
    needs: Needs,
    /// Owner of the terminal.
    uid: u32,
    /// Capabilities that the process shall have in some set.
    capabilities: u64,
}

impl ExecPlan {
    /// Plans; pure but for looking whether the LSM that a label is for is there.
    ///
    /// # Errors
    /// [`PlanError`] names the field and says what it may hold.
    pub fn new(
        spec: &Spec,
        process: &Process,
        seccomp: Option<&[isle_seccomp::Instruction]>,
        options: &ExecOptions,
    ) -> Result<ExecPlan, PlanError> {
        let linux = spec.linux().as_ref();
        let kinds = linux
            .and_then(|linux| linux.namespaces().as_ref())
            .into_iter()
            .flatten()
            .fold(0, |kinds, namespace| kinds | clone_flag(namespace.typ()));
        let has_user_namespace = kinds & launch::namespace::USER != 0;
        let mut needs = Needs::default();
        let mut about_self = process::about_self(process, &mut needs)?;
        // The needs come after the first process in the table.
        for step in &mut about_self {
            if let Step::WriteProc { proc, .. } = step {
                proc.0 += 1;
            }
        }
        // The processes of the container can see this one from the moment it enters.
        let mut before = vec![Step::Dumpable(false)];
        let mut setup = Vec::new();
        if let Some(affinity) = process.exec_cpu_affinity() {
            let field = "process.execCPUAffinity";
            let step = |text: &Option<String>| {
                text.as_deref()
                    .filter(|text| !text.is_empty())
                    .map(|text| {
                        process::number_list(field, text)
                            .map(|mask| Step::Affinity(mask, text.to_owned()))
                    })
                    .transpose()
            };
            before.extend(step(affinity.initial())?);
            setup.extend(step(affinity.cpu_affinity_final())?);
        }
        setup.append(&mut about_self);
        setup.push(Step::Enter {
            namespace: Slot(0),
            kinds,
        });
        if kinds & launch::namespace::PID != 0 {
            setup.push(Step::Split { flags: 0 });
        }
        if has_user_namespace {
            setup.push(Step::BecomeRoot);
        }
        setup.push(Step::NewSession);
        if !options.id.is_empty() {
            setup.extend(
                std::ffi::CString::new(format!("_ses.{}", options.id))
                    .ok()
                    .map(Step::NewKeyring),
            );
        }
        let capabilities = match has_user_namespace {
            true => 0,
            false => process.capabilities().as_ref().map_or(0, |sets| {
                crate::capabilities::bits(sets.bounding().as_ref())
                    | crate::capabilities::bits(sets.permitted().as_ref())
            }),
        };
        let policy =
            process::Policy::new(linux.and_then(|linux| linux.seccomp().as_ref()), seccomp)?;
        let mut finish = process::last_steps(
            process,
            process::Setting {
                linux,
                policy,
                preserve_fds: options.preserve_fds,
                no_groups: options.confinement.no_groups,
                start_hooks: Vec::new(),
            },
        )?;
        // Nobody starts this process later: no byte is waited for.
        finish.retain(|step| !matches!(step, Step::AwaitStart { .. }));
        Ok(ExecPlan {
            before,
            setup,
            finish,
            needs,
            uid: process.user().uid(),
            capabilities,
        })
    }

    /// Makes it another user's, as [`crate::Plan::run_as`].
    pub fn run_as(&mut self, user: &User) {
        self.uid = user.uid;
        run_as(&mut self.finish, user);
    }

    /// Runs the process in the container whose first process is `init`.
    ///
    /// # Errors
    /// [`LaunchError`] when the program cannot be executed.
    pub fn launch(
        mut self,
        init: BorrowedFd<'_>,
        cgroup: Option<&Cgroup>,
        stdio: Stdio,
    ) -> Result<Child, LaunchError> {
        check_capabilities(self.capabilities)?;
        let mut table = Table::default();
        table.add(
            init.try_clone_to_owned()
                .map_err(LaunchError::prepare("hold the container"))?,
        );
        for need in &self.needs.0 {
            table.add(open_need(need, cgroup)?);
        }
        let mut steps = self.before;
        steps.extend(join_steps(cgroup, &mut table)?);
        steps.append(&mut self.setup);
        steps.push(stdio_step(stdio, &mut table, self.uid, false));
        steps.append(&mut self.finish);
        add_home_of_container(&mut steps, init, self.uid);

        let into = cgroup.and_then(Cgroup::clone_into);
        let mut conversation = match Conversation::begin(0, into, &steps, &table) {
            // An init system inside has made groups of its own: beside the first process then.
            Err(error) if error.is_busy() => {
                let group = cgroup
                    .zip(pid_of(init))
                    .and_then(|(cgroup, pid)| cgroup.group_of(pid).ok());
                match group {
                    Some(group) => Conversation::begin(0, Some(group.as_fd()), &steps, &table)?,
                    None => return Err(error),
                }
            }
            other => other?,
        };
        match conversation.until_ready(|_, _| Ok(()), |_, _| Ok(())) {
            // The channel closes at execve(2); a process that was killed is reported by its pidfd.
            Err(LaunchError::Died) | Ok(()) => Ok(conversation.end().0),
            Err(error) => Err(error),
        }
    }
}

/// Runs a further process in a running container: its namespaces, root, cgroup, capabilities,
/// seccomp policy and LSM label.
///
/// # Errors
/// [`LaunchError`] when the program cannot be executed.
pub fn exec(
    init: BorrowedFd<'_>,
    spec: &Spec,
    process: &Process,
    cgroup: Option<&Cgroup>,
    seccomp: Option<&[isle_seccomp::Instruction]>,
    stdio: Stdio,
) -> Result<Child, LaunchError> {
    let options = ExecOptions::default();
    exec_with(init, spec, process, cgroup, seccomp, stdio, &options)
}

/// [`exec`] with more to say.
///
/// # Errors
/// As [`exec`].
pub fn exec_with(
    init: BorrowedFd<'_>,
    spec: &Spec,
    process: &Process,
    cgroup: Option<&Cgroup>,
    seccomp: Option<&[isle_seccomp::Instruction]>,
    stdio: Stdio,
    options: &ExecOptions,
) -> Result<Child, LaunchError> {
    let plan = ExecPlan::new(spec, process, seccomp, options)
        .map_err(|error| LaunchError::Invalid(Box::new(error)))?;
    plan.launch(init, cgroup, stdio)
}
