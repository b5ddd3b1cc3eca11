//! What a source hands its items to.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::item::ContentBuilder;
use super::pool::Pool;
use super::tree::{BuiltTree, TreeBuilder};
use super::worker::Worker;
use crate::error::Result;
use crate::format::node::{Content, Node, encode_item};
use crate::format::pack::Class;
use crate::format::snapshot::SkippedItem;
use crate::sort::Sorter;
use crate::stats::Stats;

/// A place in the tree: names of directories from the root, never empty names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath {
    key: Vec<u8>,
}

impl TreePath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// The entry `name` of this directory.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut key = Vec::with_capacity(self.key.len() + name.len() + 1);
        key.extend_from_slice(&self.key);
        if !self.key.is_empty() {
            key.push(0);
        }
        key.extend_from_slice(name);
        Self { key }
    }

    /// Names joined by NUL: sorts as trees are walked, a directory before what it holds.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.key.split(|b| *b == 0).filter(|name| !name.is_empty())
    }

    /// With `/` between the names, for people.
    pub fn display_bytes(&self) -> Vec<u8> {
        self.key
            .iter()
            .map(|b| if *b == 0 { b'/' } else { *b })
            .collect()
    }
}

/// Where sources put nodes, skipped items and counts; shared by all of them, cheap to clone.
#[derive(Clone)]
pub struct Sink {
    /// The workers.
    pub pool: Pool,
    /// Counters.
    pub stats: Arc<Stats>,
    tree: Arc<TreeBuilder>,
    skipped: Arc<Sorter>,
    observer: Option<Arc<dyn Observer>>,
}

/// Is told every node that comes into the tree, by many threads at once.
pub trait Observer: Send + Sync {
    /// A node was added at a path. An error ends the run.
    fn saw(&self, path: &TreePath, node: &Node) -> Result<()>;
}

fn is_encoding_of(encoded: &[u8], node: &Node) -> bool {
    let mut expected = Vec::new();
    encode_item(node, &mut expected);
    expected == encoded
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// A sink that holds about `budget` bytes of nodes in memory and spills the rest to `scratch`.
    pub fn new(pool: Pool, stats: Arc<Stats>, budget: usize, scratch: &Path) -> Self {
        Self {
            pool,
            stats,
            tree: Arc::new(TreeBuilder::new(budget, scratch)),
            skipped: Arc::new(Sorter::new(budget / 16, scratch)),
            observer: None,
        }
    }

    /// This sink, which also tells `observer` every node from now on.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Adds a node at `path` (whose last name must be the node's). Directories' contents are filled in from what is added below them;
    /// directories that nobody adds exist all the same. Adding the same path twice keeps the last.
    pub fn add_node(&self, path: &TreePath, node: Node) -> Result<()> {
        if let Some(observer) = &self.observer {
            observer.saw(path, &node)?;
        }
        self.tree.add(path, &node)
    }

    /// The same for a node whose bytes are at hand, as they stood in the parent.
    pub fn add_encoded_node(&self, path: &TreePath, node: &Node, encoded: &[u8]) -> Result<()> {
        debug_assert!(is_encoding_of(encoded, node), "{node:?}");
        if let Some(observer) = &self.observer {
            observer.saw(path, node)?;
        }
        self.tree.add_encoded(path, node, encoded)
    }

    /// Takes back everything at and below `path` (a database that failed half-way leaves nothing).
    pub fn discard(&self, path: &TreePath) -> Result<()> {
        self.tree.discard(path)
    }

    /// Counts and names an item that could not be read (also logged as a warning).
    pub fn skip(&self, path: &TreePath, reason: impl Into<String>) -> Result<()> {
        self.stats.skipped.one();
        self.name(path, reason.into())
    }

    /// Counts and names an item that changed while it was read.
    pub fn torn(&self, path: &TreePath, reason: impl Into<String>) -> Result<()> {
        self.stats.torn.one();
        self.name(path, reason.into())
    }

    fn name(&self, path: &TreePath, reason: String) -> Result<()> {
        let shown = path.display_bytes();
        tracing::warn!(path = %String::from_utf8_lossy(&shown), "{reason}");
        let mut value = Vec::new();
        encode_item(
            &SkippedItem {
                path: shown,
                reason,
            },
            &mut value,
        );
        self.skipped.push(path.key(), &value).map(drop)
    }

    /// Names an item that another run skipped; it is not counted and not logged again.
    pub fn name_skipped(&self, item: &SkippedItem) -> Result<()> {
        let key: Vec<u8> = item
            .path
            .iter()
            .map(|b| if *b == b'/' { 0 } else { *b })
            .collect();
        let mut value = Vec::new();
        encode_item(item, &mut value);
        self.skipped.push(&key, &value).map(drop)
    }

    /// Writes the tree and the list of skipped items, after all sources have ended.
    pub fn finish(&self, worker: &mut Worker) -> Result<(BuiltTree, Content)> {
        let tree = self.tree.finish(worker)?;
        let mut skipped = ContentBuilder::default();
        let mut chunk = Vec::new();
        for record in self.skipped.drain()? {
            chunk.extend_from_slice(&record?.value);
            if chunk.len() >= 64 << 10 {
                let stored = worker.put_chunk(Class::Tree, &chunk)?;
                skipped.push(worker, stored)?;
                chunk.clear();
            }
        }
        if !chunk.is_empty() {
            let stored = worker.put_chunk(Class::Tree, &chunk)?;
            skipped.push(worker, stored)?;
        }
        Ok((tree, skipped.finish(worker)?))
    }
}
