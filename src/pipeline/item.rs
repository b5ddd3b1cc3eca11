//! One stream in, its list of chunks out.
//!
//! A stream is cut where it is read. Its chunks are hashed, claimed and framed on the reader's own worker (`inline`) or, in units of about
//! 1 MiB, on whichever worker is free (`queued`); units may finish in any order, their chunks are put back in order here.
//!
//! A list longer than [`INLINE_REFS_MAX`] goes out as tree chunks of references: a list ends after a chunk whose id begins with a byte
//! below 1, behind at least [`LIST_REFS_MIN`] references, or after [`LIST_REFS_MAX`]; so one change in a long file rewrites few of them.
//!
//! Invariants:
//! 1. The list is the same for inline and queued, whatever the sizes of the writes (`inline_and_queued_agree`).
//! 2. Memory for one stream is one unit and a few lists, whatever its length (`long_lists_become_tree_chunks`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chunker::Chunker;
use super::pool::SourceQueue;
use super::previous::Stream;
use super::sink::TreePath;
use super::worker::Worker;
use crate::crypto::ContentHasher;
use crate::error::{Error, Result};
use crate::format::id::ContentDigest;
use crate::format::node::{ChunkRef, Content, encode_item};
use crate::format::pack::Class;

/// A content with more references than this keeps them in tree chunks.
pub const INLINE_REFS_MAX: usize = 48;
/// A list chunk that is not the last holds at least so many.
pub const LIST_REFS_MIN: usize = 64;
/// A list chunk holds at most so many.
pub const LIST_REFS_MAX: usize = 1024;
/// Bytes of a unit.
const UNIT_BYTES: usize = 1 << 20;
/// Units whose memory a stream keeps for its next ones.
const SPARE_UNITS_MAX: usize = 2;

/// What kind of stream it is: decides class and chunker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A file of this size as far as known; small ones share frames.
    File {
        /// Expected bytes.
        size: u64,
    },
    /// Rows of a table, each ending with a newline; cut at row ends.
    Table,
    /// Other bytes that belong to a database (schema dump, large object pages); cut like files, class table.
    TableBytes,
}

/// A stored stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredItem {
    /// Its chunks.
    pub content: Content,
    /// Plain BLAKE3 of the bytes, with the zeros of holes.
    pub digest: Option<ContentDigest>,
    /// Bytes, holes not counted.
    pub bytes: u64,
}

/// What runs when a stream is stored: makes the node and hands it to the sink. Runs on a worker.
pub type Done = Box<dyn FnOnce(&mut Worker, StoredItem) -> Result<()> + Send>;

/// Collects the chunks of a stream in order; long lists go out as tree chunks, so it never grows.
#[derive(Debug, Default)]
pub struct ContentBuilder {
    levels: Vec<Vec<ChunkRef>>,
}

impl ContentBuilder {
    /// Appends the next chunk.
    pub fn push(&mut self, worker: &mut Worker, chunk: ChunkRef) -> Result<()> {
        self.push_at(worker, 0, chunk)
    }

    fn push_at(&mut self, worker: &mut Worker, level: usize, chunk: ChunkRef) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let list = &mut self.levels[level];
        list.push(chunk);
        let border = chunk.id.as_bytes()[0] == 0 && list.len() >= LIST_REFS_MIN;
        if border || list.len() >= LIST_REFS_MAX {
            self.emit(worker, level)
        } else {
            Ok(())
        }
    }

    fn emit(&mut self, worker: &mut Worker, level: usize) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.levels[level].len() * 40);
        for chunk in self.levels[level].drain(..) {
            encode_item(&chunk, &mut bytes);
        }
        let list = worker.put_chunk(Class::Tree, &bytes)?;
        self.push_at(worker, level + 1, list)
    }

    /// Ends the list.
    pub fn finish(mut self, worker: &mut Worker) -> Result<Content> {
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].len() <= INLINE_REFS_MAX {
                let depth = u8::try_from(level).expect("a list of lists is a few levels deep");
                return Ok(Content {
                    depth,
                    refs: std::mem::take(&mut self.levels[level]),
                });
            }
            if !self.levels[level].is_empty() {
                self.emit(worker, level)?;
            }
            level += 1;
        }
        Ok(Content::default())
    }
}

