//! Sets metadata: owner, then attributes and ACLs, then mode, then times.
//!
//! The owner comes first because a change of owner clears file capabilities and the set-user-id bit; the mode comes after the attributes
//! because a file without write permission takes none from a user that is not root.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::create::{Place, set_mode_of_path_handle, set_owner_at};
use super::{Ownership, RestoreTarget, Result, TargetError};
use crate::format::node::{Node, NodeKind, Xattr};

/// Set-user-id and set-group-id.
const SPECIAL_BITS: u32 = 0o6000;

/// Numbers of this system by name.
#[derive(Debug)]
pub(super) struct OwnerNumbers {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl OwnerNumbers {
    pub(super) fn of_system() -> Self {
        let read = |path| parse(&std::fs::read(path).unwrap_or_default());
        Self {
            users: read("/etc/passwd"),
            groups: read("/etc/group"),
        }
    }
}

fn parse(text: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut found = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let Some(number) = std::str::from_utf8(number)
            .ok()
            .and_then(|n| n.parse().ok())
        {
            found.entry(name.to_vec()).or_insert(number);
        }
    }
    found
}

/// Modification time as archived; the access time becomes the same.
pub(super) fn times(node: &Node) -> Timestamps {
    let time = Timespec {
        tv_sec: node.modified.seconds,
        tv_nsec: node.modified.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// What a handle to an entry can do.
#[derive(Clone, Copy)]
enum Handle<'f> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'f>),
    /// Opened with `O_PATH`: attributes and modes go through procfs.
    Path(BorrowedFd<'f>),
}

impl Handle<'_> {
    fn path(self) -> Option<String> {
        match self {
            Self::Open(_) => None,
            Self::Path(fd) => Some(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        }
    }

    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match (self, self.path()) {
            (_, Some(path)) => rustix::fs::listxattr(path, buffer),
            (Self::Open(fd) | Self::Path(fd), None) => rustix::fs::flistxattr(fd, buffer),
        }
    }

    fn get(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match (self, self.path()) {
            (_, Some(path)) => rustix::fs::getxattr(path, name, buffer),
            (Self::Open(fd) | Self::Path(fd), None) => rustix::fs::fgetxattr(fd, name, buffer),
        }
    }

    fn set(self, xattr: &Xattr) -> Result<(), Errno> {
        let (name, value, flags) = (&*xattr.name, &*xattr.value, XattrFlags::empty());
        match (self, self.path()) {
            (_, Some(path)) => rustix::fs::setxattr(path, name, value, flags),
            (Self::Open(fd) | Self::Path(fd), None) => {
                rustix::fs::fsetxattr(fd, name, value, flags)
            }
        }
    }

    fn remove(self, name: &[u8]) -> Result<(), Errno> {
        match (self, self.path()) {
            (_, Some(path)) => rustix::fs::removexattr(path, name),
            (Self::Open(fd) | Self::Path(fd), None) => rustix::fs::fremovexattr(fd, name),
        }
    }

    fn set_mode(self, mode: Mode) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Path(fd) => set_mode_of_path_handle(fd, mode),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) | Self::Path(fd) => *fd,
        }
    }
}

/// Attributes that belong to the system a file is on, not to the file.
fn stays(name: &[u8]) -> bool {
    name == b"security.selinux" || name == b"security.ima" || name == b"security.evm"
}

