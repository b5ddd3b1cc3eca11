//! The walk itself: lists directories, merges their names with the parent's entries, decides what becomes of each entry.
//!
//! One [`run`] does one task with an explicit stack of open directories; what it finds it offers to others first. A name costs one call
//! of `statx`, a directory an open, a `statx`, its listing; nothing is looked at twice before it is read.
//!
//! Invariants:
//! 1. Symbolic links are never followed below the root: every open is relative to a directory handle and with `O_NOFOLLOW`.
//! 2. Open directories per stack stay at [`OPEN_DEPTH_MAX`]; deeper ones are closed and opened again by their path, and compared.
//! 3. Nodes go to the sink at once; only the names of the directories on the stack are kept.

use std::iter::Peekable;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::detect::{self, FileSystem, Rule};
use super::excludes::{self, Excludes};
use super::hands::{self, Hands, Readers, Task, Tracker, lock};
use super::links::{self, Links};
use super::metadata::{self, Handle, Owners, Stat, XattrSource};
use super::names::{Collector, Hint, NAMES_BYTES_MAX, Names};
use super::nodes;
use super::{Detection, TreeSource, read};
use crate::error::{Error, Result};
use crate::format::node::{Node, NodeKind, Timestamp};
use crate::pipeline::{Sink, TreePath};
use crate::source::{ParentNode, ParentTree};

/// Directories that one stack keeps open.
const OPEN_DEPTH_MAX: usize = 48;
/// Entries that a worker takes at once from a large directory.
const WORKER_BATCH: usize = 256;
/// Entries that a reader takes at once: few, because each may cost several round trips.
const READER_BATCH: usize = 16;
/// Readers for a slow file system that is found below a fast one, and the automatic number for a slow root: they sleep most of the time.
pub(super) const SLOW_READERS: usize = 64;
/// Notes that are kept in words; more are counted.
const NOTES_MAX: usize = 50;

/// What all threads of a walk share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: TreeSource,
    pub(super) sink: Sink,
    pub(super) parent: Option<Arc<dyn ParentTree>>,
    pub(super) parent_started: Timestamp,
    pub(super) now: Timestamp,
    pub(super) excludes: Excludes,
    pub(super) owners: Owners,
    pub(super) links: Links,
    pub(super) tracker: Arc<Tracker>,
    pub(super) worker_tasks: Arc<Tracker>,
    pub(super) readers: Readers,
    /// The root (of a list: `/`), for opening deep directories again.
    pub(super) root: OwnedFd,
    /// The user may read without leaving access times.
    pub(super) noatime: bool,
    pub(super) counts: Counts,
    pub(super) notes: Mutex<Vec<String>>,
    pub(super) failed: AtomicBool,
    pub(super) error: Mutex<Option<Error>>,
}

/// Counters of one walk.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) torn: AtomicU64,
    pub(super) grew: AtomicU64,
    pub(super) excluded: AtomicU64,
    pub(super) sockets: AtomicU64,
    pub(super) bit_rot: AtomicU64,
    pub(super) inode_same: AtomicU64,
    pub(super) inode_differs: AtomicU64,
    pub(super) notes: AtomicU64,
}

/// Adds one.
pub(super) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Where a directory stands and what its mount is like.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// In the tree.
    pub(super) path: TreePath,
    /// Below the root, `/` between names; what patterns see.
    pub(super) relative: Vec<u8>,
    /// Its device.
    pub(super) dev: u64,
    /// Its inode.
    pub(super) ino: u64,
    /// Number of its mount, for groups of names.
    pub(super) mount: u64,
    /// Inode numbers and change times mean something here.
    pub(super) trusted: bool,
    /// Calls may wait for a network.
    pub(super) slow: bool,
    /// Times come from another host's clock.
    pub(super) other_clock: bool,
    /// This mount said that it has no extended attributes.
    pub(super) no_xattrs: Arc<AtomicBool>,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) place: Place,
}

impl Dir {
    /// The path in the tree of an entry.
    pub(super) fn path_of(&self, name: &[u8]) -> TreePath {
        self.place.path.join(name)
    }
}

