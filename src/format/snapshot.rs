//! The snapshot record: what one run committed.
//!
//! Layout: a sealed object `snapshots/<name>`, kind 3, sealed to the public half of the seal key; its plaintext is the CBOR map [`Record`].
//!
//! Invariants: everything that grows with the site stands in streams (`skipped`), so a record stays small.

use minicbor::{Decode, Encode};

use super::id::{ObjectHash, RepositoryId};
use super::node::{Content, Subtree, Timestamp};

/// What a component is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum ComponentKind {
    /// A path given on the command line.
    #[n(0)]
    #[default]
    Path,
    /// A `[[share]]`.
    #[n(1)]
    Share,
    /// A `[[files]]` list.
    #[n(2)]
    Files,
    /// `[[certificates]]`.
    #[n(3)]
    Certificates,
    /// A `[[database]]`.
    #[n(4)]
    Database,
    /// The roles and settings of a database cluster.
    #[n(5)]
    Cluster,
    /// The site file.
    #[n(6)]
    Site,
}

impl ComponentKind {
    /// The top folder of the tree that it stands in, and the word that people and `--json` see.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Path => "paths",
            Self::Share => "shares",
            Self::Files => "files",
            Self::Certificates => "certificates",
            Self::Database => "databases",
            Self::Cluster => "clusters",
            Self::Site => "site",
        }
    }
}

/// How a component came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ComponentState {
    /// Everything that was asked for.
    #[n(0)]
    #[default]
    Complete,
    /// Taken, but items were skipped or torn.
    #[n(1)]
    Incomplete,
    /// Not taken at all; nothing of it is in the tree.
    #[n(2)]
    Failed,
}

/// One component of a site, as taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Component {
    /// What it is.
    #[n(0)]
    pub kind: ComponentKind,
    /// Its name in the site file; the path for kind `Path`.
    #[cbor(n(1), default)]
    pub name: String,
    /// Where in the tree it stands: names of the directories from the root.
    #[cbor(n(2), default)]
    pub path: Vec<minicbor::bytes::ByteVec>,
    /// How it came out.
    #[cbor(n(3), default)]
    pub state: ComponentState,
    /// Why it is not complete; the source's own words.
    #[cbor(n(4), default)]
    pub message: String,
    /// First byte read (databases: snapshot taken).
    #[cbor(n(5), default)]
    pub started: Timestamp,
    /// Last byte read.
    #[cbor(n(6), default)]
    pub finished: Timestamp,
    /// What it holds.
    #[cbor(n(7), default)]
    pub totals: Subtree,
    /// Items that could not be read.
    #[cbor(n(8), default)]
    pub skipped: u64,
    /// Items that changed while they were read.
    #[cbor(n(9), default)]
    pub torn: u64,
    /// The snapshot whose component of this name served as parent.
    #[n(10)]
    pub parent: Option<ObjectHash>,
    /// Tables of a database.
    #[cbor(n(11), default)]
    pub tables: u64,
    /// Rows of a database.
    #[cbor(n(12), default)]
    pub rows: u64,
    /// Whether ctime and inode were trusted for change detection.
    #[cbor(n(13), default)]
    pub inode_trusted: bool,
    /// Facts and warnings for people, a few lines.
    #[cbor(n(14), default)]
    pub notes: Vec<String>,
    /// Where it was read from: a path, or host and database; never a secret.
    #[cbor(n(15), default)]
    pub origin: String,
    /// Whether the site was at rest while it was read (databases: when its snapshot was taken); absent where nothing was stopped.
    #[n(16)]
    pub quiet: Option<bool>,
}

/// An item that was not read, or not as one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SkippedItem {
    /// Its path in the tree, `/` between names, bytes as they are.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// What happened, in the system's words.
    #[cbor(n(1), default)]
    pub reason: String,
}

/// What was read from a certificate or key file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CertificateFact {
    /// The component's name.
    #[cbor(n(0), default)]
    pub component: String,
    /// The file.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// `certificate`, `private key`, `pfx`, `chain` or `unknown`.
    #[cbor(n(2), default)]
    pub kind: String,
    /// Subject, RFC 4514.
    #[cbor(n(3), default)]
    pub subject: String,
    /// Issuer, RFC 4514.
    #[cbor(n(4), default)]
    pub issuer: String,
    /// Serial number, hex.
    #[cbor(n(5), default)]
    pub serial: String,
    /// SHA-1 thumbprint, hex.
    #[cbor(n(6), default)]
    pub sha1: String,
    /// SHA-256 thumbprint, hex.
    #[cbor(n(7), default)]
    pub sha256: String,
    /// Valid from, seconds since 1970.
    #[cbor(n(8), default)]
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    #[cbor(n(9), default)]
    pub not_after: i64,
    /// Whether it is a CA.
    #[cbor(n(10), default)]
    pub is_ca: bool,
    /// The key (or certificate) file that belongs to it.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub matches: Option<Vec<u8>>,
    /// What could not be read, in words.
    #[cbor(n(12), default)]
    pub note: String,
}

/// How the snapshots of a cluster's databases relate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ClusterConsistency {
    /// The cluster's name.
    #[cbor(n(0), default)]
    pub cluster: String,
    /// All its databases were opened at the same `pg_current_snapshot()`.
    #[cbor(n(1), default)]
    pub atomic: bool,
    /// Milliseconds between the first and the last snapshot.
    #[cbor(n(2), default)]
    pub spread_ms: u64,
}

/// The time in which the site was at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct QuietWindow {
    /// The first stop command began.
    #[cbor(n(0), default)]
    pub stop_begun: Timestamp,
    /// The last stop command had ended.
    #[cbor(n(1), default)]
    pub stopped: Timestamp,
    /// The first start command began.
    #[cbor(n(2), default)]
    pub start_begun: Timestamp,
    /// The last start command had ended.
    #[cbor(n(3), default)]
    pub started: Timestamp,
    /// What went wrong with it: a start command that failed, a window that took too long.
    #[cbor(n(4), default)]
    pub problems: Vec<String>,
}

