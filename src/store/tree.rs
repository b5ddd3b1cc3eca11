//! Reads trees: the nodes of a directory, the chunks of a content, the node at a path.
//!
//! Invariants: contents nest at most [`CONTENT_DEPTH_MAX`] deep; what does not decode is damage that names the chunk.
//!
//! Memory: one list chunk for each level and one chunk of nodes for each iterator.

use std::sync::Arc;

use super::StoreError;
use super::reader::ChunkReader;
use crate::format::id::ChunkId;
use crate::format::node::{CONTENT_DEPTH_MAX, ChunkRef, Content, Node, decode_items, decode_node};

/// The chunks of a content in order, lists resolved as they are reached.
#[derive(Debug)]
pub struct Chunks {
    reader: Arc<ChunkReader>,
    levels: Vec<(u8, std::vec::IntoIter<ChunkRef>)>,
    failed: bool,
}

impl Chunks {
    /// The chunks of `content`.
    pub fn new(reader: Arc<ChunkReader>, content: &Content) -> Self {
        Self {
            reader,
            levels: vec![(content.depth, content.refs.clone().into_iter())],
            failed: false,
        }
    }

    fn step(&mut self) -> Result<Option<ChunkRef>, StoreError> {
        while let Some((depth, refs)) = self.levels.last_mut() {
            let depth = *depth;
            let Some(chunk) = refs.next() else {
                self.levels.pop();
                continue;
            };
            if depth == 0 {
                return Ok(Some(chunk));
            }
            if depth > CONTENT_DEPTH_MAX {
                return Err(StoreError::damaged("tree", "lists of chunks nest too deep"));
            }
            let bytes = self.reader.chunk(&chunk)?;
            let mut list = Vec::new();
            decode_items(&bytes, |r: ChunkRef| list.push(r))
                .map_err(|e| StoreError::damaged(format!("tree chunk {}", chunk.id), e))?;
            self.levels.push((depth - 1, list.into_iter()));
        }
        Ok(None)
    }
}

impl Iterator for Chunks {
    type Item = Result<ChunkRef, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step().transpose();
        self.failed = matches!(step, Some(Err(_)));
        step
    }
}

/// The nodes of a directory, sorted by name.
#[derive(Debug)]
pub struct Nodes {
    reader: Arc<ChunkReader>,
    chunks: Chunks,
    /// The chunk that is being taken apart: its id, its bytes, and how many of them were taken.
    chunk: Option<ChunkId>,
    bytes: Vec<u8>,
    taken: usize,
    last: Vec<u8>,
    failed: bool,
}

impl Nodes {
    /// The nodes of the directory with this content.
    pub fn new(reader: Arc<ChunkReader>, directory: &Content) -> Self {
        let chunks = Chunks::new(reader.clone(), directory);
        Self {
            reader,
            chunks,
            chunk: None,
            bytes: Vec::new(),
            taken: 0,
            last: Vec::new(),
            failed: false,
        }
    }

    /// The next node and its bytes, of which `make` makes what is returned.
    pub fn next_with<T>(
        &mut self,
        make: impl FnOnce(Node, &[u8]) -> T,
    ) -> Option<Result<T, StoreError>> {
        if self.failed {
            return None;
        }
        let step = self.step(make).transpose();
        self.failed = matches!(step, Some(Err(_)));
        step
    }

    fn step<T>(&mut self, make: impl FnOnce(Node, &[u8]) -> T) -> Result<Option<T>, StoreError> {
        while self.taken == self.bytes.len() {
            let Some(chunk) = self.chunks.next().transpose()? else {
                return Ok(None);
            };
            // A copy: the frame that the chunk stands in is far larger, and many directories may be open.
            self.bytes.clear();
            self.bytes.extend_from_slice(&self.reader.chunk(&chunk)?);
            self.taken = 0;
            self.chunk = Some(chunk.id);
        }
        let rest = &self.bytes[self.taken..];
        let (node, len) = decode_node(rest, &self.last).map_err(|e| match self.chunk {
            Some(id) => StoreError::damaged(format!("tree chunk {id}"), e),
            None => StoreError::damaged("tree", e),
        })?;
        self.last.clone_from(&node.name);
        self.taken += len;
        Ok(Some(make(node, &rest[..len])))
    }
}

impl Iterator for Nodes {
    type Item = Result<Node, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(|node, _| node)
    }
}

/// Finds the node at `path` below the directory `root`; `None` if it is not there.
pub fn find<'p>(
    reader: &Arc<ChunkReader>,
    root: &Content,
    path: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Option<Node>, StoreError> {
    let mut found = Node {
        content: root.clone(),
        ..Node::virtual_directory(b"")
    };
    for name in path {
        if !found.is_directory() {
            return Ok(None);
        }
        let mut next = None;
        for node in Nodes::new(reader.clone(), &found.content) {
            let node = node?;
            if node.name.as_slice() >= name {
                next = (node.name == name).then_some(node);
                break;
            }
        }
        let Some(node) = next else { return Ok(None) };
        found = node;
    }
    Ok(Some(found))
}

/// Reads a whole content of at most `limit` bytes.
pub fn read_all(
    reader: &Arc<ChunkReader>,
    content: &Content,
    limit: usize,
) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    for chunk in Chunks::new(reader.clone(), content) {
        let bytes = reader.chunk(&chunk?)?;
        if out.len() + bytes.len() > limit {
            return Err(StoreError::Refused(format!(
                "a content of more than {limit} bytes is not read at once"
            )));
        }
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}