/// A name that was found, and what the parent has under it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) old: Option<Box<Node>>,
    /// The bytes of `old`; empty where they were not kept.
    pub(super) encoded: Vec<u8>,
}

impl Shared {
    /// `Err(Stopped)` when the run or this walk ended early.
    pub(super) fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        self.sink.pool.check()
    }

    /// Ends this walk; the first error counts.
    pub(super) fn fail(&self, error: Error) {
        self.failed.store(true, Ordering::Relaxed);
        let mut first = lock(&self.error);
        if first.is_none() || matches!(*first, Some(Error::Stopped)) {
            *first = Some(error);
        }
    }

    /// Remembers something for people.
    pub(super) fn note(&self, text: String) {
        tracing::info!("{text}");
        one(&self.counts.notes);
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX {
            notes.push(text);
        }
    }

    /// Counts and names what could not be read.
    pub(super) fn skip(&self, path: &TreePath, reason: String) -> Result<()> {
        one(&self.counts.skipped);
        self.sink.skip(path, reason)
    }

    /// The comparison with the parent at a place.
    pub(super) fn rule(&self, place: &Place) -> Rule {
        Rule {
            inode_trusted: place.trusted,
            read_all: self.source.detection == Detection::ReadAll,
            other_clock: place.other_clock,
            parent_started: self.parent_started,
        }
    }

    /// Whether inode numbers count on this file system.
    pub(super) fn trusts(&self, system: FileSystem) -> bool {
        match self.source.detection {
            Detection::Automatic | Detection::ReadAll => system.stable,
            Detection::TrustInode => true,
            Detection::ModifiedOnly => false,
        }
    }

    /// Whether this file system is read by readers of its own.
    pub(super) fn is_slow(&self, system: FileSystem) -> bool {
        match self.source.readers {
            None => system.slow,
            Some(count) => count > 0,
        }
    }

    /// Counts a node and gives it to the sink.
    pub(super) fn add_node(&self, path: &TreePath, node: Node) -> Result<()> {
        if node.is_directory() {
            one(&self.counts.directories);
            self.sink.stats.directories.one();
        } else {
            one(&self.counts.files);
            self.counts.bytes.fetch_add(node.size, Ordering::Relaxed);
        }
        self.sink.add_node(path, node)
    }
}

/// Flags for opening what is read.
pub(super) fn open_flags(shared: &Shared) -> OFlags {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if shared.noatime {
        flags | OFlags::NOATIME
    } else {
        flags
    }
}

/// Opens an entry; without `O_NOATIME` where the system does not grant it.
pub(super) fn open_entry(
    shared: &Shared,
    directory: impl AsFd,
    name: &[u8],
    extra: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = open_flags(shared) | extra;
    match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
        Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => {
            rustix::fs::openat(directory, name, flags - OFlags::NOATIME, Mode::empty())
        }
        other => other,
    }
}

/// The words for an error of the system.
pub(super) fn words(what: &str, error: Errno) -> String {
    format!("cannot {what}: {}", std::io::Error::from(error))
}

/// Does one task.
pub(super) fn run(shared: &Arc<Shared>, hands: &mut Hands<'_>, task: Task) -> Result<()> {
    shared.check()?;
    match task {
        Task::Opened { dir, old } => {
            let cursor = Cursor::open(shared, dir, old)?;
            walk_from(shared, hands, cursor)?;
        }
        Task::Directory { parent, entry } => {
            if let Some(cursor) = open_directory(shared, hands, &parent, entry)? {
                walk_from(shared, hands, cursor)?;
            }
        }
        Task::Batch { dir, entries } => visit_all(shared, hands, &dir, entries)?,
        Task::Big { dir, entry } => visit(shared, hands, &dir, entry, true)?,
    }
    read::flush(shared, hands)
}

fn visit_all(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: &Arc<Dir>,
    entries: Vec<Entry>,
) -> Result<()> {
    for entry in entries {
        shared.check()?;
        visit(shared, hands, dir, entry, false)?;
    }
    Ok(())
}

/// A directory that is being walked.
struct Cursor<'s> {
    /// Absent while it is closed because the stack is deep.
    dir: Option<Arc<Dir>>,
    place: Place,
    names: Names,
    old: Option<Peekable<OldEntries<'s>>>,
    batch: Vec<Entry>,
}

