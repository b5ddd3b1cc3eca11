//! A set of ids that many threads add to: the new chunks of a run. In memory up to a bound, beyond it in unnamed files.
//!
//! Layout: hash tables in memory, one for each part of the ids. When they are full all of them become one sorted file of whole ids with a
//! filter (`buckets`); eight files of one size become one.
//!
//! Invariants:
//! 1. Of all calls of [`IdSet::insert`] with one id exactly one returns true, however many threads call it and whatever was spilled meanwhile
//!    (`one_insert_wins_across_spills`).
//!
//! Failure: a file that can't be written leaves its ids in memory; one that can't be read lets an id be new twice, so that a chunk is stored
//! twice.
//!
//! Memory: 70 bytes for each of [`IN_MEMORY`] ids; 1.3 bytes for each id that was spilled, up to 48 MiB; 32 MiB of pages.
//!
//! Threads: any. A part's lock is held for a look-up; who spills holds all of them, in their order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hashbrown::HashTable;

use super::FILTER_BYTES;
use super::buckets::{Cursor, Shape, Table, TableWriter, merge, prefix};
use super::pages::{Broken, PageCache, Pages, lock, u64_at, wide};
use crate::format::id::ChunkId;

const PARTS: usize = 64;
const WIDTH: usize = 32;
/// Ids in memory, at most.
const IN_MEMORY: usize = 1 << 19;
/// Files of one size that become one.
const MERGED: usize = 8;

struct Spilled {
    pages: Pages,
    table: Table,
    level: u32,
}

/// The set.
pub struct IdSet {
    parts: Box<[Mutex<HashTable<ChunkId>>]>,
    part_max: usize,
    /// Whether `spilled` has to be asked.
    has_spilled: AtomicBool,
    /// Nothing more is spilled: there is no place for it.
    is_stuck: AtomicBool,
    spilled: RwLock<Vec<Spilled>>,
    pages: Arc<PageCache>,
}

impl std::fmt::Debug for IdSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdSet").finish_non_exhaustive()
    }
}

impl Default for IdSet {
    fn default() -> Self {
        Self::holding(IN_MEMORY)
    }
}

fn hash_of(id: &ChunkId) -> u64 {
    u64_at(id.as_bytes(), 0)
}

