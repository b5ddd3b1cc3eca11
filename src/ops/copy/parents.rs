//! What the other repository has beside each directory of a snapshot that is copied.

use std::iter::Peekable;

use super::Transfer;
use crate::format::id::ObjectHash;
use crate::format::node::{Content, Node};
use crate::format::snapshot::ComponentState;
use crate::pipeline::TreePath;
use crate::store::tree::Nodes;

/// A directory of a snapshot over there.
pub(super) type Beside = (ObjectHash, Content);

/// Which snapshot over there is the parent: the newest one of the site, and for each component the newest in which it did not fail.
pub(super) struct Parents {
    root: Option<Beside>,
    components: Vec<(TreePath, Beside)>,
}

impl Parents {
    /// Chooses.
    pub(super) fn choose(from: &Transfer<'_>) -> Self {
        let mut components = Vec::new();
        for component in &from.record.components {
            if component.state == ComponentState::Failed {
                continue;
            }
            let names = component.path.iter();
            let path = names.fold(TreePath::root(), |path, name| path.join(name));
            let found = from.engine.parent(component.kind, &component.name, &path);
            if let Some(found) = found.filter(|found| found.node.is_directory()) {
                components.push((path, (found.snapshot, found.node.content)));
            }
        }
        Self {
            root: from.engine.newest_parent(),
            components,
        }
    }

    /// What is beside the root.
    pub(super) fn root(&self) -> Option<Beside> {
        self.root.clone()
    }

    /// What is beside a component's own directory.
    pub(super) fn at(&self, path: &TreePath) -> Option<Beside> {
        let found = self.components.iter().find(|(own, _)| own == path);
        found.map(|(_, beside)| beside.clone())
    }

    /// The nodes of a directory over there.
    pub(super) fn entries(&self, from: &Transfer<'_>, beside: Option<&Beside>) -> Entries {
        let nodes = beside.map(|(_, content)| Nodes::new(from.engine.reader.clone(), content));
        Entries(nodes.map(Iterator::peekable))
    }
}

/// Nodes over there, in the order of their names.
pub(super) struct Entries(Option<Peekable<Nodes>>);

impl Entries {
    /// The node of this name; names are asked for in their order.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<Node> {
        loop {
            let nodes = self.0.as_mut()?;
            match nodes.peek()? {
                Ok(node) if node.name.as_slice() < name => drop(nodes.next()),
                Ok(node) if node.name == name => return nodes.next()?.ok(),
                Ok(_) => return None,
                Err(e) => {
                    tracing::warn!(
                        "the parent over there can't be read, everything is looked up: {e}"
                    );
                    self.0 = None;
                }
            }
        }
    }
}
