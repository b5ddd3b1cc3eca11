//! Trees of files as a source: the parallel walk, change detection, the reader.
//!
//! Local file systems are read by the pipeline's workers themselves, big files by several of them at once; slow ones (network, FUSE) and big
//! files with holes by readers of our own. See
//! `walk` for the order of calls, `read` for what counts as one state of a file, `detect` for what counts as unchanged, `hands` for who
//! does what.
//!
//! Memory: names of the directories on a worker's or reader's stack (32 MiB each before they spill), 256 tasks, one window and one unit a
//! reader (at most 512 KiB: 32 MiB for the 64 readers of a slow share); a bounded number of contents of files with several names.

mod detect;
mod excludes;
mod hands;
mod links;
mod list;
mod metadata;
mod names;
mod nodes;
mod read;
mod shareable;
mod sparse;
#[cfg(test)]
mod tests;
mod walk;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, Mode, OFlags};

pub use detect::Detection;

use self::detect::FileSystem;
use self::excludes::Excludes;
use self::hands::{Readers, Task, Tracker, lock};
use self::links::Links;
use self::metadata::{Owners, Stat};
use self::walk::{Counts, Dir, Place, Shared};
use super::{ParentTree, SourceError};
use crate::error::Error;
use crate::format::node::{Node, NodeKind, Subtree, Timestamp};
use crate::pipeline::{Sink, TreePath};

/// What is walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// One directory; what it holds stands directly below `base`.
    Tree(PathBuf),
    /// Absolute paths of files and directories; each stands below `base` under its absolute path, the directories above it with their
    /// metadata only.
    List(Vec<PathBuf>),
}

/// One tree, or one list of trees and files, and how it is read.
#[derive(Clone, Debug)]
pub struct TreeSource {
    /// Where it is.
    pub roots: Roots,
    /// Where it stands in the snapshot.
    pub base: TreePath,
    /// Patterns in gitignore's syntax, relative to the root (of a list: to `/`).
    pub excludes: Vec<String>,
    /// Other file systems below the root are left out; their mount points are recorded.
    pub one_file_system: bool,
    /// Of a directory with a valid `CACHEDIR.TAG` only the tag is taken.
    pub cachedir_tag: bool,
    /// Readers of its own; 0: the workers read; absent: by the type of the file system.
    pub readers: Option<usize>,
    /// How unchanged files are recognised.
    pub detection: Detection,
    /// Whether the plain BLAKE3 of every file is made.
    pub digest: bool,
    /// Directories that are never walked into (the repository), see [`identity`].
    pub never: Vec<(u64, u64)>,
}

impl TreeSource {
    /// A source with default settings.
    pub fn new(roots: Roots, base: TreePath) -> Self {
        Self {
            roots,
            base,
            excludes: Vec::new(),
            one_file_system: false,
            cachedir_tag: false,
            readers: None,
            detection: Detection::Automatic,
            digest: true,
            never: Vec::new(),
        }
    }
}

/// The component in the parent snapshot.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its trees.
    pub tree: Arc<dyn ParentTree>,
    /// The node that stood at the source's `base`.
    pub node: Node,
    /// When that component's walk began.
    pub started: Timestamp,
}

/// What a walk found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeOutcome {
    /// What was added, the root itself not counted.
    pub totals: Subtree,
    /// Items that could not be read; each was named to the sink.
    pub skipped: u64,
    /// Items that changed each time they were read; each was named to the sink.
    pub torn: u64,
    /// Items that became longer while they were read; the archived length is consistent.
    pub grew: u64,
    /// Entries left out by patterns and cache tags (a directory counts once).
    pub excluded: u64,
    /// Sockets, recorded as nodes.
    pub sockets: u64,
    /// Files whose content changed although no metadata did.
    pub bit_rot: u64,
    /// Whether change time and inode number counted at the root.
    pub inode_trusted: bool,
    /// Entries of the root directory before anything was left out (of a list: paths that exist).
    pub root_entries: u64,
    /// Whether the parent had anything below the root: with `root_entries == 0` the sign of a share that is not mounted.
    pub parent_had_entries: bool,
    /// Paths of a list that do not exist.
    pub missing: Vec<PathBuf>,
    /// The file system of the root, for people.
    pub file_system: String,
    /// Facts and warnings for people.
    pub notes: Vec<String>,
}