/// Cuts one stream in the caller's thread. Dropped without `finish`, the stream is given up: what was stored of it is garbage that a
/// later run may use.
pub struct ItemWriter<'w> {
    kind: StreamKind,
    chunker: Option<Chunker>,
    hasher: Option<ContentHasher>,
    bytes: u64,
    /// Bytes that are not cut yet; in queued mode also the chunks of the open unit, before them.
    buffer: Vec<u8>,
    /// How many bytes of the buffer are in the digest already, in queued mode.
    hashed: usize,
    mode: Mode<'w>,
}

enum Mode<'w> {
    Inline {
        worker: &'w mut Worker,
        builder: ContentBuilder,
    },
    Queued {
        queue: SourceQueue,
        assembly: Arc<Assembly>,
        next_unit: u64,
        /// Bytes of the units before.
        sent: u64,
        /// Bytes in the buffer with which a unit can be cut off: whatever is in them, less than a largest chunk is left over.
        unit_full: usize,
    },
}

impl fmt::Debug for ItemWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemWriter")
            .field("kind", &self.kind)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

fn class_of(kind: StreamKind, small_file_bytes: u64) -> Class {
    match kind {
        StreamKind::File { size } if size < small_file_bytes => Class::Small,
        StreamKind::File { .. } => Class::File,
        StreamKind::Table | StreamKind::TableBytes => Class::Table,
    }
}

fn chunker_of(kind: StreamKind, worker: &Worker) -> Chunker {
    match kind {
        StreamKind::Table => worker.parts().table_chunker.clone(),
        StreamKind::File { .. } | StreamKind::TableBytes => worker.parts().file_chunker.clone(),
    }
}

fn cut(chunker: &Chunker, kind: StreamKind, data: &[u8], at_end: bool) -> Option<usize> {
    match kind {
        StreamKind::Table => chunker.cut_at_row_end(data, at_end),
        StreamKind::File { .. } | StreamKind::TableBytes => chunker.cut(data, at_end),
    }
}

impl<'w> ItemWriter<'w> {
    /// For a job that reads by itself on a worker.
    pub fn inline(worker: &'w mut Worker, kind: StreamKind, digest: bool) -> Self {
        Self {
            kind,
            chunker: Some(chunker_of(kind, worker)),
            hasher: digest.then(ContentHasher::new),
            bytes: 0,
            buffer: Vec::new(),
            hashed: 0,
            mode: Mode::Inline {
                worker,
                builder: ContentBuilder::default(),
            },
        }
    }

