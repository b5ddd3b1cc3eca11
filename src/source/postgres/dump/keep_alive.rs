//! Pings sessions that wait for their turn, so that no firewall forgets them.

use std::sync::{Mutex, TryLockError, Weak};
use std::thread;
use std::time::Duration;

use crate::source::postgres::PgSession;

/// Shorter than the idle limits of common firewalls and balancers.
const PERIOD: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(250);

/// Pings the sessions from a thread that ends when the last of them is gone. A session in use is left alone.
pub(super) fn watch(sessions: Vec<Weak<Mutex<PgSession>>>) {
    if sessions.is_empty() {
        return;
    }
    let watcher = move || {
        let mut waited = Duration::ZERO;
        while sessions.iter().any(|session| session.strong_count() > 0) {
            thread::sleep(TICK);
            waited += TICK;
            if waited >= PERIOD {
                waited = Duration::ZERO;
                sessions.iter().for_each(ping);
            }
        }
    };
    if let Err(error) = thread::Builder::new()
        .name("holdfast-ping".to_owned())
        .spawn(watcher)
    {
        tracing::warn!(%error, "cannot ping waiting database sessions");
    }
}

fn ping(session: &Weak<Mutex<PgSession>>) {
    let Some(session) = session.upgrade() else {
        return;
    };
    let mut session = match session.try_lock() {
        Ok(session) => session,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    if let Err(error) = session.ping() {
        tracing::warn!(%error, "a waiting database session was lost");
    }
}
