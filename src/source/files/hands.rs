//! Who does the work of a walk: pipeline workers that read by themselves (fast local disks), or readers of our own (slow shares, and big
//! files that have holes or may be growing; other big files are read in segments by the workers).
//!
//! A [`Task`] is a directory, a batch of its entries or one big file. Whoever finds one offers it ([`Hands::offer`]); when nobody can take
//! it, the finder does it itself, so nothing queues up without limit and nothing waits for itself. Tasks hold directory handles, so the
//! limits on tasks are limits on open files.
//!
//! Threads: readers block in their source and in `SourceQueue`; workers never block here. One lock, held for a push or a pop.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::read::Unit;
use super::walk::{self, Dir, Entry, Shared};
use crate::error::{Error, Result};
use crate::format::node::Node;
use crate::pipeline::{Pool, SourceQueue, Worker};

/// Tasks that wait for a worker or run there.
const WORKER_TASKS_MAX: usize = 64;
/// Tasks that wait for a reader.
const READER_TASKS_MAX: usize = 192;
/// Readers for big files beside workers that read by themselves.
const BIG_FILE_READERS: usize = 2;

/// Takes a lock; a thread that panicked with it has left nothing half-done, and its panic is reported on its own.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts what is under way; the walk is over when nothing is.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    count: Mutex<usize>,
    idle: Condvar,
}

/// One thing under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Tracker>);

impl Tracker {
    /// Something more is under way.
    pub(super) fn ticket(self: &Arc<Self>) -> Ticket {
        *lock(&self.count) += 1;
        Ticket(Arc::clone(self))
    }

    /// How much is under way.
    fn count(&self) -> usize {
        *lock(&self.count)
    }

