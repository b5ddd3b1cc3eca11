//! Creates directories and everything that has no content: links, pipes, devices; and ends a restore.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::beneath::{Directory, split};
use super::{Existing, RestoreTarget, Result, TargetError, lock};
use crate::format::node::{Node, NodeKind, Xattr, decode_items, encode_item};

/// How a temporary name begins.
pub const TEMPORARY_PREFIX: &str = ".holdfast-";
/// Directories whose metadata are set by several threads at once.
const DIRECTORIES_AT_ONCE: usize = 256;
/// Groups of names that are remembered; files of further groups come back as files of their own.
const GROUPS_MAX: usize = 1 << 18;

/// Where an entry is created: its directory, open, and its name.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: Arc<Directory>,
    pub(super) name: Vec<u8>,
}

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It exists now.
    Done,
    /// It is a kind of entry that is not created here (a socket; a device without `special`).
    LeftOut,
}

/// A name that nobody else uses; creating it exclusively makes sure.
pub(super) fn temporary_name() -> Vec<u8> {
    use std::hash::{BuildHasher, RandomState};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: OnceLock<RandomState> = OnceLock::new();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let number = PROCESS.get_or_init(RandomState::new).hash_one(count);
    format!("{TEMPORARY_PREFIX}{number:016x}").into_bytes()
}

