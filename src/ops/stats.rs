//! `stats`: what a repository holds and what deduplication and compression gave; or what one snapshot is made of.
//!
//! Numbers of objects and stored bytes come from listings, everything else from the log, the records and the index; no pack is read, but for
//! the trees of a snapshot that is asked for.
//!
//! Memory: that of the index; the ids of chunks that are stored twice; for a snapshot a sort of its chunk ids within `SORT_BYTES`, which spills to the scratch folder.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::browse::{Archive, OnDamage, Report, Walk, id_text, time_text};
use super::snapshots::Snapshot;
use crate::backend::ObjectKind;
use crate::error::Result;
use crate::format::id::ChunkId;
use crate::format::index::RunFrame;
use crate::format::node::{ChunkRef, Content, NodeKind};
use crate::format::pack::Class;
use crate::sort::Sorter;
use crate::store::chunk_index::ChunkIndex;
use crate::store::reader::ChunkReader;
use crate::store::tree::Chunks;
use crate::store::{Repository, StoreError};

/// Memory of the sort of a snapshot's chunk ids.
const SORT_BYTES: usize = 64 << 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct StatsOptions {
    /// A snapshot that is looked into.
    pub snapshot: Option<String>,
    /// Folder for what does not fit into memory.
    pub scratch: PathBuf,
}

/// Objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ObjectTotals {
    /// `packs`, `index`, …
    pub kind: String,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Chunks of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassTotals {
    /// `tree`, `small`, `file`, `table`.
    pub class: String,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique_bytes: u64,
    /// Their share of the stored frames.
    pub stored_bytes: u64,
}

/// A repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RepositoryStats {
    /// Live snapshots.
    pub snapshots: u64,
    /// Files of all snapshots.
    pub files: u64,
    /// What restoring every snapshot would write, in bytes.
    pub restore_bytes: u64,
    /// Objects by kind, as listed.
    pub objects: Vec<ObjectTotals>,
    /// Bytes of all objects.
    pub repository_bytes: u64,
    /// Packs that the index names.
    pub packs: u64,
    /// Frames in them.
    pub frames: u64,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Chunks that are stored more than once: how many times too often.
    pub chunks_twice: u64,
    /// Bytes of all chunks before compression.
    pub unique_bytes: u64,
    /// By class.
    pub classes: Vec<ClassTotals>,
    /// `restore_bytes` divided by the bytes of unique chunks of files and tables.
    pub dedup_ratio: f64,
    /// Bytes of frames before compression divided by their bytes stored.
    pub compression_ratio: f64,
    /// `restore_bytes` divided by `repository_bytes`.
    pub total_ratio: f64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SnapshotStats {
    /// Its id.
    pub snapshot: String,
    /// When it was begun, RFC 3339.
    pub time: String,
    /// Regular files and parts of tables.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, pipes, sockets.
    pub special: u64,
    /// What a restore would write, in bytes.
    pub restore_bytes: u64,
    /// References to chunks, trees included.
    pub chunk_references: u64,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Bytes of these chunks before compression.
    pub unique_bytes: u64,
    /// By class.
    pub classes: Vec<ClassTotals>,
    /// `restore_bytes` divided by the bytes of unique chunks of files and tables.
    pub dedup_ratio: f64,
    /// Unique bytes divided by their share of the stored frames.
    pub compression_ratio: f64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum StatsSummary {
    /// The repository.
    Repository(RepositoryStats),
    /// One snapshot.
    Snapshot(SnapshotStats),
}

/// Looks at a repository or a snapshot.
pub fn stats(
    repository: &Arc<Repository>,
    options: &StatsOptions,
    damage: OnDamage<'_>,
) -> Result<StatsSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    match &options.snapshot {
        None => {
            let mut stats = repository_stats(&archive)?;
            stats.damaged = report.damaged;
            Ok(StatsSummary::Repository(stats))
        }
        Some(spec) => {
            let snapshot = archive.resolve(spec)?;
            let mut stats = snapshot_stats(&archive, &snapshot, options, &mut report)?;
            stats.damaged = report.damaged;
            Ok(StatsSummary::Snapshot(stats))
        }
    }
}

