//! Between repositories that share the dedup secret: trees and contents are the same chunks, and only what the index over there lacks is read.
//!
//! A directory or file that has the same content in the parent is passed over: all below it is in the parent, which is a root over there, and
//! the commit tests that it still is. Below a directory that differs every chunk is looked up, because the chunk of a directory says nothing
//! about whether those that it names are there.
//!
//! Memory: a window of chunks; 32 bytes for each chunk that is sent.

use std::collections::HashSet;

use super::parents::Parents;
use super::{Transfer, Walked};
use crate::error::{Error, Result};
use crate::format::id::{ChunkId, ObjectHash};
use crate::format::node::{ChunkRef, Content, Node};
use crate::format::pack::{Class, FRAME_RAW_MAX};
use crate::ops::window::{fetch, thread_count};
use crate::pipeline::{SourceQueue, TreePath, Worker};
use crate::store::StoreError;
use crate::store::reader::missing;
use crate::store::tree::{Chunks, Nodes};

/// Bytes of chunks that are read at once.
const WINDOW_BYTES: usize = 16 << 20;
/// Bytes that are handed to a worker at once.
const UNIT_BYTES: usize = 1 << 20;

/// Sends what is missing of one snapshot.
pub(super) fn take(from: &Transfer<'_>) -> Result<Walked> {
    let mut walk = Walk {
        from,
        queue: from.engine.sink.pool.source_queue(),
        sent: HashSet::new(),
        wanted: Vec::new(),
        wanted_bytes: 0,
        parents: HashSet::new(),
        threads: thread_count(),
    };
    walk.content(&from.record.skipped, true)?;
    walk.tree()?;
    walk.flush()?;
    Ok(Walked {
        root: Some(from.record.root.clone()),
        parents: walk.parents,
    })
}

struct Walk<'w, 'r> {
    from: &'w Transfer<'r>,
    queue: SourceQueue,
    /// What this copy has read or is about to read.
    sent: HashSet<ChunkId>,
    wanted: Vec<ChunkRef>,
    wanted_bytes: usize,
    parents: HashSet<ObjectHash>,
    threads: usize,
}

/// A directory that is to be looked at, and what the parent has there.
struct Open {
    path: TreePath,
    content: Content,
    parent: Option<(ObjectHash, Content)>,
}

impl Walk<'_, '_> {
    fn tree(&mut self) -> Result<()> {
        let from = self.from;
        let chosen = Parents::choose(from);
        let mut open = vec![Open {
            path: TreePath::root(),
            content: from.record.root.clone(),
            parent: chosen.root(),
        }];
        while let Some(directory) = open.pop() {
            from.engine.sink.pool.check()?;
            if let Some((snapshot, content)) = &directory.parent
                && *content == directory.content
            {
                self.parents.insert(*snapshot);
                continue;
            }
            self.content(&directory.content, true)?;
            let mut old = chosen.entries(from, directory.parent.as_ref());
            for node in Nodes::new(from.reader.clone(), &directory.content) {
                let node = from.read(node)?;
                let beside = old.find(&node.name);
                let of_parent = directory.parent.as_ref().map(|(snapshot, _)| *snapshot);
                if let Some(below) =
                    self.node(&directory.path, node, of_parent.zip(beside), &chosen)?
                {
                    open.push(below);
                }
            }
        }
        Ok(())
    }

    /// Looks at one node; gives what is to be opened, if it is a directory.
    fn node(
        &mut self,
        directory: &TreePath,
        node: Node,
        old: Option<(ObjectHash, Node)>,
        chosen: &Parents,
    ) -> Result<Option<Open>> {
        if node.is_directory() {
            let path = directory.join(&node.name);
            let old = old.filter(|(_, old)| old.is_directory());
            let beside = old.map(|(snapshot, old)| (snapshot, old.content));
            self.streams(&node)?;
            return Ok(Some(Open {
                parent: chosen.at(&path).or(beside),
                path,
                content: node.content,
            }));
        }
        if let Some((snapshot, old)) = &old
            && old.content == node.content
            && old.xattrs_stream == node.xattrs_stream
            && old.holes_stream == node.holes_stream
        {
            self.parents.insert(*snapshot);
            self.from.run.stats.files_unmodified.one();
            self.from.run.stats.bytes_unmodified.add(node.size);
            return Ok(None);
        }
        self.streams(&node)?;
        self.content(&node.content, false)?;
        self.from.run.stats.files_new.one();
        Ok(None)
    }

