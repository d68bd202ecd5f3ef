//! Users and groups by name, as the files of a root file system tell them.
//!
//! `/etc/passwd` and `/etc/group` of an image are untrusted: they are opened beneath the root, must
//! be regular files, and only so many bytes of them are read (passwd(5), group(5)).

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

/// The most bytes of `/etc/passwd` or `/etc/group` that are read.
pub const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included when a file says so; sorted.
    pub groups: Vec<u32>,
    /// Home directory; `/` when no file says another.
    pub home: String,
}

/// Why a user or group cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that no file has.
    #[error("no user {name:?} in /etc/passwd of the image")]
    UnknownUser {
        /// The name.
        name: String,
    },
    /// A group that no file has.
    #[error("no group {name:?} in /etc/group of the image")]
    UnknownGroup {
        /// The name.
        name: String,
    },
    /// Not `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`.
    #[error("invalid user {text:?}")]
    Invalid {
        /// What was given.
        text: String,
    },
    /// A number that is no id.
    #[error("{text:?} is not an id from 0 to 2147483647")]
    OutOfRange {
        /// What was given.
        text: String,
    },
    /// A file that cannot be read.
    #[error("cannot read /{file} of the image")]
    Read {
        /// Its name.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file with more than [`FILE_LIMIT_BYTES`].
    #[error("/{file} of the image has more than {FILE_LIMIT_BYTES} bytes")]
    TooLarge {
        /// Its name.
        file: &'static str,
    },
}

impl UserError {
    /// What the caller may do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            UserError::UnknownUser { .. } => {
                "name a user that the image has, or give a number: numbers need no entry"
            }
            UserError::UnknownGroup { .. } => {
                "name a group that the image has, or give a number: numbers need no entry"
            }
            UserError::Invalid { .. } => {
                "expected a user name or number, and optionally `:` and a group name or number"
            }
            UserError::OutOfRange { .. } => return None,
            UserError::Read { .. } | UserError::TooLarge { .. } => "give user and group as numbers",
        })
    }
}

