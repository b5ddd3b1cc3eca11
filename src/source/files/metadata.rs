//! What a node says of an entry besides its bytes: kind, mode, owner and owner's name, times, extended attributes.
//!
//! Names of users and groups are read once from `/etc/passwd` and `/etc/group`; an owner that stands in neither is kept by number.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use crate::format::node::{Device, Node, NodeKind, Timestamp, Xattr};

/// Extended attributes beyond this many bytes stand in a stream of their own.
pub(super) const XATTRS_INLINE_BYTES_MAX: usize = 4096;
/// Largest list of names and largest value that Linux has.
const XATTR_BYTES_MAX: usize = 1 << 16;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    /// Reads the system's two files; what is missing or malformed is left out.
    pub(super) fn of_system() -> Self {
        let read = |path| std::fs::read(path).unwrap_or_default();
        Self {
            users: parse_owners(&read("/etc/passwd")),
            groups: parse_owners(&read("/etc/group")),
        }
    }
}

/// `name:password:number:…` per line; the first line of a number wins, as in getpwuid.
fn parse_owners(text: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut found = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse().ok());
        if let (Some(number), false) = (number, name.is_empty()) {
            found.entry(number).or_insert_with(|| name.to_vec());
        }
    }
    found
}

/// What `statx` says, in the types of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    /// Kind with everything.
    pub(super) kind: FileType,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Names of this inode.
    pub(super) nlink: u32,
    /// Inode number.
    pub(super) ino: u64,
    /// Device of the file system, major and minor in one number.
    pub(super) dev: u64,
    /// Size in bytes.
    pub(super) size: u64,
    /// Blocks of 512 bytes.
    pub(super) blocks: u64,
    /// Content changed.
    pub(super) modified: Timestamp,
    /// Inode changed.
    pub(super) changed: Timestamp,
    /// Numbers of a device node.
    pub(super) device: Device,
}

impl Stat {
    /// The entry `name` of a directory, itself if it is a symbolic link.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        rustix::fs::statx(
            directory,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            StatxFlags::BASIC_STATS,
        )
        .map(|stat| Self::from(&stat))
    }

    /// An open file.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map(|stat| Self::from(&stat))
    }

    /// Whether nothing happened to the content between two looks.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.ino == other.ino
            && self.dev == other.dev
            && self.size == other.size
            && self.modified == other.modified
            && self.changed == other.changed
    }
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanos: time.tv_nsec,
    }
}

impl From<&Statx> for Stat {
    fn from(stat: &Statx) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink,
            ino: stat.stx_ino,
            dev: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            modified: timestamp(&stat.stx_mtime),
            changed: timestamp(&stat.stx_ctime),
            device: Device {
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            },
        }
    }
}

/// The kind of a node for a file type.
pub(super) fn node_kind(kind: FileType) -> NodeKind {
    match kind {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::Socket => NodeKind::Socket,
        FileType::RegularFile | FileType::Unknown => NodeKind::File,
    }
}

/// A node with everything that `stat` and the owners' names say.
pub(super) fn node(name: &[u8], stat: &Stat, owners: &Owners, inode_trusted: bool) -> Node {
    let kind = node_kind(stat.kind);
    let is_device = matches!(kind, NodeKind::CharDevice | NodeKind::BlockDevice);
    Node {
        name: name.to_vec(),
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: owners.users.get(&stat.uid).cloned(),
        group: owners.groups.get(&stat.gid).cloned(),
        modified: stat.modified,
        changed: inode_trusted.then_some(stat.changed),
        inode: inode_trusted.then_some(stat.ino),
        device: is_device.then_some(stat.device),
        size: if kind == NodeKind::File { stat.size } else { 0 },
        ..Node::default()
    }
}

/// An entry that was looked up once and not opened: on a slow file system each look-up of a name waits for the server.
#[derive(Debug)]
pub(super) struct Handle(OwnedFd);

