//! The clean end of a guest.

use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{WaitOptions, wait};

use crate::{Agent, last_words};

/// How long processes may take to end once they are killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends every process of the instance, lets its file systems go, and switches the guest off.
pub(crate) fn shut_down(agent: &mut Agent) -> ! {
    if let Some(cgroup) = &agent.place.cgroup {
        let _ = cgroup.kill_all();
    }
    agent.kill_each();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            // Nobody is left.
            Err(_) => break,
        }
    }
    agent.files = crate::prepare::Files::default();
    for folder in ["shares", "root", "disk", "image"] {
        let path = agent.place.run.join(folder);
        if unmount(&path, UnmountFlags::NOFOLLOW).is_err() {
            // Somebody still holds it, or it was never mounted: at least nothing more is written.
            let _ = mount_remount(&path, MountFlags::RDONLY, "");
        }
    }
    last_words::switch_off()
}
