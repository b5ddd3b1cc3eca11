//! The names of one directory, compact and sorted bytewise, so that a directory of a million entries costs its names and eight bytes each.
//! Beyond a budget sorted runs go to anonymous temporary files and are merged as they are taken.
//!
//! Layout of a run: per name its length (u16, little-endian), its kind (one byte), its bytes.
//!
//! Invariants:
//! 1. Names come out ascending, each once as often as it went in (`names_come_out_sorted_also_when_they_spill`).
//! 2. Memory stays near the budget, whatever the directory holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use rustix::fs::FileType;

/// Bytes of names that one directory holds in memory before it spills.
pub(super) const NAMES_BYTES_MAX: usize = 32 << 20;

/// What the directory listing says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// Not said by this file system.
    Unknown,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

impl Hint {
    /// What a file type means to the walk.
    pub(super) fn of(kind: FileType) -> Self {
        match kind {
            FileType::Directory => Self::Directory,
            FileType::RegularFile => Self::File,
            FileType::Unknown => Self::Unknown,
            _ => Self::Other,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Directory,
            2 => Self::File,
            3 => Self::Other,
            _ => Self::Unknown,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Directory => 1,
            Self::File => 2,
            Self::Other => 3,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: u32,
    len: u16,
    hint: Hint,
}

/// Collects names.
#[derive(Debug)]
pub(super) struct Collector {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    runs: Vec<File>,
    budget: usize,
    count: u64,
}

impl Collector {
    /// Spills beyond `budget` bytes of names.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            bytes: Vec::new(),
            slots: Vec::new(),
            runs: Vec::new(),
            budget,
            count: 0,
        }
    }

    /// Adds a name.
    pub(super) fn push(&mut self, name: &[u8], hint: Hint) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidFilename);
        let slot = Slot {
            at: u32::try_from(self.bytes.len()).map_err(too_long)?,
            len: u16::try_from(name.len()).map_err(too_long)?,
            hint,
        };
        self.bytes.extend_from_slice(name);
        self.slots.push(slot);
        self.count += 1;
        if self.bytes.len() + self.slots.len() * size_of::<Slot>() > self.budget {
            self.spill()?;
        }
        Ok(())
    }

    /// How many names were added.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.slots
            .sort_unstable_by(|a, b| slice(bytes, *a).cmp(slice(bytes, *b)));
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let mut out = BufWriter::with_capacity(1 << 16, tempfile::tempfile()?);
        for slot in &self.slots {
            out.write_all(&slot.len.to_le_bytes())?;
            out.write_all(&[slot.hint.byte()])?;
            out.write_all(slice(&self.bytes, *slot))?;
        }
        let mut run = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        run.rewind()?;
        self.runs.push(run);
        self.bytes.clear();
        self.slots.clear();
        Ok(())
    }

    /// Sorts what was collected.
    pub(super) fn finish(mut self) -> io::Result<Names> {
        self.sort();
        let mut names = Names {
            bytes: self.bytes,
            slots: self.slots,
            next: 0,
            runs: Vec::new(),
            heads: BinaryHeap::new(),
        };
        for run in self.runs {
            let index = names.runs.len();
            names.runs.push(BufReader::with_capacity(1 << 15, run));
            names.advance_run(index)?;
        }
        Ok(names)
    }
}

fn slice(bytes: &[u8], slot: Slot) -> &[u8] {
    let at = usize::try_from(slot.at).expect("u32 fits usize");
    &bytes[at..at + usize::from(slot.len)]
}

/// Sorted names, taken one by one.
#[derive(Debug)]
pub(super) struct Names {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    next: usize,
    runs: Vec<BufReader<File>>,
    heads: BinaryHeap<Reverse<(Vec<u8>, Hint, usize)>>,
}

impl Names {
    /// Only this name, as if the directory held nothing else.
    pub(super) fn only(name: &[u8], hint: Hint) -> Self {
        let mut one = Collector::new(usize::MAX);
        let pushed = one.push(name, hint);
        debug_assert!(pushed.is_ok(), "a name of an entry is short");
        one.finish().unwrap_or_else(|_| Self::empty())
    }

    /// No names.
    pub(super) fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            slots: Vec::new(),
            next: 0,
            runs: Vec::new(),
            heads: BinaryHeap::new(),
        }
    }

    fn advance_run(&mut self, index: usize) -> io::Result<()> {
        let run = &mut self.runs[index];
        let mut head = [0; 3];
        match run.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut name = vec![0; usize::from(u16::from_le_bytes([head[0], head[1]]))];
        run.read_exact(&mut name)?;
        self.heads
            .push(Reverse((name, Hint::from_byte(head[2]), index)));
        Ok(())
    }

    /// The next name.
    pub(super) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Hint)>> {
        let inner = self.slots.get(self.next).copied();
        let from_run = match (&inner, self.heads.peek()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(slot), Some(Reverse((name, ..)))) => name.as_slice() < slice(&self.bytes, *slot),
        };
        if from_run && let Some(Reverse((name, hint, index))) = self.heads.pop() {
            self.advance_run(index)?;
            return Ok(Some((name, hint)));
        }
        Ok(inner.map(|slot| {
            self.next += 1;
            (slice(&self.bytes, slot).to_vec(), slot.hint)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_sorted_also_when_they_spill() {
        for budget in [64, 1000, usize::MAX] {
            let mut collector = Collector::new(budget);
            let mut expected = Vec::new();
            for number in 0..300_u32 {
                let name = format!("{:x}", number.wrapping_mul(2_654_435_761)).into_bytes();
                collector.push(&name, Hint::File).unwrap();
                expected.push((name, Hint::File));
            }
            collector.push(b"\xff\xfe", Hint::Other).unwrap();
            expected.push((b"\xff\xfe".to_vec(), Hint::Other));
            expected.sort();
            assert_eq!(collector.count(), 301);
            let mut names = collector.finish().unwrap();
            let mut found = Vec::new();
            while let Some(entry) = names.next().unwrap() {
                found.push(entry);
            }
            assert_eq!(found, expected, "budget {budget}");
        }
    }
}
