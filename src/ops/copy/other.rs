//! Between repositories with different dedup secrets: what a backup does, with a snapshot as its site.
//!
//! The tree is walked beside the parent's. A file whose digest and size are the parent's is taken over, the digest of a table's rows with it;
//! the stream of any other is read, checked against its digest, and cut, named and stored anew. Nodes keep everything else.
//!
//! Memory: that of a backup, and a window ([`crate::ops::window`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::parents::{Beside, Parents};
use super::rows::Rows;
use super::{SourceDamage, Transfer, Walked, describe};
use crate::error::{Error, Result};
use crate::format::id::{ContentDigest, ObjectHash};
use crate::format::node::{Content, Node, NodeKind, decode_items};
use crate::format::pack::Class;
use crate::format::path_encoding::encode_name;
use crate::format::snapshot::{ComponentKind, SkippedItem};
use crate::ops::layout::Layout;
use crate::ops::window::{Consumer, Part, Settings, is_of_one_object, thread_count, with_windows};
use crate::pipeline::{
    ContentBuilder, ItemWriter, Sink, SourceQueue, StreamKind, TreePath, Worker,
};
use crate::store::StoreError;
use crate::store::tree::{Chunks, Nodes, read_all};

/// A `database.json` beyond this size is not read.
const INFO_BYTES_MAX: usize = 512 << 20;
/// A list of attributes or holes beyond this size is not read.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// Takes one snapshot.
pub(super) fn take(from: &Transfer<'_>) -> Result<Walked> {
    let queue = from.engine.sink.pool.source_queue();
    let restore = Restream {
        from,
        queue: queue.clone(),
        sums: Mutex::default(),
    };
    let settings = Settings {
        reader: from.reader.clone(),
        check: true,
        compare: false,
        threads: thread_count(),
        takers: thread_count(),
        stop: from.run.interrupt.clone(),
    };
    skipped(from)?;
    let (parents, databases) = with_windows(&settings, &restore, |windows| {
        let mut walk = Walk {
            from,
            restream: &restore,
            chosen: Parents::choose(from),
            parents: HashSet::new(),
            databases: Vec::new(),
        };
        walk.tree(&mut |file, content| windows.add(file, content))?;
        Ok((walk.parents, walk.databases))
    })?;
    let sums = restore
        .sums
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    for (path, node) in databases {
        database_info(from, &queue, &path, node, &sums)?;
    }
    Ok(Walked {
        root: None,
        parents,
    })
}

/// Digests of the rows of tables, by the paths of their folders.
type Sums = BTreeMap<Vec<u8>, (u64, u128)>;

/// The list of what the backup skipped.
fn skipped(from: &Transfer<'_>) -> Result<()> {
    for chunk in Chunks::new(from.reader.clone(), &from.record.skipped) {
        let chunk = from.read(chunk)?;
        let bytes = from.read(from.reader.chunk(&chunk))?;
        let mut items: Vec<SkippedItem> = Vec::new();
        let decoded = decode_items(&bytes, |item| items.push(item));
        from.read(decoded.map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e)))?;
        for item in &items {
            from.engine.sink.name_skipped(item)?;
        }
    }
    Ok(())
}

struct Walk<'w, 'r> {
    from: &'w Transfer<'r>,
    restream: &'w Restream<'w, 'r>,
    chosen: Parents,
    parents: HashSet<ObjectHash>,
    /// Every `database.json`: written when the rows were digested.
    databases: Vec<(TreePath, Node)>,
}

/// Adds a file to the windows.
type Add<'a> = &'a mut dyn FnMut(Stream, &Content) -> Result<()>;

