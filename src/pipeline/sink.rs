//! What a source hands its items to.

use std::sync::Arc;

use super::Pool;
use crate::error::Result;
use crate::format::node::Node;
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
#[derive(Clone, Debug)]
pub struct Sink {
    /// The workers.
    pub pool: Pool,
    /// Counters.
    pub stats: Arc<Stats>,
}

impl Sink {
    /// Adds a node at `path` (whose last name must be the node's). Directories' contents are filled in from what is added below them;
    /// directories that nobody adds exist all the same. Adding the same path twice keeps the last.
    pub fn add_node(&self, path: &TreePath, node: Node) -> Result<()> {
        let _ = (path, node);
        unimplemented!()
    }

    /// Takes back everything at and below `path` (a database that failed half-way leaves nothing).
    pub fn discard(&self, path: &TreePath) -> Result<()> {
        let _ = path;
        unimplemented!()
    }

    /// Counts and names an item that could not be read (also logged as a warning).
    pub fn skip(&self, path: &TreePath, reason: impl Into<String>) -> Result<()> {
        let _ = (path, reason.into());
        unimplemented!()
    }

    /// Counts and names an item that changed while it was read.
    pub fn torn(&self, path: &TreePath, reason: impl Into<String>) -> Result<()> {
        let _ = (path, reason.into());
        unimplemented!()
    }
}
