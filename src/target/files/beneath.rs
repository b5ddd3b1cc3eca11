//! Opens directories below the target, and nothing else.
//!
//! `openat2` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS` where the kernel has it; else one name at a time
//! with `O_NOFOLLOW`. Both refuse the same: names are checked before either sees them. A bounded number of handles is kept, because most
//! entries stand in the directory of the one before.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{TargetError, lock};
use crate::format::node::is_valid_name;

/// Handles that are kept: for as many directories as threads write to at once, and those above them.
const HANDLES_MAX: usize = 256;
/// Longer paths are opened one name at a time: the kernel takes 4096 bytes.
const PATH_BYTES_MAX: usize = 4000;

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    inherits: OnceLock<bool>,
}

impl From<OwnedFd> for Directory {
    fn from(fd: OwnedFd) -> Self {
        let inherits = OnceLock::new();
        Self { fd, inherits }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// Whether what is created in it may get attributes from it: an access list, say, or a property of its file system. It is asked once;
    /// a restore sets a directory's own attributes when everything in it is finished.
    pub(super) fn inherits(&self) -> bool {
        *self
            .inherits
            .get_or_init(|| super::apply::has_heritable(self.as_fd()))
    }
}

/// Directory handles by path.
#[derive(Debug)]
pub(super) struct Handles {
    root: Arc<Directory>,
    kept: Mutex<Kept>,
    by_name: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    by_path: HashMap<Box<[u8]>, Arc<Directory>>,
    /// Its paths, from the oldest to the newest.
    order: VecDeque<Box<[u8]>>,
}

/// Splits a path into its directory and its last name, and checks every name.
pub(super) fn split(path: &[u8]) -> Result<(&[u8], &[u8]), TargetError> {
    if !path.split(|byte| *byte == b'/').all(is_valid_name) {
        return Err(TargetError::item(
            path,
            "is not a path that can be restored",
        ));
    }
    Ok(match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    })
}

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Handles {
    /// Below `root`.
    pub(super) fn new(root: Arc<Directory>) -> Self {
        Self {
            root,
            kept: Mutex::default(),
            by_name: AtomicBool::new(false),
        }
    }

    /// Opens the directory `path`, whose names were checked; empty: the target itself.
    pub(super) fn directory(&self, path: &[u8]) -> Result<Arc<Directory>, Errno> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(known) = lock(&self.kept).by_path.get(path) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(Directory::from(self.open(path)?));
        let mut kept = lock(&self.kept);
        while kept.order.len() >= HANDLES_MAX {
            let oldest = kept.order.pop_front();
            oldest.and_then(|path| kept.by_path.remove(&path));
        }
        // Another thread may have opened it meanwhile; either will do.
        let known = kept.by_path.insert(path.into(), Arc::clone(&opened));
        if known.is_none() {
            kept.order.push_back(path.into());
        }
        Ok(opened)
    }

    /// Forgets `path` and what is below it, because something else may stand there now.
    pub(super) fn forget(&self, path: &[u8]) {
        let is_below = |known: &[u8]| {
            known.starts_with(path)
                && (known.len() == path.len() || known.get(path.len()) == Some(&b'/'))
        };
        let mut kept = lock(&self.kept);
        let count = kept.by_path.len();
        kept.by_path.retain(|known, _| !is_below(known));
        if kept.by_path.len() != count {
            kept.order.retain(|known| !is_below(known));
        }
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.len() <= PATH_BYTES_MAX && !self.by_name.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            // A rename elsewhere in the tree makes the kernel unsure for a moment.
            for _ in 0..8 {
                match rustix::fs::openat2(&self.root, path, FLAGS, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // An old kernel, or a filter of system calls that knows none of it.
                    Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
                        self.by_name.store(true, Ordering::Relaxed);
                        break;
                    }
                    other => return other,
                }
            }
        }
        self.open_by_name(path)
    }

    /// One name at a time.
    pub(super) fn open_by_name(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let next = match &at {
                None => rustix::fs::openat(&self.root, name, FLAGS, Mode::empty())?,
                Some(fd) => rustix::fs::openat(fd, name, FLAGS, Mode::empty())?,
            };
            at = Some(next);
        }
        at.ok_or(Errno::NOENT)
    }
}