impl Walk<'_, '_> {
    fn tree(&mut self, add: Add<'_>) -> Result<()> {
        let from = self.from;
        let root = (
            TreePath::root(),
            from.record.root.clone(),
            self.chosen.root(),
        );
        let mut open: Vec<(TreePath, Content, Option<Beside>)> = vec![root];
        while let Some((directory, content, beside)) = open.pop() {
            let mut old = self.chosen.entries(from, beside.as_ref());
            let snapshot = beside.as_ref().map(|(snapshot, _)| *snapshot);
            for node in Nodes::new(from.reader.clone(), &content) {
                from.engine.sink.pool.check()?;
                let node = from.read(node)?;
                let path = directory.join(&node.name);
                let old = snapshot.zip(old.find(&node.name));
                if node.is_directory() {
                    let old = old.filter(|(_, old)| old.is_directory());
                    let beside = old.map(|(snapshot, old)| (snapshot, old.content));
                    let below = (
                        path.clone(),
                        node.content.clone(),
                        self.chosen.at(&path).or(beside),
                    );
                    let empty = Node {
                        content: Content::default(),
                        subtree: None,
                        ..node
                    };
                    self.restream.add_node(path, empty)?;
                    open.push(below);
                } else {
                    self.file(path, node, old, add)?;
                }
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: TreePath,
        mut node: Node,
        old: Option<(ObjectHash, Node)>,
        add: Add<'_>,
    ) -> Result<()> {
        if is_database_info(&path) {
            self.databases.push((path, node));
            return Ok(());
        }
        let stats = self.from.run.stats;
        if let Some((snapshot, old)) = old.filter(|(_, old)| is_same(&node, old)) {
            if let (Some(table), Some(old)) = (&mut node.table, &old.table) {
                table.rows_digest = old.rows_digest;
                let digest = u128::from_le_bytes(old.rows_digest);
                self.restream.add_sum(&path, table.rows, digest);
            }
            node.content = old.content;
            self.parents.insert(snapshot);
            stats.files_unmodified.one();
            stats.bytes_unmodified.add(node.size);
            return self.restream.add_node(path, node);
        }
        if node.content.refs.is_empty() && node.table.is_none() {
            return self.restream.add_node(path, node);
        }
        stats.files_new.one();
        let count = match node.content.depth {
            0 => node.content.refs.len(),
            _ => Chunks::new(self.from.reader.clone(), &node.content).count(),
        };
        let count = u64::try_from(count).expect("a number of chunks fits 64 bits");
        self.from.run.chunks_read.add(count);
        let content = std::mem::take(&mut node.content);
        add(self.restream.stream(path, node)?, &content)
    }
}

/// Whether a file over there has the same bytes at the same places.
fn is_same(node: &Node, old: &Node) -> bool {
    let shape = |node: &Node| {
        let table = node.table.as_ref().map(|part| (part.format, part.rows));
        (node.kind, node.size, node.digest, table)
    };
    node.kind == NodeKind::File
        && node.digest.is_some()
        && shape(node) == shape(old)
        && node.holes == old.holes
        && node.holes_stream.is_none()
        && old.holes_stream.is_none()
}

fn is_database_info(path: &TreePath) -> bool {
    let folder = ComponentKind::Database.folder().as_bytes();
    let names: Vec<&[u8]> = path.names().collect();
    matches!(names[..], [top, _, b"database.json"] if top == folder)
}

/// Streams that are read, on their way to the workers.
struct Restream<'w, 'r> {
    from: &'w Transfer<'r>,
    queue: SourceQueue,
    sums: Mutex<Sums>,
}

/// One stream.
struct Stream {
    path: TreePath,
    node: Node,
    lists: Lists,
    layout: Layout,
    writer: Option<ItemWriter<'static>>,
    rows: Option<Box<Rows>>,
}

/// What is too large for a node: attributes and holes, as the chunks of their streams.
#[derive(Default)]
struct Lists {
    xattrs: Option<Vec<Bytes>>,
    holes: Option<Vec<Bytes>>,
}

impl Restream<'_, '_> {
    fn add_sum(&self, path: &TreePath, rows: u64, digest: u128) {
        let key = path.key();
        let folder = key.iter().rposition(|b| *b == 0).unwrap_or(0);
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(key[..folder].to_vec()).or_default();
        *sum = (sum.0 + rows, sum.1.wrapping_add(digest));
    }

    /// Reads the lists of a node.
    fn lists(&self, node: &Node) -> Result<Lists> {
        let read = |stream: &Option<Content>| -> Result<Option<Vec<Bytes>>> {
            let Some(stream) = stream else {
                return Ok(None);
            };
            let (mut chunks, mut len) = (Vec::new(), 0);
            for chunk in Chunks::new(self.from.reader.clone(), stream) {
                let chunk = self.from.read(chunk)?;
                len += u64::from(chunk.len);
                if len > LIST_BYTES_MAX {
                    let what = "a list of attributes or holes is too long";
                    return self.from.read(Err(StoreError::damaged("tree", what)));
                }
                chunks.push(self.from.read(self.from.reader.chunk(&chunk))?);
            }
            Ok(Some(chunks))
        };
        Ok(Lists {
            xattrs: read(&node.xattrs_stream)?,
            holes: read(&node.holes_stream)?,
        })
    }

    /// Adds a node whose content is known.
    fn add_node(&self, path: TreePath, node: Node) -> Result<()> {
        if node.xattrs_stream.is_none() && node.holes_stream.is_none() {
            return self.from.engine.sink.add_node(&path, node);
        }
        let lists = self.lists(&node)?;
        let sink = self.from.engine.sink.clone();
        let job = move |worker: &mut Worker| complete(worker, &sink, &path, node, &lists);
        self.queue.submit(0, Box::new(job))
    }

    /// Begins a stream; its writer is made when its first bytes come.
    fn stream(&self, path: TreePath, node: Node) -> Result<Stream> {
        let rows = match &node.table {
            None => None,
            Some(part) => {
                let keyring = self.from.run.target.keyring();
                let secret = keyring.row_digest_secret();
                let secret = secret.map_err(|missing| StoreError::MissingSecret {
                    what: missing.action.to_owned(),
                })?;
                Some(Box::new(Rows::new(part, secret)))
            }
        };
        Ok(Stream {
            lists: self.lists(&node)?,
            layout: Layout::new(&self.from.reader, &node),
            path,
            node,
            writer: None,
            rows,
        })
    }

    fn writer<'s>(&self, stream: &'s mut Stream) -> &'s mut ItemWriter<'static> {
        let (node, path) = (&stream.node, &stream.path);
        stream.writer.get_or_insert_with(|| {
            let top = path.names().next().unwrap_or_default();
            let of_database = [ComponentKind::Database, ComponentKind::Cluster]
                .iter()
                .any(|kind| kind.folder().as_bytes() == top);
            let kind = match (&node.table, of_database) {
                (Some(_), _) => StreamKind::Table,
                (None, true) => StreamKind::TableBytes,
                (None, false) => StreamKind::File { size: node.size },
            };
            ItemWriter::queued(&self.queue, kind, node.digest.is_some())
        })
    }

    fn write(&self, stream: &mut Stream, mut bytes: &[u8]) -> Result<()> {
        if let Some(rows) = &mut stream.rows {
            rows.add(bytes);
        }
        while !bytes.is_empty() {
            let len = u64::try_from(bytes.len()).expect("a length fits 64 bits");
            let run = self.from.read(stream.layout.place(len))?;
            let (now, rest) = bytes.split_at(usize::try_from(run.len).expect("part of a slice"));
            let writer = self.writer(stream);
            writer.write_hole(run.hole)?;
            writer.write(now)?;
            bytes = rest;
        }
        Ok(())
    }

    fn finish(&self, mut stream: Stream) -> Result<()> {
        let hole = self.from.read(stream.layout.finish())?;
        self.writer(&mut stream).write_hole(hole)?;
        let Stream {
            path,
            mut node,
            lists,
            writer,
            rows,
            ..
        } = stream;
        let shown = || String::from_utf8_lossy(&path.display_bytes()).into_owned();
        if let (Some(rows), Some(part)) = (rows, &mut node.table) {
            let Some((count, digest)) = rows.finish().filter(|(count, _)| *count == part.rows)
            else {
                let what = format!(
                    "{}: it does not hold the rows that the archive says",
                    shown()
                );
                return Err(self.from.damage.words(what));
            };
            part.rows_digest = digest.to_le_bytes();
            self.from.run.stats.rows.add(count);
            self.add_sum(&path, count, digest);
        }
        let Some(writer) = writer else {
            return Ok(());
        };
        let sink = self.from.engine.sink.clone();
        let damage = self.from.damage.clone();
        writer.finish(Box::new(move |worker, item| {
            if item.digest != node.digest {
                return Err(other_digest(&damage, &path, item.digest, node.digest));
            }
            node.content = item.content;
            complete(worker, &sink, &path, node, &lists)
        }))
    }
}

fn other_digest(
    damage: &SourceDamage,
    path: &TreePath,
    found: Option<ContentDigest>,
    archived: Option<ContentDigest>,
) -> Error {
    let text = |digest: Option<ContentDigest>| digest.map(|d| d.to_string()).unwrap_or_default();
    damage.words(format!(
        "{}: its content has the digest {}, the archive says {}",
        String::from_utf8_lossy(&path.display_bytes()),
        text(found),
        text(archived)
    ))
}

/// Stores a node's lists and adds it.
fn complete(
    worker: &mut Worker,
    sink: &Sink,
    path: &TreePath,
    mut node: Node,
    lists: &Lists,
) -> Result<()> {
    let mut store = |chunks: &Option<Vec<Bytes>>| -> Result<Option<Content>> {
        let Some(chunks) = chunks else {
            return Ok(None);
        };
        let mut builder = ContentBuilder::default();
        for chunk in chunks {
            let chunk = worker.put_chunk(Class::Tree, chunk)?;
            builder.push(worker, chunk)?;
        }
        Ok(Some(builder.finish(worker)?))
    };
    node.xattrs_stream = store(&lists.xattrs)?;
    node.holes_stream = store(&lists.holes)?;
    sink.add_node(path, node)
}

impl Consumer for Restream<'_, '_> {
    type File = Stream;

