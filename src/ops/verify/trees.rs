//! Trees: that every one can be read, that its chunks are in the index, and which files damaged packs affect.
//!
//! What several snapshots share is looked at once: a chunk of nodes below which everything is good is passed over when it comes again.

use std::collections::HashSet;
use std::sync::Arc;

use super::contents::{CheckContents, ContentCheck};
use super::packs::Known;
use super::{FindingKind, Reporter, VerifySummary, check_stop, describe};
use crate::error::{Error, Result};
use crate::format::id::ChunkId;
use crate::format::node::{Content, Hole, Node, NodeKind, Xattr, decode_items, decode_nodes};
use crate::format::snapshot::{Record, SkippedItem};
use crate::ops::backup::Interrupt;
use crate::ops::snapshots::{Snapshot, frame_decoder};
use crate::ops::window::{Settings, Windows, is_of_one_object, with_windows};
use crate::stats::Stats;
use crate::store::chunk_index::ChunkIndex;
use crate::store::reader::{ChunkReader, missing};
use crate::store::tree::{Chunks, Nodes};
use crate::store::{Repository, State, StoreError};

/// Contents of which it is remembered that they were verified.
const CONTENTS_MAX: usize = 1 << 21;

/// Calls `each` with every chunk that a snapshot needs; what can't be read is passed over.
pub(super) fn each_chunk(
    reader: &Arc<ChunkReader>,
    record: &Record,
    stop: &Interrupt,
    each: &mut dyn FnMut(&ChunkId),
) -> Result<()> {
    let mut open = vec![record.root.clone()];
    content_chunks(reader, &record.skipped, each)?;
    content_chunks(reader, &record.root, each)?;
    while let Some(directory) = open.pop() {
        check_stop(stop)?;
        for node in Nodes::new(reader.clone(), &directory) {
            let node = match node {
                Ok(node) => node,
                Err(e) if is_of_one_object(&e) => break,
                Err(e) => return Err(e.into()),
            };
            let streams = [
                Some(&node.content),
                node.xattrs_stream.as_ref(),
                node.holes_stream.as_ref(),
            ];
            for content in streams.into_iter().flatten() {
                content_chunks(reader, content, each)?;
            }
            if node.is_directory() {
                open.push(node.content);
            }
        }
    }
    Ok(())
}

