//! `drill`: a restore exercise. Everything of a snapshot is restored into scratch space and a scratch cluster, compared, and removed.
//!
//! Order: files, one component after the other (restored, compared with the archive name by name, removed) → databases, one after the other
//! (restored, every row read back and compared by its digest, the queries of `[[restore.query]]` asked, dropped) → ledger. So the scratch space
//! holds the largest component, not the site.
//!
//! The server is a private one of the installed programs, in the scratch folder, that nobody else reaches; or a given one, where databases get
//! names of their own and no role or tablespace is made.
//!
//! Failure: what does not come back is counted, named and written into the ledger; the drill goes on with the rest. Scratch folder, server and
//! databases go when the drill ends, however it ends; [`DrillCleanup`] is for a process that ends at once.
//!
//! Invariants:
//!
//! 1. Nothing outside of the scratch folder and the drill's own databases is written (`it/drill.rs`).
//! 2. A drill that could not look at something is not a good one (`it/drill.rs`).

mod databases;
mod files;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::format::ledger::{LedgerDepth, LedgerEntry, LedgerKind};
use crate::format::node::Subtree;
use crate::format::snapshot::{Component, ComponentKind, ComponentState};
use crate::ops::backup::{Environment, Interrupt, now};
use crate::ops::ledger;
use crate::ops::sampling::Sampling;
use crate::ops::scratch_cluster::Servers;
use crate::ops::snapshots::{self, Snapshot, open_reader};
use crate::site::SiteFile;
use crate::site::config::Confidential;
use crate::site::config::run::RestoreQuery;
use crate::stats::Stats;
use crate::store::state::State;
use crate::store::{Repository, tree};

/// The largest archived site file that is read.
const SITE_FILE_BYTES_MAX: usize = 8 << 20;

/// How many of the things that went wrong the ledger keeps in words.
const NOTES_MAX: usize = 20;

/// What is exercised, and where.
#[derive(Clone)]
pub struct DrillOptions {
    /// The snapshot, as people name it.
    pub snapshot: String,
    /// A server whose role may create databases; absent: a private one.
    pub server: Option<Confidential>,
    /// Where the scratch folder is made.
    pub scratch: PathBuf,
    /// Which part of the files, and about which part of the databases' bytes; one at least.
    pub sample: Sampling,
    /// Queries that are asked of the restored databases; absent: those of the archived site file.
    pub queries: Option<Vec<RestoreQuery>>,
    /// Connections and threads; absent: one for each core.
    pub jobs: Option<usize>,
    /// Environment of connections and of looking for server programs.
    pub environment: Environment,
    /// This host.
    pub host: String,
}

impl std::fmt::Debug for DrillOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrillOptions")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// What has to go when the process ends at once.
#[derive(Clone, Debug, Default)]
pub struct DrillCleanup {
    servers: Servers,
    folder: Arc<Mutex<Option<PathBuf>>>,
}

impl DrillCleanup {
    /// Stops the server and removes the scratch folder.
    pub fn now(&self) {
        self.servers.kill();
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*folder {
            // Nothing more can be done.
            drop(fs::remove_dir_all(folder));
        }
    }
}

/// One component, exercised.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComponentDrill {
    /// `databases`, `shares`, …
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Files, or tables, that were restored and compared.
    pub items: u64,
    /// Rows that were read back.
    pub rows: u64,
    /// Bytes that were restored; of databases that is not known.
    pub bytes: u64,
    /// What did not come back as it was, in words; the first ones.
    pub problems: Vec<String>,
    /// How many things did not.
    pub problem_count: u64,
    /// What else should be known.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl ComponentDrill {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < NOTES_MAX {
            self.problems.push(text);
        }
    }
}

/// A query, asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryDrill {
    /// Its name.
    pub name: String,
    /// The database.
    pub database: String,
    /// Whether it gave what it must; absent where nothing is expected.
    pub good: Option<bool>,
    /// What it gave, in words or rows.
    pub text: String,
}

/// How a drill came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DrillSummary {
    /// The snapshot.
    pub snapshot: String,
    /// Whether everything came back.
    pub good: bool,
    /// Of a hundred files, so many were looked at.
    pub sample_percent: u32,
    /// Components that were exercised.
    pub components: u64,
    /// Files restored and compared.
    pub files: u64,
    /// Tables restored and compared.
    pub tables: u64,
    /// Rows read back.
    pub rows: u64,
    /// Bytes of files restored.
    pub bytes: u64,
    /// What did not come back as it was.
    pub problems: u64,
    /// Damage of the repository that was met; exit code 4 if it is not 0.
    pub damaged: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is told as it happens.
#[derive(Clone, Debug)]
pub enum DrillEvent {
    /// A component was exercised.
    Component(ComponentDrill),
    /// A query was asked.
    Query(QueryDrill),
    /// The drill could not be noted in the ledger.
    NotNoted(String),
}

/// What every step needs.
struct Stage<'a> {
    repository: &'a Arc<Repository>,
    snapshot: &'a Snapshot,
    options: &'a DrillOptions,
    stats: &'a Arc<Stats>,
    interrupt: &'a Interrupt,
    folder: PathBuf,
    servers: &'a Servers,
    queries: Vec<RestoreQuery>,
    /// Damage that was met.
    damaged: u64,
}

impl Stage<'_> {
    fn check_interrupt(&self) -> Result<()> {
        match self.interrupt.is_set() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.options.jobs.unwrap_or_else(cores)
    }

    /// The snapshot by its whole id: `latest` may be another one meanwhile.
    fn id(&self) -> String {
        self.snapshot.id.to_string()
    }
}

