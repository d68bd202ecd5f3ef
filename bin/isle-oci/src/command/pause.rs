//! `pause` and `resume`: the freezer of the control group.

use std::path::Path;

use anyhow::{Context, bail};
use isle_cgroup::Cgroup;

use crate::container::{Container, Status};

fn cgroup(container: &Container, id: &str) -> anyhow::Result<Cgroup> {
    container
        .cgroup()?
        .with_context(|| format!("container {id:?} has no control group that could be frozen"))
}

pub(super) fn pause(root: &Path, id: &str) -> anyhow::Result<u8> {
    let container = Container::open(root, id)?;
    match container.status() {
        Status::Running | Status::Created => {}
        status => bail!("cannot pause container {id:?}: it is {status}"),
    }
    cgroup(&container, id)?
        .freeze()
        .with_context(|| format!("cannot pause container {id:?}"))?;
    Ok(0)
}

pub(super) fn resume(root: &Path, id: &str) -> anyhow::Result<u8> {
    let container = Container::open(root, id)?;
    let cgroup = cgroup(&container, id)?;
    if !cgroup.is_frozen()? {
        bail!("cannot resume container {id:?}: it is not paused");
    }
    cgroup
        .thaw()
        .with_context(|| format!("cannot resume container {id:?}"))?;
    Ok(0)
}
