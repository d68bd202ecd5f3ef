//! Without the host's privileges: this program runs again as root of a user namespace of its own.
//!
//! A user without privileges may mount and unshare in a user namespace alone. So `create` and `run` make the one that
//! the specification asks for, and execute this program in it, which then makes the container without a further user
//! namespace. Ids beyond the user's own are mapped by newuidmap(1) and newgidmap(1), as /etc/subuid allows. `kill` and
//! `delete` enter the container's namespace where its first process is another of these ids.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use anyhow::{Context, bail};
use isle_runtime::Confinement;
use isle_sys::launch::{self, Event, Slot, Step, Strings, namespace};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::process::{WaitId, WaitIdOptions};

/// Set for the program in the namespace.
const INSIDE: &str = "ISLE_OCI_IN_USER_NAMESPACE";

/// Has this program made the user namespace that it runs in?
fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some() && crate::groups::is_unprivileged()
}

/// What the user namespace around this process takes away.
pub(crate) fn confinement() -> Confinement {
    match crate::groups::is_unprivileged() {
        false => Confinement::default(),
        true => Confinement {
            no_device_nodes: true,
            no_groups: denies_groups("self"),
        },
    }
}

/// What the user namespace of a container takes away from a further process.
pub(crate) fn confinement_in(pid: i32) -> Confinement {
    Confinement {
        no_device_nodes: false,
        no_groups: denies_groups(&pid.to_string()),
    }
}

fn denies_groups(pid: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/setgroups"));
    text.is_ok_and(|text| text.trim() == "deny")
}

/// The specification without the user namespace that is there already.
pub(crate) fn rest_of(spec: &Spec) -> Option<Spec> {
    if !is_inside() {
        return None;
    }
    let mut rest = spec.clone();
    if let Some(linux) = rest.linux_mut() {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::User);
        linux
            .set_namespaces(Some(namespaces))
            .set_uid_mappings(None)
            .set_gid_mappings(None);
    }
    Some(rest)
}

/// Makes the container in a user namespace of its own, when this user needs one; the exit code of that.
pub(crate) fn make(spec: &Spec) -> anyhow::Result<Option<u8>> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let linux = spec.linux().as_ref();
    let has_namespace = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::User && namespace.path().is_none());
    let mappings = |of: fn(&oci_spec::runtime::Linux) -> &Option<Vec<LinuxIdMapping>>| {
        linux
            .and_then(|linux| of(linux).clone())
            .unwrap_or_default()
    };
    let (uids, gids) = (
        mappings(oci_spec::runtime::Linux::uid_mappings),
        mappings(oci_spec::runtime::Linux::gid_mappings),
    );
    if !has_namespace || uids.is_empty() || gids.is_empty() {
        bail!(
            "a user without privileges makes containers in user namespaces alone: add one to linux.namespaces, with \
             linux.uidMappings and linux.gidMappings (`isle-oci spec --rootless` writes such a file)"
        );
    }
    let steps = again(Step::Meet(0))?;
    let flags = namespace::USER | namespace::MOUNT;
    let process = launch::launch(flags, None, &steps, &[]).context(
        "cannot make a user namespace (is kernel.unprivileged_userns_clone or an LSM against it?)",
    )?;
    match process
        .next_event()
        .context("cannot hear the new process")?
    {
        Event::Reached(_) => {}
        _ => bail!("cannot make a user namespace: the new process has ended"),
    }
    let own = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if uids.iter().chain(&gids).all(|mapping| mapping.size() == 1)
        && uids.len() == 1
        && gids.len() == 1
        && (uids[0].host_id(), gids[0].host_id()) == own
    {
        let write = |file: &str, text: String| {
            let path = format!("/proc/{}/{file}", process.pid);
            fs::write(&path, text).with_context(|| format!("cannot write {path}"))
        };
        // user_namespaces(7): without CAP_SETGID a group map needs this
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{} {} 1", uids[0].container_id(), own.0))?;
        write("gid_map", format!("{} {} 1", gids[0].container_id(), own.1))?;
    } else {
        map("newuidmap", process.pid, &uids)?;
        map("newgidmap", process.pid, &gids)?;
    }
    process.go_on().context("cannot reach the new process")?;
    wait(&process, &steps).map(Some)
}

/// Runs this program again in the user namespace of a process; its exit code.
pub(crate) fn enter(process: &OwnedFd) -> anyhow::Result<u8> {
    let steps = again(Step::Enter {
        namespace: Slot(0),
        kinds: namespace::USER,
    })?;
    let inside = launch::launch(0, None, &steps, &[process.as_fd()])
        .context("cannot enter the user namespace of the container")?;
    wait(&inside, &steps)
}

/// Whether a signal to this process needs [`enter`].
pub(crate) fn is_refused(pid: i32) -> bool {
    let is_refused = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::PERM);
    !rustix::process::geteuid().is_root()
        && rustix::process::Pid::from_raw(pid).is_some_and(is_refused)
}

/// The steps by which this program is executed once more, as root.
fn again(first: Step) -> anyhow::Result<Vec<Step>> {
    let c = |text: OsString| CString::new(text.into_vec()).context("an argument holds a NUL byte");
    let own = fs::read_link("/proc/self/exe").context("cannot find this program")?;
    let arguments = std::env::args_os()
        .map(c)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        environment.push(c(variable)?);
    }
    environment.push(CString::new(format!("{INSIDE}=1"))?);
    Ok(vec![
        first,
        Step::BecomeRoot,
        Step::FindProgram {
            name: own.display().to_string(),
            candidates: vec![c(own.into_os_string())?],
        },
        Step::Execute {
            arguments: Strings::new(arguments),
            environment: Strings::new(environment),
        },
    ])
}

fn map(program: &str, pid: i32, mappings: &[LinuxIdMapping]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for mapping in mappings {
        for number in [mapping.container_id(), mapping.host_id(), mapping.size()] {
            command.arg(number.to_string());
        }
    }
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}: install uidmap"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    bail!(
        "cannot map the ids of the user namespace: {}; has this user so many in /etc/subuid and /etc/subgid?",
        text.trim_end()
    )
}

fn wait(process: &launch::Launched, steps: &[Step]) -> anyhow::Result<u8> {
    loop {
        match process.next_event() {
            Ok(Event::Failed(failure)) => {
                let step = steps
                    .get(failure.step)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let error = std::io::Error::from_raw_os_error(failure.errno);
                return Err(error).with_context(|| format!("cannot {step}"));
            }
            Ok(Event::Ready) => {}
            _ => break,
        }
    }
    loop {
        let ended =
            rustix::process::waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED);
        match ended {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(errno).context("cannot wait for the process in the user namespace");
            }
            Ok(status) => {
                let code = status
                    .and_then(|status| status.exit_status())
                    .unwrap_or(255);
                return Ok(u8::try_from(code & 0xff).unwrap_or(255));
            }
        }
    }
}
