//! What became of a database.

use super::open::SnapshotFacts;

/// What became of a database.
#[derive(Clone, Debug, Default)]
pub struct DatabaseOutcome {
    /// Tables whose rows were copied.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the rows.
    pub bytes: u64,
    /// Large objects.
    pub large_objects: u64,
    /// What is not in the archive and why, and what else a person should know.
    pub notes: Vec<String>,
    /// Why the component does not count as complete.
    pub incomplete: Option<String>,
    /// Its cluster's name in the tree.
    pub cluster: String,
    /// The snapshot that was archived in the end.
    pub snapshot: SnapshotFacts,
    /// The server's version.
    pub server_version: String,
}
