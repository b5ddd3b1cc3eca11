//! The worker threads and their two queues: units that sources' own threads submit, and tasks that read by themselves on a worker.
//!
//! Invariants:
//! 1. Bytes in flight never exceed the budget by more than one unit for each source (`the_budget_holds_and_no_source_starves`).
//! 2. A job never waits for another job; a full task queue gives the task back (`a_full_task_queue_gives_the_job_back`).
//! 3. The first error is the cause; everybody else sees `Stopped` (`the_first_error_is_kept`).
//!
//! Threads: one mutex for both queues, held for a push or a pop; workers wait on `work`, sources on `room`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::chunker::Chunker;
use super::worker::{Worker, WorkerParts};
use crate::error::{Error, Result};

/// Work for a worker thread; it may take long, but never waits for a source or for another job.
pub type Job = Box<dyn FnOnce(&mut Worker) -> Result<()> + Send>;

/// The source that a unit is charged to, and its bytes.
type Charge = (Arc<Source>, usize);

struct Unit {
    job: Job,
    bytes: usize,
    source: Arc<Source>,
}

#[derive(Default)]
struct Queues {
    units: VecDeque<Unit>,
    tasks: Vec<Job>,
    bytes_in_flight: usize,
    /// Workers that wait for work, and sources that wait for room: where nobody waits nobody is called, which would be a system call.
    idle: usize,
    blocked: usize,
    closed: bool,
    error: Option<Error>,
}

#[derive(Default)]
struct Source {
    in_flight: Mutex<usize>,
}

struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    room: Condvar,
    stopped: AtomicBool,
    bytes_max: usize,
    tasks_max: usize,
    worker_count: usize,
    file_chunker: Chunker,
    table_chunker: Chunker,
}

/// A handle to the worker threads; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("workers", &self.shared.worker_count)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Queues for `worker_count` threads (that the caller starts, each running [`Pool::work`]); units in flight hold at most
    /// `bytes_max` bytes and one unit more for each source.
    pub fn new(
        worker_count: usize,
        bytes_max: usize,
        tasks_max: usize,
        parts: &WorkerParts,
    ) -> Self {
        let shared = Shared {
            queues: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            stopped: AtomicBool::new(false),
            bytes_max,
            tasks_max,
            worker_count: worker_count.max(1),
            file_chunker: parts.file_chunker.clone(),
            table_chunker: parts.table_chunker.clone(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// How many worker threads there are.
    pub fn worker_count(&self) -> usize {
        self.shared.worker_count
    }

    pub(super) fn file_chunker(&self) -> Chunker {
        self.shared.file_chunker.clone()
    }

    pub(super) fn table_chunker(&self) -> Chunker {
        self.shared.table_chunker.clone()
    }

    /// Queues a task that reads by itself on the worker (fused readers: a directory, a file on a fast disk). Gives the job back when
    /// the queue is full: then the caller runs it itself, so that nothing grows and nothing waits for itself.
    pub fn try_spawn(&self, job: Job) -> Result<Option<Job>> {
        self.check()?;
        let mut queues = lock(&self.shared.queues);
        if queues.tasks.len() >= self.shared.tasks_max {
            return Ok(Some(job));
        }
        queues.tasks.push(job);
        let wake = queues.idle > 0;
        drop(queues);
        if wake {
            self.shared.work.notify_one();
        }
        Ok(None)
    }

    /// A queue of units for one source: it always owns at least one unit, whatever the other sources do.
    pub fn source_queue(&self) -> SourceQueue {
        SourceQueue {
            pool: self.clone(),
            source: Arc::default(),
        }
    }

    /// Whether the run was stopped (an error elsewhere, Ctrl-C): leave loops when it is.
    pub fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// `Err(Stopped)` when [`Self::is_stopped`].
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    /// Stops the run; the first error given is the cause, `Stopped` is no cause.
    pub fn stop(&self, error: Error) {
        let mut queues = lock(&self.shared.queues);
        if queues.error.is_none() && !matches!(error, Error::Stopped) {
            queues.error = Some(error);
        }
        self.shared.stopped.store(true, Ordering::Release);
        queues.units.clear();
        queues.tasks.clear();
        drop(queues);
        self.shared.work.notify_all();
        self.shared.room.notify_all();
    }

    /// The cause of the stop, once.
    pub fn take_error(&self) -> Option<Error> {
        lock(&self.shared.queues).error.take()
    }

    /// Says that nothing more will be queued by sources: workers end when both queues are empty and no job runs.
    pub fn close(&self) {
        lock(&self.shared.queues).closed = true;
        self.shared.work.notify_all();
    }

    /// A worker thread's loop: runs jobs until the pool is closed and empty, or stopped.
    pub fn work(&self, worker: &mut Worker) {
        while let Some((job, source)) = self.next() {
            let guard = StopOnPanic(self);
            let result = job(worker);
            std::mem::forget(guard);
            if let Some((source, bytes)) = source {
                self.unit_done(&source, bytes);
            }
            if let Err(error) = result {
                self.stop(error);
            }
        }
    }

    fn next(&self) -> Option<(Job, Option<Charge>)> {
        let mut queues = lock(&self.shared.queues);
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(unit) = queues.units.pop_front() {
                return Some((unit.job, Some((unit.source, unit.bytes))));
            }
            if let Some(task) = queues.tasks.pop() {
                return Some((task, None));
            }
            if queues.closed {
                return None;
            }
            queues.idle += 1;
            queues = self
                .shared
                .work
                .wait(queues)
                .unwrap_or_else(PoisonError::into_inner);
            queues.idle -= 1;
        }
    }

    fn unit_done(&self, source: &Source, bytes: usize) {
        let mut queues = lock(&self.shared.queues);
        queues.bytes_in_flight -= bytes;
        *lock(&source.in_flight) -= 1;
        let wake = queues.blocked > 0;
        drop(queues);
        if wake {
            self.shared.room.notify_all();
        }
    }

    /// Waits until a unit is done or the run is stopped.
    fn wait_for_room<'q>(&self, mut queues: MutexGuard<'q, Queues>) -> MutexGuard<'q, Queues> {
        queues.blocked += 1;
        let mut queues = self
            .shared
            .room
            .wait(queues)
            .unwrap_or_else(PoisonError::into_inner);
        queues.blocked -= 1;
        queues
    }
}

