//! `export --format dated`: a snapshot as the folder `YYYY-MM-DD/{QlikShare,Certificates,Database}`.
//!
//! A database is the folder of its archived files (see [`crate::target::dated`]); a single dump file of it is not made.
//!
//! Invariants: the folder appears under its name only when all is in it and durable, and one that is there is never touched
//! (`the_folder_appears_whole_or_not_at_all`); no wrong byte is written: a damaged file is left out and told.
//!
//! Memory: see `ops::stream`.
//!
//! Failure: an unfinished folder is removed; after a kill it stays as `.<day>.<random>.partial`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::backup::Interrupt;
use super::browse::{Archive, Damage, Entry, OnDamage, Report, Walk, id_text, join_path};
use super::export::refuse_repository;
use super::snapshots::Snapshot;
use super::stream::{Feeder, Piece, Windows, list_items, read_ahead};
use crate::error::{Error, Result};
use crate::format::node::{Content, Node, NodeKind, Xattr};
use crate::format::snapshot::ComponentKind;
use crate::store::reader::ChunkReader;
use crate::store::tree::{self, Nodes};
use crate::store::{Repository, StoreError};
use crate::target::dated::{CERTIFICATES, DATABASES, SHARES, folder_name, globals_name};
use crate::target::files::{Created, FileHandle, RestoreOptions, RestoreTarget, TargetError};

/// What is exported, and where to.
#[derive(Clone, Debug)]
pub struct DatedOptions {
    /// Id prefix, name, `latest`, `latest~2` or a date.
    pub snapshot: String,
    /// The folder below which the dated one is made; it is created if it does not exist.
    pub target: PathBuf,
    /// Where the day is counted.
    pub zone: TimeZone,
    /// Owners and devices.
    pub restore: RestoreOptions,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatedSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// The dated folder.
    pub folder: PathBuf,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices and pipes.
    pub others: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Sockets, and devices that were not asked for.
    pub special_left_out: u64,
    /// Components of the snapshot that have no place in the folder.
    pub left_out: Vec<String>,
    /// Entries that could not be written; exit code 3 if it is not 0.
    pub failed: u64,
    /// The first thousand of them: path and reason.
    pub failures: Vec<(String, String)>,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// A part of the tree and where it goes.
#[derive(Debug)]
struct Placement {
    /// In the tree.
    path: Vec<u8>,
    node: Node,
    /// In the folder.
    to: Vec<u8>,
}

/// Writes the dated folder.
pub fn export_dated(
    repository: &Arc<Repository>,
    options: &DatedOptions,
    interrupt: &Interrupt,
    damage: OnDamage<'_>,
) -> Result<DatedSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let snapshot = archive.resolve(&options.snapshot)?;
    let reader = archive.reader(&snapshot)?;
    let name = folder_name(snapshot.record.started, &options.zone);
    let folder = options.target.join(&name);
    let failed = |e| Error::local(format!("cannot create {}", folder.display()), e);
    refuse_repository(repository, &options.target)?;
    std::fs::create_dir_all(&options.target).map_err(failed)?;
    if folder.symlink_metadata().is_ok() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let partial = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".partial")
        .tempdir_in(&options.target)
        .map_err(failed)?;
    let target = RestoreTarget::open(partial.path(), options.restore).map_err(stop)?;
    let placements = placements(&reader, &snapshot)?;
    let mut consumer = Consumer {
        target: &target,
        report: &mut report,
        summary: DatedSummary {
            left_out: left_out(&snapshot),
            ..DatedSummary::default()
        },
        current: None,
    };
    for top in [SHARES, CERTIFICATES, DATABASES] {
        consumer.directory(top, &top_folder(&snapshot), &[])?;
    }
    let mut summary = read_ahead(
        interrupt,
        |feeder| plan(feeder, &reader, &placements),
        |windows| {
            consumer.run(windows)?;
            Ok(consumer.summary)
        },
    )?;
    target.finish_links().map_err(stop)?;
    target.finish_directories().map_err(stop)?;
    publish(partial, &folder).map_err(failed)?;
    let problems = target.problems();
    summary.failed = problems.count;
    summary.failures = problems.named;
    summary.snapshot = id_text(&snapshot.id);
    summary.folder = folder;
    summary.damaged = report.damaged;
    Ok(summary)
}

