//! `status`: is everything backed up, and is it still good; for people and for monitors.
//!
//! It reads the log, the records and the ledger, never a pack; sizes of objects come from a listing.
//!
//! | looked at | a warning | critical |
//! |---|---|---|
//! | each component of a site | the newest snapshot did not get all of it; it shrank against the median of the last ones; an empty reference | no good snapshot within `max-age`, or none at all |
//! | certificates | ends within `warn-before-expiry` | has ended |
//! | verification | none of every byte within `verified-within` | the last one found damage |
//! | drill | none within `drilled-within`, where that is set | the last one failed |
//!
//! A component is good in a snapshot where it is complete. Which components a site has is what its site file says; without one, what its newest
//! snapshot has.
//!
//! Invariants:
//!
//! 1. A component that was never backed up, or vanished, is not silence (test `what_is_not_there_is_critical`).
//! 2. A newer snapshot that failed does not hide the last good one (test `a_failed_night_is_a_warning_until_it_is_too_old`).

mod assess;
mod export;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use super::ledger;
use super::snapshots::{self, Snapshot};
use crate::backend::ObjectKind;
use crate::error::Result;
use crate::format::ledger::{LedgerDepth, LedgerEntry, LedgerKind};
use crate::format::snapshot::ComponentKind;
use crate::site::SiteFile;
use crate::site::config::run::StatusSettings;
use crate::store::{Repository, StoreError};

pub use export::{monitor_line, prometheus, write_atomically};

/// How bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    #[default]
    Ok,
    /// Somebody should look at it.
    Warning,
    /// Somebody must look at it now.
    Critical,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct StatusOptions<'a> {
    /// The site file: which components there must be, and when to warn.
    pub site: Option<&'a SiteFile>,
    /// Only this site; the site file's where there is one.
    pub only: Option<String>,
    /// Now, in seconds since 1970.
    pub now: i64,
}

impl StatusOptions<'_> {
    fn settings(&self) -> StatusSettings {
        self.site.map(|site| site.status).unwrap_or_default()
    }
}

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// How bad it is.
    pub level: Level,
    /// What it is, in words.
    pub text: String,
}

/// A component of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// The site.
    pub site: String,
    /// `databases`, `shares`, …
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The worst of the remarks.
    pub level: Level,
    /// The last snapshot in which it is complete.
    pub last_good: Option<String>,
    /// When that was begun, in seconds since 1970.
    pub last_good_at: Option<i64>,
    /// How long ago, in seconds.
    pub age: Option<i64>,
    /// Its bytes there.
    pub bytes: u64,
    /// The median of its bytes in the good snapshots before, at most seven of them.
    pub median_bytes: Option<u64>,
    /// Its files or tables there.
    pub items: u64,
    /// What there is to know.
    pub remarks: Vec<Remark>,
}

/// A certificate that has ended or soon will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// The site.
    pub site: String,
    /// The file.
    pub path: String,
    /// Whose it is.
    pub subject: String,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// How bad that is.
    pub level: Level,
}

/// The last time that something was verified or restored as an exercise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExerciseStatus {
    /// `verify` or `drill`.
    pub kind: &'static str,
    /// How deep: `structure`, `data`, `end-to-end`, `restored`.
    pub depth: &'static str,
    /// The snapshot; absent: all of them.
    pub snapshot: Option<String>,
    /// When it ended, in seconds since 1970.
    pub finished: i64,
    /// Damaged objects, or what did not come back.
    pub damaged: u64,
    /// Where it was done.
    pub host: String,
}

/// The repository as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepositoryStatus {
    /// Bytes of all objects.
    pub bytes: u64,
    /// Bytes that snapshots of the last seven days added.
    pub grown_7_days: u64,
    /// Bytes that snapshots of the last thirty days added.
    pub grown_30_days: u64,
    /// Bytes that are free where it is, if that is known.
    pub free_bytes: Option<u64>,
    /// Live snapshots.
    pub snapshots: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The worst of everything.
    pub level: Level,
    /// The repository.
    pub repository: RepositoryStatus,
    /// Components, by site, kind and name.
    pub components: Vec<ComponentStatus>,
    /// Certificates that have ended or soon will.
    pub certificates: Vec<CertificateStatus>,
    /// The last verifications and the last drill, each depth once.
    pub exercises: Vec<ExerciseStatus>,
    /// What is about none of these alone.
    pub remarks: Vec<Remark>,
    /// Damage that was met; exit code 4 if it is not 0.
    pub damaged: u64,
}