/// What a `[[reference]]` rule came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReferenceResult {
    /// The rule's name.
    #[cbor(n(0), default)]
    pub name: String,
    /// The database component.
    #[cbor(n(1), default)]
    pub database: String,
    /// Rows of the query.
    #[cbor(n(2), default)]
    pub rows: u64,
    /// Files where the rule's files stand.
    #[cbor(n(3), default)]
    pub files: u64,
    /// Rows whose file is not in the snapshot.
    #[cbor(n(4), default)]
    pub rows_without_file: u64,
    /// Files that no row names; 0 where the rule does not ask.
    #[cbor(n(5), default)]
    pub files_without_row: u64,
    /// A few of either, as paths of the snapshot.
    #[cbor(n(6), default)]
    pub examples: Vec<String>,
    /// Why the rule could not be evaluated.
    #[cbor(n(7), default)]
    pub problem: String,
}

/// Counters of the run, as in `--json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RunTotals {
    /// Files that the parent did not have.
    #[cbor(n(0), default)]
    pub files_new: u64,
    /// Files that differ from the parent's.
    #[cbor(n(1), default)]
    pub files_changed: u64,
    /// Files taken over from the parent.
    #[cbor(n(2), default)]
    pub files_unmodified: u64,
    /// Tables.
    #[cbor(n(3), default)]
    pub tables: u64,
    /// Rows.
    #[cbor(n(4), default)]
    pub rows: u64,
    /// Bytes read from sources.
    #[cbor(n(5), default)]
    pub bytes_read: u64,
    /// Bytes of new chunks before compression.
    #[cbor(n(6), default)]
    pub bytes_new: u64,
    /// Bytes written to the repository.
    #[cbor(n(7), default)]
    pub bytes_stored: u64,
    /// Items skipped.
    #[cbor(n(8), default)]
    pub skipped: u64,
}

/// The repository that a copied snapshot was made in. A copy of a copy names the first one, so that it is the same snapshot everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CopiedFrom {
    /// That repository.
    #[n(0)]
    pub repository: RepositoryId,
    /// The snapshot's id there.
    #[n(1)]
    pub snapshot: ObjectHash,
    /// When it was copied into this repository.
    #[cbor(n(2), default)]
    pub copied: Timestamp,
}

/// One snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    /// The stream of the root directory's nodes.
    #[cbor(n(0), default)]
    pub root: Content,
    /// Number of the last log entry that was read when the run began.
    #[cbor(n(1), default)]
    pub log_position: u64,
    /// The site's name; the host's where there is no site file.
    #[cbor(n(2), default)]
    pub site: String,
    /// `--name`.
    #[n(3)]
    pub name: Option<String>,
    /// `--tag K=V`.
    #[cbor(n(4), default)]
    pub tags: Vec<(String, String)>,
    /// Host that ran it.
    #[cbor(n(5), default)]
    pub host: String,
    /// User that ran it.
    #[cbor(n(6), default)]
    pub user: String,
    /// `holdfast 1.2.3`.
    #[cbor(n(7), default)]
    pub program: String,
    /// When the run began.
    #[cbor(n(8), default)]
    pub started: Timestamp,
    /// When the record was written.
    #[cbor(n(9), default)]
    pub finished: Timestamp,
    /// The components.
    #[cbor(n(10), default)]
    pub components: Vec<Component>,
    /// Stream of [`SkippedItem`]s, one after the other.
    #[cbor(n(11), default)]
    pub skipped: Content,
    /// Certificates that were read.
    #[cbor(n(12), default)]
    pub certificates: Vec<CertificateFact>,
    /// How the databases of each cluster relate.
    #[cbor(n(13), default)]
    pub clusters: Vec<ClusterConsistency>,
    /// Counters.
    #[cbor(n(14), default)]
    pub totals: RunTotals,
    /// What the root holds.
    #[cbor(n(15), default)]
    pub subtree: Subtree,
    /// The quiet window, where the site was stopped.
    #[n(16)]
    pub window: Option<QuietWindow>,
    /// What the rules of rows and files came to.
    #[cbor(n(17), default)]
    pub references: Vec<ReferenceResult>,
    /// What the checks before the run warned about.
    #[cbor(n(18), default)]
    pub warnings: Vec<String>,
    /// Where it was made, if it was copied from another repository.
    #[n(19)]
    pub copied_from: Option<CopiedFrom>,
}

impl Record {
    /// Whether every component is complete.
    pub fn is_complete(&self) -> bool {
        self.components
            .iter()
            .all(|c| c.state == ComponentState::Complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_unknown_fields_are_skipped() {
        let record = Record {
            name: Some("before-upgrade".into()),
            components: vec![Component {
                name: "Apps".into(),
                ..Component::default()
            }],
            tags: vec![("a".into(), "b".into())],
            copied_from: Some(CopiedFrom {
                repository: RepositoryId([1; 16]),
                snapshot: ObjectHash([2; 32]),
                copied: Timestamp::default(),
            }),
            ..Record::default()
        };
        let bytes = minicbor::to_vec(&record).unwrap();
        assert_eq!(minicbor::decode::<Record>(&bytes).unwrap(), record);
        let mut e = minicbor::Encoder::new(Vec::new());
        e.map(2).unwrap().u32(999).unwrap().str("later").unwrap();
        e.u32(2).unwrap().str("qlik").unwrap();
        assert_eq!(
            minicbor::decode::<Record>(&e.into_writer()).unwrap().site,
            "qlik"
        );
    }
}