    fn take(&self, stream: &mut Stream, parts: &[Part<'_>]) -> Result<()> {
        for part in parts {
            let Part::Data(bytes) = part else { continue };
            let len = u64::try_from(bytes.len()).expect("a length fits 64 bits");
            self.from.run.stats.bytes_read.add(len);
            self.write(stream, bytes)?;
        }
        Ok(())
    }

    fn end(&self, stream: Stream, failure: Option<&StoreError>) -> Result<()> {
        let Some(failure) = failure else {
            return self.finish(stream);
        };
        let shown = String::from_utf8_lossy(&stream.path.display_bytes()).into_owned();
        let what = format!("{shown}: {}", describe(failure));
        match is_of_one_object(failure) {
            true => Err(self.from.damage.words(what)),
            false => Err(Error::Message(what)),
        }
    }
}

/// Writes a `database.json` with the digests that its rows have with the other secret.
fn database_info(
    from: &Transfer<'_>,
    queue: &SourceQueue,
    path: &TreePath,
    mut node: Node,
    sums: &Sums,
) -> Result<()> {
    let bytes = from.read(read_all(&from.reader, &node.content, INFO_BYTES_MAX))?;
    let folder: Vec<&[u8]> = path.names().take(2).collect();
    let folder = folder
        .iter()
        .fold(TreePath::root(), |path, name| path.join(name));
    let bytes = with_sums(&bytes, &folder, sums);
    let shown = || String::from_utf8_lossy(&path.display_bytes()).into_owned();
    let bytes = from.read(bytes.map_err(|e| StoreError::damaged(shown(), e)))?;
    let mut writer = ItemWriter::queued(queue, StreamKind::TableBytes, node.digest.is_some());
    writer.write(&bytes)?;
    let lists = Lists::default();
    let sink = from.engine.sink.clone();
    let path = path.clone();
    writer.finish(Box::new(move |worker, item| {
        node.size = item.bytes;
        node.content = item.content;
        node.digest = item.digest;
        complete(worker, &sink, &path, node, &lists)
    }))
}

/// The text with other digests; all else stays, also what a later version may have written there.
fn with_sums(bytes: &[u8], folder: &TreePath, sums: &Sums) -> Result<Vec<u8>, serde_json::Error> {
    let mut info: serde_json::Value = serde_json::from_slice(bytes)?;
    let tables = info
        .get_mut("tables")
        .and_then(|tables| tables.as_array_mut());
    for table in tables.into_iter().flatten() {
        let name = |field: &str| {
            table
                .get(field)
                .and_then(|name| name.as_str())
                .unwrap_or_default()
        };
        let names = [name("schema"), name("name")].map(|name| encode_name(name.as_bytes()));
        let path = folder.join(b"tables").join(&names[0]).join(&names[1]);
        let (_, digest) = sums.get(path.key()).copied().unwrap_or_default();
        let digest = format!("{:032x}", digest.swap_bytes());
        if let Some(table) = table.as_object_mut() {
            table.insert("rows-digest".into(), digest.into());
        }
    }
    serde_json::to_vec_pretty(&info)
}
