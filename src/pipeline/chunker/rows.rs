//! Cuts a table stream at row ends and hands it over in batches of whole chunks. It does not parse rows: a row is what ends with
//! `\n`, as in the text form of COPY, where a line feed inside a value is escaped.
//!
//! # Invariants
//!
//! 1. Chunks, and batches too, depend on the bytes of the stream only, not on how they were pushed
//!    (`batches_do_not_depend_on_how_rows_arrive`): cutting starts when the buffer holds a fixed number of bytes.
//! 2. The buffer never grows beyond the batch size plus one chunk, however long a row is (`a_huge_row_passes_in_small_batches`).
//! 3. Every byte is copied once, into the batch; only the tail that is not decided yet, shorter than one chunk, is copied again.

use super::Chunker;

/// Whole chunks of a table stream, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBatch {
    /// The bytes of all chunks.
    pub bytes: Vec<u8>,
    /// The lengths of the chunks; their sum is the length of `bytes`.
    pub lengths: Vec<usize>,
}

impl RowBatch {
    /// Returns the chunks in the order of the stream.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map(move |&length| {
            let (chunk, tail) = rest.split_at(length);
            rest = tail;
            chunk
        })
    }
}

/// Collects a table stream and cuts it at row ends.
///
/// ```
/// # use holdfast::pipeline::chunker::{Chunker, ChunkerDomain, ChunkerKey, ChunkerParams, RowCutter};
/// # let key = ChunkerKey::derive(&[7; 32], ChunkerDomain::Tables);
/// # let chunker = Chunker::new(&key, ChunkerParams::for_average(8192)?)?;
/// # let rows = std::iter::repeat_n(b"1\tone\n".as_slice(), 300_000);
/// # let mut total = 0;
/// # let mut hand_over = |batch: holdfast::pipeline::chunker::RowBatch| total += batch.bytes.len();
/// let mut cutter = RowCutter::new(chunker, RowCutter::BATCH_BYTES);
/// for mut row in rows {
///     while !row.is_empty() {
///         row = cutter.push(row);
///         if let Some(batch) = cutter.take_full() {
///             hand_over(batch);
///         }
///     }
/// }
/// if let Some(batch) = cutter.finish() {
///     hand_over(batch);
/// }
/// # assert_eq!(total, 6 * 300_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RowCutter {
    chunker: Chunker,
    buffer: Vec<u8>,
    /// How many bytes are collected before they are cut.
    capacity: usize,
    /// An empty batch whose memory is used again.
    spare: RowBatch,
}

impl RowCutter {
    /// What a batch holds at least, by default: large enough to be worth a hand-over between threads, small enough for the cache.
    pub const BATCH_BYTES: usize = 1 << 20;

    /// Makes a cutter whose batches hold at least `batch_bytes`, and less than a largest chunk more.
    #[must_use]
    pub fn new(chunker: Chunker, batch_bytes: usize) -> Self {
        // After cutting a full buffer, less than a largest chunk is left over; the rest is a batch.
        let capacity = batch_bytes.max(1) + chunker.max_bytes() - 1;
        Self {
            buffer: Vec::with_capacity(capacity),
            chunker,
            capacity,
            spare: RowBatch::default(),
        }
    }

