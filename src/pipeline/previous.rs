//! What a stream held in the parent snapshot: its new chunks are compressed on the frames in which the chunks stood that they replace.
//!
//! A row that changed makes one new chunk, of which all but that row is in an old one. Which one follows from its place: behind the last chunk of
//! the same unit that is known and was in the stream before, else by the offset, corrected by how far others have found themselves
//! displaced. A wrong guess costs bytes, nothing else.
//!
//! Invariants:
//! 1. A stream without a new chunk asks for nothing (`what_is_unchanged_asks_for_nothing`).
//! 2. New chunks meet the old ones that they replace, also behind what was added or is gone (`new_chunks_meet_those_that_they_replace`).
//!
//! Memory of a stream that has new chunks: 64 bytes for each old one, of which there are at most [`PREVIOUS_CHUNKS_MAX`]: 8 MiB.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::sink::TreePath;
use crate::format::id::ChunkId;
use crate::format::node::ChunkRef;
use crate::format::pack::Base;

/// A stream that had more chunks goes without. A part of a table has at most about 1 GiB, 65,536 chunks of 16 KiB.
pub const PREVIOUS_CHUNKS_MAX: usize = 1 << 17;
/// A stream that had fewer bytes goes without: its chunks stand in frames together with those of others, and each base ends a frame.
pub const PREVIOUS_BYTES_MIN: u64 = 128 << 10;

/// What is known of the parent snapshot, and the frames that its chunks stand in.
pub trait Bases: fmt::Debug + Send + Sync {
    /// The chunks of the stream at this place; `None` if there is none, it can't be read, or has more than `chunks_max`.
    fn previous(&self, path: &TreePath, chunks_max: usize) -> Option<Vec<ChunkRef>>;

    /// On which frame chunks that stand where this one stood are compressed.
    fn base_of(&self, chunk: &ChunkId) -> Option<Base>;

    /// The plaintext of such a frame; `None` if it can't be read.
    fn plain(&self, base: &Base) -> Option<Bytes>;
}

/// The chunks that a stream had.
#[derive(Debug)]
struct Previous {
    chunks: Vec<ChunkRef>,
    /// Where each ends.
    ends: Vec<u64>,
    /// Positions of chunks that stand in it once, by the beginnings of their ids.
    positions: HashMap<u64, Option<u32>>,
}

fn short(id: &ChunkId) -> u64 {
    let (first, _) = id.as_bytes().split_at(8);
    u64::from_le_bytes(first.try_into().expect("eight bytes"))
}

impl Previous {
    fn new(chunks: Vec<ChunkRef>) -> Self {
        let mut end = 0;
        let ends = chunks.iter().map(|chunk| {
            end += u64::from(chunk.len);
            end
        });
        let ends = ends.collect();
        let mut positions = HashMap::with_capacity(chunks.len());
        for (position, chunk) in (0u32..).zip(&chunks) {
            positions
                .entry(short(&chunk.id))
                .and_modify(|position| *position = None)
                .or_insert(Some(position));
        }
        Self {
            chunks,
            ends,
            positions,
        }
    }

    /// Where the chunk ended, if the stream had it at one place.
    fn end_of(&self, id: &ChunkId) -> Option<u64> {
        let position = (*self.positions.get(&short(id))?)? as usize;
        (self.chunks[position].id == *id).then(|| self.ends[position])
    }

    /// The chunk in which this offset lies.
    fn at(&self, offset: u64) -> Option<&ChunkRef> {
        self.chunks
            .get(self.ends.partition_point(|end| *end <= offset))
    }
}

/// A stream that stood in the parent snapshot, perhaps.
#[derive(Debug)]
pub(super) struct Stream {
    path: TreePath,
    previous: OnceLock<Option<Previous>>,
    /// By how many bytes what is known stood further behind in the parent.
    displaced: AtomicI64,
}

impl Stream {
    pub(super) fn new(path: TreePath) -> Self {
        Self {
            path,
            previous: OnceLock::new(),
            displaced: AtomicI64::new(0),
        }
    }

    /// Follows a unit that begins at this offset.
    pub(super) fn follow(&self, offset: u64) -> Follower<'_> {
        Follower {
            stream: self,
            offset,
            before: None,
            waiting: Vec::new(),
        }
    }

    fn previous(&self, bases: &dyn Bases) -> Option<&Previous> {
        let previous = self.previous.get_or_init(|| {
            let chunks = bases.previous(&self.path, PREVIOUS_CHUNKS_MAX)?;
            let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            (bytes >= PREVIOUS_BYTES_MIN).then(|| Previous::new(chunks))
        });
        previous.as_ref()
    }
}

/// Follows the chunks of a unit through the parent's stream.
#[derive(Debug)]
pub(super) struct Follower<'s> {
    stream: &'s Stream,
    /// Of the next chunk.
    offset: u64,
    /// Of the next chunk in the parent's stream.
    before: Option<u64>,
    /// Known chunks before the first new one.
    waiting: Vec<ChunkRef>,
}

