//! `backup`: one site into one snapshot.
//!
//! Order: preflight checks → the guardian → session entry → index of the state at it, and runs that dead sessions left → the site stopped →
//! checks that are due then → all database snapshots opened together → file-system snapshots made → trees walked → the site started → trees
//! walked that have a file-system snapshot → databases streamed → tree → packs durable → runs durable → record durable → snapshot entry,
//! tested on the state that it follows; what was condemned meanwhile is stored again and the entry tested again.
//!
//! Failure: until the last entry nothing is listed. A run that is interrupted or fails ends its session; its index runs stay, and the next
//! run adopts them, so nothing that was stored is stored again. A killed one loses what it stored since its last run, and its open session
//! holds back only what prune may delete.
//!
//! Threads: one coordinates; one for each worker; one for the signs of life; sources have their own.

mod at_rest;
mod bases;
mod components;
mod databases;
pub(in crate::ops) mod engine;
#[cfg(test)]
mod prefix_tests;
mod priority;
mod reach;
pub(in crate::ops) mod repair;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::format::id::ObjectHash;
use crate::format::node::Timestamp;
use crate::format::snapshot::{
    Component, ComponentState, QuietWindow, Record, ReferenceResult, RunTotals,
};
use crate::ops::discover;
use crate::ops::quiesce::SiteLock;
use crate::site::SiteFile;
use crate::source::postgres::rights::Loss;
use crate::stats::Stats;
use crate::store::chunk_index::cache;
use crate::store::{Commit, Repository};

use self::at_rest::AtRest;
pub(crate) use self::databases::loss;
use self::engine::Engine;

/// Makes this process cut with the chunker's kernel of that name instead of the fastest one; call it before anything is cut.
pub fn choose_kernel(name: &str) -> Result<(), crate::pipeline::chunker::NoKernel> {
    crate::pipeline::chunker::Kernel::choose(name)
}

/// A flag that asks a run to end; set by a signal.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The flag itself, for what does not know this type.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The environment variables that connections look at.
pub type Environment = Arc<dyn Fn(&str) -> Option<std::ffi::OsString> + Send + Sync>;

/// What to back up, and how.
#[derive(Clone)]
pub struct BackupOptions {
    /// The site file, if there is one.
    pub site: Option<Arc<SiteFile>>,
    /// Name under which parents are looked up; the site file's, else the host's.
    pub site_name: String,
    /// Paths given on the command line.
    pub paths: Vec<PathBuf>,
    /// Databases given on the command line, as connection strings.
    pub databases: Vec<String>,
    /// Shares whose path could not be found in a database, and why; filled in when the run begins.
    pub unfound_shares: Vec<(String, String)>,
    /// Databases of the site that did not answer before it was stopped; filled in when the run begins.
    pub unreachable: Vec<String>,
    /// What may be missing of `databases` without making them incomplete.
    pub accept: Vec<Loss>,
    /// `--name`.
    pub name: Option<String>,
    /// `--tag K=V`.
    pub tags: Vec<(String, String)>,
    /// gitignore patterns for `paths`.
    pub excludes: Vec<String>,
    /// Do not cross mount points below `paths`.
    pub one_file_system: bool,
    /// Leave out what is tagged as a cache below `paths`.
    pub cachedir_tag: bool,
    /// Read every file, whatever the parent says.
    pub force_read: bool,
    /// Threads that read trees; absent: by the file system.
    pub readers: Option<usize>,
    /// Threads that compute; absent: one for each core.
    pub workers: Option<usize>,
    /// Connections to one cluster that copy rows at a time; absent: 4, and for a server on this host no more than it has cores.
    pub connections: Option<usize>,
    /// All connections to one cluster that may be open at a time; absent: half of what it has free.
    pub connections_max: Option<usize>,
    /// zstd level; absent: the repository's.
    pub level: Option<i32>,
    /// Make the plain BLAKE3 of every file.
    pub content_digest: bool,
    /// How often the log is read on while sources are open.
    pub follow: Duration,
    /// This host.
    pub host: String,
    /// This user.
    pub user: String,
    /// Scratch folder for what does not fit in memory.
    pub scratch: PathBuf,
    /// Environment of connections.
    pub environment: Environment,
    /// Give way to others in processor and disk time.
    pub low_priority: bool,
    /// Leave a site running whose site file says how it is stopped.
    pub no_stop: bool,
    /// The lock of the site, with which a run may stop it; needed where the site file says how.
    pub lock: Option<Arc<SiteLock>>,
    /// The program that starts the site again if this one dies, called with `guardian`; absent: a thread, which dies with it.
    pub guardian: Option<PathBuf>,
}

impl std::fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupOptions")
            .field("site_name", &self.site_name)
            .finish_non_exhaustive()
    }
}

impl BackupOptions {
    /// Options with nothing to back up.
    pub fn new(host: impl Into<String>) -> Self {
        let host = host.into();
        Self {
            site: None,
            site_name: host.clone(),
            paths: Vec::new(),
            databases: Vec::new(),
            unfound_shares: Vec::new(),
            unreachable: Vec::new(),
            accept: Vec::new(),
            name: None,
            tags: Vec::new(),
            excludes: Vec::new(),
            one_file_system: false,
            cachedir_tag: false,
            force_read: false,
            readers: None,
            workers: None,
            connections: None,
            connections_max: None,
            level: None,
            content_digest: true,
            follow: engine::FOLLOW,
            host,
            user: String::new(),
            scratch: std::env::temp_dir(),
            environment: Arc::new(|_| None),
            low_priority: false,
            no_stop: false,
            lock: None,
            guardian: None,
        }
    }
}