type OldEntries<'s> = Box<dyn Iterator<Item = Result<ParentNode, Error>> + Send + 's>;

enum Step {
    Directory(Entry),
    Batch(Vec<Entry>),
    Last(Vec<Entry>),
}

impl<'s> Cursor<'s> {
    fn open(shared: &'s Shared, dir: Arc<Dir>, old: Option<Box<Node>>) -> Result<Self> {
        let names = list(shared, &dir)?;
        let old = match (&shared.parent, old) {
            (Some(tree), Some(old)) if old.is_directory() => {
                Some(tree.entries(&old.content).peekable())
            }
            _ => None,
        };
        Ok(Self {
            place: dir.place.clone(),
            dir: Some(dir),
            names,
            old,
            batch: Vec::new(),
        })
    }

    /// The directory, opened again if it was closed.
    fn dir(&mut self, shared: &Shared) -> Result<Option<Arc<Dir>>> {
        if let Some(dir) = &self.dir {
            return Ok(Some(Arc::clone(dir)));
        }
        match reopen(shared, &self.place) {
            Ok(fd) => {
                let place = self.place.clone();
                let dir = Arc::new(Dir { fd, place });
                self.dir = Some(Arc::clone(&dir));
                Ok(Some(dir))
            }
            Err(error) => {
                let reason = words(
                    "open this directory again, the rest of it was not read",
                    error,
                );
                shared.skip(&self.place.path, reason)?;
                Ok(None)
            }
        }
    }

    /// What the parent has under `name`.
    fn old_entry(&mut self, shared: &Shared, name: &[u8]) -> Result<Option<ParentNode>> {
        let Some(entries) = &mut self.old else {
            return Ok(None);
        };
        loop {
            match entries.peek() {
                None => break,
                Some(Err(_)) => {
                    let failed = entries.next();
                    self.old = None;
                    let Some(Err(error)) = failed else { break };
                    if matches!(error, Error::Stopped | Error::Interrupted) {
                        return Err(error);
                    }
                    let at = String::from_utf8_lossy(&self.place.path.display_bytes()).into_owned();
                    shared.note(format!(
                        "the last snapshot's directory {at} can't be read ({error}); what it holds is read again"
                    ));
                    break;
                }
                Some(Ok(old)) if old.node.name.as_slice() > name => break,
                Some(Ok(_)) => {
                    if let Some(Ok(old)) = entries.next()
                        && old.node.name == name
                    {
                        return Ok(Some(old));
                    }
                }
            }
        }
        Ok(None)
    }

    fn step(&mut self, shared: &Shared, batch_max: usize) -> Result<Step> {
        loop {
            let next = match self.names.next() {
                Ok(next) => next,
                Err(error) => return Err(Error::local("cannot read a spilled directory", error)),
            };
            let Some((name, hint)) = next else {
                return Ok(Step::Last(std::mem::take(&mut self.batch)));
            };
            let old = self.old_entry(shared, &name)?;
            let Some(is_directory) = self.is_directory(shared, &name, hint)? else {
                continue;
            };
            if shared
                .excludes
                .matches(&self.place.relative, &name, is_directory)
            {
                one(&shared.counts.excluded);
                continue;
            }
            let (old, encoded) =
                old.map_or((None, Vec::new()), |old| (Some(old.node), old.encoded));
            let entry = Entry { name, old, encoded };
            if is_directory {
                return Ok(Step::Directory(entry));
            }
            self.batch.push(entry);
            if self.batch.len() >= batch_max {
                return Ok(Step::Batch(std::mem::take(&mut self.batch)));
            }
        }
    }

    /// Asks the file system only where the listing did not say; `None` when the entry is gone or can't be looked at.
    fn is_directory(&mut self, shared: &Shared, name: &[u8], hint: Hint) -> Result<Option<bool>> {
        if hint != Hint::Unknown {
            return Ok(Some(hint == Hint::Directory));
        }
        let Some(dir) = self.dir(shared)? else {
            return Ok(None);
        };
        match Stat::at(&dir.fd, name) {
            Ok(stat) => Ok(Some(stat.kind == FileType::Directory)),
            Err(error) => {
                shared.skip(&dir.path_of(name), words("look at it", error))?;
                Ok(None)
            }
        }
    }
}