/// Looks at a repository.
pub fn status(
    repository: &Repository,
    options: &StatusOptions<'_>,
    damage: &mut dyn FnMut(StoreError),
) -> Result<Status> {
    let mut damaged = 0;
    let mut tell = |error: StoreError| {
        damaged += 1;
        damage(error);
    };
    let state = repository.read_state()?;
    let all = snapshots::list(repository, &state, &mut tell)?;
    let entries = ledger::read(repository, &mut tell)?;
    let mut status = Status {
        repository: repository_status(repository, &all, options.now)?,
        damaged,
        ..Status::default()
    };
    let wanted = options
        .site
        .map(|site| site.name.clone())
        .or_else(|| options.only.clone());
    let of_site = |snapshot: &&Snapshot| {
        wanted
            .as_ref()
            .is_none_or(|site| *site == snapshot.record.site)
    };
    let chosen: Vec<&Snapshot> = all.iter().filter(of_site).collect();
    assess::components(&mut status, options, &chosen);
    assess::certificates(&mut status, options, &chosen);
    assess::exercises(&mut status, options, &entries, &chosen);
    if damaged > 0 {
        status.remarks.push(Remark {
            level: Level::Critical,
            text: "objects of the repository are damaged; run holdfast verify".into(),
        });
    }
    status.level = worst(&status);
    Ok(status)
}

fn worst(status: &Status) -> Level {
    let components = status.components.iter().map(|c| c.level);
    let certificates = status.certificates.iter().map(|c| c.level);
    let remarks = status.remarks.iter().map(|r| r.level);
    components
        .chain(certificates)
        .chain(remarks)
        .max()
        .unwrap_or_default()
}

fn repository_status(
    repository: &Repository,
    all: &[Snapshot],
    now: i64,
) -> Result<RepositoryStatus> {
    let mut bytes = 0;
    for kind in ObjectKind::ALL {
        let listed = repository
            .backend()
            .list(kind, &mut |info| bytes += info.len);
        listed.map_err(StoreError::from)?;
    }
    let grown = |days: i64| {
        let since = now.saturating_sub(days * 86_400);
        let young = all.iter().filter(|s| s.record.started.seconds >= since);
        young.map(|s| s.record.totals.bytes_stored).sum()
    };
    Ok(RepositoryStatus {
        bytes,
        grown_7_days: grown(7),
        grown_30_days: grown(30),
        free_bytes: repository
            .backend()
            .free_bytes()
            .map_err(StoreError::from)?,
        snapshots: u64::try_from(all.len()).unwrap_or(u64::MAX),
    })
}

/// `3 days`, `5 hours`, `12 minutes`.
pub fn age_text(seconds: i64) -> String {
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).as_secs();
    let (number, unit) = match seconds {
        s if s >= 2 * 86_400 => (s / 86_400, "day"),
        s if s >= 2 * 3_600 => (s / 3_600, "hour"),
        s => (s / 60, "minute"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

fn exercise(entry: &LedgerEntry) -> ExerciseStatus {
    ExerciseStatus {
        kind: match entry.kind {
            LedgerKind::Verify => "verify",
            LedgerKind::Drill => "drill",
        },
        depth: entry.depth.word(),
        snapshot: entry.snapshot.map(|id| id.short()),
        finished: entry.finished.seconds,
        damaged: entry.damaged + entry.affected,
        host: entry.host.clone(),
    }
}

/// Whether an entry says that every byte of all snapshots was read.
fn is_whole(entry: &LedgerEntry) -> bool {
    entry.kind == LedgerKind::Verify
        && entry.snapshot.is_none()
        && entry.depth >= LedgerDepth::Data
        && matches!(entry.sample_percent, 0 | 100)
}

/// Kinds of components that a monitor asks about: what a site is made of.
const WATCHED: &[ComponentKind] = &[
    ComponentKind::Database,
    ComponentKind::Share,
    ComponentKind::Files,
    ComponentKind::Certificates,
    ComponentKind::Path,
];
