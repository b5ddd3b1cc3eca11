//! Sorts more records than memory should hold: sorted runs on scratch disk, merged when read.
//!
//! Layout of a run: per record key length (4), value length (4), sequence number (8), key, value; little-endian. Runs are unnamed files
//! (they vanish with the process) in the scratch directory, readable by their owner alone; they hold names and metadata, no contents.
//!
//! Invariants:
//! 1. Records come back by key, then in the order in which they were pushed (`order_is_key_then_push`).
//! 2. Memory is the budget plus 64 KiB for each run, whatever the number of records (`spilled_equals_in_memory`).
//!
//! Threads: `push` may be called from anywhere; one mutex, held for a copy of the record or for writing a run.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

const HEAD_LEN: usize = 16;
const READ_BUFFER: usize = 64 << 10;
/// What a record costs beside its bytes, when it is collected and when it is sorted.
const START_BYTES: usize = size_of::<u32>() + size_of::<Slot>();
/// Groups this small are sorted by whole keys.
const GROUP_MIN: usize = 16;
/// So much of a key is looked at in steps of eight bytes.
const STEPS_BYTES_MAX: usize = 1 << 10;

/// One record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// What it is sorted by.
    pub key: Vec<u8>,
    /// Position among all pushed records.
    pub seq: u64,
    /// Anything.
    pub value: Vec<u8>,
}

#[derive(Debug, Default)]
struct Buffer {
    arena: Vec<u8>,
    starts: Vec<u32>,
    next_seq: u64,
    runs: Vec<File>,
}

/// Collects records.
#[derive(Debug)]
pub struct Sorter {
    buffer: Mutex<Buffer>,
    budget: usize,
    scratch: PathBuf,
}

impl Sorter {
    /// A sorter that holds about `budget` bytes in memory and spills to `scratch`.
    pub fn new(budget: usize, scratch: &Path) -> Self {
        Self {
            buffer: Mutex::new(Buffer::default()),
            budget: budget.clamp(1 << 10, 1 << 30),
            scratch: scratch.to_path_buf(),
        }
    }

    /// Adds a record; returns its sequence number.
    pub fn push(&self, key: &[u8], value: &[u8]) -> Result<u64> {
        self.push_parts(key, &[value])
    }

    /// Adds a record whose value comes in parts.
    pub fn push_parts(&self, key: &[u8], value: &[&[u8]]) -> Result<u64> {
        let too_long = |_e| Error::Message("a path or its metadata is longer than 4 GiB".into());
        let key_len = u32::try_from(key.len()).map_err(too_long)?;
        let value_len = value.iter().map(|part| part.len()).sum::<usize>();
        let value_len = u32::try_from(value_len).map_err(too_long)?;
        let mut buffer = lock(&self.buffer);
        let seq = buffer.next_seq;
        buffer.next_seq += 1;
        let start = u32::try_from(buffer.arena.len())
            .expect("the budget is below 4 GiB and a run is spilled above it");
        buffer.starts.push(start);
        buffer.arena.extend_from_slice(&key_len.to_le_bytes());
        buffer.arena.extend_from_slice(&value_len.to_le_bytes());
        buffer.arena.extend_from_slice(&seq.to_le_bytes());
        buffer.arena.extend_from_slice(key);
        for part in value {
            buffer.arena.extend_from_slice(part);
        }
        if buffer.arena.len() + START_BYTES * buffer.starts.len() >= self.budget {
            self.spill(&mut buffer)?;
        }
        Ok(seq)
    }

