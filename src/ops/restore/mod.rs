//! `restore`: what a snapshot holds, into a directory.
//!
//! `SNAP:PATH` puts what is below PATH into the target, or PATH itself if it is a file; without PATH the whole tree comes, with its top
//! folders. The tree is walked once; directories are created as they are reached, contents are read in windows ([`super::window`]), and
//! the metadata of directories are set last.
//!
//! Into a directory that holds files already (`in_place`), an existing file of the right size is read and its pieces compared with the ids
//! of the archived ones: what is equal is not read from the repository, and a file that is equal as a whole is not written at all.
//!
//! Invariants:
//! 1. Nothing is written outside the target (see `target::files`), nor inside the repository (`the_repository_is_no_target`).
//! 2. A file appears under its name when it is whole: one with a damaged chunk is named and left out, the others are restored
//!    (`damage_costs_only_its_files`).
//! 3. What is restored is what was archived (`a_tree_comes_back`).
//!
//! Durability: nothing is synced unless asked for (`sync`), as with other programs: what is restored is written by the kernel within half a
//! minute or so, and a restore that a loss of power cut short is begun again. With `sync` the file system of the target is synced once at
//! the end, which is much faster than a sync of each file, and errors of writing that came up since the beginning end the restore.
//!
//! Threads: one for each core reads and decodes, as many write; to a slow share 64 write, because each call waits for a server. The files
//! of one directory are written by one thread where there are directories enough: the kernel lets one thread at a time make entries in a
//! directory, and others wait spinning.
//!
//! Failure: a restore that ends early leaves whole files, directories without their metadata, and temporary files where the process was
//! killed; it is begun again with `in_place`.
//!
//! Memory: two windows (`ops::window`) and the nodes of their files; the frames of the tree that the reader keeps; a sealed and a decoded frame
//! for each thread that reads; a chunk of nodes for each directory on the path (`bounded::a_restore_fits_the_stated_memory`).

mod file;
#[cfg(test)]
mod tests;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::Serialize;

pub(crate) use self::file::are_zeros;
use self::file::{FileJob, Writer};
use crate::error::{Error, Result};
use crate::format::node::{Content, Node, NodeKind, Xattr, decode_items, decode_nodes};
use crate::ops::backup::Interrupt;
use crate::ops::sampling::Sampling;
use crate::ops::snapshots::{self, node_at, open_reader, split_spec};
use crate::ops::window::{Settings, Windows, is_of_one_object, thread_count, with_windows};
use crate::stats::Stats;
use crate::store::reader::ChunkReader;
use crate::store::tree::{Chunks, read_all};
use crate::store::{Repository, StoreError};
use crate::target::files::{
    Created, Existing, Ownership, RestoreOptions as TargetOptions, RestoreTarget, TargetError,
};

/// Threads that write to a slow share: they sleep most of the time.
const SLOW_TAKERS: usize = 64;
/// Attributes of one file take at most so many bytes.
const XATTRS_BYTES_MAX: usize = 64 << 20;

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// gitignore patterns, of paths below what is restored; where there are any, only what they match is restored.
    pub include: Vec<String>,
    /// gitignore patterns of what is left out.
    pub exclude: Vec<String>,
    /// Whose files the restored ones become.
    pub ownership: Ownership,
    /// Whether devices are created.
    pub special: bool,
    /// Whether the target may hold these files already; what differs is replaced. Nothing is ever removed.
    pub in_place: bool,
    /// Which files are restored; all of them unless only a sample is wanted.
    pub sample: Sampling,
    /// Whether the target holds much else (`/`, say): directories that exist keep their metadata, and nothing that stands in the place of an
    /// archived directory is replaced.
    pub amid_others: bool,
    /// Whether the restore ends only when the target's file system is synced, and fails if that does.
    pub sync: bool,
    /// Threads that read, and as many that write, but for a slow share; absent: one for each core.
    pub threads: Option<usize>,
}

/// Why a file or directory was not restored, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// The repository is damaged.
    Damaged,
    /// The target refused.
    Skipped,
}

/// Something that was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Whose fault it is.
    #[serde(rename = "message_type")]
    pub kind: TroubleKind,
    /// Where it should be, below the target; or the damaged object.
    pub path: String,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Takes what was not restored; called from several threads.
pub type OnTrouble<'a> = &'a (dyn Fn(&Trouble) + Sync);