/// Opens a regular file beneath `root`, following links inside only; `None` when it is not there.
fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<Option<String>, UserError> {
    let fail = |source: io::Error| UserError::Read { file, source };
    let opened = rustix::fs::openat2(
        root,
        file,
        // A FIFO must not block us.
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let fd = match opened {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(fail(errno.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| fail(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(FILE_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(UserError::TooLarge { file });
    }
    // Other bytes than UTF-8 stand in comments and foreign names only.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX.unsigned_abs() => Ok(Some(id)),
        _ => Err(UserError::OutOfRange {
            text: text.to_owned(),
        }),
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Account {
            name,
            uid,
            gid,
            home,
        })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

/// Resolves `user[:group]` and further groups (`--group-add`) like Docker: a number need not have
/// an entry; without `:group` the user's own group and memberships count; an empty text is root.
///
/// # Errors
/// [`UserError`] names what is unknown or wrong.
pub fn resolve(
    root: BorrowedFd<'_>,
    text: &str,
    extra_groups: &[String],
) -> Result<User, UserError> {
    let (user_text, group_text) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let is_invalid = |part: &str| part.contains([':', '\0', '\n']);
    if is_invalid(user_text) || group_text.is_some_and(is_invalid) {
        return Err(UserError::Invalid {
            text: text.to_owned(),
        });
    }
    let passwd = read(root, "etc/passwd")?.unwrap_or_default();
    let wanted = id(if user_text.is_empty() { "0" } else { user_text })?;
    let account = accounts(&passwd).find(|account| {
        account.name == user_text || (wanted.is_some() && wanted == Some(account.uid))
    });
    let (uid, own_gid, home, name) = match (account, wanted) {
        (Some(account), _) => (account.uid, account.gid, account.home, Some(account.name)),
        (None, Some(uid)) => (uid, 0, "", None),
        (None, None) => {
            return Err(UserError::UnknownUser {
                name: user_text.to_owned(),
            });
        }
    };
    let needs_group_file = name.is_some() || group_text.is_some() || !extra_groups.is_empty();
    let group_file = if needs_group_file {
        read(root, "etc/group")?.unwrap_or_default()
    } else {
        String::new()
    };
    let by_name = |wanted: &str| -> Result<u32, UserError> {
        if let Some(group) = groups(&group_file).find(|group| group.name == wanted) {
            return Ok(group.gid);
        }
        id(wanted)?.ok_or_else(|| UserError::UnknownGroup {
            name: wanted.to_owned(),
        })
    };
    let mut supplementary = BTreeSet::new();
    let gid = match group_text {
        Some("") | None => {
            if let Some(name) = name {
                supplementary.extend(
                    groups(&group_file)
                        .filter(|group| group.members.split(',').any(|member| member == name))
                        .map(|group| group.gid),
                );
            }
            own_gid
        }
        Some(group) => by_name(group)?,
    };
    for extra in extra_groups {
        supplementary.insert(by_name(extra)?);
    }
    Ok(User {
        uid,
        gid,
        groups: supplementary.into_iter().collect(),
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

/// The largest id below `limit` that `/etc/passwd` or `/etc/group` names; 0 when there is none.
///
/// # Errors
/// [`UserError`] when one of them cannot be read.
pub fn largest_id(root: BorrowedFd<'_>, limit: u32) -> Result<u32, UserError> {
    let passwd = read(root, "etc/passwd")?.unwrap_or_default();
    let group = read(root, "etc/group")?.unwrap_or_default();
    let ids = accounts(&passwd)
        .flat_map(|account| [account.uid, account.gid])
        .chain(groups(&group).map(|group| group.gid));
    Ok(ids.filter(|id| *id < limit).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn root(passwd: &str, group: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.path().join("etc/group"), group).unwrap();
        root
    }

    fn resolve_in(root: &tempfile::TempDir, text: &str, extra: &[&str]) -> Result<User, UserError> {
        let directory = std::fs::File::open(root.path()).unwrap();
        let extra: Vec<String> = extra.iter().map(|&e| e.to_owned()).collect();
        resolve(directory.as_fd(), text, &extra)
    }

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:71::/var/lib/postgresql:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\npostgres:x:71:\nssl-cert:x:101:other,postgres\naudio:x:29:\n";

    #[test]
    fn a_name_brings_its_group_memberships_and_home() {
        let root = root(PASSWD, GROUP);
        let user = resolve_in(&root, "postgres", &["audio", "4242"]).unwrap();
        assert_eq!((user.uid, user.gid), (70, 71));
        assert_eq!(user.groups, [29, 101, 4242]);
        assert_eq!(user.home, "/var/lib/postgresql");
    }

    #[test]
    fn numbers_need_no_entry() {
        let root = root(PASSWD, GROUP);
        let user = resolve_in(&root, "1234:5678", &[]).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1234, 5678, "/"));
        assert_eq!(resolve_in(&root, "1234", &[]).unwrap().gid, 0);
        assert_eq!(resolve_in(&root, "70", &[]).unwrap().gid, 71);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(resolve_in(&empty, "", &[]).unwrap().uid, 0);
    }

    #[test]
    fn a_given_group_replaces_the_memberships() {
        let root = root(PASSWD, GROUP);
        let user = resolve_in(&root, "postgres:audio", &[]).unwrap();
        assert_eq!((user.gid, user.groups.len()), (29, 0));
    }

    #[test]
    fn what_is_unknown_is_named() {
        let root = root(PASSWD, GROUP);
        let text = |text: &str| resolve_in(&root, text, &[]).unwrap_err().to_string();
        assert!(text("nobody").contains("\"nobody\""));
        assert!(text("root:nogroup").contains("\"nogroup\""));
        assert!(text("4294967295").contains("4294967295"));
        assert!(text("a:b:c").contains("a:b:c"));
    }

    #[test]
    fn links_stay_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("inside"), "x:x:5:6::/h:").unwrap();
        std::os::unix::fs::symlink("/../../inside", root.path().join("etc/passwd")).unwrap();
        assert_eq!(resolve_in(&root, "x", &[]).unwrap().uid, 5);
    }

    #[test]
    fn a_giant_file_and_a_special_file_are_refused() {
        let giant = root("", "");
        let file = std::fs::File::create(giant.path().join("etc/passwd")).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(matches!(
            resolve_in(&giant, "root", &[]),
            Err(UserError::TooLarge { .. })
        ));
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("etc/passwd")).unwrap();
        resolve_in(&directory, "root", &[]).unwrap_err();
    }
}
