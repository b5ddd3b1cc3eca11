//! `verify`: proves that what the repository says it has is there and is good.
//!
//! | depth | what is looked at |
//! |---|---|
//! | `NoKey` | every object still has the hash that names it, plain objects their checksums; needs no key ([`without_key`]) |
//! | `Structure` | the log's chain, plain objects and their copies, every index run and record, every tree; every chunk of every tree is in the index; every pack has its length |
//! | `Data` | also every byte of every pack: name, header, directory, frames, the id of every chunk |
//! | `EndToEnd` | also every file's digest, and rows and row digest of every part of a table, from the chunks in their order |
//!
//! [`against`] compares a directory with a snapshot.
//!
//! What is damaged is handed to the caller, one [`Finding`] each, and the rest is gone on with. It changes nothing, but adds a line to
//! the ledger ([`crate::format::ledger`]) where it is told its host.
//!
//! Invariants:
//! 1. A flipped bit in any object is found by `Data` (`every_flip_is_found`).
//! 2. An absent object is damage only if the log, read after it, still needs it.
//! 3. Files that can be restored are not called affected (`affected_files_are_named`).
//!
//! Memory: the index; a bit for each of its chunks; a window ([`super::window`]) and 64 MiB of identities of contents with `EndToEnd`.

mod against;
mod contents;
mod objects;
mod packs;
#[cfg(test)]
mod tests;
mod trees;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::ledger::{LedgerDepth, LedgerEntry, LedgerKind};
use crate::ops::backup::{Interrupt, now};
use crate::ops::ledger;
use crate::ops::snapshots::{self, Snapshot};
use crate::ops::window::thread_count;
use crate::stats::Stats;
use crate::store::{Repository, StoreError};

pub use against::{
    AgainstOptions, AgainstSummary, Difference, DifferenceKind, OnDifference, against,
};
pub use objects::without_key;

/// How much is looked at; each depth has all of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Everything but the bytes of packs.
    #[default]
    Structure,
    /// Every byte of the repository.
    Data,
    /// Also every content against its digest.
    EndToEnd,
}

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// One snapshot, as people name it; all if there is none. Only its trees and packs are looked at then.
    pub snapshot: Option<String>,
    /// How much.
    pub depth: Depth,
    /// Threads; absent: one for each core.
    pub threads: Option<usize>,
    /// This host, under which the run is noted in the ledger; absent: it is not noted.
    pub host: Option<String>,
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// An object or a file is damaged.
    Damaged,
    /// A file can't be restored because of an object that was named before.
    Affected,
    /// Not damage, but good to know.
    Note,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    #[serde(rename = "message_type")]
    pub kind: FindingKind,
    /// The object's path below the root of the repository; or the snapshot's id, where a file is meant.
    pub object: String,
    /// The file in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "snapshot {}: {path}: {}", self.object, self.what),
            None if self.object.is_empty() => f.write_str(&self.what),
            None => write!(f, "{}: {}", self.object, self.what),
        }
    }
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifySummary {
    /// Objects that are not packs.
    pub objects: u64,
    /// Packs: that they are there, or (from `Data` on) read whole.
    pub packs: u64,
    /// Chunks: that they are in the index, or (from `Data` on) whose ids were recomputed.
    pub chunks: u64,
    /// Bytes read from packs.
    pub bytes_read: u64,
    /// Snapshots whose trees were read.
    pub snapshots: u64,
    /// Files in them; what several snapshots share is counted once.
    pub files: u64,
    /// Rows of tables that were counted again.
    pub rows: u64,
    /// Damaged objects, and files that are damaged although no object is.
    pub damaged: u64,
    /// Files that can't be restored because of damaged objects.
    pub affected: u64,
    /// Log entries of which nothing could be checked because there was no key.
    pub unchecked: u64,
    /// How long it took.
    pub seconds: f64,
}

impl VerifySummary {
    /// 0, or 4 for damage.
    pub fn exit_code(&self) -> u8 {
        if self.damaged + self.affected > 0 {
            4
        } else {
            0
        }
    }
}

/// Takes findings; called from several threads.
pub type Report<'a> = &'a (dyn Fn(&Finding) + Sync);

/// Counts and hands on what is found.
struct Reporter<'a> {
    each: Report<'a>,
    /// One finding at a time, so that lines do not mix.
    gate: Mutex<()>,
    damaged: AtomicU64,
    affected: AtomicU64,
}

impl<'a> Reporter<'a> {
    fn new(each: Report<'a>) -> Self {
        Self {
            each,
            gate: Mutex::default(),
            damaged: AtomicU64::new(0),
            affected: AtomicU64::new(0),
        }
    }