    fn streams(&mut self, node: &Node) -> Result<()> {
        for stream in [&node.xattrs_stream, &node.holes_stream]
            .into_iter()
            .flatten()
        {
            self.content(stream, true)?;
        }
        Ok(())
    }

    /// Every chunk of a content, those of its lists too.
    fn content(&mut self, content: &Content, is_tree: bool) -> Result<()> {
        let from = self.from;
        // Read with a smaller depth than it has, a content gives its lists.
        for depth in 0..=content.depth {
            let refs = content.refs.clone();
            for chunk in Chunks::new(from.reader.clone(), &Content { depth, refs }) {
                let chunk = from.read(chunk)?;
                self.chunk(chunk, is_tree || depth < content.depth)?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: ChunkRef, is_tree: bool) -> Result<()> {
        if self.from.engine.index().rely_on(&chunk.id) || !self.sent.insert(chunk.id) {
            return Ok(());
        }
        if is_tree {
            // The walk reads it in any case, and finds it in the reader's cache.
            let bytes = self.from.read(self.from.reader.chunk(&chunk))?;
            self.from.run.chunks_read.one();
            return self.send(vec![(chunk, Class::Tree)], bytes.to_vec());
        }
        if chunk.len == 0 || chunk.len > FRAME_RAW_MAX {
            return self.from.read(Err(missing(&chunk.id)));
        }
        self.wanted_bytes += chunk.len as usize;
        self.wanted.push(chunk);
        match self.wanted_bytes >= WINDOW_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Reads what is wanted, each frame once, and hands it to the workers.
    fn flush(&mut self) -> Result<()> {
        let from = self.from;
        let wanted = std::mem::take(&mut self.wanted);
        let len = std::mem::take(&mut self.wanted_bytes);
        let mut buffer = vec![0; len];
        let failures = fetch(&from.reader, &wanted, &mut buffer, true, self.threads)?;
        if let Some((_, failure)) = failures.into_iter().next() {
            return from.read(Err(failure));
        }
        let count = u64::try_from(wanted.len()).expect("a length fits 64 bits");
        from.run.chunks_read.add(count);
        let bytes = u64::try_from(len).expect("a length fits 64 bits");
        from.run.stats.bytes_read.add(bytes);
        let index = from.reader.index();
        let mut unit = Vec::new();
        let (mut start, mut end) = (0, 0);
        for chunk in wanted {
            let class = index.read_around(|| {
                let place = index.find(&chunk.id).ok_or_else(|| missing(&chunk.id))?;
                Ok(index.frame(&place)?.class)
            });
            let class = from.read(class)?;
            unit.push((chunk, class));
            end += chunk.len as usize;
            if end - start >= UNIT_BYTES {
                self.send(std::mem::take(&mut unit), buffer[start..end].to_vec())?;
                start = end;
            }
        }
        match unit.is_empty() {
            true => Ok(()),
            false => self.send(unit, buffer[start..end].to_vec()),
        }
    }

    /// Lets a worker store chunks that stand one after the other in `bytes`.
    fn send(&self, chunks: Vec<(ChunkRef, Class)>, bytes: Vec<u8>) -> Result<()> {
        let len = bytes.len();
        let job = move |worker: &mut Worker| {
            let mut rest = bytes.as_slice();
            for (chunk, class) in chunks {
                let (own, after) = rest.split_at(chunk.len as usize);
                rest = after;
                if worker.put_chunk(class, own)? != chunk {
                    return Err(Error::Store(StoreError::Refused(format!(
                        "chunk {} has another id in the other repository; this is a bug in holdfast",
                        chunk.id
                    ))));
                }
            }
            Ok(())
        };
        self.queue.submit(len, Box::new(job))
    }
}
