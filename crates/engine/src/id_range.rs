//! `--userns auto`: a range of the host's user and group ids that no other instance has.
//!
//! Id 0 inside is the first id of the range, so whoever is root inside is nobody on the host. On
//! disk everything keeps the ids that it has inside (mounts map them), so that images, volumes,
//! `commit`, `diff` and `cp` need not know of the range, and a range can change from run to run.
//!
//! Ranges come from what `/etc/subuid` and `/etc/subgid` give the user `containers`, as Podman
//! does; where they give nothing, from a built-in range far above all accounts. Which is whose is
//! in the state file, so that no two instances of one root ever share an id.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use isle_runtime::users::{UserError, largest_id};
use rustix::thread::CapabilitySets;
use serde::{Deserialize, Serialize};

/// Ids of the host that are those from 0 on inside; the same numbers for users and groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The id of the host that is 0 inside.
    pub first: u32,
    /// How many.
    pub size: u32,
}

impl IdRange {
    /// The ids on the host.
    pub(crate) fn on_host(self) -> Range<u32> {
        self.first..self.first.saturating_add(self.size)
    }
}

/// Used where `/etc/subuid` gives `containers` nothing. Every id below it may be somebody's; above
/// 2³¹ programs take ids for negative numbers.
const BUILT_IN: Range<u32> = 1 << 30..i32::MAX as u32;
/// Whose ranges these are, by Podman's convention.
const OWNER: &str = "containers";
/// The least that an instance gets, as Podman's.
const LEAST: u32 = 1024;
/// The most that an image can ask for by what it has in its files; more must be given by the user.
const MOST_FOR_IMAGE: u32 = 65536;

/// How many ids an instance needs: all that the image's `/etc/passwd` and `/etc/group` name, up to
/// 65536, and those that it runs as.
///
/// # Errors
/// When one of these files is not to be read.
pub(crate) fn size_for(root: BorrowedFd<'_>, own: &[u32]) -> Result<u32, UserError> {
    let named = largest_id(root, MOST_FOR_IMAGE)?;
    let largest = own.iter().copied().chain([named]).max().unwrap_or(0);
    Ok(largest.saturating_add(1).next_multiple_of(LEAST))
}

/// Where ranges may be taken from on this host.
pub(crate) fn pool() -> Vec<Range<u32>> {
    if let Some(ids) = isle_rootless::own_ids() {
        return vec![ids.for_instances];
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    pool_of(&read("/etc/subuid"), &read("/etc/subgid"))
}

/// The ranges that both files, subuid(5) and subgid(5), give to `containers`; else the built-in one
/// without what they give to others.
fn pool_of(subuid: &str, subgid: &str) -> Vec<Range<u32>> {
    let (users, groups) = (subordinate(subuid), subordinate(subgid));
    let own = |of: &[(String, Range<u32>)]| -> Vec<Range<u32>> {
        let own = of.iter().filter(|(owner, _)| owner == OWNER);
        own.map(|(_, range)| range.clone()).collect()
    };
    let groups_own = own(&groups);
    let common: Vec<_> = own(&users)
        .iter()
        .flat_map(|users| {
            let both = groups_own.iter();
            both.map(|groups| users.start.max(groups.start)..users.end.min(groups.end))
        })
        .filter(|range| !range.is_empty())
        .collect();
    if !common.is_empty() {
        return common;
    }
    let others: Vec<_> = [users, groups]
        .concat()
        .into_iter()
        .map(|(_, r)| r)
        .collect();
    gaps(&BUILT_IN, others)
}

/// The lines `owner:first:count` of subuid(5).
fn subordinate(text: &str) -> Vec<(String, Range<u32>)> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?.to_owned();
        let first: u32 = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        Some((owner, first..first.saturating_add(count)))
    };
    text.lines().filter_map(line).collect()
}