    fn send(&self, finding: &Finding) {
        match finding.kind {
            FindingKind::Damaged => self.damaged.fetch_add(1, Ordering::Relaxed),
            FindingKind::Affected => self.affected.fetch_add(1, Ordering::Relaxed),
            FindingKind::Note => 0,
        };
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        (self.each)(finding);
    }

    fn damaged(&self, object: impl ToString, what: impl ToString) {
        self.send(&Finding {
            kind: FindingKind::Damaged,
            object: object.to_string(),
            path: None,
            what: what.to_string(),
        });
    }

    /// An error that is damage of one object.
    fn error(&self, object: impl ToString, error: &StoreError) {
        match error {
            StoreError::Damaged { object, what } => self.damaged(object, what),
            other => self.damaged(object, describe(other)),
        }
    }

    fn note(&self, what: impl ToString) {
        self.send(&Finding {
            kind: FindingKind::Note,
            object: String::new(),
            path: None,
            what: what.to_string(),
        });
    }

    fn file(&self, kind: FindingKind, snapshot: &Snapshot, path: &[u8], what: impl ToString) {
        let path = match path {
            b"" => "/".into(),
            path => String::from_utf8_lossy(path).into_owned(),
        };
        self.send(&Finding {
            kind,
            object: snapshot.id.short(),
            path: Some(path),
            what: what.to_string(),
        });
    }
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Verifies a repository. `Err` is a run that could not go on; damage is in the summary.
pub fn verify(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
    stats: &Arc<Stats>,
    stop: &Interrupt,
    each: Report<'_>,
) -> Result<VerifySummary> {
    let begun = Instant::now();
    let started = now();
    let report = Reporter::new(each);
    let threads = options.threads.unwrap_or_else(thread_count).clamp(1, 256);
    let mut summary = VerifySummary::default();
    let state = objects::log(repository, &report, &mut summary)?;
    objects::plain(&**repository.backend(), Some(&state), &report, &mut summary)?;
    let index = objects::sealed(repository, &state, threads, &report, &mut summary)?;
    let index = Arc::new(index);
    let snapshots = chosen(repository, &state, options)?;
    let mut checked = packs::Packs::new(repository, &state, &index, threads, stop, &report, stats);
    if options.snapshot.is_some() {
        checked.only_those_of(&snapshots)?;
    }
    checked.exist(options.depth == Depth::Structure)?;
    if options.depth >= Depth::Data {
        checked.read()?;
    }
    let known = checked.finish(&mut summary);
    let trees = trees::Trees {
        repository,
        state: &state,
        index: &index,
        known: &known,
        threads,
        stop,
        report: &report,
        stats,
        contents: options.depth == Depth::EndToEnd,
        one: options.snapshot.is_some(),
    };
    trees.verify(&snapshots, options.depth == Depth::Structure, &mut summary)?;
    summary.damaged = report.damaged.load(Ordering::Relaxed);
    summary.affected = report.affected.load(Ordering::Relaxed);
    summary.seconds = begun.elapsed().as_secs_f64();
    if let Some(host) = &options.host {
        let one = options.snapshot.as_ref().and(snapshots.first());
        let entry = LedgerEntry {
            kind: LedgerKind::Verify,
            depth: options.depth.into(),
            snapshot: one.map(|snapshot| snapshot.id),
            site: one.map_or_else(String::new, |snapshot| snapshot.record.site.clone()),
            started,
            finished: now(),
            log_position: state.seq(),
            damaged: summary.damaged,
            affected: summary.affected,
            snapshots: summary.snapshots,
            packs: summary.packs,
            chunks: summary.chunks,
            files: summary.files,
            rows: summary.rows,
            bytes: summary.bytes_read,
            host: host.clone(),
            program: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
            ..LedgerEntry::default()
        };
        // The proof is made; that nobody will remember it harms nothing that is stored.
        if let Some(error) = ledger::write(repository, &entry) {
            report.note(format!(
                "this verification could not be noted in the ledger: {}",
                describe(&error)
            ));
        }
    }
    Ok(summary)
}

impl From<Depth> for LedgerDepth {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::Structure => Self::Structure,
            Depth::Data => Self::Data,
            Depth::EndToEnd => Self::EndToEnd,
        }
    }
}

/// The snapshots to verify; damaged records were reported already.
fn chosen(
    repository: &Repository,
    state: &crate::store::State,
    options: &VerifyOptions,
) -> Result<Vec<Snapshot>> {
    let all = snapshots::list(repository, state, &mut |_| {})?;
    match &options.snapshot {
        Some(spec) => Ok(vec![snapshots::resolve_live(state, &all, spec)?]),
        None => Ok(all),
    }
}

fn check_stop(stop: &Interrupt) -> Result<()> {
    match stop.is_set() {
        true => Err(Error::Interrupted),
        false => Ok(()),
    }
}
