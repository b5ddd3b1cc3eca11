//! Indexes, constraints and triggers: the steps of post-data by several sessions, each step when what it depends on is there.
//!
//! Threads: `jobs` workers with a session each; the schedule is behind a lock that is held for a choice only.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::crew::Crew;
use super::ddl::{DdlSession, DdlSettings};
use super::error::RestoreError;
use super::plan::Step;
use super::report::{Phase, Recorder};
use super::schedule::Schedule;
use crate::source::postgres::{ConnectOptions, Connector};

/// The schedule, shared by workers, and whether one of them gave up.
pub(crate) struct PostData<'a> {
    steps: &'a [Step],
    recorder: &'a Recorder,
    schedule: Mutex<(Schedule<'a>, bool)>,
    changed: Condvar,
}

impl<'a> PostData<'a> {
    pub(crate) fn new(steps: &'a [Step], recorder: &'a Recorder) -> Self {
        Self {
            steps,
            recorder,
            schedule: Mutex::new((Schedule::new(steps), false)),
            changed: Condvar::new(),
        }
    }

    /// Executes all steps.
    pub(crate) fn run(
        &self,
        connector: &Connector,
        settings: &DdlSettings,
        jobs: usize,
    ) -> Result<(), RestoreError> {
        let workers = jobs.clamp(1, self.steps.len().max(1));
        let crew = Crew::new(connector, self.recorder);
        let results: Vec<Result<(), RestoreError>> = thread::scope(|scope| {
            let work = || {
                let result = self.work(&crew, settings);
                if result.is_err() {
                    self.stop();
                }
                result
            };
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker that panics is our bug"))
                .collect()
        });
        results.into_iter().collect()
    }

    fn work(&self, crew: &Crew<'_>, settings: &DdlSettings) -> Result<(), RestoreError> {
        let is_work_left = || {
            let guard = self.lock();
            !guard.1 && !guard.0.is_done()
        };
        let Some((session, _place)) = crew.join(ConnectOptions::restore(), &is_work_left)? else {
            return Ok(());
        };
        let mut session = DdlSession::of(session, crew.connector(), settings)?;
        while let Some(n) = self.next_step() {
            session.run(&self.steps[n], Phase::PostData, self.recorder)?;
            self.finished(n);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (Schedule<'a>, bool)> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a step that may run; `None` at the end.
    fn next_step(&self) -> Option<usize> {
        let mut guard = self.lock();
        loop {
            if guard.1 || guard.0.is_done() {
                return None;
            }
            if let Some(n) = guard.0.next_step() {
                return Some(n);
            }
            guard = self
                .changed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, n: usize) {
        self.lock().0.finished(n);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }
}
