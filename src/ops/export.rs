//! `export`: a snapshot or a part of it as a tar archive, or as the dated folder that administrators know.
//!
//! A tar archive is streamed while the contents are read ahead. A file whose content is damaged is left out and told; only where it is longer
//! than what is read ahead (`ops::stream::WHOLE_BYTES`) has its header been written already: then the export ends with an error, because neither wrong
//! bytes nor a shorter file may stand there (a restore leaves such a file out and goes on).
//!
//! Invariants:
//! 1. An output file appears under its name only when it is complete and durable; a file that is there is never replaced
//!    (`an_output_appears_whole_or_not_at_all`).
//! 2. No wrong byte is written (`damaged_files_are_left_out`).
//!
//! Memory: see `ops::stream`, and up to `LINK_BYTES_MAX` of paths of files with several names; what is beyond is written as files of its own.
//!
//! Failure: an output file that is not complete is removed; after a kill it stays as `.<name>.<random>.partial`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::backup::Interrupt;
use super::browse::{Archive, Damage, Entry, OnDamage, Opened, Place, Report, Walk, id_text};
use super::stream::{Feeder, Piece, Windows, list_items, read_ahead};
use crate::error::{Error, Result};
use crate::format::id::ContentDigest;
use crate::format::node::{Node, NodeKind, Xattr};
use crate::store::{Repository, StoreError};
use crate::target::tar::{Compression, TarEntry, TarWriter};

/// Bytes of paths that are remembered to write hard links.
const LINK_BYTES_MAX: usize = 64 << 20;

/// What is exported, and how.
#[derive(Clone, Debug, Default)]
pub struct TarOptions {
    /// A directory: what is below it; a file: itself.
    pub place: Place,
    /// How the archive is compressed.
    pub compression: Compression,
}

/// Where an archive goes.
pub enum TarOutput {
    /// A new file.
    File(PathBuf),
    /// A stream, such as stdout.
    Stream(Box<dyn Write + Send>),
}

impl std::fmt::Debug for TarOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportSummary {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Regular files, hard links counted.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices and pipes.
    pub others: u64,
    /// Hard links among the files.
    pub links: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Bytes of the output file; 0 for a stream.
    pub bytes_written: u64,
    /// Sockets, which tar can't express.
    pub sockets: u64,
    /// Damage that was told; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Writes a tar archive.
pub fn export_tar(
    repository: &Arc<Repository>,
    options: &TarOptions,
    output: TarOutput,
    interrupt: &Interrupt,
    damage: OnDamage<'_>,
) -> Result<ExportSummary> {
    let mut report = Report::new(damage);
    let archive = Archive::open(repository, &mut report)?;
    let opened = archive.open_place(&options.place)?;
    let mut run = |out| write_tar(&opened, options, out, interrupt, &mut report);
    let mut summary = match output {
        TarOutput::Stream(out) => run(out)?,
        TarOutput::File(path) => {
            let file = NewFile::create(repository, &path)?;
            let mut summary = run(file.writer()?)?;
            summary.bytes_written = file.publish()?;
            summary
        }
    };
    summary.snapshot = id_text(&opened.snapshot.id);
    summary.damaged = report.damaged;
    Ok(summary)
}

/// A file that gets its name when it is complete.
pub(super) struct NewFile {
    path: PathBuf,
    folder: PathBuf,
    file: tempfile::NamedTempFile,
}

impl NewFile {
    pub(super) fn create(repository: &Repository, path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        refuse_repository(repository, &folder)?;
        let failed = |e| Error::local(format!("cannot create {}", path.display()), e);
        if path.symlink_metadata().is_ok() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(failed(exists));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".partial")
            .tempfile_in(&folder)
            .map_err(failed)?;
        Ok(Self {
            path: path.to_path_buf(),
            folder,
            file,
        })
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::local(format!("cannot write {}", self.path.display()), e)
    }

    pub(super) fn writer(&self) -> Result<Box<dyn Write + Send>> {
        let file = self.file.as_file().try_clone();
        Ok(Box::new(file.map_err(|e| self.failed(e))?))
    }