impl Handle {
    /// Looks `name` up, itself if it is a symbolic link.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> Result<(Self, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let stat = Stat::of(&handle)?;
        Ok((Self(handle), stat))
    }

    /// Opens what it leads to; only for what is no symbolic link.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags - OFlags::NOFOLLOW;
        rustix::fs::openat(CWD, self.path(), flags, Mode::empty())
    }

    /// By way of procfs, which leads to that very inode.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Whether a regular file's node says of mode, owner and owner's name what [`node`] would; its size, times and inode were compared before.
pub(super) fn says(old: &Node, stat: &Stat, owners: &Owners) -> bool {
    (old.mode, old.uid, old.gid) == (stat.mode, stat.uid, stat.gid)
        && old.user.as_ref() == owners.users.get(&stat.uid)
        && old.group.as_ref() == owners.groups.get(&stat.gid)
}

/// Where extended attributes are read from.
#[derive(Debug)]
pub(super) enum XattrSource<'f> {
    /// An open file or directory.
    Open(BorrowedFd<'f>),
    /// An entry that can't or shouldn't be opened: a path through `/proc/self/fd`, whose last component is not followed.
    Path(CString),
    /// What a handle leads to; it is no symbolic link.
    Handle(&'f Handle),
}

impl<'f> XattrSource<'f> {
    /// The entry `name` of an open directory.
    pub(super) fn entry(directory: BorrowedFd<'f>, name: &[u8]) -> Self {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        Self::Path(CString::new(path).unwrap_or_default())
    }

    /// By the handle, if there is one.
    pub(super) fn of(directory: BorrowedFd<'f>, name: &[u8], handle: Option<&'f Handle>) -> Self {
        handle.map_or_else(|| Self::entry(directory, name), Self::Handle)
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Self::Path(path) => rustix::fs::llistxattr(path.as_c_str(), buffer),
            Self::Handle(handle) => rustix::fs::listxattr(handle.path(), buffer),
        }
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Self::Path(path) => rustix::fs::lgetxattr(path.as_c_str(), name, buffer),
            Self::Handle(handle) => rustix::fs::getxattr(handle.path(), name, buffer),
        }
    }
}

/// All extended attributes that may be read, sorted by name; POSIX ACLs are among them. `OPNOTSUPP` or `NOSYS`: this file system has none.
pub(super) fn xattrs(source: &XattrSource<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut small = [0; 1024];
    let mut large = Vec::new();
    let names = match source.list(&mut small) {
        Ok(0) => return Ok(Vec::new()),
        Ok(len) => &small[..len],
        Err(Errno::RANGE) => {
            large.resize(XATTR_BYTES_MAX, 0);
            let len = source.list(&mut large)?;
            &large[..len]
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if let Some(value) = xattr_value(source, name)? {
            found.push(Xattr {
                name: name.to_vec(),
                value,
            });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn xattr_value(source: &XattrSource<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut small = [0; 512];
    match source.get(name, &mut small) {
        Ok(len) => Ok(Some(small[..len].to_vec())),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let len = source.get(name, &mut large)?;
            large.truncate(len);
            Ok(Some(large))
        }
        // Removed meanwhile, or listed but not for us (trusted.* without the right).
        Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of names and values.
pub(super) fn xattrs_bytes(xattrs: &[Xattr]) -> usize {
    xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum()
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
mod tests {
    use super::*;

    #[test]
    fn owners_are_parsed() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\nx:y:nan:\ntoor:x:0:\n:x:5:\nww\xff:x:33:33::";
        let found = parse_owners(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[&0], b"root");
        assert_eq!(found[&33], b"ww\xff");
    }

    #[test]
    fn attributes_of_files_and_links_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"x").unwrap();
        let large = vec![7; 3000];
        if rustix::fs::setxattr(&path, "user.b", &large, rustix::fs::XattrFlags::empty()).is_err() {
            eprintln!("skipped: no user attributes on this file system");
            return;
        }
        rustix::fs::setxattr(&path, "user.a", b"", rustix::fs::XattrFlags::empty()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let open = xattrs(&XattrSource::Open(file.as_fd())).unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let by_path = xattrs(&XattrSource::entry(handle.as_fd(), b"f")).unwrap();
        assert_eq!(open, by_path);
        assert_eq!(open.len(), 2);
        assert_eq!(open[0].name, b"user.a");
        assert_eq!(open[1].value, large);
    }
}
