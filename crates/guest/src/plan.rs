//! From runtime specifications to what the agent carries out.
//!
//! The host plans, the guest acts: what goes over the channel is the list of steps between clone3(2) and
//! execve(2) and the values of control files, not the specification. The guest then neither parses JSON nor
//! decides anything, which matters where each instruction that runs for the first time has to be translated
//! (docs/decisions/0013-guest-protocol.md).

use isle_cgroup::plan::{Current, Otherwise, Plan as LimitPlan};
use isle_cgroup::{Hierarchy, Layout, Version};
use isle_guest_protocol::{Bytes, Exec, Limit, LimitFallback, Start, Stdio, UserRequest, encode};
use isle_runtime::{ExecOptions, ExecPlan, Options, Plan};
use isle_seccomp::Instruction;
use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::Error;

/// The instance's own process.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The instance's id.
    pub id: &'a str,
    /// As for a container, without a network namespace (the guest's network is the instance's) and without
    /// whatever is only on the host. Bind mounts refer to paths of the guest: the files of
    /// [`Prepare`](crate::Prepare) are below `/run/isle/files`, the program of `--init` is `/run/isle/init`.
    /// Rules for devices are not enforced: all devices of the guest are the instance's own.
    pub spec: &'a Spec,
    /// Who it runs as, looked up in the root file system by the agent; the specification is then made for
    /// user 0, without `HOME`. `None`: as the specification says.
    pub user: Option<&'a UserRequest>,
    /// The seccomp program, compiled before; else it is compiled from the specification.
    pub seccomp: Option<&'a [Instruction]>,
    /// The number of the share that is its root file system; `None`: that of [`Prepare::root`](crate::Prepare::root).
    pub root_share: Option<u32>,
}

/// A further process.
#[derive(Clone, Copy, Debug)]
pub struct Further<'a> {
    /// The instance's specification.
    pub spec: &'a Spec,
    /// The process.
    pub process: &'a Process,
    /// As [`Workload::user`].
    pub user: Option<&'a UserRequest>,
    /// As [`Workload::seccomp`].
    pub seccomp: Option<&'a [Instruction]>,
}

fn configuration<E>(error: E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    Error::Configuration(Box::new(error))
}

/// A plan, after what tells its form: an agent of another build refuses it instead of carrying out something else.
fn encoded<T: serde::Serialize>(plan: &T) -> Bytes {
    let mut bytes = isle_runtime::PLAN_FORMAT.to_le_bytes().to_vec();
    bytes.append(&mut encode(plan));
    Bytes(bytes)
}

/// The control groups of a guest.
fn layout() -> Layout {
    Layout::new(vec![Hierarchy {
        version: Version::V2,
        mount_point: "/sys/fs/cgroup".into(),
        controllers: ["cpuset", "cpu", "io", "memory", "pids"]
            .map(str::to_owned)
            .to_vec(),
    }])
}

/// Limits as values of control files.
pub(crate) fn limits(resources: &LinuxResources, current: &Current) -> Result<Vec<Limit>, Error> {
    let mut resources = resources.clone();
    resources.set_devices(None);
    let plan = LimitPlan::new(&layout(), &resources, current).map_err(configuration)?;
    let limit = |setting: isle_cgroup::plan::Setting| Limit {
        name: setting.limit.to_owned(),
        file: setting.file.into_owned(),
        value: setting.value,
        fallback: match setting.otherwise {
            Otherwise::Fail => LimitFallback::Fail,
            Otherwise::Skip => LimitFallback::Skip,
            Otherwise::Write(file, value) => LimitFallback::Write(file.into_owned(), value),
        },
    };
    Ok(plan.settings.into_iter().map(limit).collect())
}

impl Workload<'_> {
    pub(crate) fn request(&self, stdio: Stdio) -> Result<Start, Error> {
        let options = Options {
            id: self.id.to_owned(),
            is_for_guest: true,
            // The guest is the instance's alone, and the agent has no keys.
            keep_keyring: true,
            seccomp: self.seccomp.map(<[Instruction]>::to_vec),
            ..Options::default()
        };
        let plan = Plan::new(self.spec, options).map_err(configuration)?;
        let resources = self.spec.linux().as_ref();
        let resources = resources.and_then(|linux| linux.resources().as_ref());
        let limits = match resources {
            Some(resources) => limits(resources, &Current::default())?,
            None => Vec::new(),
        };
        Ok(Start {
            plan: encoded(&plan),
            user: self.user.cloned(),
            limits,
            root_share: self.root_share,
            stdio,
        })
    }
}

impl Further<'_> {
    pub(crate) fn request(&self, task: u32, stdio: Stdio) -> Result<Exec, Error> {
        let options = ExecOptions::default();
        let plan = ExecPlan::new(self.spec, self.process, self.seccomp, &options);
        let plan = plan.map_err(configuration)?;
        Ok(Exec {
            task,
            plan: encoded(&plan),
            user: self.user.cloned(),
            stdio,
        })
    }
}
