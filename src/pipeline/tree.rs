//! Nodes in any order in, one Merkle tree out.
//!
//! Nodes are collected in an external sort by path (names joined by NUL, so a directory comes before what it holds, and children before
//! its next sibling). At the end one pass over the sorted nodes writes every directory's stream bottom-up; only the directories from the
//! root to the current node are open.
//!
//! A directory's stream is cut **at entry borders**: an entry ends a chunk when the keyed hash of its name is below 2^64 / 128, or when
//! the chunk holds [`DIRECTORY_CHUNK_MAX`] bytes.
//!
//! Invariants:
//! 1. The tree depends on the nodes only, not on their order or on spilling (`order_and_spilling_do_not_matter`).
//! 2. One change in a large directory rewrites few chunks (`one_change_rewrites_little`).
//! 3. What was discarded is not in the tree, what is added later is (`discarded_paths_vanish`).
//! 4. Memory: the sort's budget and one open chunk for each directory on the path.

use std::path::Path;

use super::item::ContentBuilder;
use super::sink::TreePath;
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::format::node::{Content, Node, Subtree, encode_item, is_valid_name};
use crate::format::pack::Class;
use crate::sort::{Sorted, Sorter};

/// A chunk of a directory's stream that reaches this many bytes ends.
pub const DIRECTORY_CHUNK_MAX: usize = 256 << 10;
const BORDER: u64 = u64::MAX / 128;
/// Most nodes are shorter.
const ENCODED_USUAL_BYTES: usize = 512;

/// What a record's value begins with: a node that is taken apart when its directory is written,
const TAG_NODE: u8 = 0;
/// nothing more (what was added at and below this path until now does not count),
const TAG_DISCARD: u8 = 1;
/// or the size (8 bytes, little-endian) and the bytes of a node that has nothing below it, which go into its directory as they are.
const TAG_LEAF: u8 = 2;

/// Collects nodes and builds the tree.
#[derive(Debug)]
pub struct TreeBuilder {
    nodes: Sorter,
}

/// A built tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltTree {
    /// The stream of the root's nodes.
    pub root: Content,
    /// What it holds.
    pub subtree: Subtree,
}

struct OpenDirectory {
    node: Node,
    /// Length of its key, of which the keys of what it holds begin with.
    key_len: usize,
    chunk: Vec<u8>,
    content: ContentBuilder,
    subtree: Subtree,
}

impl OpenDirectory {
    fn new(node: Node, key_len: usize) -> Self {
        Self {
            node,
            key_len,
            chunk: Vec::new(),
            content: ContentBuilder::default(),
            subtree: Subtree::default(),
        }
    }

    fn add(&mut self, worker: &mut Worker, node: &Node) -> Result<()> {
        if let Some(below) = node.subtree {
            self.subtree.files += below.files;
            self.subtree.directories += below.directories + 1;
            self.subtree.bytes += below.bytes;
        } else {
            self.subtree.files += 1;
            self.subtree.bytes += node.size;
        }
        encode_item(node, &mut self.chunk);
        self.end_entry(worker, &node.name)
    }

    /// Adds a node that has nothing below it, by its bytes.
    fn add_leaf(
        &mut self,
        worker: &mut Worker,
        name: &[u8],
        size: u64,
        encoded: &[u8],
    ) -> Result<()> {
        self.subtree.files += 1;
        self.subtree.bytes += size;
        self.chunk.extend_from_slice(encoded);
        self.end_entry(worker, name)
    }

    fn end_entry(&mut self, worker: &mut Worker, name: &[u8]) -> Result<()> {
        if self.chunk.len() >= DIRECTORY_CHUNK_MAX || is_border(&worker.parts().split_key, name) {
            self.end_chunk(worker)?;
        }
        Ok(())
    }

    fn end_chunk(&mut self, worker: &mut Worker) -> Result<()> {
        if !self.chunk.is_empty() {
            let chunk = worker.put_chunk(Class::Tree, &self.chunk)?;
            self.chunk.clear();
            self.content.push(worker, chunk)?;
        }
        Ok(())
    }

    fn close(mut self, worker: &mut Worker) -> Result<Node> {
        self.end_chunk(worker)?;
        self.node.content = self.content.finish(worker)?;
        self.node.subtree = Some(self.subtree);
        Ok(self.node)
    }
}

fn is_border(key: &[u8; 32], name: &[u8]) -> bool {
    let hash = blake3::keyed_hash(key, name);
    let first = hash
        .as_bytes()
        .first_chunk::<8>()
        .expect("a hash has 32 bytes");
    u64::from_le_bytes(*first) < BORDER
}

impl TreeBuilder {
    /// A builder that holds about `budget` bytes of nodes in memory and spills the rest to `scratch`.
    pub fn new(budget: usize, scratch: &Path) -> Self {
        Self {
            nodes: Sorter::new(budget, scratch),
        }
    }

