//! `locks = "hold"`: `pg_dump`'s way, all tables locked before the snapshot and until the end.
//!
//! It keeps every definition as it is, and makes whoever wants to change one wait; everybody who comes
//! behind that waits too. That is why it is not the default. The locks belong to a session of their own,
//! which takes the snapshot over and can read any table, also one whose lock others queue up for.
//!
//! A database whose definitions change faster than it can be read without held locks gets them for its last
//! attempt ([`lock_all_now`]), if the server has room for that many and gives them soon.

use std::thread;
use std::time::Duration;

use super::budget::Lease;
use super::catalog::{self, Exclusions, number, rows};
use super::error::DumpError;
use super::{DumpOptions, parts};
use crate::source::postgres::{ConnectOptions, PgError, PgSession};

const TABLES_PER_STATEMENT: usize = 200;
const ROUNDS_MAX: u32 = 5;
/// How long a lock is waited for by who has not asked for held ones, and how often.
const WAIT_SHORT: Duration = Duration::from_secs(1);
const TRIES_SHORT: u32 = 5;

/// The session that holds the locks.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) session: PgSession,
    /// Its place among the connections, where the database's own does not count it.
    pub(super) _lease: Option<Lease>,
}

impl Holder {
    /// Takes over the snapshot; the session has run no query yet, and LOCK does not count as one.
    pub(super) fn import(&mut self, exported: &str) -> Result<(), DumpError> {
        self.session.batch_execute(&format!(
            "SET TRANSACTION SNAPSHOT {}",
            catalog::literal(exported)
        ))?;
        Ok(())
    }
}

/// Locks all tables of a database, waiting for each as long as the options allow.
pub(super) fn lock_all(
    side: &mut PgSession,
    exclusions: Exclusions<'_>,
    options: &DumpOptions,
) -> Result<Holder, DumpError> {
    lock_within(side, exclusions, options, options.lock_wait)
}

/// Locks all tables of a database that did not ask for it: nobody waits for long behind a lock that waits itself.
pub(super) fn lock_all_now(
    side: &mut PgSession,
    exclusions: Exclusions<'_>,
    options: &DumpOptions,
) -> Result<Holder, DumpError> {
    let wait = WAIT_SHORT.min(options.lock_wait);
    let mut tries = 1;
    loop {
        match lock_within(side, exclusions, options, wait) {
            Err(DumpError::Queue(_) | DumpError::Restart(_)) if tries < TRIES_SHORT => tries += 1,
            other => return other,
        }
        thread::sleep(WAIT_SHORT / 10);
    }
}

/// Locks all tables; the set is looked at again until it has not changed under the locks.
fn lock_within(
    side: &mut PgSession,
    exclusions: Exclusions<'_>,
    options: &DumpOptions,
    wait: Duration,
) -> Result<Holder, DumpError> {
    let connect = ConnectOptions {
        lock_timeout: Some(wait),
        ..options.session()
    };
    let mut session = side.connector().connect(&connect)?;
    session.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let mut locked: Vec<String> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let tables = catalog::table_names(side, exclusions)?;
        let missing: Vec<String> = tables
            .iter()
            .map(parts::relation)
            .filter(|name| locked.binary_search(name).is_err())
            .collect();
        if missing.is_empty() {
            return Ok(Holder {
                session,
                _lease: None,
            });
        }
        check_capacity(side, locked.len() + missing.len())?;
        for batch in missing.chunks(TABLES_PER_STATEMENT) {
            let list: Vec<String> = batch.iter().map(|name| format!("ONLY {name}")).collect();
            session
                .batch_execute(&format!(
                    "LOCK TABLE {} IN ACCESS SHARE MODE",
                    list.join(", ")
                ))
                .map_err(|error| refused(&error, wait < options.lock_wait))?;
        }
        locked.extend(missing);
        locked.sort();
    }
    Err(DumpError::Failed(
        "tables are made faster than they can be locked (locks = \"hold\")".to_owned(),
    ))
}

/// Says what a refused lock means. A table that was dropped between the look and the lock is a changed definition.
fn refused(error: &PgError, again: bool) -> DumpError {
    let advice = match error.code() {
        Some("42P01") => return DumpError::Restart(error.to_string()),
        // Not gotten soon, or given up to let somebody else go on.
        Some("55P03" | "40P01") if again => return DumpError::Queue(error.to_string()),
        Some("53200") => {
            "; the lock table of the server is full: raise max_locks_per_transaction or use locks = \"optimistic\""
        }
        Some("55P03") => "; somebody keeps a table locked",
        _ => "",
    };
    DumpError::Failed(format!(
        "cannot lock the tables (locks = \"hold\"): {error}{advice}"
    ))
}

/// Refuses what the server's lock table cannot hold, because a full one fails other people's statements.
/// The dump's own children lock the same tables once more.
fn check_capacity(session: &mut PgSession, tables: usize) -> Result<(), DumpError> {
    let found = rows(
        session,
        "SELECT pg_catalog.current_setting('max_locks_per_transaction')::bigint \
         * (pg_catalog.current_setting('max_connections')::bigint + pg_catalog.current_setting('max_prepared_transactions')::bigint)",
    )?;
    let capacity: usize = found.first().map(|row| number(row, 0)).unwrap_or_default();
    if tables.saturating_mul(2) > capacity {
        return Err(DumpError::Failed(format!(
            "locks = \"hold\" needs about {} locks, the server has room for {capacity}; \
             raise max_locks_per_transaction or use locks = \"optimistic\"",
            tables.saturating_mul(2)
        )));
    }
    Ok(())
}
