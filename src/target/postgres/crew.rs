//! Sessions that work side by side, on a server that may have fewer connections to give than were asked for.
//!
//! Whoever gets none leaves the work to the others and tries again after a pause, as long as there is work. Only where nobody has a session, several
//! tries long, is that a failure.
//!
//! Threads: each worker opens its own session and holds its [`Place`] while it works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use super::report::Recorder;
use crate::source::postgres::{ConnectOptions, Connector, PgSession, RetryPolicy};

/// How often work and interrupts are looked at in a pause.
const LOOK: Duration = Duration::from_millis(50);

/// The workers of one step of a restore.
#[derive(Debug)]
pub(crate) struct Crew<'a> {
    connector: &'a Connector,
    recorder: &'a Recorder,
    working: AtomicUsize,
    told: AtomicBool,
}

/// One who works; the others know while this lives.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<'a> Crew<'a> {
    pub(crate) fn new(connector: &'a Connector, recorder: &'a Recorder) -> Self {
        Self {
            connector,
            recorder,
            working: AtomicUsize::new(0),
            told: AtomicBool::new(false),
        }
    }

    pub(crate) fn connector(&self) -> &'a Connector {
        self.connector
    }

    /// Opens a session for a worker; `None` when the work was done before there was one.
    pub(crate) fn join(
        &self,
        options: ConnectOptions,
        is_work_left: &dyn Fn() -> bool,
    ) -> Result<Option<(PgSession, Place<'_>)>, RestoreError> {
        let patience = options.retry;
        let once = ConnectOptions {
            retry: RetryPolicy::once(),
            ..options
        };
        let (mut refusals, mut alone) = (0, 0);
        loop {
            let error = match self.connector.connect(&once) {
                Ok(session) => {
                    self.working.fetch_add(1, Ordering::Acquire);
                    return Ok(Some((session, Place(&self.working))));
                }
                Err(error) if error.is_connection_limit() => error,
                // Nothing is known of how long it lasts: the usual patience.
                Err(_may_pass) => {
                    let usual = ConnectOptions {
                        retry: patience,
                        ..once.clone()
                    };
                    let session = self.connector.connect(&usual)?;
                    self.working.fetch_add(1, Ordering::Acquire);
                    return Ok(Some((session, Place(&self.working))));
                }
            };
            refusals += 1;
            if self.working.load(Ordering::Acquire) == 0 {
                alone += 1;
                if alone >= patience.tries {
                    return Err(error.into());
                }
            }
            if !self.told.swap(true, Ordering::Relaxed) {
                let text = format!(
                    "going on with fewer connections than --jobs asks for: {error}; the CONNECTION LIMIT of the role (ALTER ROLE) or of the database \
                     (ALTER DATABASE), or max_connections of the server, says how many there are"
                );
                tracing::warn!("{text}");
                self.recorder.note(text);
            }
            if !self.pause(patience.pause_after(refusals), is_work_left)? {
                return Ok(None);
            }
        }
    }

    /// Waits; says whether there is still work.
    fn pause(
        &self,
        pause: Duration,
        is_work_left: &dyn Fn() -> bool,
    ) -> Result<bool, RestoreError> {
        let end = Instant::now() + pause;
        loop {
            self.recorder.check_interrupt()?;
            if !is_work_left() {
                return Ok(false);
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return Ok(true);
            };
            thread::sleep(LOOK.min(left));
        }
    }
}