    /// Adds a node, whose name is the last of the path; the last one for a path counts.
    pub fn add(&self, path: &TreePath, node: &Node) -> Result<()> {
        let mut encoded = Vec::with_capacity(ENCODED_USUAL_BYTES);
        encode_item(node, &mut encoded);
        self.add_encoded(path, node, &encoded)
    }

    /// The same for a node whose bytes are at hand.
    pub fn add_encoded(&self, path: &TreePath, node: &Node, encoded: &[u8]) -> Result<()> {
        if split_last(path.key()).1 != node.name {
            return Err(impossible(path.key()));
        }
        let size = node.size.to_le_bytes();
        let parts: &[&[u8]] = match node.is_directory() || node.subtree.is_some() {
            true => &[&[TAG_NODE], encoded],
            false => &[&[TAG_LEAF], &size, encoded],
        };
        self.nodes.push_parts(path.key(), parts).map(drop)
    }

    /// Takes back what was added at and below `path` until now.
    pub fn discard(&self, path: &TreePath) -> Result<()> {
        self.nodes.push(path.key(), &[TAG_DISCARD]).map(drop)
    }

    /// Writes the tree.
    pub fn finish(&self, worker: &mut Worker) -> Result<BuiltTree> {
        let mut stack = vec![OpenDirectory::new(Node::virtual_directory(b""), 0)];
        // The key of the directory on top of the stack, kept to tell at a glance that the next record lies in it.
        let mut open = Vec::new();
        let mut discarded: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut records = self.nodes.drain()?;
        let mut record = Sorted::default();
        while records.next_into(&mut record)? {
            discarded.retain(|(prefix, _)| is_within(&record.key, prefix));
            if record.value.first() == Some(&TAG_DISCARD) {
                discarded.push((std::mem::take(&mut record.key), record.seq));
                continue;
            }
            // The last record for a path counts, be it a node or a discard.
            if records.next_key() == Some(&record.key) {
                continue;
            }
            if discarded.iter().any(|(_, seq)| *seq > record.seq) {
                continue;
            }
            place(&mut stack, &mut open, worker, &record)?;
        }
        while stack.len() > 1 {
            close_top(&mut stack, worker)?;
        }
        let root = stack
            .pop()
            .expect("the root is closed last")
            .close(worker)?;
        Ok(BuiltTree {
            root: root.content,
            subtree: root.subtree.unwrap_or_default(),
        })
    }
}

fn is_within(key: &[u8], prefix: &[u8]) -> bool {
    prefix.is_empty()
        || key == prefix
        || (key.starts_with(prefix) && key.get(prefix.len()) == Some(&0))
}

fn close_top(stack: &mut Vec<OpenDirectory>, worker: &mut Worker) -> Result<()> {
    let node = stack
        .pop()
        .expect("only called above the root")
        .close(worker)?;
    stack
        .last_mut()
        .expect("the root stays open")
        .add(worker, &node)
}

/// Puts a record where it belongs: directories that it does not lie in are closed, those above it that nobody added are opened.
fn place(
    stack: &mut Vec<OpenDirectory>,
    open: &mut Vec<u8>,
    worker: &mut Worker,
    record: &Sorted,
) -> Result<()> {
    let damaged = |what: &str| Error::Message(format!("scratch data came back damaged: {what}"));
    let (parent, name) = split_last(&record.key);
    if !is_valid_name(name) {
        return Err(impossible(&record.key));
    }
    while !is_within(parent, open) {
        close_top(stack, worker)?;
        open.truncate(stack.last().map_or(0, |directory| directory.key_len));
    }
    while open.len() < parent.len() {
        let rest = &parent[open.len() + usize::from(!open.is_empty())..];
        let missing = rest.split(|b| *b == 0).next().unwrap_or_default();
        if !is_valid_name(missing) {
            return Err(impossible(&record.key));
        }
        enter(stack, open, Node::virtual_directory(missing));
    }
    let top = stack.last_mut().expect("the root stays open");
    match record.value.split_first() {
        Some((&TAG_LEAF, rest)) => {
            let (size, encoded) = rest
                .split_first_chunk::<8>()
                .ok_or_else(|| damaged("a record is cut"))?;
            top.add_leaf(worker, name, u64::from_le_bytes(*size), encoded)
        }
        Some((_, encoded)) => {
            let node: Node = minicbor::decode(encoded).map_err(|e| damaged(&e.to_string()))?;
            match node.is_directory() {
                true => {
                    enter(stack, open, node);
                    Ok(())
                }
                false => top.add(worker, &node),
            }
        }
        None => Err(damaged("a record is empty")),
    }
}

/// Opens a directory in the one on top.
fn enter(stack: &mut Vec<OpenDirectory>, open: &mut Vec<u8>, node: Node) {
    if !open.is_empty() {
        open.push(0);
    }
    open.extend_from_slice(&node.name);
    stack.push(OpenDirectory::new(node, open.len()));
}

/// The key of the directory that a key lies in, and the last name.
fn split_last(key: &[u8]) -> (&[u8], &[u8]) {
    match key.iter().rposition(|b| *b == 0) {
        Some(at) => (&key[..at], &key[at + 1..]),
        None => (&[], key),
    }
}

