//! A big content that can be read anywhere: the workers read, cut and hash segments of it at the same time, each while its bytes are in
//! the cache, and the cuts are those of one reader that goes through from the first byte to the last.
//!
//! Where a chunk ends depends on where it begins and on the bytes behind that, on nothing else. So a worker begins a little before its segment
//! (`overlap`), cuts as if a chunk began there, and takes over the first border in its segment as its *entry*: two rows of cuts that
//! begin at different places meet after a few chunks, and then stay together. When the segment before is known, its last border is compared with
//! the entry. If they are the same, all is as if it had been cut in one go; if not (constant or periodic data, once in thousands of
//! segments otherwise), it is cut again from the true border until a border is met that the segment has. What was stored for nothing is
//! garbage that a later run may use.
//!
//! The plain digest is merged from those of the segments, see [`ContentHasher`].
//!
//! Invariants:
//! 1. Chunks and digest are those of [`ItemWriter`](super::ItemWriter) (`segments_cut_as_one_reader_does`).
//! 2. A content that ends early or can't be read gives no item, once (`ends_that_are_not_good`).
//! 3. Memory is a worker's window and the chunk lists of at most `SEGMENTS_AHEAD` segments for each worker, 1.5 MiB at 16 KiB chunks.
//!
//! Threads: jobs on the workers; none waits for another, whoever completes the next segment in order stitches it. One lock, held for a look.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chunker::Chunker;
use super::item::{ContentBuilder, StoredItem};
use super::pool::Pool;
use super::worker::{WINDOW_BYTES, Worker};
use crate::crypto::ContentHasher;
use crate::error::{Error, Result};
use crate::format::node::ChunkRef;
use crate::format::pack::Class;

/// Bytes of a segment: a power of two, so that its digest is one subtree.
const SEGMENT_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Average chunks that a segment begins early.
const OVERLAP_CHUNKS: u64 = 16;
/// Bytes that are read, cut and hashed at once. Source, window and tables share the second-level cache.
const READ_BYTES: usize = 512 << 10;
/// Segments for each worker that may be cut before those in front of them are.
const SEGMENTS_AHEAD: u64 = 4;

/// Where the bytes are.
pub trait ReadAt: Send + Sync {
    /// Reads what stands at `offset`; fewer bytes than asked for mean that the content ends there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Unreadable>;
}

/// Why bytes could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// The content's fault, in words.
    Item(String),
    /// The run's fault.
    Run(Error),
}

/// How it ended.
#[derive(Debug)]
pub enum SegmentsEnd {
    /// Every byte is stored.
    Stored(StoredItem),
    /// It is shorter than was said.
    Short,
    /// It can't be read.
    Unreadable(String),
}

/// What runs at the end, once, on a worker.
pub type SegmentsDone = Box<dyn FnOnce(&mut Worker, SegmentsEnd) -> Result<()> + Send>;

/// Sizes; tests take small ones.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    segment: u64,
    overlap: u64,
    read: usize,
}

/// A content that is read in segments.
pub struct SegmentedItem {
    source: Box<dyn ReadAt>,
    size: u64,
    digest: bool,
    chunker: Chunker,
    sizes: Sizes,
    pool: Pool,
    state: Mutex<State>,
}

struct State {
    /// The next segment that nobody has.
    next: u64,
    /// Jobs that run or wait.
    jobs: u64,
    /// Segments that wait for those before them.
    cut: BTreeMap<u64, Cut>,
    /// Segments that are in `stitched`.
    done_count: u64,
    /// Taken out while a worker appends to it.
    stitched: Option<Stitched>,
    done: Option<SegmentsDone>,
}

struct Stitched {
    at: u64,
    builder: ContentBuilder,
    hasher: Option<ContentHasher>,
}

/// The chunks of a segment.
struct Cut {
    entry: u64,
    refs: Vec<ChunkRef>,
    exit: u64,
    hasher: Option<ContentHasher>,
}

/// Why a segment was not cut.
enum Failure {
    Short,
    Unreadable(String),
    Run(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}

impl fmt::Debug for SegmentedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentedItem")
            .field("size", &self.size)
            .field("sizes", &self.sizes)
            .finish_non_exhaustive()
    }
}

