//! Compares a directory with what a snapshot holds: every name, content and metadata, in both directions.
//!
//! Nothing is read from data packs: contents are compared by their digests, and where the archive has none by the ids of their chunks.
//!
//! Invariants: a difference of any kind is named (`every_difference_is_named`), and a restored tree has none (`a_restored_tree_is_equal`).
//!
//! Memory: a batch of files; for each directory the hashes of its names, only where it holds more than the archive.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::{check_stop, describe};
use crate::crypto::ChunkIdKey;
use crate::error::{Error, Result};
use crate::format::node::{Content, Node, NodeKind};
use crate::ops::backup::Interrupt;
use crate::ops::layout::Layout;
use crate::ops::restore::{all_xattrs, are_zeros};
use crate::ops::sampling::Sampling;
use crate::ops::snapshots::{self, node_at, open_reader, split_spec};
use crate::ops::window::{for_each_parallel, is_of_one_object, thread_count};
use crate::stats::Stats;
use crate::store::reader::ChunkReader;
use crate::store::tree::{Chunks, Nodes};
use crate::store::{Repository, StoreError};
use crate::target::files::{
    Existing, ExistingFile, Ownership, RestoreOptions, RestoreTarget, TargetError,
};

/// Files that are compared together.
const BATCH_FILES: usize = 2000;
/// Groups of names that are remembered.
const GROUPS_MAX: usize = 1 << 18;
/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// How a directory is compared.
#[derive(Clone, Debug, Default)]
pub struct AgainstOptions {
    /// How the directory was restored: whether owners are compared, and by what.
    pub ownership: Ownership,
    /// Which files are there; the others are not asked for.
    pub sample: Sampling,
    /// Threads; absent: one for each core.
    pub threads: Option<usize>,
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AgainstSummary {
    /// The snapshot.
    pub snapshot: String,
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, devices.
    pub others: u64,
    /// Bytes read in the directory.
    pub bytes_read: u64,
    /// What is not as in the snapshot; each has a line of its own.
    pub differences: u64,
    /// Damage of the repository that was met.
    pub damaged: u64,
    /// How long it took.
    pub seconds: f64,
}

impl AgainstSummary {
    /// 0, or 4 for any difference.
    pub fn exit_code(&self) -> u8 {
        if self.differences + self.damaged > 0 {
            4
        } else {
            0
        }
    }
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The directory is not what the snapshot says.
    Differs,
    /// The repository is damaged, so that this could not be compared.
    Damaged,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is.
    #[serde(rename = "message_type")]
    pub kind: DifferenceKind,
    /// Where, below the directory.
    pub path: String,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// Takes differences; called from several threads.
pub type OnDifference<'a> = &'a (dyn Fn(&Difference) + Sync);

/// Counts differences and hands them on.
struct Differences<'a> {
    each: OnDifference<'a>,
    differs: AtomicU64,
    damaged: AtomicU64,
}

impl Differences<'_> {
    fn say(&self, kind: DifferenceKind, path: &[u8], what: impl ToString) {
        let counter = match kind {
            DifferenceKind::Differs => &self.differs,
            DifferenceKind::Damaged => &self.damaged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let path = match path {
            b"" => ".".into(),
            path => String::from_utf8_lossy(path).into_owned(),
        };
        let what = what.to_string();
        (self.each)(&Difference { kind, path, what });
    }
}

/// A file whose content is compared.
struct FileCheck {
    path: Vec<u8>,
    node: Node,
}

struct Against<'a> {
    reader: Arc<ChunkReader>,
    target: &'a RestoreTarget,
    report: &'a Differences<'a>,
    stats: &'a Stats,
    stop: &'a Interrupt,
    id_key: ChunkIdKey,
    threads: usize,
    sample: Sampling,
    summary: AgainstSummary,
    batch: Vec<FileCheck>,
    groups: HashMap<u64, (u64, u64)>,
    bytes: AtomicU64,
}