    /// For a source's own thread.
    pub fn queued(queue: &SourceQueue, kind: StreamKind, digest: bool) -> ItemWriter<'static> {
        let chunker = match kind {
            StreamKind::Table => queue.pool().table_chunker(),
            StreamKind::File { .. } | StreamKind::TableBytes => queue.pool().file_chunker(),
        };
        let unit_full = UNIT_BYTES + chunker.max_bytes();
        ItemWriter {
            kind,
            chunker: Some(chunker),
            hasher: digest.then(ContentHasher::new),
            bytes: 0,
            buffer: Vec::new(),
            hashed: 0,
            mode: Mode::Queued {
                queue: queue.clone(),
                assembly: Arc::default(),
                next_unit: 0,
                sent: 0,
                unit_full,
            },
        }
    }

    /// Says which stream it is: what is new of it is compressed on what stood there in the parent snapshot. Before the first bytes, and of
    /// queued streams of rows.
    #[must_use]
    pub fn follows(mut self, path: &TreePath) -> Self {
        if let Mode::Queued { assembly, .. } = &mut self.mode {
            *assembly = Arc::new(Assembly {
                before: Some(Stream::new(path.clone())),
                ..Assembly::default()
            });
        }
        self
    }

    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");
        match self.mode {
            Mode::Inline { .. } => {
                self.hash(bytes);
                self.write_inline(bytes)
            }
            Mode::Queued { unit_full, .. } => {
                let mut rest = bytes;
                while rest.len() >= unit_full - self.buffer.len() {
                    let (head, tail) = rest.split_at(unit_full - self.buffer.len());
                    self.buffer.extend_from_slice(head);
                    self.send_unit()?;
                    rest = tail;
                }
                self.buffer.extend_from_slice(rest);
                Ok(())
            }
        }
    }

    /// A hole: nothing is stored, the digest counts zeros.
    pub fn write_hole(&mut self, len: u64) -> Result<()> {
        // In queued mode bytes are hashed when their unit leaves; a hole has to come after what was written before it.
        if matches!(self.mode, Mode::Queued { .. }) {
            self.hash_pending();
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update_zeros(len);
        }
        Ok(())
    }

    /// Ends the stream; `done` runs when its last chunk is claimed: at once (inline) or later on a worker (queued).
    pub fn finish(mut self, done: Done) -> Result<()> {
        if matches!(self.mode, Mode::Inline { .. }) {
            self.flush_inline()?;
            let digest = self.digest();
            let bytes = self.bytes;
            let Mode::Inline { worker, builder } = self.mode else {
                unreachable!("just matched")
            };
            let content = builder.finish(worker)?;
            return done(
                worker,
                StoredItem {
                    content,
                    digest,
                    bytes,
                },
            );
        }
        self.finish_queued(done)
    }

    /// Ends the stream and waits for it; in queued mode never called on a worker.
    pub fn finish_wait(self) -> Result<StoredItem> {
        let pool = match &self.mode {
            Mode::Inline { .. } => None,
            Mode::Queued { queue, .. } => Some(queue.pool().clone()),
        };
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.finish(Box::new(move |_, item| {
            sender.send(item).map_err(|_gone| Error::Stopped)
        }))?;
        loop {
            match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok(item) => return Ok(item),
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                    if let Some(pool) = &pool {
                        pool.check()?;
                    }
                }
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                    return Err(Error::Stopped);
                }
            }
        }
    }

    fn chunker(&self) -> &Chunker {
        self.chunker
            .as_ref()
            .expect("a writer has its chunker until it ends")
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    fn digest(&mut self) -> Option<ContentDigest> {
        self.hasher.take().map(ContentHasher::finish)
    }

    fn put_inline(&mut self, bytes: &[u8]) -> Result<()> {
        let Mode::Inline { worker, builder } = &mut self.mode else {
            unreachable!("inline writers only")
        };
        let class = class_of(self.kind, worker.parts().small_file_bytes);
        let chunk = worker.put_chunk(class, bytes)?;
        builder.push(worker, chunk)
    }

    fn write_inline(&mut self, mut bytes: &[u8]) -> Result<()> {
        let max = self.chunker().max_bytes();
        while !self.buffer.is_empty() {
            let step = (max - self.buffer.len().min(max)).min(bytes.len());
            let before = self.buffer.len();
            self.buffer.extend_from_slice(&bytes[..step]);
            let Some(len) = cut(self.chunker(), self.kind, &self.buffer, false) else {
                return Ok(());
            };
            let buffer = std::mem::take(&mut self.buffer);
            self.put_inline(&buffer[..len])?;
            if len >= before {
                bytes = &bytes[len - before..];
                self.buffer = buffer;
                self.buffer.clear();
            } else {
                bytes = &bytes[step..];
                self.buffer.extend_from_slice(&buffer[len..]);
            }
        }
        while let Some(len) = cut(self.chunker(), self.kind, bytes, false) {
            let (chunk, rest) = bytes.split_at(len);
            self.put_inline(chunk)?;
            bytes = rest;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush_inline(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while let Some(len) = cut(self.chunker(), self.kind, rest, true) {
            let (chunk, tail) = rest.split_at(len);
            self.put_inline(chunk)?;
            rest = tail;
        }
        Ok(())
    }
}

/// Puts the chunks of units back in order.
#[derive(Debug, Default)]
struct Assembly {
    state: Mutex<AssemblyState>,
    /// What the stream was, if it may have been there before.
    before: Option<Stream>,
}

#[derive(Default)]
struct AssemblyState {
    next: u64,
    waiting: BTreeMap<u64, Vec<ChunkRef>>,
    /// Memory of units that are done.
    spare: Vec<Vec<u8>>,
    builder: ContentBuilder,
    end: Option<End>,
}

struct End {
    units: u64,
    digest: Option<ContentDigest>,
    bytes: u64,
    done: Done,
}

impl fmt::Debug for AssemblyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssemblyState")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl ItemWriter<'_> {
    fn hash_pending(&mut self) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.buffer[self.hashed..]);
        }
        self.hashed = self.buffer.len();
    }

    /// Hands the first whole chunks of the buffer, about one unit, to the workers.
    fn send_unit(&mut self) -> Result<()> {
        self.hash_pending();
        let mut lengths = Vec::with_capacity(UNIT_BYTES / 4096);
        let mut at = 0;
        while at < UNIT_BYTES
            && let Some(len) = cut(self.chunker(), self.kind, &self.buffer[at..], false)
        {
            lengths.push(len);
            at += len;
        }
        let Mode::Queued {
            queue,
            assembly,
            next_unit,
            sent,
            unit_full,
        } = &mut self.mode
        else {
            unreachable!("queued writers only")
        };
        let mut state = assembly
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut rest = state.spare.pop().unwrap_or_default();
        drop(state);
        rest.reserve_exact(*unit_full);
        rest.extend_from_slice(&self.buffer[at..]);
        self.buffer.truncate(at);
        let unit = std::mem::replace(&mut self.buffer, rest);
        self.hashed = self.buffer.len();
        let number = (*next_unit, *sent);
        *next_unit += 1;
        *sent += u64::try_from(unit.len()).expect("a length fits 64 bits");
        let (assembly, kind) = (assembly.clone(), self.kind);
        queue.submit(
            unit.len(),
            Box::new(move |worker| assembly.store(worker, kind, number, unit, &lengths)),
        )
    }

    fn finish_queued(mut self, done: Done) -> Result<()> {
        self.hash_pending();
        let (digest, bytes) = (self.digest(), self.bytes);
        let mut lengths = Vec::new();
        let mut at = 0;
        while let Some(len) = cut(self.chunker(), self.kind, &self.buffer[at..], true) {
            lengths.push(len);
            at += len;
        }
        let unit = std::mem::take(&mut self.buffer);
        let Mode::Queued {
            queue,
            assembly,
            next_unit,
            sent,
            ..
        } = &self.mode
        else {
            unreachable!("queued writers only")
        };
        let (number, sent) = (*next_unit, *sent);
        assembly
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end = Some(End {
            units: number + 1,
            digest,
            bytes,
            done,
        });
        let (assembly, kind) = (assembly.clone(), self.kind);
        queue.submit(
            unit.len(),
            Box::new(move |worker| assembly.store(worker, kind, (number, sent), unit, &lengths)),
        )
    }
}