/// Makes the folder durable and gives it its name.
pub(super) fn publish(partial: tempfile::TempDir, folder: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    use rustix::io::Errno;
    rustix::fs::syncfs(std::fs::File::open(partial.path())?)?;
    match rustix::fs::renameat_with(CWD, partial.path(), CWD, folder, RenameFlags::NOREPLACE) {
        // Where the file system can't refuse by itself: a rename replaces an empty folder at worst.
        Err(Errno::INVAL | Errno::NOSYS) if folder.symlink_metadata().is_err() => {
            std::fs::rename(partial.path(), folder)?;
        }
        renamed => renamed?,
    }
    // It has another name now; there is nothing left to remove.
    drop(partial.keep());
    match folder.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn stop(error: TargetError) -> Error {
    Error::Message(error.to_string())
}

/// A folder that the archive does not have.
fn top_folder(snapshot: &Snapshot) -> Node {
    Node {
        modified: snapshot.record.started,
        mode: 0o755,
        ..Node::virtual_directory(b"")
    }
}

/// Components without a place in the folder.
fn left_out(snapshot: &Snapshot) -> Vec<String> {
    let placed = [
        ComponentKind::Share,
        ComponentKind::Certificates,
        ComponentKind::Database,
        ComponentKind::Cluster,
    ];
    let others = snapshot.record.components.iter();
    others
        .filter(|component| !placed.contains(&component.kind))
        .map(|component| format!("{} {}", component.kind.folder(), component.name))
        .collect()
}

fn children(reader: &Arc<ChunkReader>, directory: &Node) -> Result<Vec<Node>, StoreError> {
    Nodes::new(reader.clone(), &directory.content).collect()
}

/// What goes where.
fn placements(reader: &Arc<ChunkReader>, snapshot: &Snapshot) -> Result<Vec<Placement>> {
    let mut all = Vec::new();
    let top = |kind: ComponentKind| -> Result<Vec<(Vec<u8>, Node)>> {
        let folder = kind.folder().as_bytes();
        let Some(node) = tree::find(reader, &snapshot.record.root, [folder])? else {
            return Ok(Vec::new());
        };
        let below = children(reader, &node)?.into_iter();
        Ok(below
            .map(|node| (join_path(folder, &node.name), node))
            .collect())
    };
    for (kind, folder) in [
        (ComponentKind::Share, SHARES),
        (ComponentKind::Database, DATABASES),
    ] {
        for (path, node) in top(kind)? {
            let to = join_path(folder, &node.name);
            all.push(Placement { path, node, to });
        }
    }
    for (path, node) in top(ComponentKind::Cluster)? {
        for file in children(reader, &node)? {
            if file.name == b"globals.sql" {
                let to = globals_name(&node.name);
                let path = join_path(&path, &file.name);
                all.push(Placement {
                    path,
                    node: file,
                    to,
                });
            }
        }
    }
    let certificates = top(ComponentKind::Certificates)?;
    let several = certificates.len() > 1;
    for (path, node) in certificates {
        let to = match several {
            true => join_path(CERTIFICATES, &node.name),
            false => CERTIFICATES.to_vec(),
        };
        all.push(descend(reader, path, node, to)?);
    }
    Ok(all)
}

/// Goes down as long as a directory holds nothing but one directory.
fn descend(
    reader: &Arc<ChunkReader>,
    mut path: Vec<u8>,
    mut node: Node,
    to: Vec<u8>,
) -> Result<Placement> {
    while node.is_directory() {
        let mut below = Nodes::new(reader.clone(), &node.content);
        let (first, second) = (below.next().transpose()?, below.next().transpose()?);
        let Some(only) = first.filter(|only| second.is_none() && only.is_directory()) else {
            break;
        };
        path = join_path(&path, &only.name);
        node = only;
    }
    Ok(Placement { path, node, to })
}

/// What the planner hands to the writer.
enum Item {
    Entry(Box<Planned>),
    Damage(Damage),
}

struct Planned {
    /// In the tree, for messages.
    path: Vec<u8>,
    /// In the folder.
    to: Vec<u8>,
    node: Node,
    xattrs: Vec<Xattr>,
}

fn plan(
    feeder: &mut Feeder<Item>,
    reader: &Arc<ChunkReader>,
    placements: &[Placement],
) -> Result<()> {
    for placement in placements {
        plan_entry(
            feeder,
            reader,
            &placement.path,
            &placement.to,
            &placement.node,
        )?;
        if !placement.node.is_directory() {
            continue;
        }
        let mut walk = Walk::below(reader, &placement.path, &placement.node);
        loop {
            let mut kept = Vec::new();
            let next = walk.next(&mut Report::keeping(&mut kept));
            for damage in kept {
                feeder.mark(Item::Damage(damage))?;
            }
            let Some(Entry { path, node }) = next? else {
                break;
            };
            let below = path.get(placement.path.len() + 1..).unwrap_or_default();
            let to = join_path(&placement.to, below);
            plan_entry(feeder, reader, &path, &to, &node)?;
        }
    }
    Ok(())
}

fn plan_entry(
    feeder: &mut Feeder<Item>,
    reader: &Arc<ChunkReader>,
    path: &[u8],
    to: &[u8],
    node: &Node,
) -> Result<()> {
    let mut xattrs = node.xattrs.clone();
    if let Some(stream) = &node.xattrs_stream {
        match list_items(reader, stream, |xattr: Xattr| xattrs.push(xattr)) {
            Err(error) if error.is_damage() => {
                let path = Some(path.to_vec());
                return feeder.mark(Item::Damage(Damage { path, error }));
            }
            other => other?,
        }
    }
    let bare = Node {
        content: Content::default(),
        ..node.clone()
    };
    let item = Item::Entry(Box::new(Planned {
        path: path.to_vec(),
        to: to.to_vec(),
        node: bare,
        xattrs,
    }));
    match node.kind {
        NodeKind::File => feeder.file(reader, item, node),
        _ => feeder.mark(item),
    }
}

struct Consumer<'a, 'r> {
    target: &'a RestoreTarget,
    report: &'a mut Report<'r>,
    summary: DatedSummary,
    /// The file that is being written, and how far it is.
    current: Option<(FileHandle, Box<Planned>, u64)>,
}

impl Consumer<'_, '_> {
    fn run(&mut self, mut windows: Windows<Item>) -> Result<()> {
        while let Some(window) = windows.blocking_recv() {
            for piece in window? {
                self.piece(piece)?;
            }
        }
        self.finish_file()
    }

    fn piece(&mut self, piece: Piece<Item>) -> Result<()> {
        match piece {
            Piece::Mark(item) => {
                self.finish_file()?;
                match item {
                    Item::Damage(damage) => self.report.tell(damage.path.as_deref(), damage.error),
                    Item::Entry(entry) => self.begin(entry)?,
                }
            }
            Piece::Zeros(len) => {
                if let Some((_, _, at)) = &mut self.current {
                    *at += len;
                }
            }
            Piece::Data(bytes) => {
                let Some((handle, _, at)) = &mut self.current else {
                    return Ok(());
                };
                let written = handle.write_at(*at, &bytes);
                *at += u64::try_from(bytes.len()).expect("a length fits 64 bits");
                if let Err(error) = written {
                    // Its temporary name goes away with it.
                    self.current = None;
                    self.note(error)?;
                }
            }
            Piece::Failed(error) => {
                if let Some((_, entry, _)) = self.current.take() {
                    self.report.go_on_after(&entry.path, error)?;
                }
            }
        }
        Ok(())
    }

    fn note(&self, error: TargetError) -> Result<()> {
        self.target.note(error).map_err(stop)
    }

    fn directory(&mut self, to: &[u8], node: &Node, xattrs: &[Xattr]) -> Result<()> {
        match self.target.create_directory(to, node, xattrs) {
            Ok(()) => self.summary.directories += 1,
            Err(error) => self.note(error)?,
        }
        Ok(())
    }

    fn begin(&mut self, entry: Box<Planned>) -> Result<()> {
        match entry.node.kind {
            NodeKind::Directory => self.directory(&entry.to, &entry.node, &entry.xattrs),
            NodeKind::File => {
                match self.target.create_file(&entry.to, &entry.node) {
                    Ok(Some(handle)) => self.current = Some((handle, entry, 0)),
                    // Another name of a file that is there: made at the end.
                    Ok(None) => self.summary.files += 1,
                    Err(error) => self.note(error)?,
                }
                Ok(())
            }
            _ => {
                let created = self
                    .target
                    .create_special(&entry.to, &entry.node, &entry.xattrs);
                match created {
                    Ok(Created::LeftOut) => self.summary.special_left_out += 1,
                    Ok(_) => self.summary.others += 1,
                    Err(error) => self.note(error)?,
                }
                Ok(())
            }
        }
    }

    fn finish_file(&mut self) -> Result<()> {
        let Some((handle, entry, at)) = self.current.take() else {
            return Ok(());
        };
        match self.target.finish_file(handle, &entry.node, &entry.xattrs) {
            Ok(()) => {
                self.summary.files += 1;
                self.summary.bytes += at;
            }
            Err(error) => self.note(error)?,
        }
        Ok(())
    }
}