/// Exercises the restore of a snapshot.
pub fn drill(
    repository: &Arc<Repository>,
    options: &DrillOptions,
    stats: &Arc<Stats>,
    interrupt: &Interrupt,
    cleanup: &DrillCleanup,
    tell: &mut dyn FnMut(&DrillEvent),
) -> Result<DrillSummary> {
    let (begun, started) = (Instant::now(), now());
    let state = repository.read_state()?;
    let mut damaged = 0;
    let all = snapshots::list(repository, &state, &mut |_| damaged += 1)?;
    let snapshot = snapshots::resolve_live(&state, &all, &options.snapshot)?;
    let scratch = scratch(options, cleanup)?;
    let mut stage = Stage {
        repository,
        snapshot: &snapshot,
        options,
        stats,
        interrupt,
        folder: scratch.path().to_owned(),
        servers: &cleanup.servers,
        queries: match &options.queries {
            Some(queries) => queries.clone(),
            None => archived_queries(repository, &state, &snapshot)?,
        },
        damaged,
    };
    let (files, databases) = components(&snapshot);
    files::check_space(&stage, &files, &databases)?;
    let mut summary = DrillSummary {
        snapshot: snapshot.id.to_string(),
        sample_percent: options.sample.percent(),
        ..DrillSummary::default()
    };
    let mut notes = Vec::new();
    let mut each = |event: DrillEvent| {
        match &event {
            DrillEvent::Component(component) => {
                summary.components += 1;
                summary.problems += component.problem_count;
                summary.rows += component.rows;
                match component.kind {
                    "databases" => summary.tables += component.items,
                    _ => {
                        summary.files += component.items;
                        summary.bytes += component.bytes;
                    }
                }
                let place = format!("{}/{}", component.kind, component.name);
                let problems = component.problems.iter();
                notes.extend(problems.map(|problem| format!("{place}: {problem}")));
            }
            DrillEvent::Query(query) if query.good == Some(false) => {
                summary.problems += 1;
                notes.push(format!("query {}: {}", query.name, query.text));
            }
            DrillEvent::Query(_) | DrillEvent::NotNoted(_) => {}
        }
        tell(&event);
    };
    let reader = open_reader(repository, &state, Some(snapshot.id), &mut |_| {})?;
    for component in &files {
        stage.check_interrupt()?;
        let names = component.path.iter().map(|name| &name[..]);
        // A list of which this host had nothing leaves no trace in the tree.
        if component.totals == Subtree::default()
            && tree::find(&reader, &snapshot.record.root, names)?.is_none()
        {
            each(DrillEvent::Component(ComponentDrill {
                kind: component.kind.folder(),
                name: component.name.clone(),
                notes: vec!["there was nothing of it when the snapshot was taken".into()],
                ..ComponentDrill::default()
            }));
            continue;
        }
        each(DrillEvent::Component(files::exercise(
            &mut stage, component,
        )?));
    }
    databases::exercise(&mut stage, &databases, &mut each)?;
    stage.check_interrupt()?;
    summary.damaged = stage.damaged;
    summary.good = summary.problems == 0 && summary.damaged == 0;
    summary.seconds = begun.elapsed().as_secs_f64();
    notes.truncate(NOTES_MAX);
    let entry = LedgerEntry {
        kind: LedgerKind::Drill,
        depth: LedgerDepth::Restored,
        snapshot: Some(snapshot.id),
        site: snapshot.record.site.clone(),
        started,
        finished: now(),
        log_position: state.seq(),
        damaged: summary.damaged,
        affected: summary.problems,
        snapshots: 1,
        files: summary.files,
        tables: summary.tables,
        rows: summary.rows,
        bytes: summary.bytes,
        sample_percent: summary.sample_percent,
        host: options.host.clone(),
        program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
        notes,
        ..LedgerEntry::default()
    };
    if let Some(error) = ledger::write(repository, &entry) {
        tell(&DrillEvent::NotNoted(error.to_string()));
    }
    Ok(summary)
}

/// The components that have something to restore: those with files, and databases.
fn components(snapshot: &Snapshot) -> (Vec<Component>, Vec<Component>) {
    let taken = snapshot.record.components.iter();
    taken
        .filter(|c| c.state != ComponentState::Failed && c.kind != ComponentKind::Cluster)
        .cloned()
        .partition(|component| component.kind != ComponentKind::Database)
}

/// The queries of the site file in the snapshot, if there is one.
fn archived_queries(
    repository: &Arc<Repository>,
    state: &Arc<State>,
    snapshot: &Snapshot,
) -> Result<Vec<RestoreQuery>> {
    let reader = open_reader(repository, state, Some(snapshot.id), &mut |_| {})?;
    let path = [b"site".as_slice(), b"site.toml"];
    let Some(node) = tree::find(&reader, &snapshot.record.root, path)? else {
        return Ok(Vec::new());
    };
    let bytes = tree::read_all(&reader, &node.content, SITE_FILE_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    match SiteFile::parse(&text, Path::new("site/site.toml")) {
        Ok(site) => Ok(site.restore.queries),
        Err(error) => {
            tracing::warn!(
                "the archived site file can't be read, its queries are not asked: {error}"
            );
            Ok(Vec::new())
        }
    }
}

fn scratch(options: &DrillOptions, cleanup: &DrillCleanup) -> Result<TempDir> {
    let failed = |error| {
        let place = options.scratch.display();
        Error::local(format!("cannot make a scratch folder in {place}"), error)
    };
    let scratch = tempfile::Builder::new()
        .prefix("holdfast-drill-")
        .tempdir_in(&options.scratch)
        .map_err(failed)?;
    // The server's account must reach its folder, and nobody has to list this one.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).map_err(failed)?;
    let mut folder = cleanup
        .folder
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *folder = Some(scratch.path().to_owned());
    drop(folder);
    Ok(scratch)
}
