//! What a worker thread owns: cutting, hashing, claiming, framing, compressing.
//!
//! Invariants:
//! 1. A chunk is claimed before it is compressed; a duplicate costs a hash and a look-up (`duplicates_are_not_framed`).
//! 2. Every claimed chunk reaches the store at [`Worker::flush`] at the latest (`flush_hands_over_what_is_left`).
//!
//! 3. A frame of tables has one base at most, and is stored alone where the base can't be read or is of little use
//!    (`ops::backup`, `what_changed_in_a_table_is_stored_on_what_it_was`).
//!
//! Memory of a worker: four frames of 1 MiB and one chunk, twice (one is reused), the window, two compressed frames, and a base with the tables
//! that zstd makes of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::chunker::Chunker;
use super::frames::{FrameBuilder, FrameCodec};
use super::previous::{Bases, Follower};
use crate::crypto::keys::ChunkIdKey;
use crate::error::{Error, Result};
use crate::format::id::ChunkId;
use crate::format::node::ChunkRef;
use crate::format::pack::{Base, Class, Encoding};
use crate::stats::Stats;
use crate::store::packs::NewFrame;

/// Bytes that a reader on a worker reads at once; stays in the second-level cache (`1 MiB` measured best on current machines).
pub const WINDOW_BYTES: usize = 1 << 20;

/// Whether a chunk has to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has it: whoever got this answer stores it.
    New,
    /// The repository has it, or somebody in this run stores it.
    Known,
}

/// Where workers claim chunks and leave frames.
pub trait ChunkStore: fmt::Debug + Send + Sync {
    /// One atomic test-and-set: exactly one caller gets `New` for an id that the repository does not have.
    fn claim(&self, id: &ChunkId) -> Claim;

    /// Seals a frame into an open pack.
    fn add_frame(&self, frame: NewFrame<'_>) -> Result<()>;

    /// What there was before, for compressing on it; absent: every frame stands alone.
    fn bases(&self) -> Option<&dyn Bases> {
        None
    }
}

/// What workers are made of.
#[derive(Clone, Debug)]
pub struct WorkerParts {
    /// Claims and packs.
    pub store: Arc<dyn ChunkStore>,
    /// Names chunks.
    pub id_key: ChunkIdKey,
    /// Cuts files and other plain bytes.
    pub file_chunker: Chunker,
    /// Cuts table streams.
    pub table_chunker: Chunker,
    /// Splits long lists and directories.
    pub split_key: [u8; 32],
    /// Plaintext of a full frame, bytes.
    pub frame_bytes: usize,
    /// zstd level.
    pub level: i32,
    /// Files below this many bytes share frames of their own class.
    pub small_file_bytes: u64,
    /// Counters.
    pub stats: Arc<Stats>,
}

/// One worker's state; every job gets it.
#[derive(Debug)]
pub struct Worker {
    /// A buffer for readers that run on the worker: [`WINDOW_BYTES`] long when a job gets it, and given back so.
    pub window: Vec<u8>,
    parts: WorkerParts,
    codec: FrameCodec,
    frames: [FrameBuilder; 4],
    body: Vec<u8>,
    /// What the open frame of tables is compressed on.
    base: Option<Base>,
    /// The plaintext of the last base.
    base_plain: Option<(Base, Bytes)>,
}

impl Worker {
    /// A worker.
    pub fn new(parts: WorkerParts) -> Result<Self> {
        let codec = FrameCodec::new(parts.level)
            .map_err(|e| Error::Message(format!("cannot compress: {e}")))?;
        let frames = std::array::from_fn(|_| FrameBuilder::new(parts.frame_bytes));
        Ok(Self {
            window: vec![0; WINDOW_BYTES],
            parts,
            codec,
            frames,
            body: Vec::new(),
            base: None,
            base_plain: None,
        })
    }

    /// What it was made of.
    pub fn parts(&self) -> &WorkerParts {
        &self.parts
    }

    /// Stores one chunk unless the repository or this run has it: identify, claim, and only if it is new, frame.
    pub fn put_chunk(&mut self, class: Class, bytes: &[u8]) -> Result<ChunkRef> {
        self.put(class, bytes, None)
    }

    /// Stores the next chunk of a unit; if it is new, on what stood in its place before.
    pub(super) fn put_chunk_of(
        &mut self,
        class: Class,
        bytes: &[u8],
        follower: &mut Follower<'_>,
    ) -> Result<ChunkRef> {
        self.put(class, bytes, Some(follower))
    }

    fn put(
        &mut self,
        class: Class,
        bytes: &[u8],
        follower: Option<&mut Follower<'_>>,
    ) -> Result<ChunkRef> {
        let id = self.parts.id_key.id(bytes);
        let len = u32::try_from(bytes.len()).expect("chunks are far below 4 GiB");
        let stats = &self.parts.stats;
        stats.chunks.one();
        if self.parts.store.claim(&id) == Claim::New {
            stats.chunks_new.one();
            stats.bytes_new.add(u64::from(len));
            if class == Class::Table {
                let store = self.parts.store.clone();
                let base = follower
                    .zip(store.bases())
                    .and_then(|(follower, bases)| follower.base(len, bases));
                if base != self.base {
                    self.close_frame(class)?;
                    self.base = base;
                }
            }
            let frame = &mut self.frames[usize::from(class.number())];
            frame.push(id, bytes);
            if frame.is_full() {
                self.close_frame(class)?;
            }
        } else if let Some(follower) = follower {
            follower.known(ChunkRef { id, len });
        }
        Ok(ChunkRef { id, len })
    }

    /// Says that what comes next in this class is of something else. A frame that is nearly full is closed, because it shrinks better when
    /// it holds the rows of one table.
    pub fn end_unit(&mut self, class: Class) -> Result<()> {
        match self.frames[usize::from(class.number())].is_half_full() {
            true => self.close_frame(class),
            false => Ok(()),
        }
    }

