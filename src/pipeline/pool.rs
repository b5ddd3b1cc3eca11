//! The worker threads and their two queues.

use std::sync::Arc;

use super::Worker;
use crate::error::Result;

/// Work for a worker thread; it may take long, but never waits for a source or for another job.
pub type Job = Box<dyn FnOnce(&mut Worker) -> Result<()> + Send>;

/// A handle to the worker threads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    _private: Arc<()>,
}

impl Pool {
    /// How many worker threads there are.
    pub fn worker_count(&self) -> usize {
        unimplemented!()
    }

    /// Queues a task that reads by itself on the worker (fused readers: a directory, a file on a fast disk). Gives the job back when
    /// the queue is full: then the caller runs it itself, so that nothing grows and nothing waits for itself.
    pub fn try_spawn(&self, job: Job) -> Result<Option<Job>> {
        drop(job);
        unimplemented!()
    }

    /// A queue of units for one source: it always owns at least one unit, whatever the other sources do.
    pub fn source_queue(&self) -> SourceQueue {
        unimplemented!()
    }

    /// Whether the run was stopped (an error elsewhere, Ctrl-C): leave loops when it is.
    pub fn is_stopped(&self) -> bool {
        unimplemented!()
    }

    /// `Err(Stopped)` when [`Self::is_stopped`].
    pub fn check(&self) -> Result<()> {
        unimplemented!()
    }
}

/// Where one source puts its units, from as many of its own threads as it likes.
#[derive(Clone, Debug)]
pub struct SourceQueue {
    _private: Arc<()>,
}

impl SourceQueue {
    /// Queues a unit that holds about `bytes` bytes (at most about 1 MiB and one chunk); blocks while the budget is used up.
    pub fn submit(&self, bytes: usize, job: Job) -> Result<()> {
        drop((bytes, job));
        unimplemented!()
    }

    /// Blocks until every unit that was submitted is done.
    pub fn drain(&self) -> Result<()> {
        unimplemented!()
    }
}