    /// Takes bytes until the buffer is full, and returns those that it did not take. If there are any, [`RowCutter::take_full`] must
    /// be called next.
    #[must_use = "what was not taken must be pushed again after the batch was taken"]
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.capacity - self.buffer.len();
        let (taken, rest) = bytes.split_at(room.min(bytes.len()));
        self.buffer.extend_from_slice(taken);
        rest
    }

    /// Returns a batch if the buffer is full.
    pub fn take_full(&mut self) -> Option<RowBatch> {
        if self.buffer.len() < self.capacity {
            return None;
        }
        let mut batch = std::mem::take(&mut self.spare);
        let consumed = self.cut(false, &mut batch.lengths);
        batch.bytes.reserve_exact(self.capacity);
        batch.bytes.extend_from_slice(&self.buffer[consumed..]);
        self.buffer.truncate(consumed);
        std::mem::swap(&mut batch.bytes, &mut self.buffer);
        Some(batch)
    }

    /// Gives back a batch that was used up, so that its memory serves the next one.
    pub fn recycle(&mut self, mut batch: RowBatch) {
        batch.bytes.clear();
        batch.lengths.clear();
        self.spare = batch;
    }

    /// Ends the stream and returns what is left of it, if anything is. The last chunk may be smaller than the minimum.
    #[must_use]
    pub fn finish(self) -> Option<RowBatch> {
        let mut lengths = Vec::new();
        self.cut(true, &mut lengths);
        (!lengths.is_empty()).then_some(RowBatch {
            bytes: self.buffer,
            lengths,
        })
    }

    /// Appends the lengths of the chunks that are decided and returns their sum.
    fn cut(&self, at_end: bool, lengths: &mut Vec<usize>) -> usize {
        let mut consumed = 0;
        while let Some(length) = self
            .chunker
            .cut_at_row_end(&self.buffer[consumed..], at_end)
        {
            lengths.push(length);
            consumed += length;
        }
        consumed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Random, chunker};
    use super::*;

    /// Rows of mixed lengths, a few of them longer than the largest chunk.
    fn table(seed: u64, rows: usize) -> Vec<u8> {
        let mut random = Random::new(seed);
        let mut bytes = Vec::new();
        for row in 0..rows {
            let words = if row % 97 == 96 {
                random.below(3000)
            } else {
                random.below(20)
            };
            bytes.extend(row.to_string().bytes());
            for _ in 0..words {
                bytes.extend(format!("\t{:x}", random.next() >> 48).bytes());
            }
            bytes.push(b'\n');
        }
        bytes
    }

    /// Pushes pieces of the given lengths, in turn, and returns all batches.
    fn cut_in_pieces(chunker: &Chunker, data: &[u8], pieces: &[usize]) -> Vec<RowBatch> {
        let mut cutter = RowCutter::new(chunker.clone(), 10_000);
        let mut batches = Vec::new();
        let mut data = data;
        for &piece in pieces.iter().cycle() {
            if data.is_empty() {
                break;
            }
            let (mut head, tail) = data.split_at(piece.clamp(1, data.len()));
            while !head.is_empty() {
                head = cutter.push(head);
                assert!(cutter.buffer.capacity() <= cutter.capacity);
                batches.extend(cutter.take_full());
            }
            data = tail;
        }
        batches.extend(cutter.finish());
        batches
    }

    fn row_pieces(data: &[u8]) -> Vec<usize> {
        data.split_inclusive(|&byte| byte == b'\n')
            .map(<[u8]>::len)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn batches_do_not_depend_on_how_rows_arrive(
            seed: u64, rows in 0_usize..2000, cut_off in 0_usize..30, pieces in prop::collection::vec(1_usize..30_000, 1..20)
        ) {
            let chunker = chunker(seed, 1024);
            let mut data = table(seed, rows);
            data.truncate(data.len().saturating_sub(cut_off));
            let by_row = cut_in_pieces(&chunker, &data, &row_pieces(&data));
            prop_assert_eq!(&by_row, &cut_in_pieces(&chunker, &data, &pieces));
            let joined: Vec<u8> = by_row.iter().flat_map(|batch| batch.bytes.clone()).collect();
            prop_assert_eq!(&joined, &data);

            // One look at the whole stream gives the same chunks.
            let mut rest = data.as_slice();
            for chunk in by_row.iter().flat_map(RowBatch::chunks) {
                prop_assert_eq!(Some(chunk.len()), chunker.cut_at_row_end(rest, true));
                rest = &rest[chunk.len()..];
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_row_is_cut_inside_only_where_it_must_be() {
        let chunker = chunker(3, 1024);
        let data = table(11, 30_000);
        let batches = cut_in_pieces(&chunker, &data, &[4096]);
        let chunks: Vec<&[u8]> = batches.iter().flat_map(RowBatch::chunks).collect();
        let (_, whole) = chunks.split_last().unwrap();
        let mut inside = 0;
        for chunk in whole {
            assert!((512..=4096).contains(&chunk.len()), "{}", chunk.len());
            if chunk.last() != Some(&b'\n') {
                inside += 1;
                assert_eq!(chunk.len(), 4096);
                assert!(!chunk[511..].contains(&b'\n'));
            }
        }
        assert!(inside > 0, "the data has rows longer than a chunk");
        let mean = data.len() / chunks.len();
        assert!((700..2000).contains(&mean), "{mean}");
    }

    #[test]
    fn an_update_costs_few_chunks() {
        let chunker = chunker(5, 8192);
        let old = table(21, 40_000);
        let middle = old.len() / 2;
        let row_start = middle + old[middle..].iter().position(|&b| b == b'\n').unwrap() + 1;
        let new = [
            &old[..row_start],
            b"a\tnew\trow\n".as_slice(),
            &old[row_start..],
        ]
        .concat();
        let chunks = |data: &[u8]| -> std::collections::HashSet<Vec<u8>> {
            let batches = cut_in_pieces(&chunker, data, &[65_536]);
            batches
                .iter()
                .flat_map(RowBatch::chunks)
                .map(<[u8]>::to_vec)
                .collect()
        };
        assert!(chunks(&new).difference(&chunks(&old)).count() <= 5);
    }

    #[test]
    fn a_huge_row_passes_in_small_batches() {
        let chunker = chunker(6, 1024);
        let mut row = vec![b'x'; 3_000_000];
        row.push(b'\n');
        let batches = cut_in_pieces(&chunker, &row, &[row.len()]);
        assert!(
            batches
                .iter()
                .all(|batch| batch.bytes.len() < 10_000 + 4096)
        );
        assert_eq!(
            batches.iter().map(|b| b.bytes.len()).sum::<usize>(),
            row.len()
        );
    }

    #[test]
    fn an_empty_stream_has_no_batch() {
        assert_eq!(RowCutter::new(chunker(1, 1024), 1).finish(), None);
    }

    #[test]
    fn a_used_batch_serves_again() {
        let chunker = chunker(8, 1024);
        let data = table(31, 3000);
        let mut cutter = RowCutter::new(chunker.clone(), 10_000);
        let mut joined = Vec::new();
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            rest = cutter.push(rest);
            if let Some(batch) = cutter.take_full() {
                joined.extend_from_slice(&batch.bytes);
                cutter.recycle(batch);
            }
        }
        if let Some(batch) = cutter.finish() {
            joined.extend_from_slice(&batch.bytes);
        }
        assert_eq!(joined, data);
    }
}