impl Follower<'_> {
    /// The next chunk is known.
    pub(super) fn known(&mut self, chunk: ChunkRef) {
        match self.stream.previous.get() {
            None => self.waiting.push(chunk),
            Some(None) => {}
            Some(Some(previous)) => self.pass(previous, &chunk),
        }
    }

    /// The next chunk is new: on which frame it is compressed.
    pub(super) fn base(&mut self, len: u32, bases: &dyn Bases) -> Option<Base> {
        let previous = self.stream.previous(bases)?;
        for chunk in std::mem::take(&mut self.waiting) {
            self.pass(previous, &chunk);
        }
        let before = self.before();
        self.go_on(before, len);
        bases.base_of(&previous.at(before + u64::from(len / 2))?.id)
    }

    fn before(&self) -> u64 {
        let guess = || {
            let displaced = self.stream.displaced.load(Ordering::Relaxed);
            self.offset.saturating_add_signed(displaced)
        };
        self.before.unwrap_or_else(guess)
    }

    fn pass(&mut self, previous: &Previous, chunk: &ChunkRef) {
        match previous.end_of(&chunk.id) {
            None => self.go_on(self.before(), chunk.len),
            Some(end) => {
                self.offset += u64::from(chunk.len);
                self.before = Some(end);
                let displaced = i64::try_from(end)
                    .ok()
                    .zip(i64::try_from(self.offset).ok())
                    .map_or(0, |(before, now)| before - now);
                self.stream.displaced.store(displaced, Ordering::Relaxed);
            }
        }
    }

    fn go_on(&mut self, before: u64, len: u32) {
        self.before = Some(before + u64::from(len));
        self.offset += u64::from(len);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A stream of chunks of 10,000 bytes; the base of each is its number.
    #[derive(Debug)]
    struct Old {
        numbers: Vec<u32>,
        asked: AtomicUsize,
    }

    fn chunk(number: u32) -> ChunkRef {
        ChunkRef {
            id: ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            len: 10_000,
        }
    }

    impl Bases for Old {
        fn previous(&self, _path: &TreePath, max: usize) -> Option<Vec<ChunkRef>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let chunks = self.numbers.iter().map(|number| chunk(*number));
            (self.numbers.len() <= max).then(|| chunks.collect())
        }

        fn base_of(&self, id: &ChunkId) -> Option<Base> {
            let number = self.numbers.iter().find(|number| chunk(**number).id == *id);
            number.map(|number| (Default::default(), *number))
        }

        fn plain(&self, _base: &Base) -> Option<Bytes> {
            None
        }
    }

    /// Follows units of chunks, given as number and length, where a number below 1000 is known; returns the bases of the new ones.
    fn follow(old: &Old, units: &[&[(u32, u32)]]) -> Vec<Option<u32>> {
        let stream = Stream::new(TreePath::root());
        let mut bases = Vec::new();
        let mut offset = 0;
        for unit in units {
            let mut follower = stream.follow(offset);
            for (number, len) in *unit {
                offset += u64::from(*len);
                if *number < 1000 {
                    follower.known(chunk(*number));
                } else {
                    bases.push(follower.base(*len, old).map(|(_, number)| number));
                }
            }
        }
        bases
    }

    fn old(numbers: impl IntoIterator<Item = u32>) -> Old {
        Old {
            numbers: numbers.into_iter().collect(),
            asked: AtomicUsize::new(0),
        }
    }

    #[test]
    fn what_is_unchanged_asks_for_nothing() {
        let old = old(0..100);
        assert_eq!(follow(&old, &[&[(0, 10_000), (1, 10_000)]]), []);
        assert_eq!(old.asked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn new_chunks_meet_those_that_they_replace() {
        let check = |units: &[&[(u32, u32)]], expected: &[Option<u32>]| {
            assert_eq!(follow(&old(0..100), units), expected, "{units:?}");
        };
        let known = |number| (number, 10_000);
        // In their places, a little shorter.
        check(
            &[&[
                (1000, 9900),
                known(1),
                (1001, 9900),
                (1002, 10_000),
                known(4),
            ]],
            &[Some(0), Some(2), Some(3)],
        );
        // Behind 20 chunks that are gone, and in a unit that begins with a new one.
        check(
            &[
                &[known(25), (1000, 9000)],
                &[(1001, 9000), known(28), (1002, 9000)],
            ],
            &[Some(26), Some(27), Some(29)],
        );
        // Behind many that were added.
        check(
            &[&[known(0), (1000, 1_000_000), known(1), (1002, 10_000)]],
            &[Some(51), Some(2)],
        );
        // What was appended has no counterpart.
        check(&[&[known(99), (1000, 10_000)]], &[None]);
        // A chunk that stands twice tells no place.
        let twice = old((0..50).chain([7]).chain(50..100));
        assert_eq!(
            follow(&twice, &[&[known(0), known(7), (1000, 9000)]]),
            [Some(2)]
        );
    }

    #[test]
    fn what_is_small_or_long_goes_without() {
        assert_eq!(follow(&old(0..10), &[&[(1000, 10_000)]]), [None]);
        let bases = old(0..20);
        let stream = Stream::new(TreePath::root());
        assert!(stream.previous(&bases).is_some());
        assert_eq!(bases.previous(&TreePath::root(), 19), None);
    }
}