fn impossible(key: &[u8]) -> Error {
    let path = String::from_utf8_lossy(key).replace('\0', "/");
    Error::Message(format!(
        "{path} can't be a path in a snapshot; this is a bug in holdfast"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::worker::testing::{MemoryStore, parts};
    use super::*;
    use crate::format::node::{NodeKind, decode_items, decode_nodes};

    fn path(text: &str) -> TreePath {
        text.split('/')
            .fold(TreePath::root(), |path, name| path.join(name.as_bytes()))
    }

    fn node(text: &str, kind: NodeKind) -> Node {
        let name = text.rsplit('/').next().unwrap().as_bytes().to_vec();
        Node {
            name,
            kind,
            size: 3,
            ..Node::default()
        }
    }

    fn list(store: &MemoryStore, content: &Content, prefix: &str, out: &mut Vec<String>) {
        for chunk in &content.refs {
            let bytes = store.chunks.lock().unwrap()[&chunk.id].clone();
            if content.depth > 0 {
                let mut refs = Vec::new();
                decode_items(&bytes, |r| refs.push(r)).unwrap();
                list(
                    store,
                    &Content {
                        depth: content.depth - 1,
                        refs,
                    },
                    prefix,
                    out,
                );
                continue;
            }
            for node in decode_nodes(&bytes).unwrap() {
                let path = format!("{prefix}{}", String::from_utf8_lossy(&node.name));
                out.push(path.clone());
                if node.is_directory() {
                    list(store, &node.content, &format!("{path}/"), out);
                }
            }
        }
    }

    fn build(budget: usize, act: impl FnOnce(&TreeBuilder)) -> (BuiltTree, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        let builder = TreeBuilder::new(budget, &std::env::temp_dir());
        act(&builder);
        let tree = builder.finish(&mut worker).unwrap();
        worker.flush().unwrap();
        (tree, store)
    }

    fn names(tree: &BuiltTree, store: &MemoryStore) -> Vec<String> {
        let mut out = Vec::new();
        list(store, &tree.root, "", &mut out);
        out
    }

    #[test]
    fn order_and_spilling_do_not_matter() {
        let mut files: Vec<String> = (0..3000)
            .map(|i| format!("shares/s{}/d{}/f{i}", i % 3, i % 7))
            .collect();
        files.extend(["a".into(), "a!".into(), "shares/s1!".into(), "b/c".into()]);
        let add = |builder: &TreeBuilder, files: &[String]| {
            for file in files {
                builder
                    .add(&path(file), &node(file, NodeKind::File))
                    .unwrap();
            }
            builder
                .add(&path("shares/s1"), &node("shares/s1", NodeKind::Directory))
                .unwrap();
        };
        let (first, store) = build(1 << 26, |b| add(b, &files));
        files.reverse();
        let (second, _) = build(1 << 12, |b| add(b, &files));
        assert_eq!(first, second);
        assert_eq!(
            first.subtree,
            Subtree {
                files: 3004,
                directories: 3 + 21 + 2,
                bytes: 3004 * 3
            }
        );
        let names = names(&first, &store);
        assert_eq!(names.len(), 3004 + 26);
        let mut sorted = names.clone();
        sorted.sort_by_key(|name| name.replace('/', "\0"));
        assert_eq!(names, sorted);
        assert_eq!(build(1 << 20, |_| ()).0, BuiltTree::default());
    }

    #[test]
    fn discarded_paths_vanish() {
        let (tree, store) = build(1 << 20, |b| {
            for file in ["db/a/1", "db/a/2", "db/ab", "db"] {
                let kind = if file == "db" {
                    NodeKind::Directory
                } else {
                    NodeKind::File
                };
                b.add(&path(file), &node(file, kind)).unwrap();
            }
            b.discard(&path("db/a")).unwrap();
            b.add(&path("db/a/2"), &node("db/a/2", NodeKind::File))
                .unwrap();
            b.add(&path("x"), &node("x", NodeKind::File)).unwrap();
            b.discard(&path("x")).unwrap();
        });
        assert_eq!(names(&tree, &store), ["db", "db/a", "db/a/2", "db/ab"]);
    }

    #[test]
    fn one_change_rewrites_little() {
        let files: Vec<String> = (0..20_000).map(|i| format!("d/file-{i:06}")).collect();
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store)).unwrap();
        let mut stored = Vec::new();
        for day in 0..2 {
            let builder = TreeBuilder::new(1 << 24, &std::env::temp_dir());
            for (i, file) in files.iter().enumerate() {
                let mut node = node(file, NodeKind::File);
                node.size = if day == 1 && i == 9_999 { 4 } else { 3 };
                builder.add(&path(file), &node).unwrap();
            }
            let before = worker.parts().stats.bytes_new.get();
            builder.finish(&mut worker).unwrap();
            stored.push(worker.parts().stats.bytes_new.get() - before);
        }
        assert!(stored[1] * 20 < stored[0], "{stored:?}");
    }
}