impl Assembly {
    fn store(
        &self,
        worker: &mut Worker,
        kind: StreamKind,
        (number, offset): (u64, u64),
        mut unit: Vec<u8>,
        lengths: &[usize],
    ) -> Result<()> {
        let class = class_of(kind, worker.parts().small_file_bytes);
        let mut refs = Vec::with_capacity(lengths.len());
        let mut rest = unit.as_slice();
        let mut follower = self.before.as_ref().map(|before| before.follow(offset));
        for len in lengths {
            let (chunk, tail) = rest.split_at(*len);
            refs.push(match &mut follower {
                Some(follower) => worker.put_chunk_of(class, chunk, follower)?,
                None => worker.put_chunk(class, chunk)?,
            });
            rest = tail;
        }
        worker.end_unit(class)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(number, refs);
        if state.end.is_none() && state.spare.len() < SPARE_UNITS_MAX {
            unit.clear();
            state.spare.push(unit);
        }
        let state = &mut *state;
        while let Some(refs) = state.waiting.remove(&state.next) {
            state.next += 1;
            for chunk in refs {
                state.builder.push(worker, chunk)?;
            }
        }
        if state.end.as_ref().is_none_or(|end| end.units != state.next) {
            return Ok(());
        }
        let End {
            digest,
            bytes,
            done,
            ..
        } = state.end.take().expect("just looked at");
        let content = std::mem::take(&mut state.builder).finish(worker)?;
        done(
            worker,
            StoredItem {
                content,
                digest,
                bytes,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::super::worker::testing::{MemoryStore, parts};
    use super::*;
    use crate::format::node::decode_items;

    fn text(len: usize) -> Vec<u8> {
        let mut state = 12345u64;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let c = (state >> 59) as u8;
                if c == 31 { b'\n' } else { b'a' + c }
            })
            .collect()
    }

    fn expand(store: &MemoryStore, content: &Content) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in &content.refs {
            let bytes = store.chunks.lock().unwrap()[&chunk.id].clone();
            assert_eq!(bytes.len(), chunk.len as usize);
            if content.depth == 0 {
                out.extend_from_slice(&bytes);
            } else {
                let mut refs = Vec::new();
                decode_items(&bytes, |r| refs.push(r)).unwrap();
                out.extend(expand(
                    store,
                    &Content {
                        depth: content.depth - 1,
                        refs,
                    },
                ));
            }
        }
        out
    }

