//! Opens directories below the target, and nothing else.
//!
//! `openat2` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS` where the kernel has it; else one name at a time
//! with `O_NOFOLLOW`. Both refuse the same: names are checked before either sees them. A bounded number of handles is kept, because most
//! entries stand in the directory of the one before.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{TargetError, lock};
use crate::format::node::is_valid_name;

/// Handles that are kept.
const HANDLES_MAX: usize = 64;
/// Longer paths are opened one name at a time: the kernel takes 4096 bytes.
const PATH_BYTES_MAX: usize = 4000;

type Kept = (Box<[u8]>, Arc<OwnedFd>);

/// Directory handles by path.
#[derive(Debug)]
pub(super) struct Handles {
    root: Arc<OwnedFd>,
    kept: Mutex<VecDeque<Kept>>,
    by_name: AtomicBool,
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
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        Self {
            root,
            kept: Mutex::new(VecDeque::new()),
            by_name: AtomicBool::new(false),
        }
    }

    /// Opens the directory `path`, whose names were checked; empty: the target itself.
    pub(super) fn directory(&self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let found = {
            let kept = lock(&self.kept);
            kept.iter()
                .find(|(known, _)| **known == *path)
                .map(|(_, fd)| Arc::clone(fd))
        };
        if let Some(fd) = found {
            return Ok(fd);
        }
        let fd = Arc::new(self.open(path)?);
        let mut kept = lock(&self.kept);
        if kept.len() >= HANDLES_MAX {
            kept.pop_back();
        }
        kept.push_front((path.into(), Arc::clone(&fd)));
        Ok(fd)
    }

    /// Forgets `path` and what is below it, because something else may stand there now.
    pub(super) fn forget(&self, path: &[u8]) {
        lock(&self.kept).retain(|(known, _)| {
            !(known.starts_with(path)
                && (known.len() == path.len() || known.get(path.len()) == Some(&b'/')))
        });
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