impl TreeOutcome {
    /// Whether this looks like a share that is not mounted.
    pub fn looks_unmounted(&self) -> bool {
        self.root_entries == 0 && self.parent_had_entries
    }
}

/// The device and inode number of a directory, for [`TreeSource::never`].
pub fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let stat = Stat::of(open_path(path)?)?;
    Ok((stat.dev, stat.ino))
}

/// What a snapshot of this directory will not say of its files' rights, because its file system hides them.
pub fn rights_note(path: &Path) -> std::io::Result<Option<&'static str>> {
    Ok(detect::file_system_of(open_path(path)?).rights_note())
}

/// Whether calls on the file system of this directory may wait for a network.
pub fn is_slow(path: &Path) -> std::io::Result<bool> {
    Ok(detect::file_system_of(open_path(path)?).slow)
}

fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        rustix::fs::CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Walks a source into the sink and returns when everything it found is stored. Call it from a thread that is not a worker.
pub fn walk(
    source: &TreeSource,
    parent: Option<&Parent>,
    now: Timestamp,
    sink: &Sink,
) -> Result<TreeOutcome, SourceError> {
    let root_path = match &source.roots {
        Roots::Tree(path) => path.as_path(),
        Roots::List(_) => Path::new("/"),
    };
    let root = open_root(root_path)?;
    let stat = Stat::of(&root).map_err(|error| component(root_path, error))?;
    let system = detect::file_system_of(&root);
    if source.never.contains(&(stat.dev, stat.ino)) {
        let path = root_path.display();
        return Err(SourceError::Component(format!(
            "{path}: this is the repository"
        )));
    }
    let excludes = Excludes::new(&source.excludes).map_err(SourceError::Component)?;
    let slow = source.readers.map_or(system.slow, |count| count > 0);
    let readers = match (source.readers, slow) {
        (Some(count), true) => count.min(256),
        (None, true) => walk::SLOW_READERS,
        (_, false) => 0,
    };
    let shared = Arc::new(Shared {
        source: source.clone(),
        sink: sink.clone(),
        parent: parent.map(|parent| Arc::clone(&parent.tree)),
        parent_started: parent.map(|parent| parent.started).unwrap_or_default(),
        now,
        excludes,
        owners: Owners::of_system(),
        links: Links::default(),
        tracker: Arc::new(Tracker::default()),
        worker_tasks: Arc::new(Tracker::default()),
        readers: Readers::new(&sink.pool, readers),
        root: root
            .try_clone()
            .map_err(|error| Error::local("cannot copy a file handle", error))?,
        noatime: rustix::process::geteuid().is_root(),
        counts: Counts::default(),
        notes: Mutex::new(Vec::new()),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    });
    note_rights(&shared, system, root_path.as_os_str().as_bytes());
    let place = Place {
        path: source.base.clone(),
        relative: Vec::new(),
        dev: stat.dev,
        ino: stat.ino,
        mount: links::mount_number(0, source.base.key()),
        trusted: shared.trusts(system),
        slow,
        other_clock: system.slow,
        no_xattrs: Arc::default(),
    };
    let mut outcome = TreeOutcome {
        inode_trusted: place.trusted,
        parent_had_entries: parent.is_some_and(|parent| !parent.node.content.refs.is_empty()),
        file_system: system.name.to_owned(),
        ..TreeOutcome::default()
    };
    let dir = Arc::new(Dir { fd: root, place });
    let started = match &source.roots {
        Roots::Tree(_) => start_tree(&shared, dir, &stat, parent, &mut outcome),
        Roots::List(paths) => list::start(&shared, &dir, paths, parent, &mut outcome),
    };
    if let Err(error) = started {
        shared.fail(error);
    }
    finish(&shared, outcome)
}

/// Notes what the nodes of a file system will not say.
fn note_rights(shared: &Shared, system: FileSystem, at: &[u8]) {
    if let Some(note) = system.rights_note() {
        shared.note(format!("{} is {note}", String::from_utf8_lossy(at)));
    }
}

fn component(path: &Path, error: rustix::io::Errno) -> SourceError {
    let error = std::io::Error::from(error);
    SourceError::Component(format!("{}: {error}", path.display()))
}