/// How a backup came out.
#[derive(Clone, Debug)]
pub struct BackupSummary {
    /// The snapshot.
    pub snapshot: ObjectHash,
    /// Counters.
    pub totals: RunTotals,
    /// The components, as they stand in the record.
    pub components: Vec<Component>,
    /// Whether every component is complete and nothing was skipped: exit code 0, else 3.
    pub complete: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// Damage that the run met and worked around: exit code 4.
    pub damage: Vec<String>,
    /// The time in which the site was stopped.
    pub window: Option<QuietWindow>,
    /// What the checks before the run warned about, and file-system snapshots that are left over.
    pub warnings: Vec<String>,
    /// What the rules that tie rows to files came to.
    pub references: Vec<ReferenceResult>,
    /// What is not as it was before the run, a service that is down for instance: exit code 3.
    pub problems: Vec<String>,
}

/// Now, on this host's clock.
pub fn now() -> Timestamp {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: elapsed.subsec_nanos(),
    }
}

/// Backs up a site. An error means that no snapshot was made.
pub fn backup(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
) -> Result<BackupSummary> {
    let options = &reach::looked(options, interrupt)?;
    let options = &discover::resolved(options);
    components::check_arguments(repository, options)?;
    let begun = Instant::now();
    let rest = AtRest::prepare(repository, options)?;
    if options.low_priority {
        priority::lower();
    }
    let session = Arc::new(repository.open_session()?);
    let outcome = run(repository, &session, options, stats, interrupt, begun, rest);
    if outcome.is_err()
        && let Err(e) = session.expire()
    {
        tracing::warn!("the session stays open until it expires: {e}");
    }
    outcome
}

fn run(
    repository: &Arc<Repository>,
    session: &Arc<crate::store::Session>,
    options: &BackupOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    begun: Instant,
    rest: AtRest<'_>,
) -> Result<BackupSummary> {
    let started = now();
    let engine = Engine::start(repository, session, options, stats, interrupt)?;
    let taken = components::take_all(&engine, options, rest);
    let rules = engine.references.clone();
    let (taken, stored) = engine.finish(taken)?;
    let references = rules.results()?;
    let failed: Vec<&Component> = taken
        .components
        .iter()
        .filter(|c| c.state != ComponentState::Complete)
        .collect();
    if options.site.as_ref().is_some_and(|site| site.require_all) && !failed.is_empty() {
        let names: Vec<String> = failed
            .iter()
            .map(|c| format!("{}: {}", c.name, c.message))
            .collect();
        return Err(Error::Message(format!(
            "require-all is set and not every component is complete: {}",
            names.join("; ")
        )));
    }
    if taken
        .components
        .iter()
        .all(|c| c.state == ComponentState::Failed)
    {
        let names: Vec<String> = failed
            .iter()
            .map(|c| format!("{}: {}", c.name, c.message))
            .collect();
        return Err(Error::Message(format!(
            "nothing could be read: {}",
            names.join("; ")
        )));
    }
    let parents: HashSet<ObjectHash> = taken.components.iter().filter_map(|c| c.parent).collect();
    let mut record = Record {
        root: stored.tree.root.clone(),
        log_position: session.start().seq(),
        site: options.site_name.clone(),
        name: options.name.clone(),
        tags: options.tags.clone(),
        host: options.host.clone(),
        user: options.user.clone(),
        program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
        started,
        finished: now(),
        components: taken.components,
        skipped: stored.skipped.clone(),
        certificates: taken.certificates,
        clusters: taken.clusters,
        totals: totals(stats),
        subtree: stored.tree.subtree,
        window: taken.window,
        references,
        warnings: taken.warnings,
        copied_from: None,
    };
    let mut stored = stored;
    let parents: Vec<ObjectHash> = parents.into_iter().collect();
    let mut parents_relied = parents.clone();
    loop {
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        record.finished = now();
        let durable = session.write_record(&record, &stored.runs)?;
        match session.commit(&durable, &stored.runs, &stored.reused, &parents_relied)? {
            Commit::Done { state, .. } => {
                cache::settle(session.repository(), &state);
                let complete =
                    record.is_complete() && stats.skipped.get() == 0 && stats.torn.get() == 0;
                let snapshot = durable.name();
                let damage = stored.damage;
                return Ok(BackupSummary {
                    snapshot,
                    totals: record.totals,
                    components: record.components,
                    complete,
                    elapsed: begun.elapsed(),
                    damage,
                    window: record.window,
                    warnings: record.warnings,
                    references: record.references,
                    problems: taken.problems,
                });
            }
            Commit::Lost { lost, state } => {
                tracing::info!("others deleted what this run relied on; storing it again");
                repair::repair(session, options, stats, &record, &mut stored, &lost, &state)?;
                // Every chunk was looked up one by one, so no parent is relied on unseen any more.
                parents_relied.clear();
            }
        }
    }
}

fn totals(stats: &Stats) -> RunTotals {
    RunTotals {
        files_new: stats.files_new.get(),
        files_changed: stats.files_changed.get(),
        files_unmodified: stats.files_unmodified.get(),
        tables: stats.tables.get(),
        rows: stats.rows.get(),
        bytes_read: stats.bytes_read.get(),
        bytes_new: stats.bytes_new.get(),
        bytes_stored: stats.bytes_stored.get(),
        skipped: stats.skipped.get(),
    }
}
