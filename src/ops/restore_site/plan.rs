//! What a restore of a site would do, and what speaks against it; made before anything is touched.

use std::fmt;

use serde::Serialize;

/// A session that uses a database of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionOnTarget {
    /// The database on the server.
    pub database: String,
    /// Its process on the server.
    pub pid: i32,
    /// Its role.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// The client's address.
    pub from: String,
}

impl fmt::Display for SessionOnTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.pid, self.user)?;
        if !self.application.is_empty() {
            write!(f, " ({})", self.application)?;
        }
        write!(f, " from {} in {}", self.from, self.database)
    }
}

/// A database of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatabasePlan {
    /// The component.
    pub name: String,
    /// Where it goes, without secrets.
    pub to: String,
    /// Its name on the target's server.
    pub database: String,
    /// Whether one of this name is there.
    pub exists: bool,
    /// Tables in the snapshot.
    pub tables: u64,
    /// Rows in the snapshot.
    pub rows: u64,
    /// Bytes of rows in the snapshot.
    pub bytes: u64,
    /// An earlier run, which did not come to its end, has restored it.
    pub done: bool,
}

/// A share, a list of files or certificates of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TreePlan {
    /// `shares`, `files` or `certificates`.
    pub kind: &'static str,
    /// The component.
    pub name: String,
    /// Where it goes: the share's path, `/` for lists, whose files have absolute paths; empty where a database says it after its restore.
    pub to: String,
    /// Files in the snapshot.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not there.
    pub new: u64,
    /// Files whose size or time differs.
    pub changed: u64,
    /// Entries that the snapshot does not have.
    pub extra: u64,
    /// A few of them.
    pub extra_examples: Vec<String>,
    /// Whether they are removed.
    pub delete: bool,
}

/// The plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SiteRestorePlan {
    /// Id of the snapshot.
    pub snapshot: String,
    /// Its site.
    pub snapshot_site: String,
    /// When it was begun, RFC 3339.
    pub taken: String,
    /// The target's name in its site file.
    pub site: String,
    /// Whether only what differs of databases is restored.
    pub delta: bool,
    /// Stop commands.
    pub stop_commands: usize,
    /// Name of the snapshot that is taken of the target before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_backup: Option<String>,
    /// The databases.
    pub databases: Vec<DatabasePlan>,
    /// What is told to databases about their new place.
    pub relocations: Vec<String>,
    /// Shares, files, certificates.
    pub trees: Vec<TreePlan>,
    /// Commands before the start.
    pub post_commands: usize,
    /// Start commands.
    pub start_commands: usize,
    /// Names of the queries at the end.
    pub queries: Vec<String>,
    /// Sessions that use the databases now.
    pub sessions: Vec<SessionOnTarget>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// Why it can't be done.
    pub problems: Vec<String>,
}
