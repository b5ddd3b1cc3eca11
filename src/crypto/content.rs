//! The plain BLAKE3 of contents that come in order, with holes, or in segments that several threads read.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB. What is hashed here are whole subtrees of at most [`WINDOW_BYTES`]; their chaining values
//! are merged by position. So a content can be divided at aligned offsets ([`ContentHasher::starting_at`]), hashed anywhere while its bytes
//! are in the cache, and put together ([`ContentHasher::append`]); the result is `blake3::hash` of the whole.
//!
//! Every chunk of BLAKE3 is bound to its position, so no two runs of zeros have the same value, and a hole can't be had in a few steps:
//! it costs the hashing of its zeros once, on all cores ([`ContentHasher::update_zeros`]). The values of aligned blocks of zeros are kept
//! for the other sparse contents of the process.
//!
//! Invariants:
//! 1. The digest is that of `blake3::hash`, however the bytes come (`any_division_gives_the_plain_digest`, `edges`).
//! 2. The zeros that are remembered take at most 8 MiB, whatever the sizes of contents say (`ZERO_BLOCKS_MAX`).
//!
//! Threads: a hasher belongs to one; the remembered zeros are shared, behind one lock that is held for a look.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::format::id::ContentDigest;

/// The largest subtree that is hashed in one piece. Smaller ones leave vector lanes empty in their upper levels (4 % at 64 KiB), larger ones
/// make a hole that begins inside dearer.
pub const WINDOW_BYTES: u64 = 256 << 10;
/// Zeros of a remembered subtree.
const ZERO_BLOCK_BYTES: u64 = 16 << 20;
/// Blocks of zeros that are remembered: those of the first 4 TiB of a content.
const ZERO_BLOCKS_MAX: usize = 1 << 18;
/// Blocks that are hashed in parallel before they are merged.
const ZERO_BLOCKS_AT_ONCE: u64 = 1 << 12;
/// Bytes of a chunk of BLAKE3.
const CHUNK_BYTES: u64 = blake3::CHUNK_LEN as u64;

/// Zeros to hash.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// The values of aligned blocks of zeros, by their number.
static ZERO_BLOCKS: RwLock<Vec<Option<ChainingValue>>> = RwLock::new(Vec::new());

/// The value of a part of the tree.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    bytes: u64,
    value: ChainingValue,
}

/// Hashes a content; see the module's page.
#[derive(Clone)]
pub struct ContentHasher {
    /// Whole subtrees from `start` on, leftmost first. Two siblings at the end are merged only when something follows them, because the
    /// last merge of all is another one. Where this is the begin of the content, what is in here is never the whole of it.
    closed: Vec<Subtree>,
    /// Where they begin.
    start: u64,
    /// Where the open subtree begins.
    open_at: u64,
    open: Hasher,
    open_bytes: u64,
    /// How long the open subtree may become.
    open_max: u64,
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentHasher")
            .field("start", &self.start)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self::new()
    }
}

fn as_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

fn as_usize(len: u64, max: usize) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).min(max)
}

/// The longest subtree that can begin at an offset.
fn subtree_max(offset: u64) -> u64 {
    match offset {
        0 => 1 << 63,
        offset => 1 << offset.trailing_zeros(),
    }
}

