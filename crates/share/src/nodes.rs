//! The files that the guest knows: numbers for it, descriptors for us.
//!
//! A node is one inode of the host, by whatever names the guest has found it. It has an `O_PATH` descriptor, which
//! changes of the host cannot lead elsewhere. A guest may know more files than a process may have descriptors: those not
//! used for long are closed and found again beneath their parent, and are then compared with what they were.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx,
};
use rustix::io::Errno;

use crate::protocol::ROOT;

/// What statx(2) is asked for.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
/// The most nodes at a time; each needs some 300 bytes here and more in the guest.
const MAX_NODES: usize = 1 << 20;
/// From here on a directory is listed without attributes, which makes nodes.
const MANY_NODES: usize = MAX_NODES / 2;
/// More lookups than a guest can make.
const FOREVER: u64 = u64::MAX / 2;

/// What an inode is called on the host. A number is used again when a file is gone, hence the time at which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl Identity {
    fn of(statx: &Statx) -> Identity {
        Identity {
            device: (statx.stx_dev_major, statx.stx_dev_minor),
            inode: statx.stx_ino,
            born: (statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec),
        }
    }
}

/// What the guest was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Seen {
    fn of(statx: &Statx) -> Seen {
        Seen {
            size: statx.stx_size,
            modified: (statx.stx_mtime.tv_sec, statx.stx_mtime.tv_nsec),
            changed: (statx.stx_ctime.tv_sec, statx.stx_ctime.tv_nsec),
        }
    }
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    kind: FileType,
    /// Where the guest has found it last: the parent, and the name there.
    place: Option<(u64, CString)>,
    descriptor: Option<Rc<OwnedFd>>,
    /// The descriptor is the only way to it.
    is_pinned: bool,
    was_used: bool,
    /// How often the guest was told of it and has not forgotten it.
    lookups: u64,
    /// Nodes whose place is in here.
    children: u64,
    seen: Option<Seen>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<Identity, u64>,
    next: u64,
    /// Devices of the host in the order in which they were met.
    devices: Vec<(u32, u32)>,
    /// Nodes with a descriptor that can be closed, the one to look at next in front.
    open: VecDeque<u64>,
    most_open: usize,
}

/// A file beneath a share, as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its descriptor.
    pub(crate) descriptor: OwnedFd,
    /// What it is.
    pub(crate) statx: Statx,
}

/// Opens a name in a directory, whatever it is, and not what it leads to.
///
/// # Errors
/// When there is no such name, or the host denies it.
pub(crate) fn find(directory: impl AsFd, name: &CStr) -> Result<Found, Errno> {
    let descriptor = openat2(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
    )?;
    Found::of(descriptor)
}

impl Found {
    /// What a descriptor refers to.
    pub(crate) fn of(descriptor: OwnedFd) -> Result<Found, Errno> {
        let statx = status(&descriptor)?;
        Ok(Found { descriptor, statx })
    }
}

/// What a descriptor refers to.
pub(crate) fn status(descriptor: impl AsFd) -> Result<Statx, Errno> {
    statx(descriptor, c"", AtFlags::EMPTY_PATH, WANTED)
}

impl Nodes {
    /// None. At most `most_open` descriptors are kept, beside those that have to be.
    pub(crate) fn new(most_open: usize) -> Nodes {
        Nodes {
            nodes: HashMap::new(),
            numbers: HashMap::new(),
            next: ROOT,
            devices: Vec::new(),
            open: VecDeque::new(),
            most_open,
        }
    }

    /// Adds a node that is never forgotten; the first is [`ROOT`].
    pub(crate) fn add_forever(&mut self, found: Found) -> Result<u64, Errno> {
        let id = self.add(found, None)?;
        let node = self.get_mut(id)?;
        node.lookups = FOREVER;
        node.is_pinned = true;
        Ok(id)
    }

    /// Whether it is better not to tell the guest of more.
    pub(crate) fn are_many(&self) -> bool {
        self.nodes.len() >= MANY_NODES
    }