    /// Waits until nothing is under way; gives up a little after `stopped` says so, because a reader may hang in its source.
    pub(super) fn wait(&self, stopped: impl Fn() -> bool) {
        let mut give_up: Option<Instant> = None;
        let mut count = lock(&self.count);
        while *count > 0 {
            if stopped() {
                let limit = *give_up.get_or_insert_with(|| Instant::now() + Duration::from_secs(3));
                if Instant::now() >= limit {
                    return;
                }
            }
            let waited = self.idle.wait_timeout(count, Duration::from_millis(50));
            count = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut count = lock(&self.0.count);
        *count -= 1;
        if *count == 0 {
            self.0.idle.notify_all();
        }
    }
}

/// Something to walk or read.
#[derive(Debug)]
pub(super) enum Task {
    /// A directory that is open and whose own node was added.
    Opened {
        /// It.
        dir: Arc<Dir>,
        /// Its node in the parent.
        old: Option<Box<Node>>,
    },
    /// An entry of a directory that is a directory.
    Directory {
        /// Where it stands.
        parent: Arc<Dir>,
        /// The entry.
        entry: Entry,
    },
    /// Entries of a directory that are something else.
    Batch {
        /// Where they stand.
        dir: Arc<Dir>,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// A file so big that several workers should share it.
    Big {
        /// Where it stands.
        dir: Arc<Dir>,
        /// The entry.
        entry: Entry,
    },
}

/// Whose thread this is.
#[derive(Debug)]
pub(super) enum Hands<'w> {
    /// A pipeline worker: reads, cuts, hashes by itself; never blocks on the pool.
    Worker(&'w mut Worker),
    /// A reader: reads only and queues units for the workers.
    Reader(Box<Reader>),
}

/// What a reader owns.
#[derive(Debug)]
pub(super) struct Reader {
    /// Where its units go.
    pub(super) queue: SourceQueue,
    /// Small files that wait to be queued together.
    pub(super) unit: Unit,
    /// Buffer for big files.
    pub(super) window: Vec<u8>,
}

impl Hands<'_> {
    /// Offers a task to whoever is free; gives it back when the caller has to do it.
    pub(super) fn offer(&mut self, shared: &Arc<Shared>, task: Task) -> Result<Option<Task>> {
        match (self, &task) {
            (Self::Reader(_), _) | (Self::Worker(_), Task::Big { .. }) => {
                Ok(offer_reader(shared, task))
            }
            (Self::Worker(_), _) => offer_worker(shared, task),
        }
    }
}

/// Hands a task to the pool.
pub(super) fn offer_worker(shared: &Arc<Shared>, task: Task) -> Result<Option<Task>> {
    if shared.worker_tasks.count() >= WORKER_TASKS_MAX {
        return Ok(Some(task));
    }
    // The pool gives back a closure; the slot gives back what is in it, so that the caller's own stack does it.
    let slot = Arc::new(Mutex::new(Some(task)));
    let job = {
        let (slot, shared) = (Arc::clone(&slot), Arc::clone(shared));
        let tickets = (shared.tracker.ticket(), shared.worker_tasks.ticket());
        Box::new(move |worker: &mut Worker| {
            let task = lock(&slot).take();
            if let Some(task) = task {
                walk::run(&shared, &mut Hands::Worker(worker), task)?;
            }
            drop(shared);
            drop(tickets);
            Ok(())
        })
    };
    match shared.sink.pool.try_spawn(job)? {
        None => Ok(None),
        Some(job) => {
            drop(job);
            Ok(lock(&slot).take())
        }
    }
}

/// Hands a task to the readers.
pub(super) fn offer_reader(shared: &Arc<Shared>, task: Task) -> Option<Task> {
    let mut state = lock(&shared.readers.state);
    if state.waiting.len() >= READER_TASKS_MAX || state.closed {
        return Some(task);
    }
    let ticket = shared.tracker.ticket();
    // Directories wait behind everything else, so that batches and files, which hold less, go first.
    match task {
        Task::Directory { .. } | Task::Opened { .. } => state.waiting.push_front((task, ticket)),
        Task::Batch { .. } | Task::Big { .. } => state.waiting.push_back((task, ticket)),
    }
    let spawn = state.idle < state.waiting.len() && state.threads.len() < state.limit;
    if spawn {
        let name = format!("files-{}", state.threads.len());
        let for_thread = Arc::clone(shared);
        let spawned = std::thread::Builder::new()
            .name(name)
            .spawn(move || serve(&for_thread));
        match spawned {
            Ok(thread) => state.threads.push(thread),
            Err(error) if state.threads.is_empty() => {
                let what = "cannot start a reader thread";
                shared.fail(Error::local(what, error));
            }
            Err(error) => tracing::debug!(%error, "no more reader threads"),
        }
    }
    drop(state);
    shared.readers.wake.notify_one();
    None
}

/// The readers of a walk; threads start as there is work for them.
#[derive(Debug)]
pub(super) struct Readers {
    state: Mutex<ReadersState>,
    wake: Condvar,
    queue: SourceQueue,
}

#[derive(Debug)]
struct ReadersState {
    waiting: VecDeque<(Task, Ticket)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    idle: usize,
    limit: usize,
    closed: bool,
}

impl Readers {
    /// At most `limit` threads (0: only those for big files).
    pub(super) fn new(pool: &Pool, limit: usize) -> Self {
        Self {
            state: Mutex::new(ReadersState {
                waiting: VecDeque::new(),
                threads: Vec::new(),
                idle: 0,
                limit: limit.max(BIG_FILE_READERS),
                closed: false,
            }),
            wake: Condvar::new(),
            queue: pool.source_queue(),
        }
    }

    /// Allows at least `limit` threads, because something slow was found.
    pub(super) fn raise(&self, limit: usize) {
        let mut state = lock(&self.state);
        state.limit = state.limit.max(limit);
    }

    /// Ends the threads. After a stop those that hang in their source are left to themselves.
    pub(super) fn close(&self, stopped: bool) -> Result<()> {
        let threads = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.waiting.clear();
            std::mem::take(&mut state.threads)
        };
        self.wake.notify_all();
        for thread in threads {
            if stopped && !thread.is_finished() {
                continue;
            }
            if thread.join().is_err() {
                return Err(Error::Message("a reader thread panicked".to_owned()));
            }
        }
        Ok(())
    }

    fn take(&self) -> Option<(Task, Ticket)> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(next) = state.waiting.pop_back() {
                return Some(next);
            }
            state.idle += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// What a reader thread does.
fn serve(shared: &Arc<Shared>) {
    let mut hands = Hands::Reader(Box::new(Reader {
        queue: shared.readers.queue.clone(),
        unit: Unit::default(),
        window: Vec::new(),
    }));
    while let Some((task, ticket)) = shared.readers.take() {
        if let Err(error) = walk::run(shared, &mut hands, task) {
            shared.fail(error);
        }
        drop(ticket);
    }
}