struct StopOnPanic<'a>(&'a Pool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        self.0.stop(Error::Message(
            "a worker thread panicked; this is a bug in holdfast".into(),
        ));
    }
}

/// Where one source puts its units, from as many of its own threads as it likes.
#[derive(Clone)]
pub struct SourceQueue {
    pool: Pool,
    source: Arc<Source>,
}

impl fmt::Debug for SourceQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceQueue").finish_non_exhaustive()
    }
}

impl SourceQueue {
    /// The pool behind it.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Queues a unit that holds `bytes` bytes (at most about 1 MiB and one chunk); blocks while the budget is used up, unless this
    /// source has no unit in flight.
    pub fn submit(&self, bytes: usize, job: Job) -> Result<()> {
        let shared = &self.pool.shared;
        let mut queues = lock(&shared.queues);
        loop {
            self.pool.check()?;
            let own = *lock(&self.source.in_flight);
            if own == 0 || queues.bytes_in_flight.saturating_add(bytes) <= shared.bytes_max {
                break;
            }
            queues = self.pool.wait_for_room(queues);
        }
        *lock(&self.source.in_flight) += 1;
        queues.bytes_in_flight += bytes;
        queues.units.push_back(Unit {
            job,
            bytes,
            source: self.source.clone(),
        });
        let wake = queues.idle > 0;
        drop(queues);
        if wake {
            shared.work.notify_one();
        }
        Ok(())
    }

    /// Blocks until every unit that was submitted is done.
    pub fn drain(&self) -> Result<()> {
        let shared = &self.pool.shared;
        let mut queues = lock(&shared.queues);
        loop {
            self.pool.check()?;
            if *lock(&self.source.in_flight) == 0 {
                return Ok(());
            }
            queues = self.pool.wait_for_room(queues);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::worker::testing::{MemoryStore, parts};
    use super::*;

    fn run(pool: &Pool, parts: &WorkerParts, threads: usize, feed: impl FnOnce()) {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| pool.work(&mut Worker::new(parts.clone()).unwrap()));
            }
            feed();
            pool.close();
        });
    }

    #[test]
    fn the_budget_holds_and_no_source_starves() {
        let parts = parts(Arc::new(MemoryStore::default()));
        let pool = Pool::new(2, 1000, 10, &parts);
        let (now, most, done) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        run(&pool, &parts, 2, || {
            std::thread::scope(|scope| {
                for _ in 0..5 {
                    scope.spawn(|| {
                        let queue = pool.source_queue();
                        for _ in 0..200 {
                            let (now, most, done) = (now.clone(), most.clone(), done.clone());
                            // Counted from inside: what runs is part of what is in flight.
                            let job: Job = Box::new(move |_| {
                                most.fetch_max(
                                    now.fetch_add(400, Ordering::SeqCst) + 400,
                                    Ordering::SeqCst,
                                );
                                now.fetch_sub(400, Ordering::SeqCst);
                                done.fetch_add(1, Ordering::SeqCst);
                                Ok(())
                            });
                            queue.submit(400, job).unwrap();
                            assert!(lock(&pool.shared.queues).bytes_in_flight <= 1000 + 5 * 400);
                        }
                        queue.drain().unwrap();
                    });
                }
            });
        });
        assert_eq!(done.load(Ordering::SeqCst), 1000);
        assert!(most.load(Ordering::SeqCst) <= 3000);
    }

    #[test]
    fn a_full_task_queue_gives_the_job_back() {
        let parts = parts(Arc::new(MemoryStore::default()));
        let pool = Pool::new(1, 1000, 1, &parts);
        assert!(pool.try_spawn(Box::new(|_| Ok(()))).unwrap().is_none());
        assert!(pool.try_spawn(Box::new(|_| Ok(()))).unwrap().is_some());
    }

    #[test]
    fn the_first_error_is_kept() {
        let parts = parts(Arc::new(MemoryStore::default()));
        let pool = Pool::new(2, 1000, 100, &parts);
        run(&pool, &parts, 2, || {
            let queue = pool.source_queue();
            queue
                .submit(1, Box::new(|_| Err(Error::Message("disk full".into()))))
                .unwrap();
            while queue.submit(1, Box::new(|_| Err(Error::Stopped))).is_ok() {}
            assert!(matches!(queue.drain(), Err(Error::Stopped)));
        });
        assert_eq!(pool.take_error().unwrap().to_string(), "disk full");
    }

    #[test]
    fn a_panic_stops_the_run() {
        let parts = parts(Arc::new(MemoryStore::default()));
        let pool = Pool::new(1, 1000, 100, &parts);
        let thread = {
            let (pool, parts) = (pool.clone(), parts.clone());
            std::thread::spawn(move || pool.work(&mut Worker::new(parts).unwrap()))
        };
        pool.try_spawn(Box::new(|_| panic!("on purpose"))).unwrap();
        assert!(thread.join().is_err());
        assert!(pool.take_error().unwrap().to_string().contains("panicked"));
    }
}
