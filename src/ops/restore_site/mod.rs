//! `restore SNAP --site FILE`: a whole snapshot, everything to its place.
//!
//! The site file is the target's: it says where the databases, shares and files of the same names are. [`prepare`] looks at everything and touches
//! nothing; [`Prepared::run`] does it, in this order:
//!
//! 1. stop commands; nobody may use the databases then
//! 2. a backup of the target into the repository, so that there is a way back
//! 3. each database is restored beside the one that it replaces and told about its new place; with `delta` only the tables whose rows differ are loaded,
//!    into a transaction that stays open
//! 4. all databases take their places
//! 5. shares, files and certificates, in place and only what differs
//! 6. commands after the restore, start commands, queries
//!
//! | part | holds |
//! |---|---|
//! | [`plan`] | what would be done, and what speaks against it |
//! | `prepare` | how that is found out |
//! | `run` | the steps |
//! | `databases`, `trees` | what stands on the target |
//! | `delta` | which tables differ |
//! | [`relocate`] | the new place, told to a database |
//! | `services` | stop, start and other commands |
//! | [`queries`] | the last look |
//! | `state` | how far a run came |
//!
//! Invariants:
//! 1. Until step 4 nothing of the target is changed: whatever fails before leaves it as it was, and started
//!    (`a_failure_before_the_change_leaves_the_site` in `it/site_restore.rs`).
//! 2. A site whose parts are of different times is not started by us, nor by the guardian or the next backup; `site start` does it when asked
//!    (`a_killed_restore_is_gone_on_with`).
//! 3. A run that was killed is gone on with by the same command (`a_killed_restore_is_gone_on_with`).
//! 4. Nobody's session is ended unless it was asked for; in the moment of the swap the server ends those that came since.
//!
//! Failure: databases that were restored beside and did not take their place are dropped by the next restore (`target::postgres::swap`); an open
//! transaction ends with its session. From step 4 on a state file says what is done.
//!
//! Threads: called from one thread, blocks until the end.

mod databases;
mod delta;
pub mod plan;
mod prepare;
pub mod queries;
pub mod relocate;
mod run;
mod services;
mod state;
mod trees;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use self::plan::SessionOnTarget;
pub use self::plan::SiteRestorePlan;
pub use self::prepare::{Prepared, prepare};
use self::queries::QueryReport;
use self::relocate::Relocated;
pub use self::services::CommandReport;
use crate::ops::backup::Environment;
use crate::ops::quiesce::SiteLock;
use crate::ops::restore::{RestoreSummary, Trouble};
use crate::site::SiteFile;
use crate::target::files::Ownership;
use crate::target::postgres::RestoreReport;

/// What to restore, and how.
#[derive(Clone)]
pub struct SiteRestoreOptions {
    /// The target's site file.
    pub site: Arc<SiteFile>,
    /// The snapshot.
    pub snapshot: String,
    /// Load only tables whose rows differ, where the definitions are equal.
    pub delta: bool,
    /// Remove files of shares that the snapshot does not have.
    pub delete: bool,
    /// Back the target up first; absent: as the site file says.
    pub safety_backup: Option<bool>,
    /// End sessions that use the databases.
    pub end_sessions: bool,
    /// A database takes its place although something could not be restored.
    pub allow_incomplete: bool,
    /// Only these components, as `QSR` or `databases/QSR`.
    pub only: Vec<String>,
    /// All but these.
    pub skip: Vec<String>,
    /// Do not go on where an earlier run ended.
    pub from_start: bool,
    /// Whose files the restored ones become.
    pub ownership: Ownership,
    /// Whether devices are created.
    pub special: bool,
    /// Threads, and connections to a server.
    pub jobs: usize,
    /// This host.
    pub host: String,
    /// This user.
    pub user: String,
    /// Environment of connections.
    pub environment: Environment,
    /// Where it is kept how far a run came.
    pub state_folder: Option<PathBuf>,
    /// The lock of the site on this host; needed where it is stopped.
    pub lock: Option<Arc<SiteLock>>,
    /// The program that starts the site when this run dies; see [`QuietOptions`](crate::ops::quiesce::QuietOptions).
    pub guardian: Option<PathBuf>,
}