/// How a restore came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RestoreSummary {
    /// The snapshot.
    pub snapshot: String,
    /// Files that were restored, unchanged ones too.
    pub files: u64,
    /// Files of these that were in the target already.
    pub files_unchanged: u64,
    /// Further names of files with several names.
    pub links: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, pipes, devices.
    pub others: u64,
    /// Sockets, and devices that were not asked for.
    pub left_out: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Items that the target refused, wholly or in part.
    pub skipped: u64,
    /// Items that damage of the repository cost.
    pub damaged: u64,
    /// How long it took.
    pub seconds: f64,
}

impl RestoreSummary {
    /// 0; 3 if the target refused something; 4 if something is damaged.
    pub fn exit_code(&self) -> u8 {
        match (self.damaged, self.skipped) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 4,
        }
    }
}

/// Counts of a running restore.
struct Tally<'a> {
    each: OnTrouble<'a>,
    stats: &'a Stats,
    skipped: AtomicU64,
    damaged: AtomicU64,
    files: AtomicU64,
    unchanged: AtomicU64,
    written: AtomicU64,
}

impl Tally<'_> {
    fn trouble(&self, kind: TroubleKind, path: impl Into<String>, what: impl ToString) {
        let counter = match kind {
            TroubleKind::Damaged => &self.damaged,
            TroubleKind::Skipped => &self.skipped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        (self.each)(&Trouble {
            kind,
            path: path.into(),
            what: what.to_string(),
        });
    }

    /// Something of the repository could not be read: damage is counted and named, anything else ends the run.
    fn store_error(&self, path: &[u8], error: StoreError) -> Result<()> {
        if !is_of_one_object(&error) {
            return Err(error.into());
        }
        self.damaged(path, &error);
        Ok(())
    }

    /// An item is lost by damage.
    fn damaged(&self, path: &[u8], error: &StoreError) {
        let path = String::from_utf8_lossy(path);
        self.trouble(TroubleKind::Damaged, path, chain(error));
    }

    /// The target refused an item; a full disk ends the run.
    fn target_error(&self, error: TargetError) -> Result<()> {
        match error {
            TargetError::Item { path, what } => {
                self.trouble(TroubleKind::Skipped, path, what);
                Ok(())
            }
            stop => Err(Error::Message(stop.to_string())),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Refuses a target that lies in the repository: nothing but holdfast's own objects belongs there.
pub fn refuse_repository(repository: &Repository, target: &Path) -> Result<()> {
    let Some(root) = repository.backend().local_path() else {
        return Ok(());
    };
    let absolute = std::path::absolute(target)
        .map_err(|e| Error::local(format!("cannot find {}", target.display()), e))?;
    let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    // Where the target does not exist yet, its nearest parent says where it will be.
    let existing = absolute
        .ancestors()
        .find_map(|path| path.canonicalize().ok());
    if existing.is_some_and(|path| path.starts_with(&root)) || absolute.starts_with(&root) {
        return Err(Error::Message(format!(
            "{} lies in the repository; restore to another place",
            target.display()
        )));
    }
    Ok(())
}

/// Restores `spec` (`SNAP` or `SNAP:PATH`) into the directory `target`.
pub fn restore(
    repository: &Arc<Repository>,
    spec: &str,
    target: &Path,
    options: &RestoreOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    each: OnTrouble<'_>,
) -> Result<RestoreSummary> {
    let begun = Instant::now();
    refuse_repository(repository, target)?;
    let filter = Filter::new(options)?;
    let tally = Tally {
        each,
        stats,
        skipped: AtomicU64::new(0),
        damaged: AtomicU64::new(0),
        files: AtomicU64::new(0),
        unchanged: AtomicU64::new(0),
        written: AtomicU64::new(0),
    };
    let damaged = |e: StoreError| tally.trouble(TroubleKind::Damaged, "repository", chain(&e));
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut |e| damaged(e))?;
    let (snapshot, path) = split_spec(spec);
    let snapshot = snapshots::resolve_live(&state, &all, snapshot)?;
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut |e| damaged(e))?;
    let node = node_at(&reader, &snapshot.record.root, path.as_bytes())?;
    let bytes = node.subtree.unwrap_or(snapshot.record.subtree).bytes;
    stats.bytes_expected.add(if node.is_directory() {
        bytes
    } else {
        node.size
    });
    let threads = options.threads.unwrap_or_else(thread_count).clamp(1, 256);
    let takers = takers_for(target, threads);
    let target_options = TargetOptions {
        ownership: options.ownership,
        special: options.special,
        existing: if options.in_place {
            Existing::Replace
        } else {
            Existing::Refuse
        },
        amid_others: options.amid_others,
        threads: takers,
    };
    let target =
        RestoreTarget::open(target, target_options).map_err(|e| Error::Message(e.to_string()))?;
    let id_key = repository.keyring().chunk_id_key();
    let id_key = id_key.map_err(|missing| StoreError::MissingSecret {
        what: missing.action.to_owned(),
    })?;
    let writer = Writer {
        target: &target,
        tally: &tally,
        reader: &reader,
        id_key,
    };
    let settings = Settings {
        reader: reader.clone(),
        check: true,
        compare: options.in_place,
        threads,
        takers,
        stop: interrupt.clone(),
    };
    let mut summary = with_windows(&settings, &writer, |windows| {
        let mut walk = Walk {
            reader: &reader,
            target: &target,
            tally: &tally,
            filter: &filter,
            in_place: options.in_place,
            sample: options.sample,
            windows,
            summary: RestoreSummary {
                snapshot: snapshot.id.to_string(),
                ..RestoreSummary::default()
            },
        };
        match node.is_directory() {
            // The root of a snapshot is no directory of the source: its metadata mean nothing.
            true => walk.directory(&node, !node.name.is_empty())?,
            false => walk.single(node)?,
        }
        Ok(walk.summary)
    })?;
    finish(&target, &tally, &mut summary)?;
    if options.sync {
        target.sync().map_err(|e| Error::Message(e.to_string()))?;
    }
    summary.files = tally.files.load(Ordering::Relaxed);
    summary.files_unchanged = tally.unchanged.load(Ordering::Relaxed);
    summary.bytes_written = tally.written.load(Ordering::Relaxed);
    summary.skipped = tally.skipped.load(Ordering::Relaxed);
    summary.damaged = tally.damaged.load(Ordering::Relaxed);
    summary.seconds = begun.elapsed().as_secs_f64();
    Ok(summary)
}

/// Threads that write to a target: one for each core, more where each call waits for a server.
fn takers_for(target: &Path, threads: usize) -> usize {
    // Where it does not exist yet, its nearest parent is on the same file system.
    let slow = target
        .ancestors()
        .find_map(|path| crate::source::files::is_slow(path).ok());
    match slow {
        Some(true) => threads.max(SLOW_TAKERS),
        _ => threads,
    }
}

/// Further names, then the metadata of directories; and what the target could not do to single entries.
fn finish(target: &RestoreTarget, tally: &Tally<'_>, summary: &mut RestoreSummary) -> Result<()> {
    let stop = |e: TargetError| Error::Message(e.to_string());
    summary.links = target.finish_links().map_err(stop)?;
    summary.directories = target.finish_directories().map_err(stop)?;
    let problems = target.problems();
    let named = u64::try_from(problems.named.len()).unwrap_or(u64::MAX);
    for (path, what) in problems.named {
        tally.trouble(TroubleKind::Skipped, path, what);
    }
    tally
        .skipped
        .fetch_add(problems.count.saturating_sub(named), Ordering::Relaxed);
    Ok(())
}

/// What is restored of a tree.
struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Filter {
    fn new(options: &RestoreOptions) -> Result<Self> {
        let include = match options.include.is_empty() {
            true => None,
            false => Some(patterns(&options.include)?),
        };
        Ok(Self {
            include,
            exclude: patterns(&options.exclude)?,
        })
    }

    fn excludes(&self, path: &Path, is_directory: bool) -> bool {
        self.exclude.matched(path, is_directory).is_ignore()
    }

    fn includes(&self, path: &Path, is_directory: bool) -> bool {
        let matched = |include: &Gitignore| include.matched(path, is_directory).is_ignore();
        self.include.as_ref().is_none_or(matched)
    }
}

pub(crate) fn patterns(lines: &[String]) -> Result<Gitignore> {
    let wrong = |e: ignore::Error| Error::Message(format!("a pattern is not valid: {e}"));
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        builder.add_line(None, line).map_err(wrong)?;
    }
    builder.build().map_err(wrong)
}