fn hasher_at(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

impl ContentHasher {
    /// For a whole content.
    pub fn new() -> Self {
        Self::starting_at(0)
    }

    /// For the part of a content that begins at `offset`, a multiple of 1 KiB; the more zeros end its binary form, the less is left to
    /// merge.
    pub fn starting_at(offset: u64) -> Self {
        Self {
            closed: Vec::new(),
            start: offset,
            open_at: offset,
            open: hasher_at(offset),
            open_bytes: 0,
            open_max: subtree_max(offset).min(WINDOW_BYTES),
        }
    }

    /// Where the next byte stands.
    pub fn position(&self) -> u64 {
        self.open_at + self.open_bytes
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.open_bytes == self.open_max {
                self.close();
            }
            let room = as_usize(self.open_max - self.open_bytes, bytes.len());
            let (now, rest) = bytes.split_at(room);
            self.open.update(now);
            self.open_bytes += as_u64(now.len());
            bytes = rest;
        }
    }

    /// The next `len` bytes are zeros.
    pub fn update_zeros(&mut self, mut len: u64) {
        while len > 0 {
            if self.open_bytes == self.open_max {
                self.close();
            }
            // Whole blocks from an aligned position on; the first bytes of a content stay open, they may be all of it.
            if self.open_bytes == 0
                && self.open_at > 0
                && self.open_at.is_multiple_of(ZERO_BLOCK_BYTES)
                && len >= ZERO_BLOCK_BYTES
            {
                let blocks = (len / ZERO_BLOCK_BYTES).min(ZERO_BLOCKS_AT_ONCE);
                self.push_zero_blocks(blocks);
                len -= blocks * ZERO_BLOCK_BYTES;
                continue;
            }
            let room = self.open_max - self.open_bytes;
            let step = as_usize(len.min(room), ZEROS.len());
            self.open.update(&ZEROS[..step]);
            self.open_bytes += as_u64(step);
            len -= as_u64(step);
        }
    }

    /// Appends what another one has hashed from this position on.
    ///
    /// # Panics
    ///
    /// If it has begun elsewhere, or if what is before it is no row of whole subtrees: parts are of one length, a power of two, and only the
    /// last one is shorter.
    pub fn append(&mut self, part: Self) {
        assert_eq!(self.position(), part.start, "parts follow each other");
        let whole = self.open_bytes == 0 || self.open_bytes.is_power_of_two();
        assert!(whole, "parts begin at subtrees");
        if self.start == part.start && self.open_bytes == 0 {
            *self = part;
            return;
        }
        if self.open_bytes > 0 {
            self.close();
        }
        let position = part.position();
        let (open_at, open, open_bytes, open_max) =
            (part.open_at, part.open, part.open_bytes, part.open_max);
        for subtree in part.closed {
            self.push(subtree);
        }
        (self.open_at, self.open, self.open_bytes) = (open_at, open, open_bytes);
        self.open_max = open_max;
        debug_assert_eq!(self.position(), position);
    }

    /// The digest of all that was hashed, from the begin of the content on.
    ///
    /// # Panics
    ///
    /// If it began elsewhere.
    pub fn finish(mut self) -> ContentDigest {
        assert_eq!(self.start, 0, "a digest is of a whole content");
        if self.closed.is_empty() {
            return ContentDigest(*self.open.finalize().as_bytes());
        }
        if self.open_bytes > 0 {
            self.close();
        }
        let last = self.closed.pop().expect("a subtree was closed");
        let mut right = last.value;
        while self.closed.len() > 1
            && let Some(left) = self.closed.pop()
        {
            right = merge_subtrees_non_root(&left.value, &right, Mode::Hash);
        }
        let left = self
            .closed
            .pop()
            .expect("what is closed is never the whole content");
        ContentDigest(*merge_subtrees_root(&left.value, &right, Mode::Hash).as_bytes())
    }

    /// Ends the open subtree and begins the next one.
    fn close(&mut self) {
        let subtree = Subtree {
            bytes: self.open_bytes,
            value: self.open.finalize_non_root(),
        };
        self.push(subtree);
        self.begin();
    }

    /// Begins the open subtree behind the closed ones.
    fn begin(&mut self) {
        self.open = hasher_at_partial(self.open_at);
        self.open_bytes = 0;
        self.open_max = subtree_max(self.open_at).min(WINDOW_BYTES);
    }

    /// Appends a subtree to the closed ones; those before it that are siblings are merged now.
    fn push(&mut self, subtree: Subtree) {
        let end = self.open_at;
        while let [.., left, right] = self.closed.as_slice()
            && left.bytes == right.bytes
            && (end - 2 * right.bytes).is_multiple_of(2 * right.bytes)
        {
            let merged = Subtree {
                bytes: 2 * right.bytes,
                value: merge_subtrees_non_root(&left.value, &right.value, Mode::Hash),
            };
            self.closed.truncate(self.closed.len() - 2);
            self.closed.push(merged);
        }
        self.closed.push(subtree);
        self.open_at += subtree.bytes;
    }

    fn push_zero_blocks(&mut self, count: u64) {
        let first = self.open_at / ZERO_BLOCK_BYTES;
        for value in zero_blocks(first, count) {
            let bytes = ZERO_BLOCK_BYTES;
            self.push(Subtree { bytes, value });
        }
        self.begin();
    }
}

/// A hasher for a position that may be behind the end of the content, where nothing follows.
fn hasher_at_partial(offset: u64) -> Hasher {
    match offset.is_multiple_of(CHUNK_BYTES) {
        true => hasher_at(offset),
        false => Hasher::new(),
    }
}

/// The values of `count` blocks of zeros from number `first` on.
fn zero_blocks(first: u64, count: u64) -> Vec<ChainingValue> {
    let range = as_usize(first, usize::MAX)..as_usize(first + count, usize::MAX);
    let known: Vec<Option<ChainingValue>> = {
        let blocks = ZERO_BLOCKS.read().unwrap_or_else(PoisonError::into_inner);
        let known = range.clone().map(|at| blocks.get(at).copied().flatten());
        known.collect()
    };
    if known.iter().all(Option::is_some) {
        return known.into_iter().flatten().collect();
    }
    let numbered: Vec<(usize, Option<ChainingValue>)> = range.clone().zip(known).collect();
    let values: Vec<ChainingValue> = numbered
        .into_par_iter()
        .map(|(number, known)| known.unwrap_or_else(|| zero_block(as_u64(number))))
        .collect();
    let end = range.end.min(ZERO_BLOCKS_MAX);
    let mut blocks = ZERO_BLOCKS.write().unwrap_or_else(PoisonError::into_inner);
    if blocks.len() < end {
        blocks.resize(end, None);
    }
    for (at, value) in range.zip(&values) {
        if let Some(place) = blocks.get_mut(at) {
            *place = Some(*value);
        }
    }
    drop(blocks);
    values
}