    /// Closes the open frames.
    pub fn flush(&mut self) -> Result<()> {
        for class in Class::ALL {
            self.close_frame(class)?;
        }
        Ok(())
    }

    fn close_frame(&mut self, class: Class) -> Result<()> {
        let builder = &mut self.frames[usize::from(class.number())];
        let Some(mut frame) = builder.take() else {
            return Ok(());
        };
        let base = match class {
            Class::Table => self.base,
            _ => None,
        };
        let encoding = match base.and_then(|base| self.read_base(base)) {
            Some(base) => self
                .codec
                .compress_on_base(&frame.bytes, &base, &mut self.body),
            None => self.codec.compress(&frame.bytes, &mut self.body),
        };
        let encoding =
            encoding.map_err(|e| Error::Message(format!("cannot compress a frame: {e}")))?;
        self.parts.store.add_frame(NewFrame {
            class,
            encoding,
            raw_len: u32::try_from(frame.bytes.len()).expect("frames are far below 4 GiB"),
            base: base.filter(|_| encoding == Encoding::ZstdPrefix),
            chunks: std::mem::take(&mut frame.chunks),
            body: &mut self.body,
        })?;
        self.frames[usize::from(class.number())].recycle(frame);
        Ok(())
    }

    /// The plaintext of a base. One that can't be read is done without: what would be on it is stored alone.
    fn read_base(&mut self, base: Base) -> Option<Bytes> {
        if let Some((last, plain)) = &self.base_plain
            && *last == base
        {
            return Some(plain.clone());
        }
        let plain = self.parts.store.bases()?.plain(&base)?;
        self.base_plain = Some((base, plain.clone()));
        Some(plain)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;
    use crate::pipeline::chunker::{ChunkerDomain, ChunkerKey, ChunkerParams};

    /// Keeps every chunk in memory.
    #[derive(Debug, Default)]
    pub(crate) struct MemoryStore {
        claimed: Mutex<HashSet<ChunkId>>,
        pub(crate) chunks: Mutex<std::collections::HashMap<ChunkId, Vec<u8>>>,
        pub(crate) frames: Mutex<Vec<(Class, usize)>>,
    }

    impl ChunkStore for MemoryStore {
        fn claim(&self, id: &ChunkId) -> Claim {
            if self.claimed.lock().unwrap().insert(*id) {
                Claim::New
            } else {
                Claim::Known
            }
        }

        fn add_frame(&self, frame: NewFrame<'_>) -> Result<()> {
            let mut plain = Vec::new();
            FrameCodec::new(1)
                .unwrap()
                .decompress(
                    frame.encoding,
                    frame.body,
                    frame.raw_len as usize,
                    &mut plain,
                )
                .unwrap();
            let mut at = 0;
            for chunk in &frame.chunks {
                let end = at + chunk.len as usize;
                assert!(
                    self.chunks
                        .lock()
                        .unwrap()
                        .insert(chunk.id, plain[at..end].to_vec())
                        .is_none()
                );
                at = end;
            }
            self.frames.lock().unwrap().push((frame.class, plain.len()));
            Ok(())
        }
    }

    pub(crate) fn parts(store: Arc<MemoryStore>) -> WorkerParts {
        let keyring = crate::crypto::keys::Keyring::generate(
            crate::format::id::RepositoryId([1; 16]),
            crate::format::header::Suite::Aes256Gcm,
            None,
            &mut crate::crypto::random::SeededRandom::new(1),
        );
        let chunker = |avg, domain| {
            Chunker::new(
                &ChunkerKey::derive(&[7; 32], domain),
                ChunkerParams::for_average(avg).unwrap(),
            )
            .unwrap()
        };
        WorkerParts {
            store,
            id_key: keyring.chunk_id_key().unwrap(),
            file_chunker: chunker(4096, ChunkerDomain::Files),
            table_chunker: chunker(2048, ChunkerDomain::Tables),
            split_key: [3; 32],
            frame_bytes: 64 << 10,
            level: 1,
            small_file_bytes: 64 << 10,
            stats: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{MemoryStore, parts};
    use super::*;

    #[test]
    fn duplicates_are_not_framed() {
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        let first = worker.put_chunk(Class::File, b"hello").unwrap();
        assert_eq!(worker.put_chunk(Class::Table, b"hello").unwrap(), first);
        worker.flush().unwrap();
        assert_eq!(*store.frames.lock().unwrap(), [(Class::File, 5)]);
        assert_eq!(worker.parts().stats.chunks.get(), 2);
        assert_eq!(worker.parts().stats.chunks_new.get(), 1);
    }

    #[test]
    fn a_frame_that_is_half_full_ends_with_its_unit() {
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        let mut put = |bytes: u8, len: usize| {
            worker.put_chunk(Class::Table, &vec![bytes; len]).unwrap();
            worker.end_unit(Class::Table).unwrap();
        };
        put(1, 40 << 10);
        put(2, 20 << 10);
        put(3, 20 << 10);
        put(4, 1);
        worker.flush().unwrap();
        let frames = store.frames.lock().unwrap().clone();
        let expected = [40 << 10, 40 << 10, 1].map(|bytes| (Class::Table, bytes));
        assert_eq!(frames, expected);
    }

    #[test]
    fn flush_hands_over_what_is_left() {
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        for i in 0..1000u32 {
            worker
                .put_chunk(Class::Small, &i.to_le_bytes().repeat(100))
                .unwrap();
        }
        worker.flush().unwrap();
        assert_eq!(store.chunks.lock().unwrap().len(), 1000);
        assert!(store.frames.lock().unwrap().len() > 5);
    }
}