/// Walks a directory and what is below it, as far as nobody else takes it.
fn walk_from<'s>(shared: &'s Arc<Shared>, hands: &mut Hands<'_>, first: Cursor<'s>) -> Result<()> {
    let batch_max = match hands {
        Hands::Worker(_) => WORKER_BATCH,
        Hands::Reader(_) => READER_BATCH,
    };
    let mut stack = vec![first];
    while let Some(cursor) = stack.last_mut() {
        shared.check()?;
        match cursor.step(shared, batch_max)? {
            Step::Directory(entry) => {
                let Some(parent) = cursor.dir(shared)? else {
                    stack.pop();
                    continue;
                };
                let task = Task::Directory { parent, entry };
                let Some(Task::Directory { parent, entry }) = hands.offer(shared, task)? else {
                    continue;
                };
                if stack.len() >= OPEN_DEPTH_MAX
                    && let Some(cursor) = stack.last_mut()
                {
                    cursor.dir = None;
                }
                // The new cursor borrows from the walk, not from the stack.
                let child = open_directory(shared, hands, &parent, entry)?;
                drop(parent);
                stack.extend(child);
            }
            Step::Batch(entries) => {
                let Some(dir) = cursor.dir(shared)? else {
                    stack.pop();
                    continue;
                };
                give_or_visit(shared, hands, dir, entries)?;
            }
            Step::Last(entries) => {
                if !entries.is_empty()
                    && let Some(dir) = cursor.dir(shared)?
                {
                    if entries.len() > 2 && matches!(hands, Hands::Reader(_)) {
                        give_or_visit(shared, hands, dir, entries)?;
                    } else {
                        visit_all(shared, hands, &dir, entries)?;
                    }
                }
                stack.pop();
            }
        }
    }
    Ok(())
}

fn give_or_visit(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: Arc<Dir>,
    entries: Vec<Entry>,
) -> Result<()> {
    match hands.offer(shared, Task::Batch { dir, entries })? {
        Some(Task::Batch { dir, entries }) => visit_all(shared, hands, &dir, entries),
        _ => Ok(()),
    }
}

/// Opens a directory by its path, one name at a time, and checks that it is the same.
fn reopen(shared: &Shared, place: &Place) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(&shared.root, c".", flags, Mode::empty())?;
    for name in place.relative.split(|byte| *byte == b'/') {
        if !name.is_empty() {
            at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
        }
    }
    let stat = Stat::of(&at)?;
    if (stat.dev, stat.ino) != (place.dev, place.ino) {
        return Err(Errno::STALE);
    }
    Ok(at)
}

/// All names of a directory; of a cache directory only its tag.
fn list(shared: &Shared, dir: &Dir) -> Result<Names> {
    let mut collector = Collector::new(NAMES_BYTES_MAX);
    let mut buffer: Vec<u8> = Vec::with_capacity(64 << 10);
    let mut listing = RawDir::new(&dir.fd, uninit(&mut buffer));
    let mut tagged = false;
    while let Some(entry) = listing.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                tagged |= name == excludes::CACHEDIR_TAG;
                collector
                    .push(name, Hint::of(entry.file_type()))
                    .map_err(|error| {
                        Error::local("cannot spill the names of a directory", error)
                    })?;
            }
            Err(error) => {
                shared.skip(
                    &dir.place.path,
                    words("list this directory completely", error),
                )?;
                break;
            }
        }
        if collector.count().is_multiple_of(4096) {
            shared.check()?;
        }
    }
    if tagged && shared.source.cachedir_tag && excludes::is_cache(&dir.fd) {
        let left_out = collector.count().saturating_sub(1);
        shared
            .counts
            .excluded
            .fetch_add(left_out, Ordering::Relaxed);
        return Ok(Names::only(excludes::CACHEDIR_TAG, Hint::File));
    }
    collector
        .finish()
        .map_err(|error| Error::local("cannot sort the names of a directory", error))
}

