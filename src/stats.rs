//! The one set of counters of a run, read by the terminal ten times a second and by the summary at the end.
//!
//! Threads: anybody adds, anybody reads; relaxed atomics, no order between two counters is promised.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of a run.
#[derive(Debug, Default)]
pub struct Stats {
    /// Files that the parent did not have.
    pub files_new: Counter,
    /// Files that differ from the parent's.
    pub files_changed: Counter,
    /// Files taken over from the parent.
    pub files_unmodified: Counter,
    /// Directories walked.
    pub directories: Counter,
    /// Tables finished.
    pub tables: Counter,
    /// Rows read.
    pub rows: Counter,
    /// Bytes read from sources.
    pub bytes_read: Counter,
    /// Bytes that did not have to be read because the parent has them.
    pub bytes_unmodified: Counter,
    /// Chunks cut.
    pub chunks: Counter,
    /// Chunks that the repository did not have.
    pub chunks_new: Counter,
    /// Bytes of new chunks before compression.
    pub bytes_new: Counter,
    /// Bytes written to the repository.
    pub bytes_stored: Counter,
    /// Items skipped.
    pub skipped: Counter,
    /// Items that changed while they were read.
    pub torn: Counter,
    /// Expected bytes, as far as known (for the ETA).
    pub bytes_expected: Counter,
}