/// All attributes of an entry that can be opened, by name.
pub(super) fn present(fd: BorrowedFd<'_>, opened_as_path: bool) -> Result<Vec<Xattr>, Errno> {
    let handle = if opened_as_path {
        Handle::Path(fd)
    } else {
        Handle::Open(fd)
    };
    let mut found = Vec::new();
    for name in names(handle)? {
        let mut value = vec![0; 1 << 16];
        match handle.get(&name, &mut value) {
            Ok(len) => value.truncate(len),
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(error),
        }
        found.push(Xattr { name, value });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Whether a directory has attributes that what is created in it may get: those of users and of security modules are not handed down.
pub(super) fn has_heritable(directory: BorrowedFd<'_>) -> bool {
    const OWN: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
    match names(Handle::Open(directory)) {
        Ok(names) => names
            .iter()
            .any(|name| !OWN.iter().any(|prefix| name.starts_with(prefix))),
        Err(_) => true,
    }
}

fn names(handle: Handle<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut small = [0; 1024];
    let mut large = Vec::new();
    let listed = match handle.list(&mut small) {
        Ok(len) => &small[..len],
        Err(Errno::RANGE) => {
            large.resize(1 << 16, 0);
            let len = handle.list(&mut large)?;
            &large[..len]
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

impl RestoreTarget {
    /// The owner that an entry should get here; `None`: whoever restores.
    pub(super) fn owner_of(&self, node: &Node) -> Option<(u32, u32)> {
        let by_name = |name: &Option<Vec<u8>>, known: &HashMap<Vec<u8>, u32>, number| {
            name.as_ref()
                .and_then(|name| known.get(name))
                .copied()
                .unwrap_or(number)
        };
        match self.options.ownership {
            Ownership::Leave => None,
            Ownership::ByNumber => Some((node.uid, node.gid)),
            Ownership::ByName => Some((
                by_name(&node.user, &self.owners.users, node.uid),
                by_name(&node.group, &self.owners.groups, node.gid),
            )),
        }
    }

    /// Everything for an open file or directory. `inherited`: it may have attributes that are not the archive's.
    ///
    /// One look at it spares the changes of what is as it should be: each waits for a journal, or for a server.
    pub(super) fn apply(
        &self,
        path: &[u8],
        fd: BorrowedFd<'_>,
        node: &Node,
        xattrs: &[Xattr],
        inherited: bool,
    ) -> Result<()> {
        let before = rustix::fs::fstat(fd).ok();
        let mut mode = before.as_ref().map(|stat| stat.st_mode & 0o7777);
        if let Some((uid, gid)) = self.owner_of(node)
            && before.is_none_or(|stat| (stat.st_uid, stat.st_gid) != (uid, gid))
        {
            // A change of owner may clear bits of the mode.
            mode = mode.filter(|mode| mode & SPECIAL_BITS == 0);
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            if let Err(error) = rustix::fs::fchown(fd, Some(uid), Some(gid)) {
                self.note_errno(path, "set its owner", error)?;
            }
        }
        // An access list is a part of the mode.
        if inherited || !xattrs.is_empty() {
            mode = None;
        }
        self.apply_after_owner(path, Handle::Open(fd), node, (xattrs, inherited), mode)?;
        if let Err(error) = rustix::fs::futimens(fd, &times(node)) {
            self.note_errno(path, "set its times", error)?;
        }
        Ok(())
    }

    /// Everything for an entry that is not opened: a link, a pipe, a device.
    pub(super) fn apply_to_entry(
        &self,
        path: &[u8],
        place: &Place,
        node: &Node,
        xattrs: &[Xattr],
    ) -> Result<()> {
        if let Some((uid, gid)) = self.owner_of(node)
            && let Err(error) = set_owner_at(place, uid, gid)
        {
            self.note_errno(path, "set its owner", error)?;
        }
        if node.kind == NodeKind::Symlink {
            self.apply_link_xattrs(path, place, xattrs)?;
        } else {
            let fd: OwnedFd = self.open_entry(path, place, OFlags::PATH)?;
            self.apply_after_owner(path, Handle::Path(fd.as_fd()), node, (xattrs, true), None)?;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let (directory, name) = (&place.directory, &*place.name);
        if let Err(error) = rustix::fs::utimensat(directory, name, &times(node), flags) {
            self.note_errno(path, "set its times", error)?;
        }
        Ok(())
    }

    fn apply_after_owner(
        &self,
        path: &[u8],
        handle: Handle<'_>,
        node: &Node,
        (xattrs, inherited): (&[Xattr], bool),
        has_mode: Option<u32>,
    ) -> Result<()> {
        if inherited || !xattrs.is_empty() {
            self.apply_xattrs(path, handle, xattrs)?;
        }
        let mut mode = node.mode & 0o7777;
        if mode & SPECIAL_BITS != 0 && !self.has_owner(handle.fd(), node) {
            mode &= !SPECIAL_BITS;
            let what = "its set-user-id or set-group-id bit was left out, because its owner is not the archived one";
            self.note(TargetError::item(path, what))?;
        }
        if has_mode != Some(mode)
            && let Err(error) = handle.set_mode(Mode::from_raw_mode(mode))
        {
            self.note_errno(path, "set its mode", error)?;
        }
        Ok(())
    }

    /// Whether an entry has the owner that its node asks for.
    fn has_owner(&self, fd: BorrowedFd<'_>, node: &Node) -> bool {
        let wanted = self.owner_of(node).unwrap_or((node.uid, node.gid));
        rustix::fs::fstat(fd).is_ok_and(|stat| (stat.st_uid, stat.st_gid) == wanted)
    }

    fn apply_xattrs(&self, path: &[u8], handle: Handle<'_>, xattrs: &[Xattr]) -> Result<()> {
        // What an existing entry has, or what a default ACL of its directory left on it, is not the archive's.
        let present = match names(handle) {
            Ok(present) => present,
            Err(error) => return self.note_errno(path, "list its extended attributes", error),
        };
        for name in present {
            if !stays(&name)
                && !xattrs.iter().any(|xattr| xattr.name == name)
                && let Err(error) = handle.remove(&name)
                && error != Errno::NODATA
                && error != Errno::PERM
            {
                let what = format!("remove its attribute {}", String::from_utf8_lossy(&name));
                self.note_errno(path, &what, error)?;
            }
        }
        for xattr in xattrs.iter().filter(|xattr| self.takes(xattr)) {
            if let Err(error) = handle.set(xattr) {
                self.note_xattr(path, xattr, error)?;
            }
        }
        Ok(())
    }

    fn apply_link_xattrs(&self, path: &[u8], place: &Place, xattrs: &[Xattr]) -> Result<()> {
        for xattr in xattrs.iter().filter(|xattr| self.takes(xattr)) {
            let mut link =
                format!("/proc/self/fd/{}/", place.directory.as_fd().as_raw_fd()).into_bytes();
            link.extend_from_slice(&place.name);
            let (name, value) = (&*xattr.name, &*xattr.value);
            if let Err(error) = rustix::fs::lsetxattr(link, name, value, XattrFlags::empty()) {
                self.note_xattr(path, xattr, error)?;
            }
        }
        Ok(())
    }

    /// Attributes that only root sets are left out quietly for others: they ask for what their restore can't give.
    fn takes(&self, xattr: &Xattr) -> bool {
        let for_root = xattr.name.starts_with(b"security.") || xattr.name.starts_with(b"trusted.");
        (self.is_root || !for_root)
            && (xattr.name != b"security.ima" && xattr.name != b"security.evm")
    }

    fn note_xattr(&self, path: &[u8], xattr: &Xattr, error: Errno) -> Result<()> {
        let what = format!("set its attribute {}", String::from_utf8_lossy(&xattr.name));
        self.note_errno(path, &what, error)
    }
}