/// Opens the root; a symbolic link given as the root is followed, because it was named by the user.
fn open_root(path: &Path) -> Result<OwnedFd, SourceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
        .map_err(|error| component(path, error))
}

/// Adds the root's node and hands the root to whoever reads.
fn start_tree(
    shared: &Arc<Shared>,
    dir: Arc<Dir>,
    stat: &Stat,
    parent: Option<&Parent>,
    outcome: &mut TreeOutcome,
) -> Result<(), Error> {
    outcome.root_entries = walk::count_entries(&dir)?;
    let old = parent.map(|parent| Box::new(parent.node.clone()));
    if let Some(name) = dir.place.path.names().last().map(<[u8]>::to_vec) {
        let mut node = metadata::node(&name, stat, &shared.owners, dir.place.trusted);
        debug_assert_eq!(node.kind, NodeKind::Directory);
        let source = metadata::XattrSource::Open(std::os::fd::AsFd::as_fd(&dir.fd));
        // The root's node is added here, without a worker: attributes beyond the limit of a node are left out and named.
        let xattrs = nodes::read_xattrs(shared, &dir.place, &dir.place.path, &source)?;
        if metadata::xattrs_bytes(&xattrs) <= metadata::XATTRS_INLINE_BYTES_MAX {
            node.xattrs = xattrs;
        } else {
            shared.skip(
                &dir.place.path,
                "its extended attributes are too large for a root".to_owned(),
            )?;
        }
        shared.sink.add_node(&dir.place.path, node)?;
    }
    hand_over(shared, Task::Opened { dir, old })
}

/// Gives a task to a worker or reader; waits while they have too many.
fn hand_over(shared: &Arc<Shared>, mut task: Task) -> Result<(), Error> {
    let slow = match &task {
        Task::Opened { dir, .. } | Task::Batch { dir, .. } | Task::Big { dir, .. } => {
            dir.place.slow
        }
        Task::Directory { parent, .. } => parent.place.slow,
    };
    loop {
        shared.check()?;
        let back = if slow {
            hands::offer_reader(shared, task)
        } else {
            hands::offer_worker(shared, task)?
        };
        match back {
            None => return Ok(()),
            Some(back) => task = back,
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Waits for the end and collects what was found.
fn finish(shared: &Arc<Shared>, mut outcome: TreeOutcome) -> Result<TreeOutcome, SourceError> {
    let stopped = || shared.sink.pool.is_stopped() || shared.failed.load(Ordering::Relaxed);
    shared.tracker.wait(stopped);
    let closed = shared.readers.close(stopped());
    if let Some(error) = lock(&shared.error).take() {
        return Err(SourceError::Run(error));
    }
    closed?;
    shared.sink.pool.check()?;
    let counts = &shared.counts;
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    outcome.totals = Subtree {
        files: get(&counts.files),
        directories: get(&counts.directories),
        bytes: get(&counts.bytes),
    };
    outcome.skipped = get(&counts.skipped);
    outcome.torn = get(&counts.torn);
    outcome.grew = get(&counts.grew);
    outcome.excluded = get(&counts.excluded);
    outcome.sockets = get(&counts.sockets);
    outcome.bit_rot = get(&counts.bit_rot);
    outcome.notes = std::mem::take(&mut *lock(&shared.notes));
    let more = get(&counts.notes).saturating_sub(outcome.notes.len() as u64);
    if more > 0 {
        outcome.notes.push(format!("and {more} more notes"));
    }
    if outcome.sockets > 0 {
        let count = outcome.sockets;
        outcome.notes.push(format!(
            "{count} sockets were recorded; a restore does not create them"
        ));
    }
    let (same, differs) = (get(&counts.inode_same), get(&counts.inode_differs));
    if differs >= 32 && differs > same.saturating_mul(9) {
        outcome.notes.push(format!(
            "{differs} of {} files of the same size and time have another inode number than in the last snapshot and were read again; \
             if this mount does not keep inode numbers, set change detection to size and time",
            same + differs
        ));
    }
    Ok(outcome)
}

/// Whether a file type can be an entry of a list.
fn is_directory(stat: &Stat) -> bool {
    stat.kind == FileType::Directory
}
