//! Which ids the user has, and the programs that may map them: subuid(5), newuidmap(1), user_namespaces(7).

use std::fs;
use std::io;
use std::num::NonZeroI32;
use std::ops::Range;
use std::process::{Command, Stdio};

use rustix::process::Pid;

use crate::HouseError;

const NEWUIDMAP: &str = "newuidmap";
const NEWGIDMAP: &str = "newgidmap";

/// What `/etc/subuid` and `/etc/subgid` give to one user: first id and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subordinate {
    /// Of user ids.
    pub users: Vec<(u32, u32)>,
    /// Of group ids.
    pub groups: Vec<(u32, u32)>,
}

impl Subordinate {
    /// Whether there are both.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        !self.users.is_empty() && !self.groups.is_empty()
    }
}

/// The subordinate ids of a user, as the files on this host say.
#[must_use]
pub fn subordinate(uid: u32) -> Subordinate {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Accounts that come from elsewhere (LDAP) are in no file, but the session knows their name.
    let name = name_in(&read("/etc/passwd"), uid).or_else(|| std::env::var("USER").ok());
    let name = name.unwrap_or_default();
    Subordinate {
        users: ranges_in(&read("/etc/subuid"), &name, uid),
        groups: ranges_in(&read("/etc/subgid"), &name, uid),
    }
}

/// The name of an account, see passwd(5).
fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// Lines `NAME:FIRST:COUNT` or `UID:FIRST:COUNT`.
fn ranges_in(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            let is_own = owner == uid || (owner == name && !name.is_empty());
            (is_own && count > 0).then_some((first, count))
        })
        .collect()
}

/// The ids of the user namespace that the engine is in, from 0 on, for users and groups alike. Images have theirs in the lower
/// half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIds {
    /// How many there are.
    pub count: u32,
    /// Of which instances with user namespaces of their own have theirs.
    pub for_instances: Range<u32>,
    /// By which programs run that nobody is to be able to touch. Without subordinate ids the user's own.
    pub for_programs: Range<u32>,
}

/// The ids that there are in the user namespace of this process; `None` in the first one, which has all.
#[must_use]
pub fn own_ids() -> Option<OwnIds> {
    if !isle_sys::features::is_in_user_namespace() {
        return None;
    }
    let of = |path: &str| ids_in(&fs::read_to_string(path).unwrap_or_default());
    let count = of("/proc/self/uid_map").min(of("/proc/self/gid_map"));
    let (half, quarter) = (count / 2, count - count / 4);
    Some(OwnIds {
        count,
        for_instances: half..quarter,
        for_programs: if quarter < count {
            quarter..count
        } else {
            0..1
        },
    })
}

/// The ids from 0 on that a map has: lines `inside outside count`, see user_namespaces(7).
fn ids_in(map: &str) -> u32 {
    let mut lines: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let first = words.next()?.parse().ok()?;
            Some((first, words.nth(1)?.parse().ok()?))
        })
        .collect();
    lines.sort_unstable();
    lines
        .into_iter()
        .fold(0, |end, (first, count)| match first == end {
            true => end.saturating_add(count),
            false => end,
        })
}

/// The arguments of newuidmap(1) behind the pid: the own id is 0 inside, the subordinate ones follow.
fn arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut words = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut inside = 1;
    for (first, count) in ranges {
        words.extend([inside.to_string(), first.to_string(), count.to_string()]);
        inside += count;
    }
    words
}

/// Gives the user namespace of a process its maps. The caller is outside, and the same user.
///
/// # Errors
/// [`HouseError`]; without subordinate ids the user's own id alone is mapped, and `Ok(false)` says so.
pub(crate) fn write(pid: Pid) -> Result<bool, HouseError> {
    let pid = pid.as_raw_nonzero();
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let ids = subordinate(uid);
    if !ids.is_enough() {
        write_own(pid, uid, gid).map_err(HouseError::Map)?;
        return Ok(false);
    }
    let start = |program: &'static str, own: u32, ranges: &[(u32, u32)]| {
        Command::new(program)
            .arg(pid.to_string())
            .args(arguments(own, ranges))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => HouseError::NoMapper { program },
                _ => HouseError::Map(source),
            })
    };
    // Both at once: each waits for files most of the time.
    let users = start(NEWUIDMAP, uid, &ids.users)?;
    let groups = start(NEWGIDMAP, gid, &ids.groups);
    let users = users.wait_with_output();
    let groups = groups?.wait_with_output();
    for (program, output) in [(NEWUIDMAP, users), (NEWGIDMAP, groups)] {
        let output = output.map_err(HouseError::Map)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(HouseError::Mapper { program, said });
        }
    }
    Ok(true)
}

/// What everybody may do, see user_namespaces(7).
fn write_own(pid: NonZeroI32, uid: u32, gid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1\n"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text =
            "ann:100000:65536\n1000:300000:10\nbob:200000:65536\nann:400000:5\nann:x:1\nann:5:0\n";
        assert_eq!(
            ranges_in(text, "ann", 1000),
            [(100_000, 65_536), (300_000, 10), (400_000, 5)]
        );
        assert_eq!(ranges_in(text, "", 7), []);
        assert_eq!(
            name_in("root:x:0:0::/:/bin/sh\nann:x:1000:5::/:\n", 1000).as_deref(),
            Some("ann")
        );
    }

    #[test]
    fn the_user_is_root_inside_and_the_others_follow() {
        assert_eq!(
            arguments(1000, &[(100_000, 65_536), (300_000, 10)]).join(" "),
            "0 1000 1 1 100000 65536 65537 300000 10"
        );
    }

    #[test]
    fn the_ids_of_a_map_are_counted_from_0_on() {
        assert_eq!(ids_in("0 1000 1\n1 100000 65536\n"), 65537);
        assert_eq!(ids_in("         0       4242          1\n"), 1);
        assert_eq!(ids_in("5 1000 1\n"), 0);
        assert_eq!(ids_in("0 0 4294967295\n"), u32::MAX);
    }
}