impl fmt::Debug for SiteRestoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteRestoreOptions")
            .field("site", &self.site.name)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl SiteRestoreOptions {
    /// Everything of a snapshot, to the places that a site file names.
    pub fn new(site: Arc<SiteFile>, snapshot: impl Into<String>) -> Self {
        Self {
            site,
            snapshot: snapshot.into(),
            delta: false,
            delete: false,
            safety_backup: None,
            end_sessions: false,
            allow_incomplete: false,
            only: Vec::new(),
            skip: Vec::new(),
            from_start: false,
            ownership: Ownership::default(),
            special: false,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            host: String::new(),
            user: String::new(),
            environment: Arc::new(|_| None),
            state_folder: None,
            lock: None,
            guardian: None,
        }
    }
}

/// What a run says while it works.
#[derive(Clone, Debug)]
pub enum SiteEvent {
    /// A step begins.
    Step(String),
    /// Something to know.
    Note(String),
    /// Something was not restored.
    Trouble(Trouble),
}

/// Takes what a run says; called from several threads.
pub type OnEvent<'a> = &'a (dyn Fn(&SiteEvent) + Sync);

/// What became of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseAction {
    /// There was none.
    #[default]
    Created,
    /// A new one took the place of the old one.
    Replaced,
    /// Some tables have new rows.
    Refilled,
    /// It was equal.
    Unchanged,
    /// An earlier run had done it.
    DoneBefore,
}

/// A database that was restored.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DatabaseDone {
    /// The component.
    pub name: String,
    /// What became of it.
    pub action: DatabaseAction,
    /// Tables that were loaded; all for a new database.
    pub tables: u64,
    /// Rows that were loaded.
    pub rows: u64,
    /// Why all of it was replaced although only what differs was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_whole: Option<String>,
    /// What it was told about its new place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub relocated: Vec<Relocated>,
    /// The restore of a new database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<RestoreReport>,
}

/// A share or a list of files that was restored.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TreeDone {
    /// `shares/Apps`.
    pub component: String,
    /// Where.
    pub to: String,
    /// What was restored.
    pub summary: RestoreSummary,
    /// Entries that the snapshot does not have and that were removed.
    pub removed: u64,
    /// An earlier run had done it.
    pub done_before: bool,
}

/// How the restore of a site came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SiteRestoreReport {
    /// The snapshot.
    pub snapshot: String,
    /// The target.
    pub site: String,
    /// The target before, as a snapshot: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_backup: Option<String>,
    /// The databases.
    pub databases: Vec<DatabaseDone>,
    /// Shares, files, certificates.
    pub trees: Vec<TreeDone>,
    /// Stop commands, commands after the restore, start commands.
    pub commands: Vec<CommandReport>,
    /// The queries at the end.
    pub queries: Vec<QueryReport>,
    /// For how long the site was stopped, where it has stop commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<f64>,
    /// What went wrong after everything was restored: a start command, for one.
    pub problems: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl SiteRestoreReport {
    /// 0; 1 if the site was not started; 3 if something was not restored, or a query does not give what it must; 4 for damage.
    pub fn exit_code(&self) -> u8 {
        let damaged = self.trees.iter().any(|tree| tree.summary.damaged > 0)
            || self.reports().any(|report| report.damaged > 0);
        let skipped = self.trees.iter().any(|tree| tree.summary.skipped > 0)
            || self.reports().any(|report| !report.is_complete())
            || self.queries.iter().any(|query| query.problem.is_some());
        match (damaged, self.problems.is_empty(), skipped) {
            (true, _, _) => 4,
            (false, false, _) => 1,
            (false, true, true) => 3,
            (false, true, false) => 0,
        }
    }

    fn reports(&self) -> impl Iterator<Item = &RestoreReport> {
        self.databases
            .iter()
            .filter_map(|database| database.report.as_ref())
    }
}

/// Refuses databases that are in use, with who uses them.
fn in_use(sessions: &[SessionOnTarget]) -> Option<String> {
    const NAMED: usize = 10;
    if sessions.is_empty() {
        return None;
    }
    let named: Vec<String> = sessions
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let more = match sessions.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "the databases are in use by {}{more}; stop the site first ([quiesce] in its site file does it), or give --end-sessions to end them",
        named.join(", ")
    ))
}