impl SegmentedItem {
    /// Reads a file of `size` bytes, which must be several MiB, with this worker and those that are free. Returns when nothing is left
    /// for this worker to do.
    pub fn read(
        pool: &Pool,
        worker: &mut Worker,
        source: Box<dyn ReadAt>,
        size: u64,
        digest: bool,
        done: SegmentsDone,
    ) -> Result<()> {
        let average = u64::from(pool.file_chunker().params().avg_bytes);
        let sizes = Sizes {
            segment: SEGMENT_BYTES,
            overlap: (OVERLAP_CHUNKS * average).min(SEGMENT_BYTES / 8),
            read: READ_BYTES,
        };
        Self::read_with(pool, worker, source, size, digest, sizes, done)
    }

    fn read_with(
        pool: &Pool,
        worker: &mut Worker,
        source: Box<dyn ReadAt>,
        size: u64,
        digest: bool,
        sizes: Sizes,
        done: SegmentsDone,
    ) -> Result<()> {
        let item = Arc::new(Self {
            source,
            size,
            digest,
            chunker: pool.file_chunker(),
            sizes,
            pool: pool.clone(),
            state: Mutex::new(State {
                next: 0,
                jobs: 1,
                cut: BTreeMap::new(),
                done_count: 0,
                stitched: Some(Stitched {
                    at: 0,
                    builder: ContentBuilder::default(),
                    hasher: digest.then(ContentHasher::new),
                }),
                done: Some(done),
            }),
        });
        item.work(worker)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segment_count(&self) -> u64 {
        self.size.div_ceil(self.sizes.segment)
    }

    fn workers(&self) -> u64 {
        u64::try_from(self.pool.worker_count()).expect("a count fits 64 bits")
    }

    /// Takes one segment after another until there is none.
    fn work(self: &Arc<Self>, worker: &mut Worker) -> Result<()> {
        loop {
            self.pool.check()?;
            let Some(number) = self.take() else {
                return Ok(());
            };
            self.find_help()?;
            let failure = match self.cut_segment(worker, number) {
                Ok(cut) => {
                    self.lock().cut.insert(number, cut);
                    self.stitch(worker).err()
                }
                Err(failure) => Some(failure),
            };
            let end = match failure {
                None => continue,
                Some(Failure::Run(error)) => return Err(error),
                Some(Failure::Short) => SegmentsEnd::Short,
                Some(Failure::Unreadable(reason)) => SegmentsEnd::Unreadable(reason),
            };
            let done = self.lock().done.take();
            return match done {
                Some(done) => done(worker, end),
                None => Ok(()),
            };
        }
    }

    fn take(&self) -> Option<u64> {
        let mut state = self.lock();
        let ahead = SEGMENTS_AHEAD * self.workers();
        if state.done.is_none()
            || state.next == self.segment_count()
            || state.next >= state.done_count + ahead
        {
            state.jobs -= 1;
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    /// Offers what is left to the other workers.
    fn find_help(self: &Arc<Self>) -> Result<()> {
        loop {
            let mut state = self.lock();
            let left = self.segment_count() - state.next;
            if state.jobs >= self.workers() || left == 0 {
                return Ok(());
            }
            state.jobs += 1;
            drop(state);
            let item = Arc::clone(self);
            let job = Box::new(move |worker: &mut Worker| item.work(worker));
            if self.pool.try_spawn(job)?.is_some() {
                self.lock().jobs -= 1;
                return Ok(());
            }
        }
    }

    fn cut_segment(&self, worker: &mut Worker, number: u64) -> Result<Cut, Failure> {
        let start = number * self.sizes.segment;
        let end = self.size.min(start + self.sizes.segment);
        let from = start.saturating_sub(self.sizes.overlap);
        let mut hasher = self.digest.then(|| ContentHasher::starting_at(start));
        let average = u64::from(self.chunker.params().avg_bytes);
        let expected = usize::try_from((end - start) / average).unwrap_or_default();
        let mut refs = Vec::with_capacity(expected + expected / 8);
        let mut window = Window::new(self, worker, from);
        // The first segment's first chunk begins where it does; the others are cut as if one began at `from`.
        let mut entry = (from == start).then_some(start);
        let result = loop {
            if window.at >= end {
                break Ok(window.at);
            }
            match self.chunker.cut(window.bytes(), window.ends(self.size)) {
                Some(len) if entry.is_some() => match window.put(worker, len) {
                    Ok(chunk) => refs.push(chunk),
                    Err(error) => break Err(error.into()),
                },
                Some(len) => {
                    window.advance(len);
                    entry = (window.at >= start).then_some(window.at);
                }
                None => match window.fill(self, end) {
                    Ok((at, bytes)) => {
                        worker
                            .parts()
                            .stats
                            .bytes_read
                            .add(inside(at, bytes, start, end));
                        if let Some(hasher) = &mut hasher {
                            hasher.update(part(at, bytes, start, end));
                        }
                    }
                    Err(failure) => break Err(failure),
                },
            }
        };
        window.give_back(worker);
        let exit = result?;
        Ok(Cut {
            entry: entry.unwrap_or(exit),
            refs,
            exit,
            hasher,
        })
    }

    /// Appends the segments whose turn it is. One worker does it at a time; who comes meanwhile leaves its segment to that one.
    fn stitch(&self, worker: &mut Worker) -> Result<(), Failure> {
        loop {
            let mut state = self.lock();
            let number = state.done_count;
            if state.stitched.is_none() || !state.cut.contains_key(&number) {
                return Ok(());
            }
            let (Some(cut), Some(mut stitched)) =
                (state.cut.remove(&number), state.stitched.take())
            else {
                unreachable!("just looked at")
            };
            drop(state);
            let cut = match cut.entry == stitched.at {
                true => cut,
                false => self.cut_again(worker, number, stitched.at, cut)?,
            };
            for chunk in cut.refs {
                stitched.builder.push(worker, chunk)?;
            }
            stitched.at = cut.exit;
            if let (Some(whole), Some(part)) = (&mut stitched.hasher, cut.hasher) {
                whole.append(part);
            }
            if number + 1 == self.segment_count() {
                return Ok(self.finish(worker, stitched)?);
            }
            let mut state = self.lock();
            state.done_count = number + 1;
            state.stitched = Some(stitched);
        }
    }

    fn finish(&self, worker: &mut Worker, stitched: Stitched) -> Result<()> {
        assert_eq!(stitched.at, self.size, "chunks cover the content");
        let Some(done) = self.lock().done.take() else {
            return Ok(());
        };
        let item = StoredItem {
            content: stitched.builder.finish(worker)?,
            digest: stitched.hasher.map(ContentHasher::finish),
            bytes: self.size,
        };
        done(worker, SegmentsEnd::Stored(item))
    }

    /// Cuts from the true border on until one is met that the segment has.
    fn cut_again(
        &self,
        worker: &mut Worker,
        number: u64,
        at: u64,
        cut: Cut,
    ) -> Result<Cut, Failure> {
        let end = self.size.min((number + 1) * self.sizes.segment);
        tracing::debug!(
            number,
            at,
            entry = cut.entry,
            "cut again at a segment's begin"
        );
        let mut known = cut.refs.iter().scan(cut.entry, |place, chunk| {
            let here = *place;
            *place += u64::from(chunk.len);
            Some(here)
        });
        let (mut passed, mut border) = (0, known.next());
        let mut refs = Vec::new();
        let mut window = Window::new(self, worker, at);
        let result = loop {
            while border.is_some_and(|border| border < window.at) {
                passed += 1;
                border = known.next();
            }
            if border == Some(window.at) {
                break Ok(cut.exit);
            }
            if window.at >= end {
                break Ok(window.at);
            }
            match self.chunker.cut(window.bytes(), window.ends(self.size)) {
                Some(len) => match window.put(worker, len) {
                    Ok(chunk) => refs.push(chunk),
                    Err(error) => break Err(error.into()),
                },
                None => {
                    if let Err(failure) = window.fill(self, end) {
                        break Err(failure);
                    }
                }
            }
        };
        window.give_back(worker);
        let exit = result?;
        drop(known);
        refs.extend_from_slice(&cut.refs[passed..]);
        Ok(Cut {
            entry: at,
            refs,
            exit,
            hasher: cut.hasher,
        })
    }
}

/// The part of bytes at `at` that lies in a range.
fn part(at: u64, bytes: &[u8], start: u64, end: u64) -> &[u8] {
    let place = |offset: u64| {
        let inside = offset.saturating_sub(at);
        usize::try_from(inside).map_or(bytes.len(), |inside| inside.min(bytes.len()))
    };
    &bytes[place(start)..place(end)]
}

fn inside(at: u64, bytes: &[u8], start: u64, end: u64) -> u64 {
    u64::try_from(part(at, bytes, start, end).len()).expect("a length fits 64 bits")
}

/// Bytes that were read and are not cut yet. They slide: what is left moves in front of where the next ones are read to, so chunks lie in
/// one piece and a read is at an aligned offset.
struct Window {
    buffer: Vec<u8>,
    lead: usize,
    begin: usize,
    end: usize,
    /// Where `begin` stands in the content.
    at: u64,
}

impl Window {
    fn new(item: &SegmentedItem, worker: &mut Worker, at: u64) -> Self {
        let mut buffer = std::mem::take(&mut worker.window);
        let lead = item.chunker.max_bytes();
        let len = lead + item.sizes.read;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        Self {
            buffer,
            lead,
            begin: lead,
            end: lead,
            at,
        }
    }

    fn give_back(mut self, worker: &mut Worker) {
        self.buffer.resize(WINDOW_BYTES, 0);
        self.buffer.shrink_to_fit();
        worker.window = self.buffer;
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Whether the content ends with these bytes.
    fn ends(&self, size: u64) -> bool {
        self.at + self.len() == size
    }

    fn len(&self) -> u64 {
        u64::try_from(self.end - self.begin).expect("a length fits 64 bits")
    }

    fn advance(&mut self, len: usize) {
        self.begin += len;
        self.at += u64::try_from(len).expect("a length fits 64 bits");
    }

    fn put(&mut self, worker: &mut Worker, len: usize) -> Result<ChunkRef> {
        let bytes = &self.buffer[self.begin..self.begin + len];
        let chunk = worker.put_chunk(Class::File, bytes)?;
        self.advance(len);
        Ok(chunk)
    }

    /// Reads on; behind `end` only what a chunk needs that begins before it. Returns the new bytes and where they stand.
    fn fill(&mut self, item: &SegmentedItem, end: u64) -> Result<(u64, &[u8]), Failure> {
        item.pool.check()?;
        let kept = self.end - self.begin;
        self.buffer
            .copy_within(self.begin..self.end, self.lead - kept);
        self.begin = self.lead - kept;
        self.end = self.lead;
        let at = self.at + self.len();
        let read = u64::try_from(item.sizes.read).expect("a length fits 64 bits");
        let most = match at < end {
            true => read - at % read,
            false => read.min(u64::from(item.chunker.params().max_bytes)),
        };
        let want = usize::try_from(most.min(item.size - at)).expect("at most a window");
        let room = &mut self.buffer[self.lead..self.lead + want];
        let got = item
            .source
            .read_at(room, at)
            .map_err(|unreadable| match unreadable {
                Unreadable::Item(reason) => Failure::Unreadable(reason),
                Unreadable::Run(error) => Failure::Run(error),
            })?;
        if got < want {
            return Err(Failure::Short);
        }
        self.end += want;
        Ok((at, &self.buffer[self.lead..self.end]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::item::{ItemWriter, StreamKind};
    use super::super::worker::WorkerParts;
    use super::super::worker::testing::{MemoryStore, parts};
    use super::*;

    struct Bytes(Arc<Vec<u8>>, Option<usize>);

    impl ReadAt for Bytes {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Unreadable> {
            let offset = usize::try_from(offset).unwrap();
            if self
                .1
                .is_some_and(|bad| (offset..offset + buffer.len()).contains(&bad))
            {
                return Err(Unreadable::Item("a bad sector".to_owned()));
            }
            let rest = &self.0[offset.min(self.0.len())..];
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    fn store() -> (Arc<MemoryStore>, WorkerParts) {
        let store = Arc::new(MemoryStore::default());
        let parts = parts(store.clone());
        (store, parts)
    }

    fn read(source: Bytes, size: u64, sizes: Sizes, threads: usize) -> SegmentsEnd {
        let (_store, parts) = store();
        let pool = Pool::new(threads, 4 << 20, 10, &parts);
        let (sender, receiver) = std::sync::mpsc::channel();
        let job = {
            let pool = pool.clone();
            Box::new(move |worker: &mut Worker| {
                let done = Box::new(move |_: &mut Worker, end| {
                    sender.send(end).unwrap();
                    Ok(())
                });
                let source = Box::new(source);
                SegmentedItem::read_with(&pool, worker, source, size, true, sizes, done)
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (pool, parts) = (pool.clone(), parts.clone());
                scope.spawn(move || {
                    let mut worker = Worker::new(parts).unwrap();
                    pool.work(&mut worker);
                    worker.flush().unwrap();
                    assert_eq!(worker.window.len(), WINDOW_BYTES);
                });
            }
            assert!(pool.try_spawn(job).unwrap().is_none());
            let end = receiver.recv().unwrap();
            pool.close();
            end
        })
    }

    fn serial(data: &[u8]) -> StoredItem {
        let (_store, parts) = store();
        let mut worker = Worker::new(parts).unwrap();
        let kind = StreamKind::File { size: 1 << 30 };
        let mut writer = ItemWriter::inline(&mut worker, kind, true);
        writer.write(data).unwrap();
        writer.finish_wait().unwrap()
    }

    /// Random, constant, periodic, few symbols, and all of them one after another.
    fn sample(kind: u8, seed: u64, len: usize) -> Vec<u8> {
        let mut random = vec![0; len];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut random);
        let period = 1 + usize::try_from(seed % 9000).unwrap();
        match kind {
            0 => random,
            1 => vec![7; len],
            2 => random[..period.min(len)]
                .iter()
                .copied()
                .cycle()
                .take(len)
                .collect(),
            3 => random.iter().map(|byte| b'a' + byte % 3).collect(),
            _ => {
                let parts = (0..4).map(|kind| sample(kind, seed, len / 4));
                let mut all: Vec<u8> = parts.flatten().collect();
                all.resize(len, 1);
                all
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn segments_cut_as_one_reader_does(
            kind in 0_u8..5, seed: u64, len in 1_usize..900_000, segment_bits in 16_u32..20,
            overlap in 0_u64..60_000, read_bits in 12_u32..17, threads in 1_usize..4
        ) {
            let data = Arc::new(sample(kind, seed, len));
            let sizes = Sizes { segment: 1 << segment_bits, overlap, read: 1 << read_bits };
            // One subtree has no root of its own; contents this small are never read in segments.
            prop_assume!(data.len() > 256 << 10);
            let end = read(Bytes(data.clone(), None), data.len() as u64, sizes, threads);
            let SegmentsEnd::Stored(item) = end else { panic!("{end:?}") };
            prop_assert_eq!(item.digest.unwrap().0, *blake3::hash(&data).as_bytes());
            prop_assert_eq!(item, serial(&data));
        }
    }

    #[test]
    fn a_last_segment_of_a_few_bytes() {
        let sizes = Sizes {
            segment: 1 << 18,
            overlap: 40_000,
            read: 1 << 16,
        };
        for more in [1, 511, 3000, 20_000] {
            for kind in 0..5 {
                let data = Arc::new(sample(
                    kind,
                    more,
                    (3 << 18) + usize::try_from(more).unwrap(),
                ));
                let end = read(Bytes(data.clone(), None), data.len() as u64, sizes, 2);
                let SegmentsEnd::Stored(item) = end else {
                    panic!("{end:?}")
                };
                assert_eq!(item, serial(&data), "{more} {kind}");
            }
        }
    }

    #[test]
    fn ends_that_are_not_good() {
        let sizes = Sizes {
            segment: 1 << 18,
            overlap: 4096,
            read: 1 << 16,
        };
        let data = Arc::new(sample(0, 5, 2_000_000));
        for bad in [0, 300_000, 1_999_999] {
            let end = read(Bytes(data.clone(), Some(bad)), 2_000_000, sizes, 3);
            assert!(matches!(end, SegmentsEnd::Unreadable(_)), "{bad}: {end:?}");
        }
        let end = read(Bytes(data, None), 2_000_001, sizes, 2);
        assert!(matches!(end, SegmentsEnd::Short), "{end:?}");
    }
}