    fn inline(data: &[u8], kind: StreamKind, step: usize) -> (StoredItem, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store.clone())).unwrap();
        let mut writer = ItemWriter::inline(&mut worker, kind, true);
        for piece in data.chunks(step) {
            writer.write(piece).unwrap();
        }
        let item = writer.finish_wait().unwrap();
        worker.flush().unwrap();
        (item, store)
    }

    fn queued(data: &[u8], kind: StreamKind, step: usize) -> (StoredItem, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::default());
        let parts = parts(store.clone());
        let pool = Pool::new(3, 4 << 20, 10, &parts);
        let item = std::thread::scope(|scope| {
            for _ in 0..3 {
                let (pool, parts) = (pool.clone(), parts.clone());
                scope.spawn(move || {
                    let mut worker = Worker::new(parts).unwrap();
                    pool.work(&mut worker);
                    worker.flush().unwrap();
                });
            }
            let queue = pool.source_queue();
            let mut writer = ItemWriter::queued(&queue, kind, true);
            for piece in data.chunks(step) {
                writer.write(piece).unwrap();
            }
            let item = writer.finish_wait().unwrap();
            pool.close();
            item
        });
        (item, store)
    }

    #[test]
    fn inline_and_queued_agree() {
        for kind in [
            StreamKind::File { size: 1 << 30 },
            StreamKind::Table,
            StreamKind::TableBytes,
        ] {
            for len in [0, 1, 100, 5000, 3 << 20] {
                let data = text(len);
                let (expected, store) = inline(&data, kind, usize::MAX);
                assert_eq!(expand(&store, &expected.content), data);
                assert_eq!(
                    expected.digest,
                    Some(ContentDigest(*blake3::hash(&data).as_bytes()))
                );
                assert_eq!(expected.bytes, len as u64);
                for step in [1000, 77_777, 1 << 20] {
                    assert_eq!(
                        inline(&data, kind, step).0,
                        expected,
                        "{kind:?} {len} {step}"
                    );
                    let (item, store) = queued(&data, kind, step);
                    assert_eq!(item, expected, "{kind:?} {len} {step}");
                    assert_eq!(expand(&store, &item.content), data);
                }
            }
        }
    }

    #[test]
    fn long_lists_become_tree_chunks() {
        let data = text(8 << 20);
        let (item, store) = inline(&data, StreamKind::File { size: 8 << 20 }, 1 << 20);
        assert!(item.content.depth >= 1);
        assert!(item.content.refs.len() <= INLINE_REFS_MAX);
        assert_eq!(expand(&store, &item.content), data);
    }

    #[test]
    fn holes_count_in_the_digest_only() {
        let data = text(10_000);
        let mut whole = data.clone();
        whole.extend_from_slice(&[0; 100_000]);
        whole.extend_from_slice(&data);
        let store = Arc::new(MemoryStore::default());
        let mut worker = Worker::new(parts(store)).unwrap();
        let mut writer = ItemWriter::inline(&mut worker, StreamKind::File { size: 1 }, true);
        writer.write(&data).unwrap();
        writer.write_hole(100_000).unwrap();
        writer.write(&data).unwrap();
        let item = writer.finish_wait().unwrap();
        assert_eq!(
            item.digest,
            Some(ContentDigest(*blake3::hash(&whole).as_bytes()))
        );
        assert_eq!(item.bytes, 20_000);
    }
}