impl IdSet {
    /// A set that holds about `count` ids in memory.
    pub fn holding(count: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_max: (count / PARTS).max(1),
            has_spilled: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            spilled: RwLock::default(),
            pages: Arc::default(),
        }
    }

    /// Adds an id; true if it was not there.
    pub fn insert(&self, id: &ChunkId) -> bool {
        let mut part = lock(&self.parts[usize::from(id.as_bytes()[31]) % PARTS]);
        let place = match part.entry(hash_of(id), |other| other == id, hash_of) {
            hashbrown::hash_table::Entry::Occupied(_) => return false,
            hashbrown::hash_table::Entry::Vacant(place) => place,
        };
        if self.has_spilled.load(Ordering::Relaxed) && self.was_spilled(id) {
            return false;
        }
        place.insert(*id);
        let is_full = part.len() >= self.part_max;
        drop(part);
        if is_full && !self.is_stuck.load(Ordering::Relaxed) {
            self.spill();
        }
        true
    }

    fn was_spilled(&self, id: &ChunkId) -> bool {
        let wanted = prefix(id.as_bytes());
        let spilled = self.spilled.read().unwrap_or_else(PoisonError::into_inner);
        spilled.iter().any(|file| {
            if !file.table.may_have(&file.pages, wanted) {
                return false;
            }
            let mut found = false;
            let each = |entry: &[u8]| found |= entry == id.as_bytes();
            if let Err(broken) = file.table.find(&file.pages, wanted, each) {
                tracing::warn!("new chunks that were noted can't be read: {}", broken.0);
            }
            found
        })
    }

    fn spill(&self) {
        // With all parts held nobody looks an id up between its part and its file.
        let mut parts: Vec<MutexGuard<'_, HashTable<ChunkId>>> =
            self.parts.iter().map(lock).collect();
        if parts.iter().all(|part| part.len() < self.part_max) {
            return;
        }
        let mut ids: Vec<ChunkId> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        ids.sort_unstable();
        match self.write(&ids) {
            Ok(file) => {
                let mut spilled = self.spilled.write().unwrap_or_else(PoisonError::into_inner);
                spilled.push(file);
                self.merge_spilled(&mut spilled);
                let bytes = |file: &Spilled| file.table.shape.filter_bytes();
                if spilled.iter().map(bytes).sum::<u64>() <= FILTER_BYTES {
                    for file in spilled.iter() {
                        file.table.keep_filter(&file.pages);
                    }
                }
                parts.iter_mut().for_each(|part| part.clear());
                self.has_spilled.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                self.is_stuck.store(true, Ordering::Relaxed);
                tracing::warn!(
                    "new chunks are noted in memory, as they can't be elsewhere: {error}"
                );
            }
        }
    }

    fn write(&self, ids: &[ChunkId]) -> std::io::Result<Spilled> {
        let mut file = super::cache::scratch_file()?;
        let mut writer = TableWriter::new(Shape::new(WIDTH, wide(ids.len()), 0), 0);
        for id in ids {
            writer.push(&mut file, id.as_bytes())?;
        }
        let shape = writer.finish(&mut file)?;
        Ok(self.spilled_file(file, shape, 0))
    }

    fn spilled_file(&self, file: std::fs::File, shape: Shape, level: u32) -> Spilled {
        Spilled {
            pages: Pages::of_file(0, file, self.pages.clone()),
            table: Table::new(shape),
            level,
        }
    }

    /// Merges files of one size; what can't be merged stays as it is.
    fn merge_spilled(&self, spilled: &mut Vec<Spilled>) {
        while let Some(last) = spilled.last() {
            let level = last.level;
            let same = spilled.iter().rev().take_while(|file| file.level == level);
            if same.count() < MERGED {
                return;
            }
            let first = spilled.len() - MERGED;
            match self.merged(&spilled[first..], level + 1) {
                Ok(file) => {
                    spilled.truncate(first);
                    spilled.push(file);
                }
                Err(error) => return tracing::debug!("noted chunks are not merged: {error}"),
            }
        }
    }

    fn merged(&self, files: &[Spilled], level: u32) -> std::io::Result<Spilled> {
        struct Failed(std::io::Error);
        impl From<Broken> for Failed {
            fn from(broken: Broken) -> Self {
                Self(std::io::Error::other(broken.0))
            }
        }
        let entries = files.iter().map(|file| file.table.shape.entries).sum();
        let mut out = super::cache::scratch_file()?;
        let mut writer = TableWriter::new(Shape::new(WIDTH, entries, 0), 0);
        let cursors = files
            .iter()
            .map(|file| Cursor::new(&file.pages, file.table.shape));
        let merged = merge(cursors.collect(), |_, id| {
            writer.push(&mut out, id).map_err(Failed)
        });
        merged.map_err(|Failed(error)| error)?;
        let shape = writer.finish(&mut out)?;
        Ok(self.spilled_file(out, shape, level))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn one_insert_wins_across_spills() {
        const IDS: u32 = 20_000;
        let set = IdSet::holding(256);
        let won: Vec<AtomicU32> = (0..IDS).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (set, won) = (&set, &won);
                scope.spawn(move || {
                    for step in 0..IDS {
                        // Each thread in an order of its own.
                        let number = step.wrapping_mul([1, 7, 11, 13][thread as usize]) % IDS;
                        if set.insert(&id(number)) {
                            won[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(won.iter().all(|won| won.load(Ordering::Relaxed) == 1));
        assert!((0..IDS).all(|number| !set.insert(&id(number))));
        let spilled = set.spilled.read().unwrap();
        assert!(
            spilled.iter().any(|file| file.level > 1),
            "files were merged"
        );
    }
}
