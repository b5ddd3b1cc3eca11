//! Where bytes come from: file trees and PostgreSQL databases.
//!
//! A source finds items, stores their bytes through `pipeline` and adds nodes to the sink. It knows nothing of packs or repositories.
//! An error of a source is never a repository error: [`SourceError::Component`] fails a component, [`SourceError::Run`] stops the run.

pub mod certificates;
pub mod files;
pub mod postgres;

use crate::error::Error;
use crate::format::node::{Content, Node};

/// What ends a source early.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// This component failed, in the source's own words; the rest of the site goes on.
    #[error("{0}")]
    Component(String),
    /// The run can't go on (repository, scratch space, interrupted).
    #[error(transparent)]
    Run(#[from] Error),
}

/// The parent snapshot's tree, for telling what is unchanged.
pub trait ParentTree: Send + Sync + std::fmt::Debug {
    /// The nodes of a directory, sorted by name, read chunk by chunk.
    fn entries(
        &self,
        directory: &Content,
    ) -> Box<dyn Iterator<Item = Result<ParentNode, Error>> + Send + '_>;
}

/// A node of the parent snapshot.
#[derive(Clone, Debug)]
pub struct ParentNode {
    /// It.
    pub node: Box<Node>,
    /// Its bytes as they stand in its directory, for a node that is taken over whole.
    pub encoded: Vec<u8>,
}