fn uninit(buffer: &mut Vec<u8>) -> &mut [MaybeUninit<u8>] {
    buffer.spare_capacity_mut()
}

/// Opens an entry that is a directory and adds its node; `None` when it is not walked into.
fn open_directory<'s>(
    shared: &'s Arc<Shared>,
    hands: &mut Hands<'_>,
    parent: &Arc<Dir>,
    entry: Entry,
) -> Result<Option<Cursor<'s>>> {
    let path = parent.path_of(&entry.name);
    let opened = open_entry(shared, &parent.fd, &entry.name, OFlags::DIRECTORY)
        .and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat)));
    let (fd, stat) = match opened {
        Ok(opened) => opened,
        // Something else has this name by now.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            visit(shared, hands, parent, entry, false)?;
            return Ok(None);
        }
        Err(Errno::NOENT) => {
            shared.skip(&path, "vanished before it was read".to_owned())?;
            return Ok(None);
        }
        Err(error) => {
            unreadable_directory(shared, hands, parent, &entry, &path)?;
            shared.skip(&path, words("open this directory", error))?;
            return Ok(None);
        }
    };
    if shared.source.never.contains(&(stat.dev, stat.ino)) {
        let at = String::from_utf8_lossy(&path.display_bytes()).into_owned();
        shared.note(format!("{at} is the repository itself and was left out"));
        return Ok(None);
    }
    let mut relative = parent.place.relative.clone();
    if !relative.is_empty() {
        relative.push(b'/');
    }
    relative.extend_from_slice(&entry.name);
    let mut place = Place {
        relative,
        path,
        dev: stat.dev,
        ino: stat.ino,
        ..parent.place.clone()
    };
    let mut descend = true;
    if stat.dev != parent.place.dev {
        descend = enter_mount(shared, &fd, parent, &mut place);
    }
    add_directory(
        shared,
        hands,
        &fd,
        &entry.name,
        &place,
        &stat,
        entry.old.as_deref(),
    )?;
    if !descend {
        return Ok(None);
    }
    let moves_to_readers = place.slow && matches!(hands, Hands::Worker(_));
    let dir = Arc::new(Dir { fd, place });
    let old = entry.old;
    if moves_to_readers {
        shared.readers.raise(SLOW_READERS);
        return match hands::offer_reader(shared, Task::Opened { dir, old }) {
            Some(Task::Opened { dir, old }) => Cursor::open(shared, dir, old).map(Some),
            _ => Ok(None),
        };
    }
    Cursor::open(shared, dir, old).map(Some)
}

/// Another file system begins here: says whether it is walked into.
fn enter_mount(shared: &Shared, fd: &OwnedFd, parent: &Dir, place: &mut Place) -> bool {
    let system = detect::file_system_of(fd);
    place.mount = links::mount_number(parent.place.mount, &place.relative);
    place.trusted = shared.trusts(system);
    place.slow = shared.is_slow(system);
    place.other_clock = system.slow;
    place.no_xattrs = Arc::default();
    if shared.source.one_file_system {
        return false;
    }
    if system.pseudo {
        let at = String::from_utf8_lossy(&place.path.display_bytes()).into_owned();
        shared.note(format!("{at} is a {} mount and was left out", system.name));
        return false;
    }
    super::note_rights(shared, system, &place.path.display_bytes());
    true
}

/// A directory that can't be opened still is one.
fn unreadable_directory(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    parent: &Arc<Dir>,
    entry: &Entry,
    path: &TreePath,
) -> Result<()> {
    let Ok(stat) = Stat::at(&parent.fd, &entry.name) else {
        return Ok(());
    };
    let node = metadata::node(&entry.name, &stat, &shared.owners, parent.place.trusted);
    let source = XattrSource::entry(parent.fd.as_fd(), &entry.name);
    let xattrs = metadata::xattrs(&source).unwrap_or_default();
    nodes::add(shared, hands, path, node, xattrs, Vec::new())
}