/// Every chunk of a content, those of its lists too.
fn content_chunks(
    reader: &Arc<ChunkReader>,
    content: &Content,
    each: &mut dyn FnMut(&ChunkId),
) -> Result<()> {
    // Read with a smaller depth than it has, a content gives its lists.
    for depth in 0..=content.depth {
        let refs = content.refs.clone();
        for chunk in Chunks::new(reader.clone(), &Content { depth, refs }) {
            match chunk {
                Ok(chunk) => each(&chunk.id),
                Err(e) if is_of_one_object(&e) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// What the trees are verified against.
pub(super) struct Trees<'r> {
    pub(super) repository: &'r Arc<Repository>,
    pub(super) state: &'r Arc<State>,
    pub(super) index: &'r Arc<ChunkIndex>,
    pub(super) known: &'r Known,
    pub(super) threads: usize,
    pub(super) stop: &'r Interrupt,
    pub(super) report: &'r Reporter<'r>,
    pub(super) stats: &'r Arc<Stats>,
    /// Read every content.
    pub(super) contents: bool,
    /// One snapshot was asked for: that it was forgotten is an error then.
    pub(super) one: bool,
}

impl Trees<'_> {
    pub(super) fn verify(
        &self,
        snapshots: &[Snapshot],
        count_chunks: bool,
        summary: &mut VerifySummary,
    ) -> Result<()> {
        let digest_secret = self.repository.keyring().row_digest_secret();
        let digest_secret = digest_secret.map_err(|missing| StoreError::MissingSecret {
            what: missing.action.to_owned(),
        })?;
        let consumer = CheckContents::new(self.report, self.stats, digest_secret);
        let mut walk = Walk {
            trees: self,
            visited: vec![0; self.index.positions().div_ceil(64)],
            contents: HashSet::new(),
            files: 0,
            chunks: 0,
        };
        // The newest first: it is what people ask for.
        for snapshot in snapshots.iter().rev() {
            let reader = ChunkReader::new(
                self.repository.clone(),
                self.state.clone(),
                self.index.clone(),
                Some(snapshot.id),
                frame_decoder,
            )?;
            let reader = Arc::new(reader);
            let settings = Settings {
                reader: reader.clone(),
                // Where every pack was read whole, the ids of its chunks were recomputed already.
                check: !self.known.complete,
                compare: false,
                threads: self.threads,
                takers: self.threads,
                stop: self.stop.clone(),
            };
            let walked = with_windows(&settings, &consumer, |windows| {
                walk.snapshot(snapshot, &reader, windows)
            });
            match walked {
                Ok(()) => summary.snapshots += 1,
                Err(Error::Store(e @ StoreError::Forgotten { .. })) if !self.one => {
                    self.report.note(e)
                }
                Err(e) => return Err(e),
            }
        }
        summary.files = walk.files;
        summary.rows = consumer.rows();
        if count_chunks {
            summary.chunks = walk.chunks;
        }
        Ok(())
    }
}

struct Walk<'t, 'r> {
    trees: &'t Trees<'r>,
    /// A bit for each entry of the index: a chunk of nodes, and all below it is good.
    visited: Vec<u64>,
    contents: HashSet<[u8; 16]>,
    files: u64,
    chunks: u64,
}

/// A directory that is being walked.
struct Level {
    chunks: Chunks,
    open: Option<OpenChunk>,
    last: Vec<u8>,
    parent_len: usize,
    good: bool,
}

/// A chunk of nodes.
struct OpenChunk {
    position: Option<usize>,
    nodes: std::vec::IntoIter<Node>,
    good: bool,
}

/// What is being walked.
struct Place<'p> {
    snapshot: &'p Snapshot,
    reader: &'p Arc<ChunkReader>,
    path: Vec<u8>,
}

impl Walk<'_, '_> {
    fn snapshot(
        &mut self,
        snapshot: &Snapshot,
        reader: &Arc<ChunkReader>,
        windows: &mut Windows<'_, CheckContents<'_>>,
    ) -> Result<()> {
        let mut place = Place {
            snapshot,
            reader,
            path: Vec::new(),
        };
        self.stream::<SkippedItem>(&place, &snapshot.record.skipped, "list of skipped items")?;
        let mut stack = vec![level(reader, &snapshot.record.root, 0)];
        while let Some(top) = stack.last_mut() {
            check_stop(self.trees.stop)?;
            let Some(open) = &mut top.open else {
                if !self.next_chunk(top, &place)? {
                    let closed = stack.pop().expect("it was there");
                    place.path.truncate(closed.parent_len);
                    if let Some(open) = stack.last_mut().and_then(|above| above.open.as_mut()) {
                        open.good &= closed.good;
                    }
                }
                continue;
            };
            let Some(node) = open.nodes.next() else {
                match open.position {
                    Some(position) if open.good => {
                        self.visited[position / 64] |= 1 << (position % 64)
                    }
                    _ => {}
                }
                top.good &= open.good;
                top.open = None;
                continue;
            };
            if !top.last.is_empty() && top.last >= node.name {
                self.damaged(&place, FindingKind::Damaged, "its nodes are out of order")?;
                open.good = false;
            }
            top.last.clone_from(&node.name);
            let parent_len = place.path.len();
            if parent_len > 0 {
                place.path.push(b'/');
            }
            place.path.extend_from_slice(&node.name);
            open.good &= self.node(&node, &place, windows)?;
            if node.is_directory() {
                stack.push(level(reader, &node.content, parent_len));
            } else {
                place.path.truncate(parent_len);
            }
        }
        Ok(())
    }

    fn damaged(&self, place: &Place<'_>, kind: FindingKind, what: impl ToString) -> Result<()> {
        self.trees
            .report
            .file(kind, place.snapshot, &place.path, what);
        Ok(())
    }

    /// Reports what could not be read below `place`; an error that is not of one object ends the run.
    fn failed(&self, place: &Place<'_>, id: Option<&ChunkId>, error: StoreError) -> Result<()> {
        if !is_of_one_object(&error) {
            return Err(error.into());
        }
        let known = id.is_some_and(|id| self.trees.known.is_lost(self.trees.index, id));
        let kind = if known {
            FindingKind::Affected
        } else {
            FindingKind::Damaged
        };
        self.damaged(place, kind, describe(&error))
    }

    /// Opens the next chunk of nodes that has to be looked at; false at the end of the directory.
    fn next_chunk(&mut self, top: &mut Level, place: &Place<'_>) -> Result<bool> {
        let chunk = match top.chunks.next() {
            None => return Ok(false),
            Some(Ok(chunk)) => chunk,
            Some(Err(e)) => {
                top.good = false;
                self.failed(place, None, e)?;
                return Ok(true);
            }
        };
        self.chunks += 1;
        let position = self.trees.index.position(&chunk.id);
        if position.is_some_and(|at| self.visited[at / 64] & (1 << (at % 64)) != 0) {
            return Ok(true);
        }
        let nodes = place.reader.chunk(&chunk).and_then(|bytes| {
            decode_nodes(&bytes)
                .map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e))
        });
        match nodes {
            Ok(nodes) => {
                top.open = Some(OpenChunk {
                    position,
                    nodes: nodes.into_iter(),
                    good: true,
                })
            }
            Err(e) => {
                top.good = false;
                self.failed(place, Some(&chunk.id), e)?;
            }
        }
        Ok(true)
    }

    /// Whether a node can be restored; reports it if not. Directories' own streams are walked by the caller.
    fn node(
        &mut self,
        node: &Node,
        place: &Place<'_>,
        windows: &mut Windows<'_, CheckContents<'_>>,
    ) -> Result<bool> {
        let mut good = true;
        if let Some(content) = &node.xattrs_stream {
            good &= self.stream::<Xattr>(place, content, "attributes")?;
        }
        if let Some(content) = &node.holes_stream {
            good &= self.stream::<Hole>(place, content, "list of holes")?;
        }
        if node.kind != NodeKind::File {
            return Ok(good);
        }
        self.files += 1;
        good &= self.content(node, place)?;
        if good && self.trees.contents && self.is_new(node) {
            let check = ContentCheck::new(place.reader, node, place.snapshot, &place.path);
            self.trees.stats.bytes_expected.add(node.size);
            windows.add(check, &node.content)?;
        }
        Ok(good)
    }

    /// Whether every chunk of a file's content is there, and together they are as long as the file.
    fn content(&mut self, node: &Node, place: &Place<'_>) -> Result<bool> {
        let index = self.trees.index;
        let mut len = 0u64;
        for chunk in Chunks::new(place.reader.clone(), &node.content) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(e) => {
                    self.failed(place, None, e)?;
                    return Ok(false);
                }
            };
            self.chunks += 1;
            len += u64::from(chunk.len);
            let fits = index
                .find(&chunk.id)
                .is_some_and(|found| found.len == chunk.len);
            if !fits {
                // By the reader's rules: the log may have gone on.
                if let Err(e) = place.reader.chunk(&chunk) {
                    self.failed(place, None, e)?;
                    return Ok(false);
                }
            } else if self.trees.known.is_lost(index, &chunk.id) {
                self.damaged(place, FindingKind::Affected, missing(&chunk.id).to_string())?;
                return Ok(false);
            }
        }
        let holes: u64 = node
            .holes
            .iter()
            .fold(0, |sum, hole| sum.saturating_add(hole.len));
        if node.holes_stream.is_none() && len.saturating_add(holes) != node.size {
            let what = format!(
                "its chunks hold {len} bytes, its holes {holes}, and its size is {}",
                node.size
            );
            self.damaged(place, FindingKind::Damaged, what)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads a stream of items.
    fn stream<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        place: &Place<'_>,
        content: &Content,
        what: &str,
    ) -> Result<bool> {
        for chunk in Chunks::new(place.reader.clone(), content) {
            let read = chunk.and_then(|chunk| {
                let bytes = place.reader.chunk(&chunk)?;
                decode_items(&bytes, |_: T| ())
                    .map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e))
            });
            if let Err(e) = read {
                if !is_of_one_object(&e) {
                    return Err(e.into());
                }
                self.damaged(
                    place,
                    FindingKind::Damaged,
                    format!("its {what} can't be read: {}", describe(&e)),
                )?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether this content was not verified yet. Contents beyond a number are verified each time.
    fn is_new(&mut self, node: &Node) -> bool {
        let mut identity = Vec::new();
        crate::format::node::encode_item(&node.content, &mut identity);
        for hole in &node.holes {
            crate::format::node::encode_item(hole, &mut identity);
        }
        if let Some(content) = &node.holes_stream {
            crate::format::node::encode_item(content, &mut identity);
        }
        identity.extend_from_slice(&node.size.to_le_bytes());
        identity.extend_from_slice(
            node.digest
                .as_ref()
                .map_or(&[][..], |digest| digest.as_bytes()),
        );
        if let Some(table) = &node.table {
            identity.extend_from_slice(&table.rows.to_le_bytes());
            identity.extend_from_slice(&table.rows_digest);
        }
        let hash = blake3::hash(&identity);
        let short = *hash
            .as_bytes()
            .first_chunk::<16>()
            .expect("a hash has 32 bytes");
        if self.contents.len() >= CONTENTS_MAX {
            return !self.contents.contains(&short);
        }
        self.contents.insert(short)
    }
}

fn level(reader: &Arc<ChunkReader>, content: &Content, parent_len: usize) -> Level {
    Level {
        chunks: Chunks::new(reader.clone(), content),
        open: None,
        last: Vec::new(),
        parent_len,
        good: true,
    }
}