/// What is left of a range without others.
fn gaps(whole: &Range<u32>, mut taken: Vec<Range<u32>>) -> Vec<Range<u32>> {
    taken.sort_by_key(|range| range.start);
    let mut free = Vec::new();
    let mut from = whole.start;
    for range in taken {
        if range.end <= from || range.start >= whole.end {
            continue;
        }
        if range.start > from {
            free.push(from..range.start);
        }
        from = range.end;
    }
    if from < whole.end {
        free.push(from..whole.end);
    }
    free
}

/// The first place of a pool where so many ids are nobody's.
pub(crate) fn choose(pool: &[Range<u32>], taken: &[IdRange], size: u32) -> Option<IdRange> {
    let taken: Vec<_> = taken
        .iter()
        .map(|range| range.first..range.first.saturating_add(range.size))
        .collect();
    pool.iter()
        .flat_map(|whole| gaps(whole, taken.clone()))
        .find(|free| free.end - free.start >= size)
        .map(|free| IdRange {
            first: free.start,
            size,
        })
}

/// Does something on files in the name of the range's root: what this thread makes meanwhile is
/// that root's. It keeps all its capabilities.
///
/// # Errors
/// When the ids or the capabilities of this thread cannot be changed.
pub(crate) fn as_its_root<T>(range: IdRange, act: impl FnOnce() -> T) -> io::Result<T> {
    let capabilities = rustix::thread::capabilities(None)?;
    let _back = Back(capabilities);
    isle_sys::process::set_file_ids(range.first, range.first)?;
    // Those for files went with the id.
    rustix::thread::set_capabilities(None, capabilities)?;
    Ok(act())
}

/// Root again, however it ends.
struct Back(CapabilitySets);

impl Drop for Back {
    fn drop(&mut self) {
        // A thread may always become what it really is.
        let _ = isle_sys::process::set_file_ids(0, 0);
        let _ = rustix::thread::set_capabilities(None, self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a pool may be one range")]
    fn the_ranges_of_containers_are_taken_when_both_files_give_them() {
        let subuid = "root:100000:65536\ncontainers:200000:100000\nbroken\n:x:y\n";
        assert_eq!(
            pool_of(subuid, "containers:250000:100000\n"),
            [250_000..300_000]
        );
        assert_eq!(pool_of(subuid, ""), [BUILT_IN]);
        assert_eq!(pool_of("", ""), [BUILT_IN]);
    }

    #[test]
    fn the_built_in_range_leaves_others_their_own() {
        let inside = BUILT_IN.start + 10;
        assert_eq!(
            pool_of(&format!("user:{inside}:100\n"), ""),
            [BUILT_IN.start..inside, inside + 100..BUILT_IN.end]
        );
        assert_eq!(pool_of("user:0:4294967295\n", ""), []);
    }

    #[test]
    fn no_two_instances_share_an_id() {
        let pool = [100..110, 200..300];
        let mut taken = Vec::new();
        for expected in [200, 250] {
            let range = choose(&pool, &taken, 50).unwrap();
            assert_eq!(
                range,
                IdRange {
                    first: expected,
                    size: 50
                }
            );
            taken.push(range);
        }
        assert_eq!(choose(&pool, &taken, 50), None);
        assert_eq!(
            choose(&pool, &taken, 10).map(|range| range.first),
            Some(100)
        );
        taken.remove(0);
        assert_eq!(
            choose(&pool, &taken, 50).map(|range| range.first),
            Some(200)
        );
    }

    #[test]
    fn the_size_is_that_of_the_images_accounts() {
        let root = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(root.path()).unwrap();
        let size = |own: &[u32]| size_for(folder.as_fd(), own).unwrap();
        assert_eq!(size(&[0]), 1024);
        assert_eq!(size(&[1024]), 2048);
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/passwd"),
            "nobody:x:65534:65534::/:/bin/sh\nhostile:x:4294967294:1::/:\n",
        )
        .unwrap();
        assert_eq!(size(&[0]), 65536);
        assert_eq!(size(&[70_000]), 70_656);
    }

    #[test]
    fn a_range_begins_with_its_first_id() {
        let range = IdRange {
            first: 1000,
            size: 10,
        };
        assert_eq!(range.on_host(), 1000..1010);
    }
}
