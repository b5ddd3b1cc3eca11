//! What a run that died has left undone, and `site start`.

use std::thread;
use std::time::Duration;

use super::guardian::settle;
use super::place::SiteLock;
use super::snapshots::remove_leftovers;
use super::steps::{self, Started, Step};
use crate::error::Result;
use crate::site::config::run::QuiesceSettings;

/// How often a living guardian is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was done about a run that died.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whether the site was stopped and start commands were run.
    pub started: bool,
    /// What is still down or left over.
    pub problems: Vec<String>,
}

/// Starts the site if a run that died has left it stopped, and removes file-system snapshots that it left. `note` is told what is done.
pub fn recover(lock: &SiteLock, note: &mut dyn FnMut(&str)) -> Result<Recovered> {
    let place = lock.place();
    let mut recovered = Recovered::default();
    if let Some(pending) = place.pending()? {
        let guardian = pending.guardian.filter(|guardian| guardian.is_alive());
        if let Some(guardian) = guardian {
            note(&format!(
                "a run of site {} has died and process {} is starting the site; waiting for it",
                place.site(),
                guardian.pid
            ));
            while guardian.is_alive() {
                thread::sleep(LOOK_EVERY);
            }
        }
    }
    if let Some(held) = place.held()? {
        recovered
            .problems
            .push(format!("site {} is stopped: {held}", place.site()));
    } else if let Some(pending) = place.pending()? {
        let state = match pending.problems.is_empty() {
            true => "ended without starting it",
            false => "could not start all of it",
        };
        note(&format!(
            "site {} was stopped at {} by process {}, which {state}; starting it",
            place.site(),
            pending.since.text(),
            pending.run.pid
        ));
        let started = steps::start(place.site(), &pending.start, pending.attempts);
        settle(place, &started)?;
        recovered.started = true;
        tell(started, &mut recovered.problems);
    }
    recovered.problems.extend(remove_leftovers(lock, note)?);
    Ok(recovered)
}

/// Starts the site: as a run that died would have done it, else by the start commands of the site file.
pub fn start_site(
    lock: &SiteLock,
    settings: Option<&QuiesceSettings>,
    note: &mut dyn FnMut(&str),
) -> Result<Recovered> {
    let place = lock.place();
    if let Some(mut pending) = place.pending()?.filter(|pending| pending.held.is_some()) {
        pending.held = None;
        place.set_pending(Some(&pending))?;
    }
    let mut recovered = recover(lock, note)?;
    if let Some(settings) = settings.filter(|_| !recovered.started) {
        let steps = Step::all(&settings.start);
        let started = steps::start(lock.place().site(), &steps, settings.start_attempts);
        recovered.started = true;
        tell(started, &mut recovered.problems);
    }
    Ok(recovered)
}

fn tell(started: Started, problems: &mut Vec<String>) {
    for retried in &started.retried {
        tracing::warn!("{retried}");
    }
    problems.extend(started.problems);
}
