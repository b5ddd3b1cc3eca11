//! Lists and empties directories of a target by handles: what stands there beside what is restored.
//!
//! Invariants:
//! 1. No link is followed: a link is an entry like another one, and removing it leaves what it leads to (`links_are_not_followed`).
//! 2. Nothing on another file system is removed (`Removed::kept`).
//!
//! Failure: what could not be removed is an error that names the entry; what was removed before stays removed.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::format::node::Timestamp;

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory of the target, open.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    device: u64,
}

/// An entry of a directory, not followed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileType,
    /// Its size.
    pub size: u64,
    /// When it was modified.
    pub modified: Timestamp,
    /// The file system that it is on.
    device: u64,
}

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Entries that are gone.
    pub gone: u64,
    /// Something of it stays: it was to be kept, or is on another file system.
    pub kept: bool,
}

const KEPT: Removed = Removed {
    gone: 0,
    kept: true,
};

impl Directory {
    /// Opens a directory; its path may lead through links, it is the user's. `None` if there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Self::of(fd).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(fd: OwnedFd) -> Result<Self, Errno> {
        let device = rustix::fs::fstat(&fd)?.st_dev;
        Ok(Self { fd, device })
    }

    /// Opens a directory in it; a link is none.
    pub fn below(&self, name: &[u8]) -> Result<Self, Errno> {
        Self::of(rustix::fs::openat(&self.fd, name, FLAGS, Mode::empty())?)
    }

    /// What is in it, by name.
    pub fn entries(&self) -> Result<Vec<Listed>, Errno> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            found.push(Listed {
                name: name.to_vec(),
                kind: FileType::from_raw_mode(stat.st_mode),
                size: u64::try_from(stat.st_size).unwrap_or_default(),
                modified: Timestamp {
                    seconds: stat.st_mtime,
                    nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
                },
                device: stat.st_dev,
            });
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes an entry and what is in it. `keep` says what stays, by its path below `at`; then the directories above stay too.
    pub fn remove(
        &self,
        entry: &Listed,
        at: &Path,
        keep: &dyn Fn(&Path, bool) -> bool,
    ) -> Result<Removed, Errno> {
        let path = at.join(OsStr::from_bytes(&entry.name));
        let is_directory = entry.kind == FileType::Directory;
        if entry.device != self.device || keep(&path, is_directory) {
            return Ok(KEPT);
        }
        if !is_directory {
            rustix::fs::unlinkat(&self.fd, &*entry.name, AtFlags::empty())?;
            return Ok(Removed {
                gone: 1,
                kept: false,
            });
        }
        let below = self.below(&entry.name)?;
        if below.device != self.device {
            return Ok(KEPT);
        }
        let mut removed = Removed::default();
        for inner in below.entries()? {
            let one = below.remove(&inner, &path, keep)?;
            removed.gone += one.gone;
            removed.kept |= one.kept;
        }
        if !removed.kept {
            rustix::fs::unlinkat(&self.fd, &*entry.name, AtFlags::REMOVEDIR)?;
            removed.gone += 1;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("old/deep")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "v").unwrap();
        fs::write(root.join("old/deep/file"), "f").unwrap();
        fs::write(root.join("old/deep/keep.log"), "k").unwrap();
        symlink(&outside, root.join("old/way")).unwrap();
        let directory = Directory::open(&root).unwrap().unwrap();
        let entries = directory.entries().unwrap();
        assert_eq!(entries.len(), 1);
        assert!(directory.below(b"nothing").is_err());
        let keep = |path: &Path, _: bool| path.extension().is_some_and(|e| e == "log");
        let removed = directory.remove(&entries[0], Path::new(""), &keep);
        let (gone, kept) = (2, true);
        assert_eq!(removed.unwrap(), Removed { gone, kept });
        assert!(root.join("old/deep/keep.log").exists());
        assert!(!root.join("old/deep/file").exists() && !root.join("old/way").exists());
        let removed = directory.remove(&entries[0], Path::new(""), &|_, _| false);
        let (gone, kept) = (3, false);
        assert_eq!(removed.unwrap(), Removed { gone, kept });
        assert!(outside.join("victim").exists());
        assert!(
            Directory::open(&folder.path().join("none"))
                .unwrap()
                .is_none()
        );
    }
}
