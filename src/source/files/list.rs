//! Lists of absolute paths: each is walked below its absolute path, and the directories above it are recorded with their metadata.
//!
//! A symbolic link on the way to a listed path is recorded as it is, and the way goes on where it points to; so a restore has the link and
//! what it leads to. The last component is recorded as found: a link that is listed itself is not followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::detect;
use super::hands::Task;
use super::metadata::Stat;
use super::walk::{self, Dir, Entry, Place, Shared, words};
use super::{Parent, TreeOutcome, hand_over, is_directory, links};
use crate::error::Error;
use crate::format::node::Node;

/// Symbolic links that are followed on the way to one path, as in the kernel.
const LINKS_MAX: u32 = 40;

/// Directories above listed paths that were recorded already.
type Known = HashMap<Vec<u8>, Option<Box<Node>>>;

/// Starts a walk for every path of the list.
pub(super) fn start(
    shared: &Arc<Shared>,
    root: &Arc<Dir>,
    paths: &[PathBuf],
    parent: Option<&Parent>,
    outcome: &mut TreeOutcome,
) -> Result<(), Error> {
    let mut known = Known::new();
    let old = parent.map(|parent| Box::new(parent.node.clone()));
    known.insert(Vec::new(), old);
    for path in without_covered(paths) {
        if start_one(shared, root, path, &mut known)? {
            outcome.root_entries += 1;
        } else {
            outcome.missing.push(path.clone());
        }
    }
    Ok(())
}

/// Sorted, and without paths that stand below another one that is listed as a directory.
pub(super) fn without_covered(paths: &[PathBuf]) -> Vec<&PathBuf> {
    let mut sorted: Vec<&PathBuf> = paths.iter().collect();
    sorted.sort();
    let mut kept: Vec<&PathBuf> = Vec::new();
    for path in sorted {
        let covered = kept.last().is_some_and(|last| {
            path == *last || (path.starts_with(last) && !last.is_symlink() && last.is_dir())
        });
        if !covered {
            kept.push(path);
        }
    }
    kept
}

fn names_of(path: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names
}

/// Walks down to one path; `false` if it does not exist.
fn start_one(
    shared: &Arc<Shared>,
    root: &Arc<Dir>,
    path: &Path,
    known: &mut Known,
) -> Result<bool, Error> {
    let mut dir = Arc::clone(root);
    let mut rest = names_of(path);
    rest.reverse();
    let mut links_left = LINKS_MAX;
    if rest.is_empty() {
        let fd = match open(&root.fd, b".", OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(error) => return unreachable_path(shared, root, error),
        };
        let place = root.place.clone();
        let old = known.get(&Vec::new()).cloned().flatten();
        let dir = Arc::new(Dir { fd, place });
        return hand_over(shared, Task::Opened { dir, old }).map(|()| true);
    }
    while let Some(name) = rest.pop() {
        let stat = match Stat::at(&dir.fd, &name) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(error) => return unreachable_path(shared, &dir, error),
        };
        let old = old_entry(shared, known, &dir, &name)?;
        let entry = Entry {
            name,
            old,
            encoded: Vec::new(),
        };
        if rest.is_empty() {
            let task = if is_directory(&stat) {
                Task::Directory { parent: dir, entry }
            } else {
                let entries = vec![entry];
                Task::Batch { dir, entries }
            };
            return hand_over(shared, task).map(|()| true);
        }
        match stat.kind {
            FileType::Directory => match descend(shared, &dir, entry, known)? {
                Ok(below) => dir = below,
                Err(error) => return unreachable_path(shared, &dir, error),
            },
            FileType::Symlink => {
                links_left -= 1;
                if links_left == 0 {
                    return unreachable_path(shared, &dir, Errno::LOOP);
                }
                let target = match rustix::fs::readlinkat(&dir.fd, &*entry.name, Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    Err(error) => return unreachable_path(shared, &dir, error),
                };
                let entries = vec![entry];
                let from = Arc::clone(&dir);
                hand_over(shared, Task::Batch { dir: from, entries })?;
                let mut full = PathBuf::from("/");
                full.push(OsStr::from_bytes(&dir.place.relative));
                full.push(OsStr::from_bytes(&target));
                let mut names = names_of(&full);
                names.reverse();
                rest.extend(names);
                dir = Arc::clone(root);
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn unreachable_path(shared: &Shared, dir: &Dir, error: Errno) -> Result<bool, Error> {
    shared.skip(
        &dir.place.path,
        words("reach a listed path below it", error),
    )?;
    Ok(true)
}

fn open(fd: &OwnedFd, name: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(fd, name, flags, Mode::empty())
}

/// Opens a directory on the way (searching is enough, reading is not needed) and records it once.
fn descend(
    shared: &Arc<Shared>,
    parent: &Arc<Dir>,
    entry: Entry,
    known: &mut Known,
) -> Result<Result<Arc<Dir>, Errno>, Error> {
    let opened = open(&parent.fd, &entry.name, OFlags::PATH)
        .and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat)));
    let (fd, stat) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let mut relative = parent.place.relative.clone();
    if !relative.is_empty() {
        relative.push(b'/');
    }
    relative.extend_from_slice(&entry.name);
    let mut place = Place {
        path: parent.path_of(&entry.name),
        relative,
        dev: stat.dev,
        ino: stat.ino,
        ..parent.place.clone()
    };
    let mut entered = None;
    if stat.dev != parent.place.dev {
        let system = *entered.insert(detect::file_system_of(&fd));
        place.mount = links::mount_number(parent.place.mount, &place.relative);
        place.trusted = shared.trusts(system);
        place.slow = shared.is_slow(system);
        place.other_clock = system.slow;
        place.no_xattrs = Arc::default();
        if place.slow {
            shared.readers.raise(walk::SLOW_READERS);
        }
    }
    let key = place.path.key().to_vec();
    if let std::collections::hash_map::Entry::Vacant(e) = known.entry(key) {
        let node = walk::directory_node(shared, parent, &entry.name, &place, &stat)?;
        shared.add_node(&place.path, node)?;
        e.insert(entry.old);
        if let Some(system) = entered {
            super::note_rights(shared, system, &place.path.display_bytes());
        }
    }
    Ok(Ok(Arc::new(Dir { fd, place })))
}

/// The parent's node of an entry, found by reading its directory in the parent.
fn old_entry(
    shared: &Shared,
    known: &Known,
    dir: &Dir,
    name: &[u8],
) -> Result<Option<Box<Node>>, Error> {
    if let Some(found) = known.get(dir.path_of(name).key()) {
        return Ok(found.clone());
    }
    let above = known.get(dir.place.path.key()).or_else(|| {
        // The root of the list has the key of `base`.
        dir.place
            .relative
            .is_empty()
            .then(|| known.get(&Vec::new()))
            .flatten()
    });
    let (Some(tree), Some(Some(above))) = (&shared.parent, above) else {
        return Ok(None);
    };
    for old in tree.entries(&above.content) {
        match old {
            Ok(old) if old.node.name == name => return Ok(Some(old.node)),
            Ok(old) if old.node.name.as_slice() > name => break,
            Ok(_) => {}
            Err(error @ (Error::Stopped | Error::Interrupted)) => return Err(error),
            Err(error) => {
                shared.note(format!("the last snapshot can't be read ({error})"));
                break;
            }
        }
    }
    Ok(None)
}