/// The type of an entry, without following it.
pub(super) fn kind_at(directory: impl AsFd, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

impl RestoreTarget {
    pub(super) fn place(&self, path: &[u8]) -> Result<Place> {
        let (directory, name) = split(path)?;
        let directory = self.handles.directory(directory).map_err(|error| {
            let what = "reach its directory below the target without following links";
            TargetError::new(path, what, error)
        })?;
        Ok(Place {
            directory,
            name: name.to_vec(),
        })
    }

    /// Creates a directory, or takes the one that is there; its metadata are set by [`Self::finish_directories`]. The empty path is the
    /// target itself. `xattrs` are all attributes of the node, whether they stand in it or in a stream.
    pub fn create_directory(&self, path: &[u8], node: &Node, xattrs: &[Xattr]) -> Result<()> {
        if path.is_empty() {
            return match self.options.amid_others {
                true => Ok(()),
                false => self.remember_directory(path, node, xattrs),
            };
        }
        let place = self.place(path)?;
        let fail = |error| TargetError::new(path, "create this directory", error);
        match rustix::fs::mkdirat(&place.directory, &*place.name, Mode::from(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.options.amid_others => {
                return match kind_at(&place.directory, &place.name).map_err(fail)? {
                    Some(FileType::Directory) => Ok(()),
                    _ => Err(TargetError::item(
                        path,
                        "something that is not a directory stands there and stays",
                    )),
                };
            }
            Err(Errno::EXIST) => self.use_existing_directory(path, &place)?,
            Err(error) => return Err(fail(error)),
        }
        self.remember_directory(path, node, xattrs)
    }

    fn use_existing_directory(&self, path: &[u8], place: &Place) -> Result<()> {
        let fail = |error| TargetError::new(path, "create this directory", error);
        if kind_at(&place.directory, &place.name).map_err(fail)? != Some(FileType::Directory) {
            if self.options.existing == Existing::Refuse {
                let what = "something that is not a directory exists there";
                return Err(TargetError::item(path, what));
            }
            // A symbolic link is removed, not followed.
            self.handles.forget(path);
            rustix::fs::unlinkat(&place.directory, &*place.name, AtFlags::empty()).map_err(fail)?;
            rustix::fs::mkdirat(&place.directory, &*place.name, Mode::from(0o700)).map_err(fail)?;
        }
        if self.is_root {
            return Ok(());
        }
        // Its owner may be shut out until its own mode is set at the end.
        let fd = self.open_entry(path, place, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(Mode::RWXU)
            && let Err(error) = set_mode_of_path_handle(&fd, mode | Mode::RWXU)
        {
            tracing::debug!(%error, "existing directory keeps its mode");
        }
        Ok(())
    }

    fn remember_directory(&self, path: &[u8], node: &Node, xattrs: &[Xattr]) -> Result<()> {
        let mut bare = node.clone();
        bare.content = crate::format::node::Content::default();
        bare.xattrs = xattrs.to_vec();
        let mut record = Vec::new();
        encode_item(&bare, &mut record);
        let node_len = u32::try_from(record.len()).unwrap_or(u32::MAX);
        record.extend_from_slice(path);
        record.extend_from_slice(&node_len.to_le_bytes());
        lock(&self.directories)
            .push(&record)
            .map_err(|error| TargetError::io(path, "write a scratch file", &error))
    }

    pub(super) fn open_entry(&self, path: &[u8], place: &Place, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&place.directory, &*place.name, flags, Mode::empty())
            .map_err(|error| TargetError::new(path, "open it", error))
    }

    /// Creates a symbolic link, a pipe or a device with its metadata.
    pub fn create_special(&self, path: &[u8], node: &Node, xattrs: &[Xattr]) -> Result<Created> {
        let is_device = matches!(node.kind, NodeKind::CharDevice | NodeKind::BlockDevice);
        if node.kind == NodeKind::Socket || (is_device && !self.options.special) {
            return Ok(Created::LeftOut);
        }
        let place = self.place(path)?;
        if self.options.existing == Existing::Replace && is_link_to(&place, node) {
            self.apply_to_entry(path, &place, node, xattrs)?;
            return Ok(Created::Done);
        }
        let temporary = Place {
            directory: Arc::clone(&place.directory),
            name: temporary_name(),
        };
        make_special(&temporary, node)
            .map_err(|error| TargetError::new(path, "create it", error))?;
        let done = self
            .apply_to_entry(path, &temporary, node, xattrs)
            .and_then(|()| self.move_into_place(path, &temporary, &place));
        if done.is_err() {
            remove(&temporary);
        }
        done.map(|()| Created::Done)
    }

    /// Renames a finished entry to its name.
    pub(super) fn move_into_place(&self, path: &[u8], from: &Place, to: &Place) -> Result<()> {
        let fail = |error| match error {
            Errno::EXIST => TargetError::item(path, "something exists there"),
            Errno::ISDIR | Errno::NOTEMPTY => TargetError::item(path, "a directory exists there"),
            error => TargetError::new(path, "give it its name", error),
        };
        if self.options.existing == Existing::Replace {
            self.handles.forget(path);
            return rustix::fs::renameat(&from.directory, &*from.name, &to.directory, &*to.name)
                .map_err(fail);
        }
        let renamed = rustix::fs::renameat_with(
            &from.directory,
            &*from.name,
            &to.directory,
            &*to.name,
            RenameFlags::NOREPLACE,
        );
        match renamed {
            // A file system without exclusive renames.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if kind_at(&to.directory, &to.name).map_err(fail)?.is_some() {
                    return Err(fail(Errno::EXIST));
                }
                rustix::fs::renameat(&from.directory, &*from.name, &to.directory, &*to.name)
                    .map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    /// Says whether `path` is the first name of its group. Further names are kept for [`Self::finish_links`] and need no content.
    /// [`Self::create_file`] asks by itself; who keeps existing files asks before each.
    pub fn claim_name(&self, path: &[u8], node: &Node) -> Result<bool> {
        let Some(group) = node.link_group else {
            return Ok(true);
        };
        let first = {
            let mut groups = lock(&self.groups);
            match groups.get(&group) {
                Some(first) => first.clone(),
                None if groups.len() >= GROUPS_MAX => return Ok(true),
                None => {
                    groups.insert(group, path.into());
                    return Ok(true);
                }
            }
        };
        if *first == *path {
            return Ok(true);
        }
        let mut record = path.to_vec();
        record.push(0);
        record.extend_from_slice(&first);
        lock(&self.links)
            .push(&record)
            .map_err(|error| TargetError::io(path, "write a scratch file", &error))?;
        Ok(false)
    }

    /// Makes the further names of files, after every file is finished. Where a file system has no such names, and where there would be
    /// too many, the file is copied.
    pub fn finish_links(&self) -> Result<u64> {
        let mut made = 0;
        loop {
            let record = lock(&self.links)
                .pop()
                .map_err(|error| TargetError::io(b"", "read a scratch file", &error))?;
            let Some(record) = record else {
                return Ok(made);
            };
            let mut parts = record.splitn(2, |byte| *byte == 0);
            let (Some(path), Some(first)) = (parts.next(), parts.next()) else {
                continue;
            };
            match self.link(path, first) {
                Ok(()) => made += 1,
                Err(error) => self.note(error)?,
            }
        }
    }

    fn link(&self, path: &[u8], first: &[u8]) -> Result<()> {
        let from = self.place(first)?;
        let to = self.place(path)?;
        let fail = |error| {
            let first = String::from_utf8_lossy(first);
            TargetError::new(path, &format!("make it another name of {first}"), error)
        };
        if kind_at(&from.directory, &from.name).map_err(fail)? != Some(FileType::RegularFile) {
            return Err(TargetError::item(
                path,
                "the file whose name it is was not restored",
            ));
        }
        let temporary = Place {
            directory: Arc::clone(&to.directory),
            name: temporary_name(),
        };
        let linked = rustix::fs::linkat(
            &from.directory,
            &*from.name,
            &temporary.directory,
            &*temporary.name,
            AtFlags::empty(),
        );
        match linked {
            Ok(()) => {}
            Err(Errno::MLINK | Errno::PERM | Errno::XDEV | Errno::OPNOTSUPP) => {
                super::file::copy(path, &from, &temporary)?;
            }
            Err(error) => return Err(fail(error)),
        }
        let moved = self.move_into_place(path, &temporary, &to);
        // A rename of a name over another name of the same file does nothing and leaves both.
        remove(&temporary);
        moved
    }

    /// Sets the metadata of all directories, the deepest first; once everything in them is finished.
    pub fn finish_directories(&self) -> Result<u64> {
        let mut count = 0;
        let mut waiting = None;
        loop {
            let mut batch: Vec<(Vec<u8>, Node)> = Vec::new();
            while batch.len() < DIRECTORIES_AT_ONCE {
                let next = match waiting.take() {
                    Some(next) => Some(next),
                    None => self.next_directory()?,
                };
                let Some(next) = next else { break };
                // They come in the order of the tree, backwards: what is above any of these is above the last one.
                if batch
                    .last()
                    .is_some_and(|(last, _)| is_above(&next.0, last))
                {
                    waiting = Some(next);
                    break;
                }
                batch.push(next);
            }
            if batch.is_empty() {
                return Ok(count);
            }
            count += self.finish_batch(&batch)?;
        }
    }

    /// The directory that was remembered last.
    fn next_directory(&self) -> Result<Option<(Vec<u8>, Node)>> {
        let record = lock(&self.directories)
            .pop()
            .map_err(|error| TargetError::io(b"", "read a scratch file", &error))?;
        let Some(record) = record else {
            return Ok(None);
        };
        let broken = || TargetError::item(b"", "a scratch file is damaged");
        let at = record.len().checked_sub(4).ok_or_else(broken)?;
        let tail: [u8; 4] = record[at..].try_into().map_err(|_damage| broken())?;
        let node_len = usize::try_from(u32::from_le_bytes(tail)).map_err(|_damage| broken())?;
        let (encoded, path) = record[..at].split_at_checked(node_len).ok_or_else(broken)?;
        let mut nodes: Vec<Node> = Vec::new();
        decode_items(encoded, |node| nodes.push(node)).map_err(|_damage| broken())?;
        Ok(Some((path.to_vec(), nodes.pop().ok_or_else(broken)?)))
    }

    /// Finishes directories of which none is above another, by as many threads as the target has use for.
    fn finish_batch(&self, batch: &[(Vec<u8>, Node)]) -> Result<u64> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut count = 0;
            while let Some((path, node)) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.finish_directory(path, node) {
                    Ok(()) => count += 1,
                    Err(error) => self.note(error)?,
                }
            }
            Ok(count)
        };
        std::thread::scope(|scope| {
            let threads = self.options.threads.min(batch.len());
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut count = work()?;
            for other in others {
                let panicked =
                    |_| TargetError::item(b"", "a thread that finishes directories panicked");
                count += other.join().map_err(panicked)??;
            }
            Ok(count)
        })
    }

    fn finish_directory(&self, path: &[u8], node: &Node) -> Result<()> {
        let directory = self
            .handles
            .directory(path)
            .map_err(|error| TargetError::new(path, "open this directory", error))?;
        // It may have been there before, with attributes of its own.
        self.apply(path, directory.as_fd(), node, &node.xattrs, true)
    }
}

