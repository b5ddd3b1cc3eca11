//! The replay of a standby: it may end a statement that reads what it wants to remove, and it can be paused.
//!
//! A pause is a state of the server, not of a session. [`ReplayPause`] ends it when it is dropped, also when a run fails or is
//! interrupted; [`resume_all`] ends every pause of this process, for who must end at once.
//!
//! **Failure**: a process that is killed (`kill -9`, the end of the host) leaves the standby paused: it answers, but it does not
//! follow, and its WAL grows, until somebody runs `SELECT pg_wal_replay_resume()`. `site check` says that replay is paused, and so
//! does the next backup, which then leaves it as it found it.
//!
//! **Threads**: pauses may be dropped on any thread; the list of them is behind one lock, never held while a server is asked.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::connect::{ConnectOptions, Connector, RetryPolicy};
use super::error::PgError;
use super::session::PgSession;

/// Servers that this process has paused.
static PAUSED: Mutex<Vec<(u64, Connector)>> = Mutex::new(Vec::new());

/// How long the end of a process waits for servers to go on.
const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// How long a server may take until nothing is replayed any more.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Since when a server tells a wanted pause from one that has begun.
const PAUSE_STATE_SINCE: u32 = 140_000;

/// Names of the functions, which had others before version 10.
fn function(version_num: u32, what: &str) -> String {
    let log = if version_num >= 100_000 {
        "wal"
    } else {
        "xlog"
    };
    match what {
        "is_paused" => format!("pg_catalog.pg_is_{log}_replay_paused()"),
        what => format!("pg_catalog.pg_{log}_replay_{what}()"),
    }
}

fn setting(session: &mut PgSession, sql: &str) -> Result<String, PgError> {
    let found = session.simple_column(sql)?;
    Ok(found.into_iter().flatten().next().unwrap_or_default())
}

/// Whether replay is paused.
pub fn is_paused(session: &mut PgSession) -> Result<bool, PgError> {
    let call = function(session.version_num(), "is_paused");
    Ok(setting(session, &format!("SELECT {call}"))? == "t")
}

/// Says how patient the replay of this standby is.
pub fn settings_text(session: &mut PgSession) -> Result<String, PgError> {
    let mut parts = Vec::new();
    for name in [
        "max_standby_streaming_delay",
        "max_standby_archive_delay",
        "hot_standby_feedback",
    ] {
        let value = setting(
            session,
            &format!("SELECT pg_catalog.current_setting('{name}')"),
        )?;
        parts.push(format!("{name} = {value}"));
    }
    Ok(parts.join(", "))
}

/// Says which rights are missing to pause the replay, with the GRANT for each.
pub fn missing_rights(session: &mut PgSession) -> Result<Vec<String>, PgError> {
    let mut missing = Vec::new();
    for what in ["pause", "resume"] {
        let call = function(session.version_num(), what);
        let sql = format!("SELECT pg_catalog.has_function_privilege('{call}', 'EXECUTE')");
        if setting(session, &sql)? != "t" {
            missing.push(format!(
                "no right to {what} the replay; GRANT EXECUTE ON FUNCTION {call} TO \"{}\" (on the primary)",
                session.endpoint().user.replace('"', "\"\"")
            ));
        }
    }
    Ok(missing)
}

/// Whether the words of a server or a child tell of a conflict with replay.
#[must_use]
pub fn is_conflict(words: &str) -> bool {
    words.contains("conflict with recovery")
}

/// Explains a conflict; `settings` as of [`settings_text`].
#[must_use]
pub fn explain(words: &str, settings: Option<&str>) -> String {
    // The vacuum kind goes away with feedback, the kind of locks does not.
    let cure = if words.contains("must be removed") || words.contains("row versions") {
        "set hot_standby_feedback = on there, or raise max_standby_streaming_delay, or set pause-replay = true"
    } else {
        "raise max_standby_streaming_delay there, or set pause-replay = true"
    };
    let settings = match settings {
        Some(settings) => format!(" (now {settings})"),
        None => String::new(),
    };
    format!("the replay of the standby ended the dump{settings}; {cure}: {words}")
}