/// A directory that is being compared.
struct Level {
    nodes: Nodes,
    content: Content,
    parent_len: usize,
    /// Entries of it that are in the directory.
    present: u64,
    /// The archive could be read to its end.
    whole: bool,
}

/// Compares the directory `directory` with `spec` (`SNAP` or `SNAP:PATH`), as a restore of it would make it.
pub fn against(
    repository: &Arc<Repository>,
    spec: &str,
    directory: &Path,
    options: &AgainstOptions,
    stats: &Arc<Stats>,
    stop: &Interrupt,
    each: OnDifference<'_>,
) -> Result<AgainstSummary> {
    let begun = Instant::now();
    let report = Differences {
        each,
        differs: AtomicU64::new(0),
        damaged: AtomicU64::new(0),
    };
    let damage = |e: StoreError| report.say(DifferenceKind::Damaged, b"", describe(&e));
    if !directory.is_dir() {
        let what = format!(
            "{} is not a directory; there is nothing to compare",
            directory.display()
        );
        return Err(Error::Message(what));
    }
    let target = RestoreOptions {
        ownership: options.ownership,
        special: true,
        existing: Existing::Refuse,
        amid_others: false,
        threads: 1,
    };
    let target =
        RestoreTarget::open(directory, target).map_err(|e| Error::Message(e.to_string()))?;
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut |e| damage(e))?;
    let (name, path) = split_spec(spec);
    let snapshot = snapshots::resolve_live(&state, &all, name)?;
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut |e| damage(e))?;
    let node = node_at(&reader, &snapshot.record.root, path.as_bytes())?;
    let id_key = repository.keyring().chunk_id_key();
    let id_key = id_key.map_err(|missing| StoreError::MissingSecret {
        what: missing.action.to_owned(),
    })?;
    let mut compare = Against {
        reader,
        target: &target,
        report: &report,
        stats,
        stop,
        id_key,
        threads: options.threads.unwrap_or_else(thread_count).clamp(1, 256),
        sample: options.sample,
        summary: AgainstSummary {
            snapshot: snapshot.id.to_string(),
            ..AgainstSummary::default()
        },
        batch: Vec::new(),
        groups: HashMap::new(),
        bytes: AtomicU64::new(0),
    };
    match node.is_directory() {
        true => compare.tree(&node)?,
        false => {
            let path = node.name.clone();
            compare.entry(node, &path)?;
        }
    }
    compare.contents()?;
    let mut summary = compare.summary;
    summary.bytes_read = compare.bytes.into_inner();
    summary.differences = report.differs.load(Ordering::Relaxed);
    summary.damaged = report.damaged.load(Ordering::Relaxed);
    summary.seconds = begun.elapsed().as_secs_f64();
    Ok(summary)
}

