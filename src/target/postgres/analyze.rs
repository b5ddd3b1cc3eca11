//! `ANALYZE` of what was restored: a schema dump has no statistics, and without them the first queries are planned blindly.
//!
//! What has foreign tables among its partitions or children is left out: their rows would be fetched from servers that may not answer.
//!
//! Threads: `jobs` sessions, each takes the largest relation that is left. Partitioned tables come last, because theirs are made of their partitions' rows.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::crew::Crew;
use super::data::qualified;
use super::error::RestoreError;
use super::report::Recorder;
use super::selection::Selection;
use crate::format::database::DatabaseInfo;
use crate::source::postgres::{ConnectOptions, Connector};

/// Collects statistics; what the server refuses is noted, because nothing of the data depends on it.
pub(crate) fn analyze(
    connector: &Connector,
    info: &DatabaseInfo,
    selection: &Selection,
    jobs: usize,
    recorder: &Recorder,
) -> Result<(), RestoreError> {
    let mut session = connector.connect(&ConnectOptions::restore())?;
    let sql = "WITH RECURSIVE above AS (SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'f' \
               UNION SELECT i.inhparent FROM above JOIN pg_catalog.pg_inherits i ON i.inhrelid = above.oid) \
               SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
               AND c.oid NOT IN (SELECT oid FROM above) ORDER BY c.relkind <> 'p', pg_catalog.pg_relation_size(c.oid)";
    let chosen: BTreeSet<(&str, &str)> = info
        .tables
        .iter()
        .map(|table| (table.schema.as_str(), table.name.as_str()))
        .collect();
    let mut waiting: Vec<(String, String)> = Vec::new();
    for row in session.query(sql, &[])? {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        if selection.is_all() || chosen.contains(&(schema.as_str(), name.as_str())) {
            waiting.push((schema, name));
        }
    }
    drop(session);
    let workers = jobs.clamp(1, waiting.len().max(1));
    let waiting = Mutex::new(waiting);
    let crew = Crew::new(connector, recorder);
    let work = || -> Result<(), RestoreError> {
        let is_work_left = || {
            !waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
        };
        let joined = crew.join(ConnectOptions::restore(), &is_work_left)?;
        let Some((mut session, _place)) = joined else {
            return Ok(());
        };
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((schema, name)) = next else {
                return Ok(());
            };
            recorder.check_interrupt()?;
            match session.batch_execute(&format!("ANALYZE {}", qualified(&schema, &name))) {
                Ok(()) => {}
                Err(error) if error.server_error().is_some() => {
                    recorder.note(format!("ANALYZE of {schema}.{name}: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let results: Vec<Result<(), RestoreError>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter();
        joined
            .map(|worker| worker.join().expect("a worker that panics is our bug"))
            .collect()
    });
    results.into_iter().collect()
}