    fn get_mut(&mut self, id: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::STALE)
    }

    /// Adds what was found, or finds it among the known, and counts that the guest is told.
    pub(crate) fn add(&mut self, found: Found, place: Option<(u64, &CStr)>) -> Result<u64, Errno> {
        let identity = Identity::of(&found.statx);
        if let Some(&id) = self.numbers.get(&identity) {
            if let Some((parent, name)) = place {
                self.place(id, parent, name);
            }
            let node = self.get_mut(id)?;
            node.lookups = node.lookups.saturating_add(1);
            node.seen = Some(Seen::of(&found.statx));
            node.was_used = true;
            if node.descriptor.is_none() {
                node.descriptor = Some(Rc::new(found.descriptor));
                self.keep(id);
            }
            return Ok(id);
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(Errno::NFILE);
        }
        // The directory of the shares is on none of theirs.
        if self.next != ROOT && !self.devices.contains(&identity.device) {
            self.devices.push(identity.device);
        }
        let id = self.next;
        self.next += 1;
        let node = Node {
            identity,
            kind: FileType::from_raw_mode(found.statx.stx_mode.into()),
            place: None,
            descriptor: Some(Rc::new(found.descriptor)),
            is_pinned: false,
            was_used: false,
            lookups: 1,
            children: 0,
            seen: Some(Seen::of(&found.statx)),
        };
        self.nodes.insert(id, node);
        self.numbers.insert(identity, id);
        if let Some((parent, name)) = place {
            self.place(id, parent, name);
        }
        self.keep(id);
        Ok(id)
    }

    /// Notes where a node is.
    fn place(&mut self, id: u64, parent: u64, name: &CStr) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let is_there = |(at, called): &(u64, CString)| *at == parent && called.as_c_str() == name;
        // A share stays where it is, and nothing is below itself.
        if node.lookups >= FOREVER || id == parent || node.place.as_ref().is_some_and(is_there) {
            return;
        }
        self.displace(id);
        if let Some(above) = self.nodes.get_mut(&parent) {
            above.children += 1;
            if let Some(node) = self.nodes.get_mut(&id) {
                node.place = Some((parent, name.to_owned()));
            }
        }
    }

    /// Forgets where a node is.
    fn displace(&mut self, id: u64) {
        let place = self.nodes.get_mut(&id).and_then(|node| node.place.take());
        if let Some((parent, _)) = place {
            self.leave(parent);
        }
    }

    /// One child less; parents that nobody knows any more go, up to one that somebody does.
    fn leave(&mut self, mut id: u64) {
        loop {
            let Some(node) = self.nodes.get_mut(&id) else {
                return;
            };
            node.children = node.children.saturating_sub(1);
            match self.remove_if_unknown(id) {
                Some(parent) => id = parent,
                None => return,
            }
        }
    }

    /// Removes a node that nobody knows, and tells where it was.
    fn remove_if_unknown(&mut self, id: u64) -> Option<u64> {
        let node = self.nodes.get(&id)?;
        if node.lookups > 0 || node.children > 0 {
            return None;
        }
        let node = self.nodes.remove(&id)?;
        if self.numbers.get(&node.identity) == Some(&id) {
            self.numbers.remove(&node.identity);
        }
        node.place.map(|(parent, _)| parent)
    }

    /// The guest has forgotten so many lookups of a node.
    pub(crate) fn forget(&mut self, id: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.lookups < FOREVER {
            node.lookups = node.lookups.saturating_sub(lookups);
        }
        if let Some(parent) = self.remove_if_unknown(id) {
            self.leave(parent);
        }
    }

    /// Watches a new descriptor, and closes others when there are too many.
    fn keep(&mut self, id: u64) {
        self.open.push_back(id);
        while self.open.len() > self.most_open {
            let Some(oldest) = self.open.pop_front() else {
                return;
            };
            let Some(node) = self.nodes.get_mut(&oldest) else {
                continue;
            };
            if node.is_pinned || node.place.is_none() {
                // There is no other way to it.
                continue;
            }
            if std::mem::take(&mut node.was_used) {
                self.open.push_back(oldest);
            } else {
                node.descriptor = None;
            }
        }
    }

    /// The descriptor of a node.
    ///
    /// # Errors
    /// `ESTALE` when the guest must not know it, or what is at its place now is another file.
    pub(crate) fn descriptor(&mut self, id: u64) -> Result<Rc<OwnedFd>, Errno> {
        let node = self.get_mut(id)?;
        node.was_used = true;
        if let Some(descriptor) = &node.descriptor {
            return Ok(descriptor.clone());
        }
        // The way down from the first ancestor whose descriptor is open.
        let mut way = vec![id];
        let mut above = loop {
            let last = *way.last().expect("it begins with one");
            let (parent, _) = self.get_mut(last)?.place.as_ref().ok_or(Errno::STALE)?;
            let parent = *parent;
            if let Some(descriptor) = &self.get_mut(parent)?.descriptor {
                break descriptor.clone();
            }
            // The depth is the guest's choice, and directories that the host moves about can make a ring of old places.
            if way.len() > 4096 {
                return Err(Errno::STALE);
            }
            way.push(parent);
        };
        while let Some(id) = way.pop() {
            let node = self.get_mut(id)?;
            let (_, name) = node.place.as_ref().ok_or(Errno::STALE)?;
            let found = find(&above, name).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::XDEV => Errno::STALE,
                other => other,
            })?;
            if Identity::of(&found.statx) != node.identity {
                return Err(Errno::STALE);
            }
            above = Rc::new(found.descriptor);
            node.descriptor = Some(above.clone());
            self.keep(id);
        }
        Ok(above)
    }

    /// What kind of file a node is.
    pub(crate) fn kind(&self, id: u64) -> Result<FileType, Errno> {
        self.nodes
            .get(&id)
            .map(|node| node.kind)
            .ok_or(Errno::STALE)
    }

    /// What a node is now.
    pub(crate) fn status(&mut self, id: u64) -> Result<Statx, Errno> {
        let statx = status(&*self.descriptor(id)?)?;
        self.get_mut(id)?.seen = Some(Seen::of(&statx));
        Ok(statx)
    }

    /// The guest is told this about a node.
    pub(crate) fn tell(&mut self, id: u64, statx: &Statx) {
        if let Ok(node) = self.get_mut(id) {
            node.seen = Some(Seen::of(statx));
        }
    }

    /// Whether a node is no longer as the guest was told.
    pub(crate) fn has_changed(&mut self, id: u64) -> Result<bool, Errno> {
        let now = Seen::of(&status(&*self.descriptor(id)?)?);
        let node = self.get_mut(id)?;
        Ok(node.seen.replace(now) != Some(now))
    }

    /// Whether another file, or none, is now where the guest has found this one. It is told once.
    pub(crate) fn was_replaced(&mut self, id: u64) -> Result<Option<(u64, CString)>, Errno> {
        let node = self.get_mut(id)?;
        let identity = node.identity;
        let Some((parent, name)) = node.place.clone() else {
            return Ok(None);
        };
        let directory = self.descriptor(parent)?;
        let is_same = match statx(&*directory, &name, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
            Ok(statx) => Identity::of(&statx) == identity,
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(errno),
        };
        if is_same {
            return Ok(None);
        }
        // The descriptor is the only way to it now.
        self.pin(id)?;
        Ok(Some((parent, name)))
    }

    fn pin(&mut self, id: u64) -> Result<(), Errno> {
        self.descriptor(id)?;
        self.get_mut(id)?.is_pinned = true;
        self.displace(id);
        Ok(())
    }

    /// The node of a name, if the guest knows it, with its descriptor: the name is about to change or go, and those
    /// who have the file open keep it.
    pub(crate) fn known(&mut self, parent: u64, name: &CStr) -> Option<u64> {
        let directory = self.descriptor(parent).ok()?;
        let statx = statx(&*directory, name, AtFlags::SYMLINK_NOFOLLOW, WANTED).ok()?;
        let id = *self.numbers.get(&Identity::of(&statx))?;
        // One that cannot be found any more cannot be kept either.
        self.descriptor(id).ok()?;
        Some(id)
    }

    /// A name of a node is gone.
    pub(crate) fn removed(&mut self, id: u64, parent: u64, name: &CStr) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let place = node.place.as_ref();
        if place.is_some_and(|(at, called)| *at == parent && called.as_c_str() == name) {
            node.is_pinned = true;
            self.displace(id);
        }
    }

    /// A node has another name now.
    pub(crate) fn moved(&mut self, id: u64, parent: u64, name: &CStr) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.lookups < FOREVER
        {
            let was_pinned = std::mem::take(&mut node.is_pinned);
            self.place(id, parent, name);
            if was_pinned {
                self.keep(id);
            }
        }
    }

    /// The number of an inode for the guest, to which all shares are one device: that of the host, made different for every device
    /// but the first.
    pub(crate) fn inode(&self, statx: &Statx) -> u64 {
        self.inode_of((statx.stx_dev_major, statx.stx_dev_minor), statx.stx_ino)
    }

    fn inode_of(&self, device: (u32, u32), inode: u64) -> u64 {
        let index = self.devices.iter().position(|known| *known == device);
        inode ^ ((index.unwrap_or(0xffff) as u64) << 48)
    }

    /// As [`Nodes::inode`], for an entry of a directory.
    pub(crate) fn inode_beside(&self, directory: u64, inode: u64) -> u64 {
        match self.nodes.get(&directory) {
            Some(node) => self.inode_of(node.identity.device, inode),
            None => inode,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::open;

    use super::*;

    /// A folder with files in it, as a share, with room for few descriptors.
    fn nodes(files: usize) -> (tempfile::TempDir, Nodes, u64) {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..files {
            fs::write(folder.path().join(number.to_string()), number.to_string()).unwrap();
        }
        let mut nodes = Nodes::new(4);
        let descriptor = open(folder.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let root = Found::of(descriptor.unwrap()).unwrap();
        let root = nodes.add_forever(root).unwrap();
        (folder, nodes, root)
    }

    fn look_up(nodes: &mut Nodes, parent: u64, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        let found = find(&*nodes.descriptor(parent).unwrap(), &name).unwrap();
        nodes.add(found, Some((parent, &name))).unwrap()
    }

    fn look_up_all(nodes: &mut Nodes, root: u64) {
        for number in 1..20 {
            look_up(nodes, root, &number.to_string());
        }
    }

    fn open_descriptors(nodes: &Nodes) -> usize {
        let all = nodes.nodes.values();
        all.filter(|node| node.descriptor.is_some()).count()
    }

    #[test]
    fn more_files_are_known_than_descriptors_are_open() {
        let (folder, mut nodes, root) = nodes(100);
        let all: Vec<u64> = (0..100)
            .map(|number| look_up(&mut nodes, root, &number.to_string()))
            .collect();
        assert!(open_descriptors(&nodes) <= 6);
        for (number, node) in all.iter().enumerate() {
            let statx = nodes.status(*node).unwrap();
            let path = folder.path().join(number.to_string());
            assert_eq!(statx.stx_ino, path.metadata().unwrap().ino());
            assert!(open_descriptors(&nodes) <= 6);
        }
        for node in &all {
            nodes.forget(*node, 1);
            nodes.forget(*node, 1);
        }
        assert_eq!(nodes.nodes.len(), 1);
        assert_eq!(nodes.numbers.len(), 1);
        nodes.forget(root, u64::MAX);
        assert!(nodes.descriptor(root).is_ok());
    }

    #[test]
    fn another_file_at_the_same_place_is_not_taken_for_the_old_one() {
        let (folder, mut nodes, root) = nodes(20);
        let first = look_up(&mut nodes, root, "0");
        look_up_all(&mut nodes, root);
        assert!(nodes.nodes[&first].descriptor.is_none());
        fs::rename(folder.path().join("1"), folder.path().join("0")).unwrap();
        assert_eq!(nodes.descriptor(first).unwrap_err(), Errno::STALE);
        // A link that leads elsewhere is no file either.
        fs::remove_file(folder.path().join("0")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("0")).unwrap();
        assert_eq!(nodes.descriptor(first).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn a_folder_is_found_again_after_it_was_moved() {
        let (folder, mut nodes, root) = nodes(20);
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "deep").unwrap();
        let a = look_up(&mut nodes, root, "a");
        let b = look_up(&mut nodes, a, "b");
        let c = look_up(&mut nodes, b, "c");
        fs::rename(folder.path().join("a"), folder.path().join("z")).unwrap();
        nodes.moved(a, root, c"z");
        look_up_all(&mut nodes, root);
        assert!(nodes.nodes[&c].descriptor.is_none());
        assert_eq!(nodes.status(c).unwrap().stx_size, 4);
        // Parents stay as long as somebody below is known.
        nodes.forget(a, 1);
        nodes.forget(b, 1);
        look_up_all(&mut nodes, root);
        assert_eq!(nodes.status(c).unwrap().stx_size, 4);
        nodes.forget(c, 1);
        assert_eq!(nodes.descriptor(a).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn a_removed_file_stays_within_reach() {
        let (folder, mut nodes, root) = nodes(20);
        let gone = look_up(&mut nodes, root, "0");
        assert_eq!(nodes.known(root, c"0"), Some(gone));
        fs::remove_file(folder.path().join("0")).unwrap();
        nodes.removed(gone, root, c"0");
        look_up_all(&mut nodes, root);
        assert_eq!(nodes.status(gone).unwrap().stx_nlink, 0);
    }

    #[test]
    fn old_places_that_form_a_ring_are_survived() {
        let (folder, mut nodes, root) = nodes(20);
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let a = look_up(&mut nodes, root, "a");
        let b = look_up(&mut nodes, a, "b");
        // The host turns them inside out.
        fs::rename(folder.path().join("a/b"), folder.path().join("b")).unwrap();
        fs::rename(folder.path().join("a"), folder.path().join("b/a")).unwrap();
        assert_eq!(look_up(&mut nodes, b, "a"), a);
        look_up_all(&mut nodes, root);
        for node in [a, b] {
            assert_eq!(nodes.descriptor(node).unwrap_err(), Errno::STALE);
        }
        assert_eq!(look_up(&mut nodes, root, "b"), b);
        assert!(nodes.descriptor(a).is_ok());
    }
}