    /// How many records were pushed.
    pub fn len(&self) -> u64 {
        lock(&self.buffer).next_seq
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the input and gives the records in order; the sorter is empty afterwards.
    pub fn drain(&self) -> Result<SortedRecords> {
        let mut buffer = std::mem::take(&mut *lock(&self.buffer));
        sort(&mut buffer);
        let mut runs: Vec<Run> = Vec::with_capacity(buffer.runs.len() + 1);
        for mut file in std::mem::take(&mut buffer.runs) {
            file.rewind()
                .map_err(|e| Error::local("cannot read back a spilled run", e))?;
            runs.push(Run::File(BufReader::with_capacity(READ_BUFFER, file)));
        }
        runs.push(Run::Memory {
            arena: buffer.arena,
            starts: buffer.starts.into_iter(),
        });
        let mut heap = BinaryHeap::with_capacity(runs.len());
        for (run, source) in runs.iter_mut().enumerate() {
            let mut record = Sorted::default();
            if source.next_into(&mut record)? {
                heap.push(Head { record, run });
            }
        }
        Ok(SortedRecords { runs, heap })
    }

    fn spill(&self, buffer: &mut Buffer) -> Result<()> {
        let failed = |e| {
            Error::local(
                format!(
                    "cannot spill to the scratch folder {}",
                    self.scratch.display()
                ),
                e,
            )
        };
        sort(buffer);
        let mut out = BufWriter::with_capacity(
            1 << 20,
            tempfile::tempfile_in(&self.scratch).map_err(failed)?,
        );
        for start in &buffer.starts {
            out.write_all(record_at(&buffer.arena, *start))
                .map_err(failed)?;
        }
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        buffer.runs.push(file);
        buffer.arena.clear();
        buffer.starts.clear();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn field(bytes: &[u8], at: usize) -> usize {
    let four: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
    usize::try_from(u32::from_le_bytes(four)).expect("32 bits fit")
}

fn record_at(arena: &[u8], start: u32) -> &[u8] {
    let record = &arena[usize::try_from(start).expect("32 bits fit")..];
    &record[..HEAD_LEN + field(record, 0) + field(record, 4)]
}

fn key_of(record: &[u8]) -> (&[u8], u64) {
    let seq = u64::from_le_bytes(record[8..HEAD_LEN].try_into().expect("eight bytes"));
    (&record[HEAD_LEN..HEAD_LEN + field(record, 0)], seq)
}

/// The next eight bytes of a record's key, as a number that sorts as they do, and where the record starts.
type Slot = (u64, u32);

fn sort(buffer: &mut Buffer) {
    let arena = &buffer.arena;
    let mut slots: Vec<Slot> = buffer.starts.iter().map(|start| (0, *start)).collect();
    sort_from(arena, &mut slots, 0);
    for (start, slot) in buffer.starts.iter_mut().zip(&slots) {
        *start = slot.1;
    }
}

/// Sorts records whose keys are equal in their first `depth` bytes. Paths share long beginnings, so whole keys are compared only in small
/// groups; before that, eight bytes at a time, which lie side by side.
fn sort_from(arena: &[u8], slots: &mut [Slot], depth: usize) {
    let whole = |start: u32| key_of(record_at(arena, start));
    if slots.len() < GROUP_MIN || depth >= STEPS_BYTES_MAX {
        return slots.sort_unstable_by(|a, b| whole(a.1).cmp(&whole(b.1)));
    }
    let mut longer = false;
    for slot in slots.iter_mut() {
        let rest = whole(slot.1).0.get(depth..).unwrap_or_default();
        longer |= rest.len() > 8;
        let mut eight = [0; 8];
        let len = rest.len().min(8);
        eight[..len].copy_from_slice(&rest[..len]);
        slot.0 = u64::from_le_bytes(eight).swap_bytes();
    }
    slots.sort_unstable_by_key(|slot| slot.0);
    for group in slots.chunk_by_mut(|a, b| a.0 == b.0) {
        // A key that ends here and one that goes on with NUL look the same: only whole keys tell them apart.
        let next = if longer { depth + 8 } else { STEPS_BYTES_MAX };
        if group.len() > 1 {
            sort_from(arena, group, next);
        }
    }
}

enum Run {
    File(BufReader<File>),
    Memory {
        arena: Vec<u8>,
        starts: std::vec::IntoIter<u32>,
    },
}

impl Run {
    /// Puts the next record into `out`; `false` at the end, when `out` means nothing.
    fn next_into(&mut self, out: &mut Sorted) -> Result<bool> {
        match self {
            Self::Memory { arena, starts } => {
                let Some(start) = starts.next() else {
                    return Ok(false);
                };
                let record = record_at(arena, start);
                let (key, seq) = key_of(record);
                out.key.clear();
                out.key.extend_from_slice(key);
                out.seq = seq;
                out.value.clear();
                out.value.extend_from_slice(&record[HEAD_LEN + key.len()..]);
                Ok(true)
            }
            Self::File(reader) => read_record(reader, out)
                .map_err(|e| Error::local("cannot read back a spilled run", e)),
        }
    }
}

fn read_record(reader: &mut BufReader<File>, out: &mut Sorted) -> std::io::Result<bool> {
    let mut head = [0; HEAD_LEN];
    if reader.read(&mut head[..1])? == 0 {
        return Ok(false);
    }
    reader.read_exact(&mut head[1..])?;
    out.key.resize(field(&head, 0), 0);
    out.value.resize(field(&head, 4), 0);
    reader.read_exact(&mut out.key)?;
    reader.read_exact(&mut out.value)?;
    out.seq = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    Ok(true)
}

struct Head {
    record: Sorted,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.record.key, other.record.seq).cmp(&(&self.record.key, self.record.seq))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// The records in order.
pub struct SortedRecords {
    runs: Vec<Run>,
    heap: BinaryHeap<Head>,
}

impl std::fmt::Debug for SortedRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SortedRecords")
            .field("runs", &self.runs.len())
            .finish_non_exhaustive()
    }
}

impl SortedRecords {
    /// Puts the next record into `out`, whose memory is used again; `false` at the end, when `out` means nothing.
    pub fn next_into(&mut self, out: &mut Sorted) -> Result<bool> {
        let Some(mut head) = self.heap.peek_mut() else {
            return Ok(false);
        };
        std::mem::swap(&mut head.record, out);
        let run = head.run;
        if !self.runs[run].next_into(&mut head.record)? {
            PeekMut::pop(head);
        }
        Ok(true)
    }