fn repository_stats(archive: &Archive) -> Result<RepositoryStats> {
    let mut stats = RepositoryStats {
        objects: list_objects(archive.repository())?,
        ..RepositoryStats::default()
    };
    for snapshot in archive.snapshots() {
        stats.snapshots += 1;
        stats.files += snapshot.record.subtree.files;
        stats.restore_bytes += snapshot.record.subtree.bytes;
    }
    let index = archive.index();
    let stored = index.read_around(|| add_packs(index))?;
    stats.packs = stored.packs;
    stats.frames = stored.frames;
    stats.chunks_twice = stored.chunks_twice;
    let totals = stored.totals;
    stats.repository_bytes = stats.objects.iter().map(|kind| kind.bytes).sum();
    stats.chunks = totals.chunks();
    stats.unique_bytes = totals.unique_bytes();
    stats.dedup_ratio = ratio(stats.restore_bytes, totals.data_bytes());
    stats.compression_ratio = ratio(stored.raw, stored.sealed);
    stats.total_ratio = ratio(stats.restore_bytes, stats.repository_bytes);
    stats.classes = totals.finish();
    Ok(stats)
}

/// What all packs hold.
#[derive(Default)]
struct Packs {
    packs: u64,
    frames: u64,
    chunks_twice: u64,
    totals: Totals,
    raw: u64,
    sealed: u64,
}

fn add_packs(index: &ChunkIndex) -> Result<Packs, StoreError> {
    let mut stored = Packs::default();
    // Which chunks are stored more than once: each is counted where it is found first.
    let mut twice = HashSet::new();
    for number in index.packs()? {
        let pack = index.pack(number)?;
        stored.packs += 1;
        for frame in &pack.frames {
            stored.frames += 1;
            stored.raw += u64::from(frame.raw_len);
            stored.sealed += u64::from(frame.sealed_len);
        }
        index.each_entry(number, &mut |entry| {
            let is_again = index.find_all(&entry.id).len() > 1 && !twice.insert(entry.id);
            match is_again {
                true => stored.chunks_twice += 1,
                false => stored
                    .totals
                    .add(&pack.frames[entry.frame as usize], entry.len),
            }
        })?;
    }
    Ok(stored)
}

fn list_objects(repository: &Repository) -> Result<Vec<ObjectTotals>> {
    let mut all = Vec::new();
    for kind in ObjectKind::ALL {
        let mut totals = ObjectTotals {
            kind: kind.folder().unwrap_or("format").to_owned(),
            ..ObjectTotals::default()
        };
        let mut add = |info: crate::backend::ObjectInfo| {
            totals.objects += 1;
            totals.bytes += info.len;
        };
        drop(repository.backend().list(kind, &mut add)?);
        all.push(totals);
    }
    Ok(all)
}

fn snapshot_stats(
    archive: &Archive,
    snapshot: &Snapshot,
    options: &StatsOptions,
    report: &mut Report<'_>,
) -> Result<SnapshotStats> {
    let reader = archive.reader(snapshot)?;
    let mut stats = SnapshotStats {
        snapshot: id_text(&snapshot.id),
        time: time_text(snapshot.record.started),
        ..SnapshotStats::default()
    };
    let ids = Sorter::new(SORT_BYTES, &options.scratch);
    let add = |path: &[u8], content: &Content, report: &mut Report<'_>| {
        add_references(&reader, &ids, path, content, report)
    };
    add(b"", &snapshot.record.root, report)?;
    let mut walk = Walk::root(&reader, snapshot);
    while let Some(entry) = walk.next(report)? {
        let node = &entry.node;
        match node.kind {
            NodeKind::File => stats.files += 1,
            NodeKind::Directory => stats.directories += 1,
            NodeKind::Symlink => stats.symlinks += 1,
            _ => stats.special += 1,
        }
        if node.kind == NodeKind::File {
            stats.restore_bytes += node.size;
        }
        let streams = [&node.xattrs_stream, &node.holes_stream];
        for content in streams.into_iter().flatten().chain([&node.content]) {
            add(&entry.path, content, report)?;
        }
    }
    stats.chunk_references = ids.len();
    let mut totals = Totals::default();
    let index = reader.index();
    let mut last = Vec::new();
    for record in ids.drain()? {
        let record = record?;
        if record.key == last {
            continue;
        }
        let id = ChunkId::from_slice(&record.key).expect("an id was pushed");
        let len = record.value.first_chunk().expect("a length was pushed");
        let frame = index.read_around(|| {
            let place = index.find(&id);
            place.map(|place| index.frame(&place)).transpose()
        })?;
        if let Some(frame) = frame {
            totals.add(&frame, u32::from_le_bytes(*len));
        }
        last = record.key;
    }
    stats.chunks = totals.chunks();
    stats.unique_bytes = totals.unique_bytes();
    stats.dedup_ratio = ratio(stats.restore_bytes, totals.data_bytes());
    stats.compression_ratio = ratio(stats.unique_bytes, totals.stored_bytes());
    stats.classes = totals.finish();
    Ok(stats)
}

