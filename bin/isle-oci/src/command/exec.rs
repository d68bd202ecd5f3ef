//! `exec`: a further process in a container.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::{Cgroup, Layout};
use isle_runtime::{ExecOptions, Stdio};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::create;
use super::run::wait;
use crate::arguments::Exec;
use crate::container::{Container, Status};
use crate::{bundle, console, rootless, vm};

fn user(text: &str) -> anyhow::Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let number = |text: &str| {
        text.parse::<u32>()
            .with_context(|| format!("invalid --user {text:?}: expected numbers, UID[:GID]"))
    };
    Ok((number(uid)?, gid.map(number).transpose()?))
}

fn capability(name: &str) -> anyhow::Result<Capability> {
    let name = name.to_ascii_uppercase();
    let name = if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    };
    serde_json::from_value(serde_json::Value::from(name.as_str()))
        .with_context(|| format!("invalid --cap {name:?}"))
}

/// The process of the flags, on the ground of the container's own.
fn from_flags(spec: &Spec, arguments: &Exec) -> anyhow::Result<Process> {
    if arguments.command.is_empty() {
        bail!("nothing to execute: give a command, or --process");
    }
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(arguments.tty));
    process.set_console_size(None);
    process.set_oom_score_adj(process.oom_score_adj());
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    if !arguments.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(arguments.env.iter().cloned());
        process.set_env(Some(env));
    }
    if let Some(text) = &arguments.user {
        let (uid, gid) = user(text)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !arguments.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&arguments.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if !arguments.cap.is_empty() {
        let added: HashSet<Capability> = arguments
            .cap
            .iter()
            .map(|name| capability(name))
            .collect::<anyhow::Result<_>>()?;
        let mut sets = match process.capabilities() {
            Some(sets) => sets.clone(),
            None => {
                let mut none = LinuxCapabilities::default();
                none.set_bounding(None)
                    .set_effective(None)
                    .set_permitted(None)
                    .set_inheritable(None)
                    .set_ambient(None);
                none
            }
        };
        let with = |set: &Option<HashSet<Capability>>| {
            Some(set.iter().flatten().chain(&added).copied().collect())
        };
        let (bounding, effective, permitted) = (
            with(sets.bounding()),
            with(sets.effective()),
            with(sets.permitted()),
        );
        sets.set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

fn sub_cgroup(container: &Container, asked: &str) -> anyhow::Result<Cgroup> {
    if asked.contains(':') {
        bail!("--cgroup {asked:?}: a group of one controller alone is not supported");
    }
    let Some(path) = &container.state.cgroup else {
        bail!("--cgroup {asked:?}: the container has no control group");
    };
    let below = Path::new(asked.trim_start_matches('/'));
    if below.components().any(|part| part.as_os_str() == "..") {
        bail!("--cgroup {asked:?} leads out of the container's control group");
    }
    let path = path.join(below);
    let layout = Layout::detect().context("cannot find the control groups of the host")?;
    Cgroup::open(&layout, &path)
        .with_context(|| format!("cannot open the control group {}", path.display()))
}

pub(super) fn run(root: &Path, arguments: &Exec) -> anyhow::Result<u8> {
    let preserve_fds = create::preserved(arguments.preserve_fds)?;
    let id = &arguments.id;
    let container = Container::open(root, id)?;
    let Some(init) = &container.process else {
        bail!("cannot exec in container {id:?}: container not running");
    };
    if !arguments.ignore_paused && container.status() == Status::Paused {
        bail!("cannot exec in container {id:?}: it is paused; resume it, or give --ignore-paused");
    }
    let spec = container.directory.config()?;
    let mut process = match &arguments.process {
        Some(path) => {
            let mut text =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut process: Process =
                bundle::parse(&mut text, path, "a process of the runtime specification")?;
            if arguments.tty {
                process.set_terminal(Some(true));
            }
            process
        }
        None => from_flags(&spec, arguments)?,
    };
    if !vm::is_machine(&container.directory) {
        bundle::leave_out_ungrantable(&spec, &mut process)?;
    }
    let cgroup = match &arguments.cgroup {
        Some(asked) => Some(sub_cgroup(&container, asked)?),
        None => container.cgroup()?,
    };
    let is_terminal = process.terminal() == Some(true);
    let is_foreground = !arguments.detach && arguments.console_socket.is_none();
    console::check(
        is_terminal,
        arguments.console_socket.as_deref(),
        is_foreground,
    )?;
    let stdio = if is_terminal {
        let size = process.console_size().and_then(|size| {
            let narrow = |side: u64| u16::try_from(side).ok().filter(|side| *side > 0);
            Some((narrow(size.height())?, narrow(size.width())?))
        });
        Stdio::Terminal {
            size: size.or_else(console::own_size),
        }
    } else {
        create::own_streams()?
    };
    let child = match vm::is_machine(&container.directory) {
        true => vm::exec(&container.directory, &process, cgroup.as_ref(), stdio)?,
        false => isle_runtime::exec_with(
            {
                use std::os::fd::AsFd;
                init.as_fd()
            },
            &spec,
            &process,
            cgroup.as_ref(),
            None,
            stdio,
            &ExecOptions {
                id: id.clone(),
                preserve_fds,
                confinement: rootless::confinement_in(container.state.pid),
            },
        )?,
    };
    // The container may be changed or deleted while the process runs.
    drop(container.directory);
    create::write_pid(arguments.pid_file.as_deref(), &child)?;
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &child.terminal) {
        console::send(socket, master)?;
    }
    if arguments.detach {
        return Ok(0);
    }
    if let (Some(master), true) = (&child.terminal, is_foreground) {
        console::relay(&child, master).context("cannot relay the terminal")?;
    }
    wait(&child)
}