    /// Makes it durable and gives it its name; returns its length.
    pub(super) fn publish(self) -> Result<u64> {
        let file = self.file.as_file();
        file.sync_all().map_err(|e| self.failed(e))?;
        let len = file.metadata().map_err(|e| self.failed(e))?.len();
        let Self { path, folder, file } = self;
        let failed = |e| Error::local(format!("cannot create {}", path.display()), e);
        file.persist_noclobber(&path).map_err(|e| failed(e.error))?;
        let synced = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed)?;
        Ok(len)
    }
}

/// Nothing is exported into the repository itself.
pub(super) fn refuse_repository(repository: &Repository, folder: &Path) -> Result<()> {
    let root = repository
        .backend()
        .local_path()
        .and_then(|root| root.canonicalize().ok());
    // The part of the path that exists decides.
    let absolute = std::path::absolute(folder).unwrap_or_else(|_e| folder.to_path_buf());
    let real = absolute
        .ancestors()
        .find_map(|path| path.canonicalize().ok());
    let inside = root.filter(|root| real.is_some_and(|real| real.starts_with(root)));
    match inside {
        None => Ok(()),
        Some(root) => Err(Error::Message(format!(
            "{} lies inside the repository {}",
            folder.display(),
            root.display()
        ))),
    }
}

/// What the planner hands to the writer.
enum Item {
    Entry(Box<TarEntry>),
    Socket,
    Damage(Damage),
}

fn write_tar(
    opened: &Opened,
    options: &TarOptions,
    out: Box<dyn Write + Send>,
    interrupt: &Interrupt,
    report: &mut Report<'_>,
) -> Result<ExportSummary> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| Error::local("cannot start a runtime", e))?;
    let mut consumer = Consumer {
        writer: TarWriter::new(out, options.compression),
        report,
        summary: ExportSummary::default(),
        lost_groups: HashSet::new(),
        skipping: false,
        current: Vec::new(),
    };
    read_ahead(
        interrupt,
        |feeder| plan(feeder, opened),
        |windows| {
            runtime.block_on(async {
                consumer.run(windows).await?;
                let ended = consumer.writer.finish().await;
                ended.map_err(failed)?;
                Ok(consumer.summary)
            })
        },
    )
}

fn failed(e: std::io::Error) -> Error {
    Error::local("cannot write the archive", e)
}

fn plan(feeder: &mut Feeder<Item>, opened: &Opened) -> Result<()> {
    let mut links = Links::default();
    let mut add = |feeder: &mut Feeder<Item>, path: &[u8], node: Node| {
        plan_entry(feeder, opened, &mut links, path, node)
    };
    if !opened.node.is_directory() {
        return add(feeder, &opened.path, opened.node.clone());
    }
    let mut walk = Walk::below(&opened.reader, &opened.path, &opened.node);
    loop {
        let mut kept = Vec::new();
        let next = walk.next(&mut Report::keeping(&mut kept));
        for damage in kept {
            feeder.mark(Item::Damage(damage))?;
        }
        let Some(Entry { path, node }) = next? else {
            return Ok(());
        };
        add(feeder, &path, node)?;
    }
}

fn plan_entry(
    feeder: &mut Feeder<Item>,
    opened: &Opened,
    links: &mut Links,
    path: &[u8],
    node: Node,
) -> Result<()> {
    if node.kind == NodeKind::Socket {
        return feeder.mark(Item::Socket);
    }
    let mut xattrs = node.xattrs.clone();
    if let Some(stream) = &node.xattrs_stream {
        let listed = list_items(&opened.reader, stream, |xattr: Xattr| xattrs.push(xattr));
        match listed {
            Err(error) if error.is_damage() => {
                let path = Some(path.to_vec());
                return feeder.mark(Item::Damage(Damage { path, error }));
            }
            other => other?,
        }
    }
    let relative = opened.relative(path).to_vec();
    let link_to = links.first_name(&node, &relative);
    let is_data = node.kind == NodeKind::File && link_to.is_none();
    let entry = Box::new(TarEntry {
        path: relative,
        // The list of chunks is not needed again.
        node: Node {
            content: crate::format::node::Content::default(),
            ..node.clone()
        },
        xattrs,
        link_to,
    });
    match is_data {
        true => feeder.file(&opened.reader, Item::Entry(entry), &node),
        false => feeder.mark(Item::Entry(entry)),
    }
}