/// Whether a path is that of a directory above another one; the empty one is above all.
fn is_above(path: &[u8], other: &[u8]) -> bool {
    path.is_empty() || (other.starts_with(path) && other.get(path.len()) == Some(&b'/'))
}

/// Whether the link that is to be made is there already.
fn is_link_to(place: &Place, node: &Node) -> bool {
    node.kind == NodeKind::Symlink
        && rustix::fs::readlinkat(&place.directory, &*place.name, Vec::new())
            .is_ok_and(|target| node.target.as_deref() == Some(target.as_bytes()))
}

/// Removes a temporary entry; one that is gone already is no matter.
pub(super) fn remove(temporary: &Place) {
    let name = &*temporary.name;
    if let Err(error) = rustix::fs::unlinkat(&temporary.directory, name, AtFlags::empty())
        && error != Errno::NOENT
    {
        tracing::debug!(%error, "a temporary file stays");
    }
}

fn make_special(place: &Place, node: &Node) -> Result<(), Errno> {
    let (directory, name) = (&place.directory, &*place.name);
    let mode = Mode::from(0o600);
    let kind = match node.kind {
        NodeKind::Symlink => {
            let target = node.target.as_deref().unwrap_or_default();
            return rustix::fs::symlinkat(target, directory, name);
        }
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::CharDevice => FileType::CharacterDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::File | NodeKind::Directory | NodeKind::Socket => return Err(Errno::INVAL),
    };
    let device = node
        .device
        .map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
    rustix::fs::mknodat(directory, name, kind, mode, device)
}

/// `fchmod` for a handle opened with `O_PATH`: through procfs, which leads to that very inode.
pub(super) fn set_mode_of_path_handle(fd: impl AsFd, mode: Mode) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())
}

/// The owner of an entry, itself if it is a link.
pub(super) fn set_owner_at(place: &Place, uid: u32, gid: u32) -> Result<(), Errno> {
    rustix::fs::chownat(
        &place.directory,
        &*place.name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}