/// Adds the node of an open directory.
pub(super) fn add_directory(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    fd: &OwnedFd,
    name: &[u8],
    place: &Place,
    stat: &Stat,
    old: Option<&Node>,
) -> Result<()> {
    let mut node = metadata::node(name, stat, &shared.owners, place.trusted);
    let old = old.filter(|old| old.is_directory());
    if let Some(old) = old.filter(|old| shared.rule(place).same_inode_state(stat, old)) {
        node.xattrs.clone_from(&old.xattrs);
        node.xattrs_stream.clone_from(&old.xattrs_stream);
        return shared.add_node(&place.path, node);
    }
    let xattrs = nodes::read_xattrs(shared, place, &place.path, &XattrSource::Open(fd.as_fd()))?;
    nodes::add(shared, hands, &place.path, node, xattrs, Vec::new())
}

/// Reads and adds one entry that is not a directory. `offered`: it was offered to the readers already.
fn visit(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: &Arc<Dir>,
    entry: Entry,
    offered: bool,
) -> Result<()> {
    let path = dir.path_of(&entry.name);
    let looked = match dir.place.slow {
        true => Handle::at(&dir.fd, &entry.name).map(|(handle, stat)| (stat, Some(handle))),
        false => Stat::at(&dir.fd, &entry.name).map(|stat| (stat, None)),
    };
    let (stat, handle) = match looked {
        Ok(looked) => looked,
        Err(Errno::NOENT) => {
            return shared.skip(&path, "vanished before it was read".to_owned());
        }
        Err(error) => return shared.skip(&path, words("look at it", error)),
    };
    match stat.kind {
        FileType::RegularFile => {
            read::file(shared, hands, dir, entry, path, (stat, handle), offered)
        }
        FileType::Directory => {
            shared.skip(&path, "became a directory while it was read".to_owned())
        }
        _ => visit_special(shared, hands, dir, &entry, &path, &stat),
    }
}

fn visit_special(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    dir: &Arc<Dir>,
    entry: &Entry,
    path: &TreePath,
    stat: &Stat,
) -> Result<()> {
    let mut node = metadata::node(&entry.name, stat, &shared.owners, dir.place.trusted);
    match node.kind {
        NodeKind::Symlink => match rustix::fs::readlinkat(&dir.fd, &*entry.name, Vec::new()) {
            Ok(target) => node.target = Some(target.into_bytes()),
            Err(error) => return shared.skip(path, words("read where it points to", error)),
        },
        NodeKind::Socket => one(&shared.counts.sockets),
        _ => {}
    }
    if stat.nlink > 1 {
        node.link_group = Some(links::link_group(dir.place.mount, stat.ino));
    }
    nodes::count_as(shared, stat, entry.old.as_deref(), &dir.place);
    let source = XattrSource::entry(dir.fd.as_fd(), &entry.name);
    let xattrs = nodes::read_xattrs(shared, &dir.place, path, &source)?;
    nodes::add(shared, hands, path, node, xattrs, Vec::new())
}

/// Looks whether a directory holds anything; counts at most two listings' worth, because only "none" matters.
pub(super) fn count_entries(dir: &Dir) -> Result<u64> {
    let fail = |error: Errno| Error::local("cannot list the root", error.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let again = rustix::fs::openat(&dir.fd, c".", flags, Mode::empty()).map_err(fail)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(4 << 10);
    let mut listing = RawDir::new(again, uninit(&mut buffer));
    let mut count = 0;
    while let Some(entry) = listing.next() {
        let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
        count += u64::from(name != b"." && name != b"..");
        if count >= 64 {
            break;
        }
    }
    Ok(count)
}

/// The node of a directory that is not opened for reading, attributes included as far as they fit.
pub(super) fn directory_node(
    shared: &Shared,
    parent: &Dir,
    name: &[u8],
    place: &Place,
    stat: &Stat,
) -> Result<Node> {
    let mut node = metadata::node(name, stat, &shared.owners, place.trusted);
    let source = XattrSource::entry(parent.fd.as_fd(), name);
    let xattrs = nodes::read_xattrs(shared, place, &place.path, &source)?;
    if metadata::xattrs_bytes(&xattrs) <= metadata::XATTRS_INLINE_BYTES_MAX {
        node.xattrs = xattrs;
    } else {
        let reason = "its extended attributes are too large for a directory above a listed path";
        shared.skip(&place.path, reason.to_owned())?;
    }
    Ok(node)
}
