//! What a worker thread owns: cutting, hashing, claiming, framing, compressing, sealing.

use super::chunker::Chunker;
use crate::error::Result;
use crate::format::node::ChunkRef;
use crate::format::pack::Class;

/// One worker's state; every job gets it.
#[derive(Debug)]
pub struct Worker {
    /// A buffer for readers that run on the worker: reused, at least 1 MiB and one largest chunk long.
    pub window: Vec<u8>,
}

impl Worker {
    /// Stores one chunk unless the repository or this run has it: identify, claim, and only if it is new, frame.
    pub fn put_chunk(&mut self, class: Class, bytes: &[u8]) -> Result<ChunkRef> {
        let _ = (class, bytes);
        unimplemented!()
    }

    /// The chunker for files.
    pub fn file_chunker(&self) -> Chunker {
        unimplemented!()
    }
}