    /// The key of the record that comes next.
    pub fn next_key(&self) -> Option<&[u8]> {
        self.heap.peek().map(|head| head.record.key.as_slice())
    }
}

impl Iterator for SortedRecords {
    type Item = Result<Sorted>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = Sorted::default();
        match self.next_into(&mut record) {
            Ok(true) => Some(Ok(record)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(budget: usize, records: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, u64, Vec<u8>)> {
        let sorter = Sorter::new(budget, &std::env::temp_dir());
        for (key, value) in records {
            sorter.push(key, value).unwrap();
        }
        sorter
            .drain()
            .unwrap()
            .map(|r| r.map(|r| (r.key, r.seq, r.value)).unwrap())
            .collect()
    }

    #[test]
    fn order_is_key_then_push() {
        let records = [
            (b"b".to_vec(), vec![1]),
            (b"a\0z".to_vec(), vec![2]),
            (b"a".to_vec(), vec![]),
            (b"b".to_vec(), vec![4]),
        ];
        let out = sorted(1 << 20, &records);
        assert_eq!(out.iter().map(|r| r.1).collect::<Vec<_>>(), [2, 1, 0, 3]);
        assert!(sorted(1 << 20, &[]).is_empty());
    }

    #[test]
    fn long_shared_beginnings_and_nul_are_in_order() {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for length in 0..40 {
            for byte in [0, 1, b'a', 0xff] {
                keys.push(vec![byte; length]);
                keys.push([vec![b'a'; length], vec![0; 3], vec![byte]].concat());
                keys.push([vec![b'x'; STEPS_BYTES_MAX + length], vec![byte]].concat());
            }
        }
        let mut expected: Vec<_> = (0u64..)
            .zip(keys.clone())
            .map(|(n, key)| (key, n))
            .collect();
        expected.sort();
        let records: Vec<_> = keys.into_iter().map(|key| (key, Vec::new())).collect();
        for budget in [1 << 12, 1 << 26] {
            let found: Vec<_> = sorted(budget, &records)
                .into_iter()
                .map(|r| (r.0, r.1))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn spilled_equals_in_memory() {
        let records: Vec<_> = (0u32..5000)
            .map(|i| {
                (
                    blake3::hash(&(i % 1700).to_le_bytes()).as_bytes()[..6].to_vec(),
                    vec![7; (i % 90) as usize],
                )
            })
            .collect();
        assert_eq!(sorted(1 << 10, &records), sorted(1 << 26, &records));
    }
}