impl Against<'_> {
    fn differs(&self, path: &[u8], what: impl ToString) {
        self.report.say(DifferenceKind::Differs, path, what);
    }

    fn damaged(&self, path: &[u8], error: StoreError) -> Result<()> {
        if !is_of_one_object(&error) {
            return Err(error.into());
        }
        self.report
            .say(DifferenceKind::Damaged, path, describe(&error));
        Ok(())
    }

    fn level(&self, content: &Content, parent_len: usize) -> Level {
        Level {
            nodes: Nodes::new(self.reader.clone(), content),
            content: content.clone(),
            parent_len,
            present: 0,
            whole: true,
        }
    }

    fn tree(&mut self, root: &Node) -> Result<()> {
        let mut path = Vec::new();
        if !root.name.is_empty() {
            self.metadata(root, &path)?;
        }
        let mut stack = vec![self.level(&root.content, 0)];
        while let Some(top) = stack.last_mut() {
            check_stop(self.stop)?;
            let node = match top.nodes.next() {
                Some(Ok(node)) => node,
                Some(Err(e)) => {
                    top.whole = false;
                    self.damaged(&path, e)?;
                    continue;
                }
                None => {
                    let closed = stack.pop().expect("it was there");
                    self.more_names(&closed, &path)?;
                    path.truncate(closed.parent_len);
                    continue;
                }
            };
            let parent_len = path.len();
            if parent_len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&node.name);
            let directory = node.is_directory().then(|| node.content.clone());
            let (present, same_kind) = self.entry(node, &path)?;
            let top = stack.last_mut().expect("it was there");
            top.present += u64::from(present);
            match directory {
                Some(content) if same_kind => {
                    self.summary.directories += 1;
                    let level = self.level(&content, parent_len);
                    stack.push(level);
                }
                _ => path.truncate(parent_len),
            }
        }
        Ok(())
    }

    /// Compares one entry. Says whether something is under its name, and whether it is of its kind.
    fn entry(&mut self, node: Node, path: &[u8]) -> Result<(bool, bool)> {
        if node.kind == NodeKind::File && !self.sample.takes(path) {
            return Ok((false, true));
        }
        let shown = self.shown(path);
        let there = shown.symlink_metadata().is_ok();
        if !there {
            // Sockets are never restored.
            if node.kind != NodeKind::Socket {
                self.differs(path, "it is not there");
            }
            return Ok((false, false));
        }
        let same_kind = self.metadata(&node, path)?;
        self.names(&node, path, &shown);
        match node.kind {
            NodeKind::File if same_kind => {
                self.summary.files += 1;
                self.batch.push(FileCheck {
                    path: path.to_vec(),
                    node,
                });
                if self.batch.len() >= BATCH_FILES {
                    self.contents()?;
                }
            }
            NodeKind::Directory | NodeKind::File => {}
            _ => self.summary.others += 1,
        }
        Ok((true, same_kind))
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.target.path().join(std::ffi::OsStr::from_bytes(path))
    }

    /// Compares metadata; false if kind or size differ, so that contents need not be compared.
    fn metadata(&mut self, node: &Node, path: &[u8]) -> Result<bool> {
        let xattrs = match all_xattrs(&self.reader, node) {
            Ok(xattrs) => xattrs,
            Err(e) => {
                self.damaged(path, e)?;
                return Ok(true);
            }
        };
        let differences = match self.target.compare_metadata(path, node, &xattrs) {
            Ok(differences) => differences,
            Err(e) => return self.unreadable(path, e).map(|()| false),
        };
        let mut same = true;
        for difference in &differences {
            same &= difference.what != "kind" && difference.what != "size";
            let what = format!(
                "{}: {} in the snapshot, {} here",
                difference.what, difference.archived, difference.found
            );
            self.differs(path, what);
        }
        Ok(same)
    }

    fn unreadable(&self, path: &[u8], error: TargetError) -> Result<()> {
        match error {
            TargetError::Item { what, .. } => {
                self.differs(path, what);
                Ok(())
            }
            stop => Err(Error::Message(stop.to_string())),
        }
    }

    /// Whether names of one file are names of one file here.
    fn names(&mut self, node: &Node, path: &[u8], shown: &Path) {
        let (Some(group), Ok(meta)) = (node.link_group, shown.symlink_metadata()) else {
            return;
        };
        let here = (meta.dev(), meta.ino());
        match self.groups.get(&group) {
            Some(first) if *first != here => {
                self.differs(
                    path,
                    "it is a file of its own here, and another name of a file in the snapshot",
                );
            }
            Some(_) => {}
            None if self.groups.len() < GROUPS_MAX => drop(self.groups.insert(group, here)),
            None => {}
        }
    }

    /// Names what the directory holds and the archive does not.
    fn more_names(&self, level: &Level, path: &[u8]) -> Result<()> {
        if !level.whole {
            return Ok(());
        }
        let directory = self.shown(path);
        let fail = |e| Error::local(format!("cannot list {}", directory.display()), e);
        let count = std::fs::read_dir(&directory).map_err(fail)?.count();
        if u64::try_from(count).unwrap_or(u64::MAX) == level.present {
            return Ok(());
        }
        let hash = RandomState::new();
        let mut archived = HashSet::new();
        for node in Nodes::new(self.reader.clone(), &level.content) {
            match node {
                Ok(node) => drop(archived.insert(hash.hash_one(&node.name))),
                Err(e) => return self.damaged(path, e),
            }
        }
        for entry in std::fs::read_dir(&directory).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if !archived.contains(&hash.hash_one(name.as_bytes().to_vec())) {
                let mut more = path.to_vec();
                if !more.is_empty() {
                    more.push(b'/');
                }
                more.extend_from_slice(name.as_bytes());
                self.differs(&more, "it is not in the snapshot");
            }
        }
        Ok(())
    }

    /// Compares the contents that wait for it.
    fn contents(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        for_each_parallel(
            self.threads,
            batch.len(),
            || Ok(vec![0; BLOCK_BYTES]),
            |block, at| {
                check_stop(self.stop)?;
                let file = &batch[at];
                let existing = match self.target.open_existing(&file.path) {
                    Ok(Some(existing)) => existing,
                    Ok(None) => {
                        self.differs(&file.path, "it is not there");
                        return Ok(());
                    }
                    Err(e) => return self.unreadable(&file.path, e),
                };
                self.content(file, &existing, block)
            },
        )?;
        // Its memory serves the next batch.
        self.batch = batch;
        self.batch.clear();
        Ok(())
    }

    fn content(&self, file: &FileCheck, existing: &ExistingFile, block: &mut [u8]) -> Result<()> {
        let same = match &file.node.digest {
            Some(digest) => self
                .digest_of(existing, block)
                .map(|found| found == *digest.as_bytes()),
            None => match self.has_chunks(file, existing) {
                Ok(same) => same,
                Err(e) => return self.damaged(&file.path, e),
            },
        };
        match same {
            Ok(true) => {}
            Ok(false) => self.differs(&file.path, "its content is another one"),
            Err(e) => return self.unreadable(&file.path, e),
        }
        self.stats.bytes_read.add(file.node.size);
        self.bytes.fetch_add(file.node.size, Ordering::Relaxed);
        Ok(())
    }

    fn digest_of(
        &self,
        existing: &ExistingFile,
        block: &mut [u8],
    ) -> Result<[u8; 32], TargetError> {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        loop {
            let len = existing.read_at(offset, block)?;
            if len == 0 {
                return Ok(*hasher.finalize().as_bytes());
            }
            hasher.update(&block[..len]);
            offset += u64::try_from(len).expect("a length fits 64 bits");
        }
    }

    /// Whether the file holds the archived chunks, between holes that read as zeros.
    fn has_chunks(
        &self,
        file: &FileCheck,
        existing: &ExistingFile,
    ) -> Result<Result<bool, TargetError>, StoreError> {
        let mut layout = Layout::new(&self.reader, &file.node);
        let mut buffer = Vec::new();
        for chunk in Chunks::new(self.reader.clone(), &file.node.content) {
            let chunk = chunk?;
            buffer.resize(chunk.len as usize, 0);
            let mut rest = buffer.as_mut_slice();
            while !rest.is_empty() {
                let run =
                    layout.place(u64::try_from(rest.len()).expect("a length fits 64 bits"))?;
                let (part, after) =
                    rest.split_at_mut(usize::try_from(run.len).expect("part of a buffer"));
                rest = after;
                let read = are_zeros(existing, run.offset - run.hole, run.hole).and_then(|zeros| {
                    Ok(zeros && existing.read_at(run.offset, part)? == part.len())
                });
                match read {
                    Ok(true) => {}
                    other => return Ok(other),
                }
            }
            if self.id_key.id(&buffer) != chunk.id {
                return Ok(Ok(false));
            }
        }
        let hole = layout.finish()?;
        Ok(are_zeros(existing, file.node.size - hole, hole))
    }
}