fn zero_block(number: u64) -> ChainingValue {
    let mut hasher = hasher_at(number * ZERO_BLOCK_BYTES);
    for _ in 0..ZERO_BLOCK_BYTES / as_u64(ZEROS.len()) {
        hasher.update(&ZEROS);
    }
    hasher.finalize_non_root()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> ContentDigest {
        ContentDigest(*blake3::hash(bytes).as_bytes())
    }

    fn sample(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// A piece of a content: bytes or zeros.
    #[derive(Clone, Debug)]
    enum Piece {
        Bytes(usize),
        Zeros(usize),
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let edge =
            prop::sample::select(vec![1, 1023, 1024, 1025, 65_535, 65_536, 262_144, 262_145]);
        let len = prop_oneof![1_usize..5000, 1_usize..600_000, edge];
        let piece = (len, any::<bool>()).prop_map(|(len, hole)| match hole {
            true => Piece::Zeros(len),
            false => Piece::Bytes(len),
        });
        prop::collection::vec(piece, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn any_division_gives_the_plain_digest(pieces in pieces(), seed: u64, part_bits in 10_u32..20) {
            let mut whole = Vec::new();
            let mut in_order = ContentHasher::new();
            for piece in &pieces {
                match piece {
                    Piece::Bytes(len) => {
                        let bytes = sample(*len, seed ^ as_u64(whole.len()));
                        in_order.update(&bytes);
                        whole.extend(bytes);
                    }
                    Piece::Zeros(len) => {
                        in_order.update_zeros(as_u64(*len));
                        whole.resize(whole.len() + len, 0);
                    }
                }
            }
            prop_assert_eq!(in_order.position(), as_u64(whole.len()));
            prop_assert_eq!(in_order.finish(), plain(&whole));

            let mut in_parts = ContentHasher::new();
            for (number, part) in whole.chunks(1 << part_bits).enumerate() {
                let mut hasher = ContentHasher::starting_at(as_u64(number) << part_bits);
                hasher.update(part);
                in_parts.append(hasher);
            }
            prop_assert_eq!(in_parts.finish(), plain(&whole));
        }
    }

    #[test]
    fn edges() {
        let window = usize::try_from(WINDOW_BYTES).unwrap();
        let sizes = [0, 1, 1023, 1024, 1025, 2048, 2049, 65_535, 65_536, 65_537];
        let near = [window, 2 * window, 3 * window, 4 * window, 7 * window];
        let near = near.into_iter().flat_map(|size| [size - 1, size, size + 1]);
        for size in sizes.into_iter().chain(near) {
            let zeros = vec![0; size];
            let mut hasher = ContentHasher::new();
            hasher.update_zeros(as_u64(size));
            assert_eq!(hasher.finish(), plain(&zeros), "{size} zeros");
            let bytes = sample(size, 1);
            let mut hasher = ContentHasher::new();
            hasher.update(&bytes);
            assert_eq!(hasher.finish(), plain(&bytes), "{size} bytes");
            let mut hasher = ContentHasher::new();
            hasher.update(&bytes);
            hasher.update_zeros(as_u64(size));
            let both = [bytes, zeros].concat();
            assert_eq!(hasher.finish(), plain(&both), "{size} bytes, {size} zeros");
        }
    }

    #[test]
    fn long_holes_between_data() {
        for (before, hole) in [
            (0_usize, 48_usize << 20),
            (0, (33 << 20) + 5),
            (5000, (70 << 20) + 1),
            (16 << 20, 16 << 20),
            ((16 << 20) - 1, (32 << 20) + 2),
        ] {
            let bytes = sample(before, 7);
            let whole = [bytes.as_slice(), &vec![0; hole], b"end"].concat();
            // The second time the zeros are known.
            for _ in 0..2 {
                let mut hasher = ContentHasher::new();
                hasher.update(&bytes);
                hasher.update_zeros(as_u64(hole));
                let without_end = hasher.clone().finish();
                hasher.update(b"end");
                assert_eq!(hasher.finish(), plain(&whole), "{before} {hole}");
                assert_eq!(without_end, plain(&whole[..whole.len() - 3]));
            }
        }
    }

    #[test]
    fn parts_that_end_inside_a_chunk_come_last() {
        let bytes = sample(3000, 2);
        let mut hasher = ContentHasher::new();
        hasher.update(&bytes[..2048]);
        let mut part = ContentHasher::starting_at(2048);
        part.update(&bytes[2048..]);
        hasher.append(part);
        assert_eq!(hasher.finish(), plain(&bytes));
    }
}