/// A paused replay; goes on when this is dropped.
#[derive(Debug)]
pub struct ReplayPause {
    id: u64,
}

impl ReplayPause {
    /// Pauses the replay of the session's server. Returns nothing where it is paused already: then it is not ours to end.
    pub fn begin(session: &mut PgSession) -> Result<Option<Self>, PgError> {
        if is_paused(session)? {
            tracing::warn!(server = %session.endpoint(), "replay is paused already, and is left so");
            return Ok(None);
        }
        // Known before it is paused, so that no moment is without somebody who ends it.
        let pause = {
            let mut paused = PAUSED.lock().unwrap_or_else(PoisonError::into_inner);
            let id = paused.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
            paused.push((id, session.connector()));
            Self { id }
        };
        let call = function(session.version_num(), "pause");
        session.batch_execute(&format!("SELECT {call}"))?;
        wait_until_paused(session)?;
        tracing::info!(server = %session.endpoint(), "replay paused");
        Ok(Some(pause))
    }
}

/// The pause begins between two records of the WAL.
fn wait_until_paused(session: &mut PgSession) -> Result<(), PgError> {
    let end = Instant::now() + PAUSE_LIMIT;
    while session.version_num() >= PAUSE_STATE_SINCE
        && setting(session, "SELECT pg_catalog.pg_get_wal_replay_pause_state()")? != "paused"
    {
        if Instant::now() > end {
            tracing::warn!("replay was asked to pause and has not done so yet");
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Drop for ReplayPause {
    fn drop(&mut self) {
        let found = {
            let mut paused = PAUSED.lock().unwrap_or_else(PoisonError::into_inner);
            let position = paused.iter().position(|(id, _)| *id == self.id);
            position.map(|position| paused.swap_remove(position).1)
        };
        if let Some(connector) = found {
            resume(&connector);
        }
    }
}

/// Ends every pause of this process; for who ends at once. A server that does not answer is waited for a few seconds only.
pub fn resume_all() {
    // They stay in the list: whoever drops a pause meanwhile and ends the process must not find that somebody else is about to end it.
    let all = PAUSED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let (done, ended) = crossbeam_channel::bounded::<()>(0);
    for (_, connector) in all {
        let done = done.clone();
        thread::spawn(move || {
            resume(&connector);
            drop(done);
        });
    }
    drop(done);
    if ended.recv_timeout(RESUME_LIMIT) == Err(RecvTimeoutError::Timeout) {
        tracing::error!(
            "replay could not be resumed in time; run SELECT pg_wal_replay_resume() on the standby"
        );
    }
}

/// Resumes by a session of its own: the one that paused may be gone or busy.
fn resume(connector: &Connector) {
    let options = ConnectOptions {
        retry: RetryPolicy {
            tries: 5,
            ..RetryPolicy::default()
        },
        ..ConnectOptions::default()
    };
    let resumed = connector.connect(&options).and_then(|mut session| {
        let call = function(session.version_num(), "resume");
        session.batch_execute(&format!("SELECT {call}"))
    });
    match resumed {
        Ok(()) => tracing::info!("replay resumed"),
        Err(error) => tracing::error!(
            %error,
            "replay could not be resumed; run SELECT pg_wal_replay_resume() on the standby"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_explained_by_their_kind() {
        let vacuum = "ERROR: canceling statement due to conflict with recovery (40001); detail: User query might have needed to see row versions that must be removed.";
        let lock = "FATAL: terminating connection due to conflict with recovery (40001); detail: User was holding a relation lock for too long.";
        assert!(is_conflict(vacuum) && is_conflict(lock) && !is_conflict("deadlock detected"));
        let said = explain(vacuum, Some("hot_standby_feedback = off"));
        assert!(
            said.contains("(now hot_standby_feedback = off)")
                && said.contains("set hot_standby_feedback = on")
        );
        assert!(!explain(lock, None).contains("hot_standby_feedback"));
    }

    #[test]
    fn functions_by_version() {
        assert_eq!(
            function(150_000, "pause"),
            "pg_catalog.pg_wal_replay_pause()"
        );
        assert_eq!(
            function(90_600, "is_paused"),
            "pg_catalog.pg_is_xlog_replay_paused()"
        );
    }
}
