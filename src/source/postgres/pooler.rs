//! Notices a connection pooler that gives each transaction another session of the server.
//!
//! There a snapshot ends with the transaction that exported it for all we know, a setting goes to somebody else's session, and a
//! lock is anybody's. A pool that keeps one server session for each client's (`pool_mode = session`) is as good as the server.
//!
//! The sign is the backend's process id. Alone, an idle pool gives the same backend again and again. So a second session begins a
//! transaction, which takes the backend that the first one has just given back: two sessions on one backend, or the first one is
//! somewhere else afterwards.

use super::connect::{ConnectOptions, Connector, RetryPolicy};
use super::error::PgError;
use super::profile::SessionProfile;
use super::session::PgSession;

const PID: &str = "SELECT pg_catalog.pg_backend_pid()";

/// Refuses a session whose transactions run on different backends.
pub(super) fn refuse(
    session: &mut PgSession,
    connector: &Connector,
    options: &ConnectOptions,
) -> Result<(), PgError> {
    let plain = ConnectOptions {
        profile: SessionProfile::Plain,
        retry: RetryPolicy::once(),
        stop: options.stop.clone(),
        ..ConnectOptions::default()
    };
    let first = pid(session, PID)?;
    let mut other = connector.pinned_to(session.endpoint()).connect(&plain)?;
    let second = pid(&mut other, &format!("BEGIN; {PID}"))?;
    let sign = if first == second {
        Some("two sessions are served by one backend")
    } else if pid(session, PID)? != first {
        Some("the backend changes from one transaction to the next")
    } else {
        None
    };
    other.batch_execute("ROLLBACK")?;
    match sign {
        None => Ok(()),
        Some(sign) => Err(PgError::Pooler {
            endpoint: session.endpoint().to_string(),
            sign: sign.to_owned(),
        }),
    }
}

fn pid(session: &mut PgSession, sql: &str) -> Result<String, PgError> {
    let found = session.simple_column(sql)?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}
