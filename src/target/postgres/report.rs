//! What a restore did and could not do, for people and as JSON. Fields are added, never renamed.
//!
//! Threads: a `Recorder` is shared by all workers of one restore; its lock is held for a push only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::error::RestoreError;
use crate::error::Error;
use crate::source::postgres::PgError;

/// What to do when something cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Go on with the rest and report it.
    #[default]
    Continue,
    /// Stop there.
    Stop,
}

/// Part of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Roles, tablespaces.
    Globals,
    /// The database itself.
    Database,
    /// Objects before the rows.
    PreData,
    /// Rows.
    Data,
    /// Positions of sequences.
    Sequences,
    /// Large objects.
    LargeObjects,
    /// Indexes, constraints, triggers.
    PostData,
    /// Access privileges.
    Privileges,
    /// Materialized views and event triggers.
    Last,
    /// Comparison with the archive.
    Check,
}

/// Something that was not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Failure {
    /// When.
    pub phase: Phase,
    /// What: kind and name.
    pub object: String,
    /// The server's or our reason.
    pub reason: String,
    /// The server's code, where it said one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sqlstate: Option<String>,
}

/// One table's rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct TableReport {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Rows in the archive.
    pub rows_archived: u64,
    /// Rows that the server took.
    pub rows: u64,
    /// Partitioned table that took them instead, `schema.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_via: Option<String>,
    /// Parts that had to be loaded again after others.
    pub retried: u64,
    /// The archive holds no rows of it, because they were excluded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub data_excluded: bool,
}

/// A table whose restored rows are not the archived ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct Difference {
    /// What: a table, a sequence, large objects.
    pub object: String,
    /// What the archive says.
    pub archived: String,
    /// What the server has.
    pub restored: String,
}

/// The comparison of what was restored with what was archived.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct CheckReport {
    /// Tables compared.
    pub tables: u64,
    /// Rows read back.
    pub rows: u64,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What a restore of one database did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "snake_case")]
pub struct RestoreReport {
    /// Name of the restored database.
    pub database: String,
    /// Version of the server that it was restored into.
    pub server_version: String,
    /// Version of the server that it came from.
    pub source_version: String,
    /// Whether the database was created (an empty one may have been there).
    pub created: bool,
    /// Roles that were created.
    pub roles_created: Vec<String>,
    /// Roles that the archive names and neither the target nor the globals to be restored have.
    pub roles_missing: Vec<String>,
    /// Tablespaces that the archive names and the target lacks; what was in them is in the default one.
    pub tablespaces_missing: Vec<String>,
    /// Extensions that the archive has and the target does not offer.
    pub extensions_missing: Vec<String>,
    /// Statements executed, without those that only prepare a session.
    pub statements: u64,
    /// Tables and their rows.
    pub tables: Vec<TableReport>,
    /// Rows restored.
    pub rows: u64,
    /// Sequences set.
    pub sequences: u64,
    /// Large objects restored.
    pub large_objects: u64,
    /// Damage that was met in the archive; damaged parts are among the failures.
    pub damaged: u64,
    /// What could not be restored, and why.
    pub failures: Vec<Failure>,
    /// What else should be known.
    pub notes: Vec<String>,
    /// The comparison, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckReport>,
    /// Why the database that should be replaced is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_swapped: Option<String>,
    /// It ended at the first failure, as was asked for.
    pub stopped: bool,
    /// How long it took.
    pub seconds: f64,
}

impl RestoreReport {
    /// Whether everything of the archive is in the target.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
            && !self.stopped
            && self.not_swapped.is_none()
            && self
                .check
                .as_ref()
                .is_none_or(|check| check.differences.is_empty())
    }
}

/// Whether an error of the archive is damage (exit code 4), which costs what it lies in, and not a reason to stop.
pub(crate) fn is_damage(error: &Error) -> bool {
    error.exit_code() == 4
}

/// The server has no room left.
pub(crate) const DISK_FULL: &str = "53100";

/// Gathers the report from all workers.
#[derive(Debug)]
pub(crate) struct Recorder {
    report: Mutex<RestoreReport>,
    on_error: OnError,
    interrupted: Arc<AtomicBool>,
}

impl Recorder {
    pub(crate) fn new(
        report: RestoreReport,
        on_error: OnError,
        interrupted: Arc<AtomicBool>,
    ) -> Self {
        Self {
            report: Mutex::new(report),
            on_error,
            interrupted,
        }
    }

    /// The report, to add to it.
    pub(crate) fn report(&self) -> MutexGuard<'_, RestoreReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_report(self) -> RestoreReport {
        self.report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what could not be restored; an error when the restore shall stop there.
    pub(crate) fn fail(
        &self,
        phase: Phase,
        object: impl Into<String>,
        reason: impl Into<String>,
        sqlstate: Option<&str>,
    ) -> Result<(), RestoreError> {
        let failure = Failure {
            phase,
            object: object.into(),
            reason: reason.into(),
            sqlstate: sqlstate.map(str::to_owned),
        };
        tracing::warn!(object = %failure.object, reason = %failure.reason, "not restored");
        self.report().failures.push(failure);
        match self.on_error {
            OnError::Continue => Ok(()),
            OnError::Stop => Err(RestoreError::Halted),
        }
    }

    /// The same for a refusal of the server; a lost connection is an error in any case.
    pub(crate) fn refused(
        &self,
        phase: Phase,
        object: impl Into<String>,
        error: PgError,
    ) -> Result<(), RestoreError> {
        match error.server_error() {
            // Whatever comes next is refused too.
            Some(server) if server.code == DISK_FULL => Err(error.into()),
            Some(server) => self.fail(phase, object, server.to_string(), Some(&server.code)),
            None => Err(error.into()),
        }
    }

    /// Notes that the archive itself is damaged there.
    pub(crate) fn damaged(
        &self,
        phase: Phase,
        object: impl Into<String>,
        error: &Error,
    ) -> Result<(), RestoreError> {
        self.report().damaged += 1;
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            reason.push_str(&format!(": {next}"));
            cause = next.source();
        }
        self.fail(phase, object, reason, None)
    }

    pub(crate) fn note(&self, note: impl Into<String>) {
        let note = note.into();
        tracing::info!("{note}");
        self.report().notes.push(note);
    }

    pub(crate) fn check_interrupt(&self) -> Result<(), RestoreError> {
        if self.interrupted.load(Ordering::Relaxed) {
            Err(RestoreError::Interrupted)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_when_asked_to() {
        let check = |on_error, halts: bool| {
            let recorder = Recorder::new(RestoreReport::default(), on_error, Arc::default());
            let result = recorder.fail(Phase::PostData, "INDEX a.b", "no space", Some("53100"));
            assert_eq!(result.is_err(), halts);
            let report = recorder.into_report();
            assert!(!report.is_complete());
            assert_eq!(report.failures[0].sqlstate.as_deref(), Some("53100"));
        };
        check(OnError::Continue, false);
        check(OnError::Stop, true);
    }

    #[test]
    fn report_is_json_with_stable_names() {
        let mut report = RestoreReport {
            database: "a".to_owned(),
            ..RestoreReport::default()
        };
        assert!(report.is_complete());
        report.check = Some(CheckReport {
            tables: 1,
            rows: 2,
            differences: vec![Difference::default()],
        });
        assert!(!report.is_complete());
        let json = serde_json::to_value(&report).unwrap();
        for field in [
            "database",
            "roles_missing",
            "tables",
            "failures",
            "notes",
            "large_objects",
            "check",
            "seconds",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(
            serde_json::from_value::<RestoreReport>(json).unwrap(),
            report
        );
    }
}
