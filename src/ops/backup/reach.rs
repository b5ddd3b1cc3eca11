//! Whether the databases of a site answer, before anything is touched: patience is for then, and not for the time in which the site stands still.
//!
//! A server that does not answer is asked once more when the site is stopped; it costs the others no minute of rest.
//!
//! Invariants: a run that needs every part refuses before the stop (`no_snapshot_unless_everything_is_there` in `it/site_failures.rs`).

use super::{BackupOptions, Interrupt};
use crate::error::{Error, Result};
use crate::ops::connect::settings;
use crate::site::config::DatabaseSettings;
use crate::source::postgres::{ConnectOptions, Connector, PgError, RetryPolicy, StopFlag};

/// The options with the databases that do not answer; asked only where a site is stopped, or where a database knows the paths of shares.
pub(super) fn looked(options: &BackupOptions, interrupt: &Interrupt) -> Result<BackupOptions> {
    let mut options = options.clone();
    let Some(site) = options.site.clone() else {
        return Ok(options);
    };
    let stops = site.quiesce.as_ref().is_some_and(|q| !q.stop.is_empty()) && !options.no_stop;
    let asks = site
        .shares
        .iter()
        .any(|share| share.path.as_os_str().is_empty());
    if !stops && !asks {
        return Ok(options);
    }
    for database in &site.databases {
        // Once is enough for the others: they are mostly on the same server.
        let patient = options.unreachable.is_empty();
        let Err(error) = reach(database, &options, patient, interrupt) else {
            continue;
        };
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        if stops && site.require_all {
            return Err(Error::Message(format!(
                "database {:?}: {error}; nothing was stopped, because the site file asks for every part (require-all)",
                database.name
            )));
        }
        options.unreachable.push(database.name.clone());
    }
    Ok(options)
}

fn reach(
    database: &DatabaseSettings,
    options: &BackupOptions,
    patient: bool,
    interrupt: &Interrupt,
) -> Result<(), PgError> {
    let mut retry = RetryPolicy::default();
    if let Some(retries) = database.retries {
        retry.tries = retries.max(1);
    }
    if !patient {
        retry = RetryPolicy::once();
    }
    let connect = ConnectOptions {
        retry,
        stop: StopFlag::new(interrupt.flag()),
        ..ConnectOptions::default()
    };
    let session = Connector::new(settings(database, &options.environment)?).connect(&connect)?;
    session.close();
    Ok(())
}
