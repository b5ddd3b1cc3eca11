//! Nodes on their way to the sink: their attributes, what is too large for them, and how they count.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::hands::Hands;
use super::links;
use super::metadata::{self, Stat, XattrSource};
use super::walk::{Dir, Place, Shared, words};
use crate::error::Result;
use crate::format::node::{Content, Hole, Node, Xattr, encode_item};
use crate::format::pack::Class;
use crate::pipeline::{ContentBuilder, TreePath, Worker};

/// Holes beyond this number stand in a stream of their own.
const HOLES_INLINE_MAX: usize = 64;
/// A chunk of a stream of attributes or holes ends after this many bytes.
const STREAM_CHUNK_BYTES: usize = 32 << 10;
/// Reads attributes; what can't be read is counted and named, the entry is kept without them. A slow mount that has none is asked once.
pub(super) fn read_xattrs(
    shared: &Shared,
    place: &Place,
    path: &TreePath,
    source: &XattrSource<'_>,
) -> Result<Vec<Xattr>> {
    if place.no_xattrs.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    match metadata::xattrs(source) {
        Ok(found) => Ok(found),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            // A link or a pipe may have none where files do.
            if place.slow && matches!(source, XattrSource::Open(_)) {
                place.no_xattrs.store(true, Ordering::Relaxed);
            }
            Ok(Vec::new())
        }
        // procfs is not mounted, or the entry is gone, which its own reading reports.
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(error) => {
            shared.skip(path, words("read its extended attributes", error))?;
            Ok(Vec::new())
        }
    }
}

/// Counts an entry without content as new, changed or unmodified.
pub(super) fn count_as(shared: &Shared, stat: &Stat, old: Option<&Node>, place: &Place) {
    let stats = &shared.sink.stats;
    match old {
        None => stats.files_new.one(),
        Some(old)
            if old.kind == metadata::node_kind(stat.kind)
                && old.modified == stat.modified
                && (!place.trusted || old.changed == Some(stat.changed)) =>
        {
            stats.files_unmodified.one();
        }
        Some(_) => stats.files_changed.one(),
    }
}

/// Counts a file that was read, or that is another name of one.
pub(super) fn count(shared: &Shared, had_old: bool) {
    let stats = &shared.sink.stats;
    if had_old {
        stats.files_changed.one();
    } else {
        stats.files_new.one();
    }
}

/// Counts a file that was read. One whose time was too close to the parent's is read again, and often nothing came of it.
pub(super) fn count_read(shared: &Shared, old: Option<&Node>, node: &Node) {
    let same = |old: &Node| {
        old.content == node.content
            && (old.size, old.modified, old.mode) == (node.size, node.modified, node.mode)
            && (old.uid, old.gid) == (node.uid, node.gid)
    };
    match old {
        Some(old) if same(old) => shared.sink.stats.files_unmodified.one(),
        _ => count(shared, old.is_some()),
    }
}

/// Adds a node, with its attributes and holes in place or as streams; streams are stored on a worker.
pub(super) fn add(
    shared: &Arc<Shared>,
    hands: &mut Hands<'_>,
    path: &TreePath,
    mut node: Node,
    xattrs: Vec<Xattr>,
    holes: Vec<Hole>,
) -> Result<()> {
    let xattrs_bytes = metadata::xattrs_bytes(&xattrs);
    if xattrs_bytes <= metadata::XATTRS_INLINE_BYTES_MAX && holes.len() <= HOLES_INLINE_MAX {
        node.xattrs = xattrs;
        node.holes = holes;
        return shared.add_node(path, node);
    }
    match hands {
        Hands::Worker(worker) => complete(shared, worker, path, node, xattrs, holes),
        Hands::Reader(reader) => {
            let bytes = xattrs_bytes + holes.len() * size_of::<Hole>();
            let (shared, path) = (Arc::clone(shared), path.clone());
            let ticket = shared.tracker.ticket();
            let job = Box::new(move |worker: &mut Worker| {
                complete(&shared, worker, &path, node, xattrs, holes)?;
                drop(ticket);
                Ok(())
            });
            reader.queue.submit(bytes, job)
        }
    }
}

/// Adds a node from a worker: what is too large for it is stored first.
pub(super) fn complete(
    shared: &Shared,
    worker: &mut Worker,
    path: &TreePath,
    mut node: Node,
    xattrs: Vec<Xattr>,
    holes: Vec<Hole>,
) -> Result<()> {
    if metadata::xattrs_bytes(&xattrs) <= metadata::XATTRS_INLINE_BYTES_MAX {
        node.xattrs = xattrs;
    } else {
        node.xattrs_stream = Some(store_items(worker, &xattrs)?);
    }
    if holes.len() <= HOLES_INLINE_MAX {
        node.holes = holes;
    } else {
        node.holes_stream = Some(store_items(worker, &holes)?);
    }
    shared.add_node(path, node)
}

/// Stores items one after the other as tree chunks, cut at their borders.
fn store_items<T: minicbor::Encode<()>>(worker: &mut Worker, items: &[T]) -> Result<Content> {
    let mut builder = ContentBuilder::default();
    let mut bytes = Vec::with_capacity(STREAM_CHUNK_BYTES);
    for item in items {
        encode_item(item, &mut bytes);
        if bytes.len() >= STREAM_CHUNK_BYTES {
            let chunk = worker.put_chunk(Class::Tree, &bytes)?;
            builder.push(worker, chunk)?;
            bytes.clear();
        }
    }
    if !bytes.is_empty() {
        let chunk = worker.put_chunk(Class::Tree, &bytes)?;
        builder.push(worker, chunk)?;
    }
    builder.finish(worker)
}

/// The node of a regular file, without its content.
pub(super) fn of_file(shared: &Shared, dir: &Dir, name: &[u8], stat: &Stat) -> Node {
    let mut node = metadata::node(name, stat, &shared.owners, dir.place.trusted);
    if stat.nlink > 1 {
        node.link_group = Some(links::link_group(dir.place.mount, stat.ino));
    }
    node
}
