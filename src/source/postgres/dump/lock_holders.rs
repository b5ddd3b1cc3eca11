//! Who keeps others from reading: for the message of a dump that waited in vain.

use std::time::Duration;

use super::catalog::{rows, text};
use super::error::DumpError;
use crate::source::postgres::{ConnectOptions, Connector, PgError, PgSession, RetryPolicy};

/// Tables that are named.
const SHOWN: usize = 4;

/// Relations of this database under a lock that nobody reads beside, with the session or the prepared transaction that has it.
const HOLDERS: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), coalesce('the prepared transaction ' || pg_catalog.quote_literal(x.gid), \
    'process ' || l.pid || coalesce(' of ' || a.usename, '')) FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    LEFT JOIN (SELECT p.gid, t.virtualtransaction FROM pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_locks t ON t.transactionid = p.transaction AND t.pid IS NULL) x \
    ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction \
    WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock' AND c.relkind IN ('r', 'S') AND n.nspname !~ '^pg_' \
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) ORDER BY 1";

/// Says who holds such locks; empty where nobody does.
pub(super) fn told(session: &mut PgSession) -> Result<String, PgError> {
    let found = rows(session, HOLDERS)?;
    let shown: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|row| format!("{} is held by {}", text(row, 0), text(row, 1)))
        .collect();
    Ok(match shown.as_slice() {
        [] => String::new(),
        shown => format!("; {}", shown.join(", ")),
    })
}

/// Makes the error of a wait that was too long, with who was waited for, as far as a new session finds out.
pub(super) fn waited(
    connector: &Connector,
    options: &ConnectOptions,
    waited: Duration,
) -> DumpError {
    let once = ConnectOptions {
        retry: RetryPolicy::once(),
        ..options.clone()
    };
    let holders = connector
        .connect(&once)
        .and_then(|mut session| told(&mut session));
    let seconds = waited.as_secs_f64();
    DumpError::Failed(format!(
        "the size of a table or the position of a sequence could not be asked for, because others kept it locked for more than {seconds} s{}",
        holders.unwrap_or_default()
    ))
}