/// First names of files with several names.
#[derive(Default)]
struct Links {
    first: HashMap<u64, (Vec<u8>, u64, Option<ContentDigest>)>,
    bytes: usize,
}

impl Links {
    /// The earlier name of the same file; none if this is the first, or if its content was another one when it was read.
    fn first_name(&mut self, node: &Node, path: &[u8]) -> Option<Vec<u8>> {
        let group = node.link_group.filter(|_| !node.is_directory())?;
        if let Some((first, size, digest)) = self.first.get(&group) {
            let same = *size == node.size && *digest == node.digest;
            return same.then(|| first.clone());
        }
        if self.bytes < LINK_BYTES_MAX {
            self.bytes += path.len() + 100;
            self.first
                .insert(group, (path.to_vec(), node.size, node.digest));
        }
        None
    }
}

struct Consumer<'a, 'r> {
    writer: TarWriter,
    report: &'a mut Report<'r>,
    summary: ExportSummary,
    /// Files with several names whose content is damaged.
    lost_groups: HashSet<u64>,
    /// The content of the last entry is not wanted.
    skipping: bool,
    /// Path of the last entry.
    current: Vec<u8>,
}

impl Consumer<'_, '_> {
    async fn run(&mut self, mut windows: Windows<Item>) -> Result<()> {
        while let Some(window) = windows.recv().await {
            let mut pieces = VecDeque::from(window?);
            while let Some(piece) = pieces.pop_front() {
                match piece {
                    Piece::Mark(Item::Entry(entry)) => {
                        // A content of this window that can't be read shows it before its header is written.
                        let mut content = pieces
                            .iter_mut()
                            .take_while(|p| !matches!(p, Piece::Mark(_)));
                        let failure = content.find_map(Piece::take_failure);
                        self.begin(*entry, failure).await?;
                    }
                    Piece::Mark(Item::Socket) => self.summary.sockets += 1,
                    Piece::Mark(Item::Damage(damage)) => {
                        self.report.tell(damage.path.as_deref(), damage.error);
                    }
                    _ if self.skipping => {}
                    Piece::Failed(error) => return Err(self.cut_off(error)),
                    Piece::Data(bytes) => {
                        self.summary.bytes +=
                            u64::try_from(bytes.len()).expect("a length fits 64 bits");
                        self.writer.write(&bytes).await.map_err(failed)?;
                    }
                    Piece::Zeros(len) => {
                        self.summary.bytes += len;
                        self.writer.write_zeros(len).await.map_err(failed)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn begin(&mut self, entry: TarEntry, failure: Option<StoreError>) -> Result<()> {
        self.current.clone_from(&entry.path);
        self.skipping = failure.is_some();
        if let Some(error) = failure {
            self.lost_groups.extend(entry.node.link_group);
            return self.report.go_on_after(&entry.path, error);
        }
        let group = entry.node.link_group.filter(|_| entry.link_to.is_some());
        if group.is_some_and(|group| self.lost_groups.contains(&group)) {
            let error = StoreError::damaged("content", "it is a name of a file that is damaged");
            return self.report.go_on_after(&entry.path, error);
        }
        match entry.node.kind {
            NodeKind::File => self.summary.files += 1,
            NodeKind::Directory => self.summary.directories += 1,
            _ => self.summary.others += 1,
        }
        self.summary.links += u64::from(entry.link_to.is_some());
        self.writer.begin(&entry).await.map_err(failed)
    }

    /// Damage in the middle of a long file.
    fn cut_off(&mut self, error: StoreError) -> Error {
        if error.is_damage() {
            tracing::error!(
                "the archive ends inside {}: its header was written when the damage was met; `holdfast restore` leaves the file out and goes on",
                String::from_utf8_lossy(&self.current)
            );
        }
        error.into()
    }
}