/// All extended attributes of a node.
pub(crate) fn all_xattrs(reader: &Arc<ChunkReader>, node: &Node) -> Result<Vec<Xattr>, StoreError> {
    let mut xattrs = node.xattrs.clone();
    if let Some(stream) = &node.xattrs_stream {
        let bytes = read_all(reader, stream, XATTRS_BYTES_MAX)?;
        decode_items(&bytes, |xattr| xattrs.push(xattr))
            .map_err(|e| StoreError::damaged("tree", e))?;
    }
    Ok(xattrs)
}

/// A directory that is being walked.
struct Level {
    chunks: Chunks,
    nodes: std::vec::IntoIter<Node>,
    parent_len: usize,
    /// The directory itself, until it is created.
    pending: Option<Node>,
    /// Everything in it is included.
    included: bool,
}

struct Walk<'w, 'v, 'c, 'a> {
    reader: &'w Arc<ChunkReader>,
    target: &'w RestoreTarget,
    tally: &'w Tally<'a>,
    filter: &'w Filter,
    in_place: bool,
    sample: Sampling,
    windows: &'w mut Windows<'v, Writer<'c, 'a>>,
    summary: RestoreSummary,
}

impl Walk<'_, '_, '_, '_> {
    /// Restores what is in a directory; itself too, as the target, if `own`.
    fn directory(&mut self, node: &Node, own: bool) -> Result<()> {
        let mut path = Vec::new();
        let mut stack = vec![self.level(&node.content, 0, own.then(|| node.clone()), false)];
        while let Some(top) = stack.last_mut() {
            let Some(node) = top.nodes.next() else {
                match top.chunks.next() {
                    Some(chunk) => {
                        let nodes = chunk.and_then(|chunk| {
                            let bytes = self.reader.chunk(&chunk)?;
                            decode_nodes(&bytes).map_err(|e| {
                                StoreError::damaged(format!("tree chunk {}", chunk.id), e)
                            })
                        });
                        match nodes {
                            Ok(nodes) => top.nodes = nodes.into_iter(),
                            Err(e) => self.tally.store_error(&path, e)?,
                        }
                    }
                    None => {
                        path.truncate(top.parent_len);
                        stack.pop();
                    }
                }
                continue;
            };
            let (parent_len, included) = (path.len(), top.included);
            if parent_len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&node.name);
            let shown = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
            if self.filter.excludes(&shown, node.is_directory()) {
                path.truncate(parent_len);
                continue;
            }
            let included = included || self.filter.includes(&shown, node.is_directory());
            if node.is_directory() {
                let content = node.content.clone();
                stack.push(self.level(&content, parent_len, Some(node), included));
                if included && !self.create_levels(&mut stack, &path)? {
                    path.truncate(parent_len);
                    stack.pop();
                }
                continue;
            }
            let chosen = node.kind != NodeKind::File || self.sample.takes(&path);
            if included && chosen && self.create_levels(&mut stack, &path[..parent_len])? {
                self.entry(node, &path)?;
            }
            path.truncate(parent_len);
        }
        Ok(())
    }

    fn level(
        &self,
        content: &Content,
        parent_len: usize,
        pending: Option<Node>,
        included: bool,
    ) -> Level {
        Level {
            chunks: Chunks::new(self.reader.clone(), content),
            nodes: Vec::new().into_iter(),
            parent_len,
            pending,
            included,
        }
    }

    /// Creates the directories on the way that are not there yet; `path` is that of the innermost. False if one could not be.
    fn create_levels(&mut self, stack: &mut [Level], path: &[u8]) -> Result<bool> {
        let mut ends: Vec<usize> = stack.iter().skip(1).map(|level| level.parent_len).collect();
        ends.push(path.len());
        // A level's path ends where that of the next one begins.
        for (level, end) in stack.iter_mut().zip(ends) {
            let Some(node) = level.pending.take() else {
                continue;
            };
            let path = &path[..end];
            let xattrs = match all_xattrs(self.reader, &node) {
                Ok(xattrs) => xattrs,
                Err(e) => {
                    self.tally.store_error(path, e)?;
                    node.xattrs.clone()
                }
            };
            if let Err(e) = self.target.create_directory(path, &node, &xattrs) {
                self.tally.target_error(e)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A file or another single entry, under its own name.
    fn single(&mut self, node: Node) -> Result<()> {
        let path = node.name.clone();
        self.entry(node, &path)
    }

    fn entry(&mut self, node: Node, path: &[u8]) -> Result<()> {
        if node.kind == NodeKind::File {
            return self.file(node, path);
        }
        let xattrs = match all_xattrs(self.reader, &node) {
            Ok(xattrs) => xattrs,
            Err(e) => return self.tally.store_error(path, e),
        };
        match self.target.create_special(path, &node, &xattrs) {
            Ok(Created::Done) => self.summary.others += 1,
            Ok(Created::LeftOut) => self.summary.left_out += 1,
            Err(e) => self.tally.target_error(e)?,
        }
        Ok(())
    }

    fn file(&mut self, node: Node, path: &[u8]) -> Result<()> {
        match self.target.claim_name(path, &node) {
            Ok(true) => {}
            // A further name of a file that comes once.
            Ok(false) => return Ok(()),
            Err(e) => return self.tally.target_error(e),
        }
        let content = node.content.clone();
        let job = FileJob::new(self.reader, node, path, self.in_place);
        self.windows.add(job, &content)
    }
}