/// Adds a content's chunks and those of its lists.
fn add_references(
    reader: &Arc<ChunkReader>,
    ids: &Sorter,
    path: &[u8],
    content: &Content,
    report: &mut Report<'_>,
) -> Result<()> {
    let push = |chunk: &ChunkRef| ids.push(chunk.id.as_bytes(), &chunk.len.to_le_bytes());
    if content.depth > 0 {
        for list in &content.refs {
            push(list)?;
        }
        // A list of lists is counted through the lists below it.
        for depth in 1..content.depth {
            let upper = Content {
                depth: content.depth - depth,
                refs: content.refs.clone(),
            };
            for chunk in Chunks::new(reader.clone(), &upper) {
                match chunk {
                    Ok(chunk) => push(&chunk)?,
                    Err(e) => return report.go_on_after(path, e),
                };
            }
        }
    }
    for chunk in Chunks::new(reader.clone(), content) {
        match chunk {
            Ok(chunk) => push(&chunk)?,
            Err(e) => return report.go_on_after(path, e),
        };
    }
    Ok(())
}

/// Sums by class.
#[derive(Default)]
struct Totals {
    classes: [ClassTotals; Class::ALL.len()],
    /// Stored bytes, not rounded.
    stored: [f64; Class::ALL.len()],
}

impl Totals {
    fn add(&mut self, frame: &RunFrame, len: u32) {
        let class = usize::from(frame.class.number());
        self.classes[class].chunks += 1;
        self.classes[class].unique_bytes += u64::from(len);
        let share = f64::from(len) / f64::from(frame.raw_len.max(1));
        self.stored[class] += share * f64::from(frame.sealed_len);
    }

    fn chunks(&self) -> u64 {
        self.classes.iter().map(|class| class.chunks).sum()
    }

    fn unique_bytes(&self) -> u64 {
        self.classes.iter().map(|class| class.unique_bytes).sum()
    }

    /// Bytes of chunks that are not trees.
    fn data_bytes(&self) -> u64 {
        self.unique_bytes() - self.classes[usize::from(Class::Tree.number())].unique_bytes
    }

    fn stored_bytes(&self) -> u64 {
        rounded(self.stored.iter().sum())
    }

    fn finish(mut self) -> Vec<ClassTotals> {
        for class in Class::ALL {
            let at = usize::from(class.number());
            self.classes[at].class = class_word(class).to_owned();
            self.classes[at].stored_bytes = rounded(self.stored[at]);
        }
        self.classes.into()
    }
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Tree => "tree",
        Class::Small => "small",
        Class::File => "file",
        Class::Table => "table",
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sum of lengths is not negative, and a float is cut at the largest integer"
)]
fn rounded(bytes: f64) -> u64 {
    bytes.round() as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio for people needs no more than 52 bits"
)]
fn ratio(whole: u64, part: u64) -> f64 {
    match part {
        0 => 1.0,
        part => whole as f64 / part as f64,
    }
}
