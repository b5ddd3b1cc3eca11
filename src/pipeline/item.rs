//! One stream in, its list of chunks out.

use super::{SourceQueue, Worker};
use crate::error::Result;
use crate::format::id::ContentDigest;
use crate::format::node::{ChunkRef, Content};

/// What kind of stream it is: decides class and chunker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A file of this size as far as known; small ones share frames.
    File {
        /// Expected bytes.
        size: u64,
    },
    /// Rows of a table: whole rows, each ending with a newline; cut at row ends.
    Table,
    /// Other bytes that belong to a database (schema dump, large object pages); cut like files, class table.
    TableBytes,
}

/// A stored stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredItem {
    /// Its chunks.
    pub content: Content,
    /// Plain BLAKE3 of the bytes (holes: see [`ItemWriter::write_hole`]).
    pub digest: Option<ContentDigest>,
    /// Bytes, holes not counted.
    pub bytes: u64,
}

/// Collects the chunks of a stream in order; long lists go out as tree chunks, so it never grows.
#[derive(Debug, Default)]
pub struct ContentBuilder {
    _levels: Vec<Vec<ChunkRef>>,
}

impl ContentBuilder {
    /// Appends the next chunk.
    pub fn push(&mut self, worker: &mut Worker, chunk: ChunkRef) -> Result<()> {
        let _ = (worker, chunk);
        unimplemented!()
    }

    /// Ends the list.
    pub fn finish(self, worker: &mut Worker) -> Result<Content> {
        let _ = worker;
        unimplemented!()
    }
}

/// What runs when a stream is stored: makes the node and hands it to the sink. Runs on a worker.
pub type Done = Box<dyn FnOnce(&mut Worker, StoredItem) -> Result<()> + Send>;

/// Cuts one stream in the caller's thread. Hashing, compressing and sealing happen on the caller's own worker
/// ([`ItemWriter::inline`]) or, in units of about 1 MiB, on whichever worker is free ([`ItemWriter::queued`]).
#[derive(Debug)]
pub struct ItemWriter<'w> {
    _private: std::marker::PhantomData<&'w mut ()>,
}

impl<'w> ItemWriter<'w> {
    /// For a job that reads by itself on a worker.
    pub fn inline(worker: &'w mut Worker, kind: StreamKind, digest: bool) -> Self {
        let _ = (worker, kind, digest);
        unimplemented!()
    }

    /// For a source's own thread.
    pub fn queued(queue: &SourceQueue, kind: StreamKind, digest: bool) -> ItemWriter<'static> {
        let _ = (queue, kind, digest);
        unimplemented!()
    }

    /// The next bytes; for [`StreamKind::Table`] exactly one row with its newline.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        unimplemented!()
    }

    /// A hole: nothing is stored, the digest counts zeros.
    pub fn write_hole(&mut self, len: u64) -> Result<()> {
        let _ = len;
        unimplemented!()
    }

    /// Ends the stream; `done` runs when its last chunk is claimed: at once (inline) or later on a worker (queued).
    pub fn finish(self, done: Done) -> Result<()> {
        drop(done);
        unimplemented!()
    }

    /// Ends the stream and waits for it (queued: never call this on a worker).
    pub fn finish_wait(self) -> Result<StoredItem> {
        unimplemented!()
    }
}
// Dropping a writer abandons the stream: what was stored of it is garbage that the next run may use.
