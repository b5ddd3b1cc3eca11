//! The lock of one part of a table, and the question whether the table is still the one of the snapshot.

use super::catalog::{self, Table};
use super::error::DumpError;
use super::parts;
use crate::source::postgres::{PgError, PgSession, ServerError};

const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Prepares the question of each part, once in a session.
pub(super) fn prepare_check(session: &mut PgSession) -> Result<(), PgError> {
    let there = format!(
        "SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE name = {}",
        catalog::literal(parts::CHECK)
    );
    if catalog::rows(session, &there)?.is_empty() {
        session.batch_execute(&parts::prepare_check(session.version_num()))?;
    }
    Ok(())
}

/// Locks a table for one part; returns the server's words where others are in the way.
pub(super) fn lock_part(
    session: &mut PgSession,
    table: &Table,
) -> Result<Option<String>, DumpError> {
    let sql = parts::lock_and_check(table);
    let found = match catalog::rows(session, &sql) {
        Ok(found) => found,
        Err(error) if error.code() == Some(LOCK_NOT_AVAILABLE) => {
            session.batch_execute(parts::UNLOCK)?;
            return Ok(Some(
                error
                    .server_error()
                    .map(ServerError::to_string)
                    .unwrap_or_default(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    match found.first().and_then(|row| row.get(0)) {
        Some("t") => Ok(None),
        _ => Err(DumpError::Restart(
            "it was truncated, rewritten or altered after the snapshot".to_owned(),
        )),
    }
}
